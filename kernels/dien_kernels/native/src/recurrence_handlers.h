// The handlers of the recurrences.
#pragma once

#include "handlers.h"

namespace dien {
namespace {

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

// Takes all operands of forward: an exported program runs another computation instead of this one,
// and reads operands that this one does not.
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
