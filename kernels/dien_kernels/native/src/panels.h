// Panels: kPanel rows of an array with one column after the other.
//
// Column c of a panel's rows is the contiguous run panel[c * kPanel .. + kPanel), so arithmetic on
// rows is arithmetic on lanes, and no lane is wasted on the width of a layer.
#pragma once

#include "simd.h"

namespace dien {
namespace {

// panel <- the rows that the pointers name, 0 in lanes whose mask is not set.
inline void gather(float* panel, const float* const* rows, Index columns, const Mask* live) {
  for (int part = 0; part < kParts; part++) {
    const float* const* own = rows + part * kLanes;
    float* to = panel + part * kLanes;
    if (columns < kLanes) {
      for (Index c = 0; c < columns; c++) {
        Vector v = {};
        DIEN_UNROLL for (int i = 0; i < kLanes; i++) v[i] = own[i][c];
        store(to + c * kPanel, keep(live[part], v));
      }
      continue;
    }
    for (Index c = 0; c < columns; c += kLanes) {
      if (c + kLanes > columns) c = columns - kLanes;  // the last block overlaps the one before
      Vector v[kLanes];
      DIEN_UNROLL for (int i = 0; i < kLanes; i++) v[i] = load(own[i] + c);
      transpose(v);
      DIEN_UNROLL for (int i = 0; i < kLanes; i++)
        store(to + (c + i) * kPanel, keep(live[part], v[i]));
    }
  }
}

// The rows that the pointers name <- panel.
inline void scatter(float* const* rows, const float* panel, Index columns) {
  for (int part = 0; part < kParts; part++) {
    float* const* own = rows + part * kLanes;
    const float* from = panel + part * kLanes;
    if (columns < kLanes) {
      for (Index c = 0; c < columns; c++)
        for (int i = 0; i < kLanes; i++) own[i][c] = from[c * kPanel + i];
      continue;
    }
    for (Index c = 0; c < columns; c += kLanes) {
      if (c + kLanes > columns) c = columns - kLanes;
      Vector v[kLanes];
      DIEN_UNROLL for (int i = 0; i < kLanes; i++) v[i] = load(from + (c + i) * kPanel);
      transpose(v);
      DIEN_UNROLL for (int i = 0; i < kLanes; i++) store(own[i] + c, v[i]);
    }
  }
}

// visit(i, part) for every vector of a panel: the place of its floats, and which one of its
// column's vectors it is.
template <class Visit>
DIEN_INLINE void each(Index columns, Visit&& visit) {
  for (Index i = 0; i < columns * kPanel; i += kPanel) {
    DIEN_UNROLL for (int part = 0; part < kParts; part++) visit(i + part * kLanes, part);
  }
}

}  // namespace
}  // namespace dien
