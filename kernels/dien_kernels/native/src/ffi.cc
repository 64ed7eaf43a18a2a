// The kernels as handlers of XLA's foreign function interface, and the choice of instruction set.
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "arguments.h"
#include "pool.h"
#ifdef __x86_64__
#include "processor.h"
#endif
#include "xla/ffi/api/ffi.h"

namespace dien {

#ifdef __x86_64__
extern const Kernels kernels_avx512, kernels_avx2;
#endif
extern const Kernels kernels_plain;

namespace {

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;
using Result = ffi::Result<Floats>;

struct InstructionSet {
  const char* name;
  const Kernels* kernels;
};

// The widest one of this processor; $DIEN_KERNELS_ISA lowers the choice.
InstructionSet choose() {
#ifdef __x86_64__
  const char* wish = std::getenv("DIEN_KERNELS_ISA");
  auto may_use = [&](const char* name) { return !wish || !*wish || !std::strcmp(wish, name); };
  const Processor processor;
  if (processor.has_avx512() && may_use("avx512")) return {"avx512", &kernels_avx512};
  if (processor.has_avx2() && (may_use("avx512") || may_use("avx2")))
    return {"avx2", &kernels_avx2};
#endif
  return {"plain", &kernels_plain};
}

const InstructionSet& chosen() {
  static const InstructionSet instruction_set = choose();
  return instruction_set;
}

struct Counted {
  Index found, expected;
};
Counted counted(const Floats& buffer, Index expected) {
  return {static_cast<Index>(buffer.element_count()), expected};
}

// Shapes are made by the Python side alone, so a mismatch is a mistake of this package.
ffi::Error check(std::initializer_list<Counted> buffers) {
  for (const Counted& buffer : buffers)
    if (buffer.found != buffer.expected)
      return ffi::Error::InvalidArgument("dien_kernels: a buffer has an unexpected size");
  return ffi::Error::Success();
}

float* or_null(const Floats& buffer) {
  return buffer.element_count() ? buffer.typed_data() : nullptr;
}

Sizes sizes_of(const Floats& x, const Floats& input, bool paper) {
  const auto of_x = x.dimensions(), of_input = input.dimensions();
  return {of_x[0], of_x[1], of_x[2], of_input[2], of_input[1], paper};
}

ffi::Error forward(ffi::ThreadPool pool, Floats x, Floats offset, Floats slope, Integers lengths,
                   Floats input, Floats recurrent, Floats bias, Floats recurrent_bias,
                   Floats initial, Result states, Result kept, bool paper) {
  if (x.dimensions().size() != 3 || input.dimensions().size() != 3)
    return ffi::Error::InvalidArgument("dien_kernels: expected x [B, T, D] and input [D, G, H]");
  const Sizes s = sizes_of(x, input, paper);
  const Index GH = s.gates * s.hidden;
  const bool keeps = kept->element_count() != 0;
  const ffi::Error error = check(
      {counted(offset, s.steps * s.rows), counted(slope, s.steps * s.rows),
       {static_cast<Index>(lengths.element_count()), s.rows}, counted(input, s.inputs * GH),
       counted(recurrent, s.hidden * GH), counted(bias, GH), counted(recurrent_bias, s.hidden),
       counted(initial, s.rows * s.hidden), counted(*states, s.rows * s.steps * s.hidden),
       counted(*kept, keeps ? s.kept_floats() : 0)});
  if (error.failure()) return error;
  const Operands operands = {x.typed_data(),       offset.typed_data(), slope.typed_data(),
                             lengths.typed_data(), input.typed_data(),  recurrent.typed_data()};
  Pool threads(pool);
  chosen().kernels->forward({s, operands, bias.typed_data(), recurrent_bias.typed_data(),
                             initial.typed_data(), states->typed_data(), or_null(*kept)},
                            threads);
  return ffi::Error::Success();
}

// Takes all operands of forward: an exported program, which runs another computation in place of
// this one, reads those that this one does not.
ffi::Error backward(ffi::ThreadPool pool, Floats x, Floats offset, Floats slope, Integers lengths,
                    Floats input, Floats recurrent, Floats /*bias*/, Floats /*recurrent_bias*/,
                    Floats /*initial*/, Floats kept, Floats d_states, Floats d_last, Result d_x,
                    Result d_offset, Result d_slope, Result d_input, Result d_recurrent,
                    Result d_bias, Result d_recurrent_bias, Result d_initial, bool paper) {
  if (x.dimensions().size() != 3 || input.dimensions().size() != 3)
    return ffi::Error::InvalidArgument("dien_kernels: expected x [B, T, D] and input [D, G, H]");
  const Sizes s = sizes_of(x, input, paper);
  const Index GH = s.gates * s.hidden, steps = s.steps * s.rows, states = steps * s.hidden;
  const bool has_d_states = d_states.element_count() != 0;
  const ffi::Error error = check(
      {counted(offset, steps), counted(slope, steps),
       {static_cast<Index>(lengths.element_count()), s.rows}, counted(input, s.inputs * GH),
       counted(recurrent, s.hidden * GH), counted(kept, s.kept_floats()),
       counted(d_states, has_d_states ? states : 0), counted(d_last, s.rows * s.hidden),
       counted(*d_x, steps * s.inputs), counted(*d_offset, steps), counted(*d_slope, steps),
       counted(*d_input, s.inputs * GH), counted(*d_recurrent, s.hidden * GH),
       counted(*d_bias, GH), counted(*d_recurrent_bias, s.hidden),
       counted(*d_initial, s.rows * s.hidden)});
  if (error.failure()) return error;
  const Operands operands = {x.typed_data(),       offset.typed_data(), slope.typed_data(),
                             lengths.typed_data(), input.typed_data(),  recurrent.typed_data()};
  Pool threads(pool);
  chosen().kernels->backward(
      {s, operands, kept.typed_data(), or_null(d_states), d_last.typed_data(), d_x->typed_data(),
       d_offset->typed_data(), d_slope->typed_data(), d_input->typed_data(),
       d_recurrent->typed_data(), d_bias->typed_data(), d_recurrent_bias->typed_data(),
       d_initial->typed_data()},
      threads);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace dien

#define DIEN_EXPORT extern "C" __attribute__((visibility("default")))

DIEN_EXPORT const char* dien_kernels_instruction_set() { return dien::chosen().name; }

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(dien_kernels_forward, dien::forward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<dien::Floats>()    // x
                                  .Arg<dien::Floats>()    // offset
                                  .Arg<dien::Floats>()    // slope
                                  .Arg<dien::Integers>()  // lengths
                                  .Arg<dien::Floats>()    // input
                                  .Arg<dien::Floats>()    // recurrent
                                  .Arg<dien::Floats>()    // bias
                                  .Arg<dien::Floats>()    // recurrent_bias
                                  .Arg<dien::Floats>()    // initial
                                  .Ret<dien::Floats>()    // states
                                  .Ret<dien::Floats>()    // kept
                                  .Attr<bool>("paper"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(dien_kernels_backward, dien::backward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<dien::Floats>()    // x
                                  .Arg<dien::Floats>()    // offset
                                  .Arg<dien::Floats>()    // slope
                                  .Arg<dien::Integers>()  // lengths
                                  .Arg<dien::Floats>()    // input
                                  .Arg<dien::Floats>()    // recurrent
                                  .Arg<dien::Floats>()    // bias
                                  .Arg<dien::Floats>()    // recurrent_bias
                                  .Arg<dien::Floats>()    // initial
                                  .Arg<dien::Floats>()    // kept
                                  .Arg<dien::Floats>()    // d_states
                                  .Arg<dien::Floats>()    // d_last
                                  .Ret<dien::Floats>()    // d_x
                                  .Ret<dien::Floats>()    // d_offset
                                  .Ret<dien::Floats>()    // d_slope
                                  .Ret<dien::Floats>()    // d_input
                                  .Ret<dien::Floats>()    // d_recurrent
                                  .Ret<dien::Floats>()    // d_bias
                                  .Ret<dien::Floats>()    // d_recurrent_bias
                                  .Ret<dien::Floats>()    // d_initial
                                  .Attr<bool>("paper"));
#pragma GCC visibility pop
