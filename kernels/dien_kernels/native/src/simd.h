// Vectors of floats and the functions of gates on them, by the vector extensions of GCC and Clang.
//
// This file is compiled once for each instruction set. Everything in it is in an unnamed namespace
// or inlined by force: a function that the linker shared between instruction sets could run on a
// processor that lacks its instructions.
#pragma once

#include <string.h>

#include <utility>

#ifdef __AVX__
#include <immintrin.h>
#endif

#include "arguments.h"

#define DIEN_INLINE inline __attribute__((always_inline))
#ifdef __clang__
#define DIEN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define DIEN_UNROLL _Pragma("GCC unroll 32")
#endif

namespace dien {
namespace {

// kColumns x 2 accumulators of a product and kOuterRows x kOuterColumns of an outer product have to
// fit into the vector registers together with their operands.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kColumns = 12, kOuterRows = 6, kOuterColumns = 4;
#elif defined(__AVX__)
constexpr int kLanes = 8, kColumns = 6, kOuterRows = 4, kOuterColumns = 2;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kColumns = 12, kOuterRows = 6, kOuterColumns = 4;
#else
constexpr int kLanes = 4, kColumns = 6, kOuterRows = 4, kOuterColumns = 2;
#endif
constexpr int kParts = kPanel / kLanes;  // vectors of a column of a panel

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t Mask __attribute__((vector_size(4 * kLanes)));  // all bits of a lane, or none

DIEN_INLINE Vector load(const float* from) {
  Vector value;
  memcpy(&value, from, sizeof value);
  return value;
}

DIEN_INLINE void store(float* to, Vector value) { memcpy(to, &value, sizeof value); }

DIEN_INLINE Vector broadcast(float value) { return value - Vector{}; }

DIEN_INLINE float square_root(float value) { return __builtin_sqrtf(value); }

DIEN_INLINE Vector square_root(Vector value) {
#if defined(__AVX512F__)
  return (Vector)_mm512_sqrt_ps((__m512)value);
#elif defined(__AVX__)
  return (Vector)_mm256_sqrt_ps((__m256)value);
#else
  DIEN_UNROLL for (int lane = 0; lane < kLanes; lane++) value[lane] = square_root(value[lane]);
  return value;
#endif
}

// The value where the mask is set, otherwise 0.
DIEN_INLINE Vector keep(Mask mask, Vector value) { return (Vector)((Mask)value & mask); }

DIEN_INLINE Vector select(Mask mask, Vector yes, Vector no) {
  return (Vector)(((Mask)yes & mask) | ((Mask)no & ~mask));
}

// NaN stays NaN, here and in at_least.
DIEN_INLINE Vector at_most(Vector value, float limit) {
  return value > broadcast(limit) ? broadcast(limit) : value;
}
DIEN_INLINE Vector at_least(Vector value, float limit) {
  return value < broadcast(limit) ? broadcast(limit) : value;
}

// e^x as power * (1 + rest), where power = 2^n and |x - n ln 2| <= ln 2 / 2, for |x| <= 87. rest is
// a polynomial fitted for the least relative error of e^r - 1, which is 1.3e-8.
DIEN_INLINE Vector exponential(Vector x, Vector* power) {
  const float shift = 12582912;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  const Vector rounded = x * 1.44269504f + shift, n = rounded - shift;
  Vector r = x - n * 0.693359375f;  // ln 2 in two parts, the first one with few bits
  r = r + n * 2.12194440e-4f;
  Vector rest = r * 0.00138825165f + 0.00836654752f;
  rest = rest * r + 0.0416672006f;
  rest = rest * r + 0.166665435f;
  rest = rest * r + 0.5f;
  // Unsigned: the low bits of a negative n are shifted out of a signed number.
  typedef std::uint32_t Bits __attribute__((vector_size(4 * kLanes)));
  *power = (Vector)(((Bits)rounded << 23) + 0x3f800000u);
  return rest * r * r + r;
}

// Relative errors up to 1.3e-7 (sigmoid) and 3.0e-7 (tanh). The arguments are limited to where the
// results are 0 or 1 in float32 anyway.
DIEN_INLINE Vector sigmoid(Vector x) {
  Vector power;
  const Vector rest = exponential(at_least(at_most(-x, 87), -87), &power);
  return 1.0f / (power * rest + (1.0f + power));
}

DIEN_INLINE Vector hyperbolic_tangent(Vector x) {
  Vector power;
  const Vector rest = exponential(at_least(at_most(2 * x, 20), -20), &power);
  const Vector less_one = power * rest + (power - 1.0f);  // e^2x - 1 without cancellation
  return less_one / (less_one + 2.0f);
}

DIEN_INLINE Vector exponential(Vector x) {
  Vector power;
  const Vector rest = exponential(at_least(at_most(x, 87), -87), &power);
  return power * rest + power;
}

// log(1 + e^x): the larger of x and 0, and 2 artanh(y) with y = e / (2 + e), e = e^-|x|.
DIEN_INLINE Vector softplus(Vector x) {
  const Vector e = exponential(x < 0.0f ? x : -x), y = e / (2.0f + e), square = y * y;
  Vector sum = square * (1 / 13.0f) + 1 / 11.0f;
  sum = sum * square + 1 / 9.0f;
  sum = sum * square + 1 / 7.0f;
  sum = sum * square + 1 / 5.0f;
  sum = sum * square + 1 / 3.0f;
  return at_least(x, 0) + 2.0f * (sum * square * y + y);
}

// Lane l of both, for D a power of 2: if l has no bit D, a[l] and a[l + D], else b[l - D] and b[l].
template <int D, int... L>
DIEN_INLINE void interleave(Vector a, Vector b, Vector* low, Vector* high,
                            std::integer_sequence<int, L...>) {
#ifdef __clang__
  *low = __builtin_shufflevector(a, b, ((L & D) ? kLanes + (L ^ D) : L)...);
  *high = __builtin_shufflevector(a, b, ((L & D) ? kLanes + L : L ^ D)...);
#else
  *low = __builtin_shuffle(a, b, Mask{((L & D) ? kLanes + (L ^ D) : L)...});
  *high = __builtin_shuffle(a, b, Mask{((L & D) ? kLanes + L : L ^ D)...});
#endif
}

template <int D>
DIEN_INLINE void interleave(Vector a, Vector b, Vector* low, Vector* high) {
  interleave<D>(a, b, low, high, std::make_integer_sequence<int, kLanes>());
}

// Transposes kLanes vectors in place.
template <int D = 1>
DIEN_INLINE void transpose(Vector* v) {
  DIEN_UNROLL for (int i = 0; i < kLanes; i++) {
    if (!(i & D)) interleave<D>(v[i], v[i | D], &v[i], &v[i | D]);
  }
  if constexpr (2 * D < kLanes) transpose<2 * D>(v);
}

// A vector whose lane i < N is the sum over the lanes of v[i]; v is overwritten.
template <int N, int D = 1>
DIEN_INLINE Vector sum_lanes(Vector* v) {
  if constexpr (D == kLanes) {
    return v[0];
  } else {
    DIEN_UNROLL for (int i = 0; i < (N + 1) / 2; i++) {
      Vector low, high;
      interleave<D>(v[2 * i], v[2 * i + 1 < N ? 2 * i + 1 : 2 * i], &low, &high);
      v[i] = low + high;
    }
    return sum_lanes<(N + 1) / 2, 2 * D>(v);
  }
}

}  // namespace
}  // namespace dien
