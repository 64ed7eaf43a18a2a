// Adam (Kingma and Ba, 2015) over the elements of many arrays, in one pass.
#pragma once

#include "workspace.h"

namespace dien {
namespace {

constexpr float kDecayMean = 0.9f, kDecayVariance = 0.999f, kEpsilon = 1e-8f;

// The same for a vector of elements and for one.
template <class T>
DIEN_INLINE void adam_step(const float* scales, T g, T* p, T* m, T* v) {
  *m = kDecayMean * *m + (1 - kDecayMean) * g;
  *v = kDecayVariance * *v + (1 - kDecayVariance) * (g * g);
  *p = *p - scales[0] * (scales[1] * *m / (square_root(scales[2] * *v) + kEpsilon));
}

// Elements [start, end) of an array; returns the sum of squares of their gradients.
inline double adam_part(const AdamArray& a, const float* scales, Index start, Index end) {
  Vector squares = {};
  Index i = start;
  for (; i + kLanes <= end; i += kLanes) {
    const Vector g = load(a.gradient + i);
    Vector p = load(a.parameter + i), m = load(a.mean + i), v = load(a.variance + i);
    squares += g * g;
    adam_step(scales, g, &p, &m, &v);
    store(a.new_parameter + i, p);
    store(a.new_mean + i, m);
    store(a.new_variance + i, v);
  }
  double sum = 0;
  for (int lane = 0; lane < kLanes; lane++) sum += squares[lane];
  for (; i < end; i++) {
    const float g = a.gradient[i];
    float p = a.parameter[i], m = a.mean[i], v = a.variance[i];
    sum += g * g;
    adam_step(scales, g, &p, &m, &v);
    a.new_parameter[i] = p;
    a.new_mean[i] = m;
    a.new_variance[i] = v;
  }
  return sum;
}

void adam(const Adam& call, Threads& threads) {
  // Parts of a fixed size: the sum does not depend on threads.
  parallel(threads, call.parts, [&](Index number) {
    Index part = number;
    const AdamArray* array = call.arrays;
    for (; part >= array->parts(); array++) part -= array->parts();
    const Index start = part * kAdamPart;
    const Index end = start + kAdamPart < array->count ? start + kAdamPart : array->count;
    call.sums[number] = adam_part(*array, call.scales, start, end);
  });
  double sum = 0;
  for (Index part = 0; part < call.parts; part++) sum += call.sums[part];
  *call.norm = static_cast<float>(__builtin_sqrt(sum));
}

}  // namespace
}  // namespace dien
