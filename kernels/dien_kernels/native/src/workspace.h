// Memory that a thread keeps from call to call, and work that threads share.
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include "simd.h"

namespace dien {
namespace {

class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { free(base_); }

  // Makes room for this many floats in at most kBlocks blocks, and frees all blocks taken before.
  // A workspace that is far larger than what is needed now is freed.
  void reserve(Index floats) {
    const Index needed = floats + kBlocks * kAlignment;
    if (needed > size_ || (size_ > kMostIdle && needed < size_ / 4)) {
      free(base_);
      size_ = needed;
      void* base = nullptr;
      if (posix_memalign(&base, 64, sizeof(float) * static_cast<size_t>(needed)) != 0) {
        fprintf(stderr, "dien_kernels: no memory for a workspace of %td floats\n", needed);
        abort();
      }
      base_ = static_cast<float*>(base);
    }
    used_ = 0;
  }

  float* take(Index floats) {
    float* taken = base_ + used_;
    used_ += (floats + kAlignment - 1) / kAlignment * kAlignment;
    if (used_ > size_) {
      fprintf(stderr, "dien_kernels: a workspace of %td floats is too small\n", size_);
      abort();  // a bug in the sizes of a kernel, never in its arguments
    }
    return taken;
  }

  float* take_zeros(Index floats) {
    float* taken = take(floats);
    memset(taken, 0, sizeof(float) * static_cast<size_t>(floats));
    return taken;
  }

 private:
  static constexpr Index kAlignment = 16, kBlocks = 64, kMostIdle = 16 << 20;
  float* base_ = nullptr;
  Index size_ = 0, used_ = 0;
};

thread_local Workspace of_call;  // of the thread that a call came in on
thread_local Workspace of_task;  // of each thread that runs tasks

// Runs task(number) for every number below count.
template <class Task>
void parallel(Threads& threads, Index count, Task task) {
  threads.run(
      count, [](void* data, Index number) { (*static_cast<Task*>(data))(number); }, &task);
}

constexpr Index kMostTasks = 16;                  // that sum gradients of weights
constexpr Index kMostSumFloats = Index{1} << 24;  // of all tasks together

// Tasks that sum gradients of weights, floats of them each, for a number of parts of the work. It
// depends only on the arguments of the call, because the order of the sums decides the last bits.
inline Index summing_tasks(Index parts, Index floats) {
  const Index fit = kMostSumFloats / floats, most = fit < kMostTasks ? fit : kMostTasks;
  const Index tasks = parts < most ? parts : most;
  return tasks > 1 ? tasks : 1;
}

// total[i] = the sum of count parts, stride floats apart, in their order.
inline void add_up(float* total, const float* parts, Index stride, Index count, Index size) {
  for (Index i = 0; i < size; i++) {
    float sum = 0;
    for (Index part = 0; part < count; part++) sum += parts[part * stride + i];
    total[i] = sum;
  }
}

}  // namespace
}  // namespace dien
