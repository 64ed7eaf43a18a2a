// The library: the handlers of XLA's foreign function interface, and the choice of instruction set.
#include <cstdlib>
#include <cstring>

#ifdef __x86_64__
#include "processor.h"
#endif
#include "adam_handlers.h"
#include "candidate_handlers.h"
#include "recurrence_handlers.h"

namespace dien {

extern const Kernels kernels_avx512, kernels_avx2, kernels_plain;

namespace {

// The widest one that the library has and this processor too; $DIEN_KERNELS_ISA lowers the choice.
InstructionSet choose() {
#ifdef __x86_64__
  const char* wish = std::getenv("DIEN_KERNELS_ISA");
  auto may_use = [&](const char* name) { return !wish || !*wish || !std::strcmp(wish, name); };
  const Processor processor;
#ifdef DIEN_HAS_AVX512
  if (processor.has_avx512() && may_use("avx512")) return {"avx512", &kernels_avx512};
#endif
#ifdef DIEN_HAS_AVX2
  if (processor.has_avx2() && (may_use("avx512") || may_use("avx2")))
    return {"avx2", &kernels_avx2};
#endif
#endif
#ifdef DIEN_HAS_PLAIN
  return {"plain", &kernels_plain};
#endif
  return {"", nullptr};
}

}  // namespace

const InstructionSet& chosen() {
  static const InstructionSet instruction_set = choose();
  return instruction_set;
}

}  // namespace dien

#define DIEN_EXPORT extern "C" __attribute__((visibility("default")))

DIEN_EXPORT const char* dien_kernels_instruction_set() { return dien::chosen().name; }
