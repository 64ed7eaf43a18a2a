// Threads for the kernels out of XLA's own pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "arguments.h"
#include "xla/ffi/api/ffi.h"

namespace dien {

// The caller runs tasks itself and waits only for those that another thread has begun, so it ends
// even if the pool has no thread to spare. Which thread runs a task does not change its result.
class Pool final : public Threads {
 public:
  explicit Pool(xla::ffi::ThreadPool& pool) : pool_(pool) {}

  void run(Index count, Task task, void* data) override {
    const Index helpers = std::min<Index>(static_cast<Index>(pool_.num_threads()), count) - 1;
    if (helpers < 1) {
      for (Index number = 0; number < count; number++) task(data, number);
      return;
    }
    auto* job = new Job(task, data, count, helpers + 1);
    for (Index helper = 0; helper < helpers; helper++) {
      pool_.Schedule([job] {
        job->work();
        job->release();
      });
    }
    job->work();
    while (!job->is_done()) pause();
    job->release();
  }

 private:
  // Lives until the last thread that was scheduled for it has run.
  class Job {
   public:
    Job(Task task, void* data, Index count, Index holders)
        : task_(task), data_(data), count_(count), holders_(holders) {}

    void work() {
      for (Index number; (number = next_.fetch_add(1)) < count_;) {
        task_(data_, number);
        done_.fetch_add(1, std::memory_order_release);
      }
    }
    bool is_done() const { return done_.load(std::memory_order_acquire) >= count_; }
    void release() {
      if (holders_.fetch_sub(1) == 1) delete this;
    }

   private:
    const Task task_;
    void* const data_;
    const Index count_;
    std::atomic<Index> next_{0}, done_{0}, holders_;
  };

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  xla::ffi::ThreadPool& pool_;
};

}  // namespace dien
