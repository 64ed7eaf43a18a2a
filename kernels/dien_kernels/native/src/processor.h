// The instruction sets of an x86-64 processor that its operating system has enabled.
//
// By the cpuid instruction: __builtin_cpu_supports needs data of the compiler's runtime, which zig's
// does not have.
#pragma once

#include <cpuid.h>

#include <cstdint>

namespace dien {

class Processor {
 public:
  Processor() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return;
    const bool fma = has(ecx, 12), saves_state = has(ecx, 27), avx = has(ecx, 28);
    if (!fma || !saves_state || !avx || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return;
    const std::uint64_t saved = saved_state();
    avx2_ = saves(saved, 0x6) && has(ebx, 5);  // the registers xmm and ymm
    avx512_ = avx2_ && saves(saved, 0xe6) &&   // and zmm, and masks
              has(ebx, 16) && has(ebx, 17) && has(ebx, 30) && has(ebx, 31);  // F, DQ, BW, VL
  }

  // AVX2 with fused multiply-add.
  bool has_avx2() const { return avx2_; }
  bool has_avx512() const { return avx512_; }

 private:
  static bool has(unsigned bits, int bit) { return bits >> bit & 1; }
  static bool saves(std::uint64_t state, std::uint64_t registers) {
    return (state & registers) == registers;
  }
  static std::uint64_t saved_state() {
    std::uint32_t low, high;
    asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<std::uint64_t>(high) << 32 | low;
  }

  bool avx2_ = false, avx512_ = false;
};

}  // namespace dien
