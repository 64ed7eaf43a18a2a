// Matrix products on panels: y = x W, and the sum over rows of x^T y.
#pragma once

#include "panels.h"

namespace dien {
namespace {

constexpr Index kUnit = kColumns / 3;  // the columns left over of whole tiles are 1, 2 or 3 units

DIEN_INLINE Index whole_units(Index columns) { return (columns + kUnit - 1) / kUnit * kUnit; }

// W [depth, columns] cut into tiles of kColumns columns, each contiguous, the last one padded.
struct Packed {
  const float* weights;
  Index depth, columns;
};

inline Index packed_floats(Index depth, Index columns) { return depth * (columns + kColumns); }

// Packs W, whose element (k, c) is from[k * down + c * across]; to has packed_floats of room.
inline Packed pack(float* to, const float* from, Index depth, Index columns, Index down,
                   Index across) {
  const Packed packed = {to, depth, columns};
  for (Index first = 0; first < columns; first += kColumns) {
    const Index left = columns - first, width = left < kColumns ? whole_units(left) : kColumns;
    for (Index k = 0; k < depth; k++)
      for (Index c = 0; c < width; c++)
        *to++ = c < left ? from[k * down + (first + c) * across] : 0;
  }
  return packed;
}

// One tile of C columns of a product; see product. Not Whole: some of them lie past the last one.
template <int C, bool Whole, class Start>
DIEN_INLINE void tile(float* out, const float* x, const float* w, Index depth, Index first,
                      Index columns, Start&& start) {
  for (Index at = 0; at < kPanel; at += 2 * kLanes) {
    Vector sum[C][2];
    DIEN_UNROLL for (int c = 0; c < C; c++) {
      const Index column = Whole || first + c < columns ? first + c : columns - 1;
      sum[c][0] = start(column, at);
      sum[c][1] = start(column, at + kLanes);
    }
    const float* weights = w;
    for (Index k = 0; k < depth; k++, weights += C) {
      const Vector x0 = load(x + k * kPanel + at), x1 = load(x + k * kPanel + at + kLanes);
      DIEN_UNROLL for (int c = 0; c < C; c++) {
        const Vector weight = broadcast(weights[c]);
        sum[c][0] += x0 * weight;
        sum[c][1] += x1 * weight;
      }
    }
    DIEN_UNROLL for (int c = 0; c < C; c++) {
      if (!Whole && first + c >= columns) break;
      store(out + (first + c) * kPanel + at, sum[c][0]);
      store(out + (first + c) * kPanel + at + kLanes, sum[c][1]);
    }
  }
}

// out[c] = start(c, lane) + sum over k of x[k] W[k, c]; start may read out.
template <class Start>
DIEN_INLINE void product(float* out, const float* x, Packed w, Start&& start) {
  const float* weights = w.weights;
  Index first = 0;
  for (; first + kColumns <= w.columns; first += kColumns, weights += w.depth * kColumns)
    tile<kColumns, true>(out, x, weights, w.depth, first, w.columns, start);
  const Index left = whole_units(w.columns - first);
  if (left == kUnit) tile<kUnit, false>(out, x, weights, w.depth, first, w.columns, start);
  if (left == 2 * kUnit) tile<2 * kUnit, false>(out, x, weights, w.depth, first, w.columns, start);
  if (left == 3 * kUnit) tile<3 * kUnit, false>(out, x, weights, w.depth, first, w.columns, start);
}

// The products that are used; not inlined, so that each is compiled once.
__attribute__((noinline)) void multiply(float* out, const float* x, Packed w) {
  product(out, x, w, [](Index, Index) { return Vector{}; });
}
__attribute__((noinline)) void multiply_add(float* out, const float* x, Packed w,
                                            const float* addend) {
  product(out, x, w, [=](Index c, Index lane) { return load(addend + c * kPanel + lane); });
}
__attribute__((noinline)) void multiply_bias(float* out, const float* x, Packed w,
                                             const float* bias) {
  product(out, x, w, [=](Index c, Index) { return broadcast(bias[c]); });
}

// Panels of several steps, stride floats apart, with the same columns.
struct Panels {
  const float* first;
  Index stride, columns;
};

// total[k * stride + c] += sum over the lanes of count steps of x[k] y[c].
__attribute__((noinline)) void add_outer(float* total, Index stride, Panels x, Panels y,
                                         Index count) {
  constexpr int C = kOuterColumns, kSums = kOuterRows * C;
  for (Index k = 0; k < x.columns; k += kOuterRows) {
    Index ks[kOuterRows];
    DIEN_UNROLL for (int i = 0; i < kOuterRows; i++)
      ks[i] = (k + i < x.columns ? k + i : x.columns - 1) * kPanel;
    for (Index c = 0; c < y.columns; c += C) {
      Index cs[C];
      DIEN_UNROLL for (int j = 0; j < C; j++)
        cs[j] = (c + j < y.columns ? c + j : y.columns - 1) * kPanel;
      Vector sum[kSums];
      DIEN_UNROLL for (int i = 0; i < kSums; i++) sum[i] = Vector{};
      for (Index step = 0; step < count; step++) {
        const float *xs = x.first + step * x.stride, *ys = y.first + step * y.stride;
        DIEN_UNROLL for (int part = 0; part < kParts; part++) {
          Vector right[C];
          DIEN_UNROLL for (int j = 0; j < C; j++) right[j] = load(ys + cs[j] + part * kLanes);
          DIEN_UNROLL for (int i = 0; i < kOuterRows; i++) {
            const Vector left = load(xs + ks[i] + part * kLanes);
            DIEN_UNROLL for (int j = 0; j < C; j++) sum[i * C + j] += left * right[j];
          }
        }
      }
      float sums[kSums + kLanes];
      constexpr int whole = kSums / kLanes * kLanes, rest = kSums - whole;
      DIEN_UNROLL for (int i = 0; i < whole; i += kLanes)
        store(sums + i, sum_lanes<kLanes>(sum + i));
      if constexpr (rest > 0) store(sums + whole, sum_lanes<rest>(sum + whole));
      for (int i = 0; i < kOuterRows && k + i < x.columns; i++)
        for (int j = 0; j < C && c + j < y.columns; j++)
          total[(k + i) * stride + c + j] += sums[i * C + j];
    }
  }
}

// total[c] += sum over the lanes of count steps of y[c].
inline void add_sums(float* total, Panels y, Index count) {
  for (Index first = 0; first < y.columns; first += kLanes) {
    const Index left = y.columns - first, width = left < kLanes ? left : kLanes;
    Vector sum[kLanes];
    for (int c = 0; c < kLanes; c++) {
      sum[c] = Vector{};
      for (Index step = 0; c < width && step < count; step++)
        for (int part = 0; part < kParts; part++)
          sum[c] += load(y.first + step * y.stride + (first + c) * kPanel + part * kLanes);
    }
    const Vector sums = sum_lanes<kLanes>(sum);
    for (int c = 0; c < width; c++) total[first + c] += sums[c];
  }
}

}  // namespace
}  // namespace dien
