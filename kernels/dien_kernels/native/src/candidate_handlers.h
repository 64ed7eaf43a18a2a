// The handlers of candidates that share one history.
#pragma once

#include "network_handlers.h"

namespace dien {
namespace {

ffi::Error run_candidate_attention(ffi::ThreadPool pool, Floats query, Floats shared, Floats states,
                                   Integers length, Floats first, ffi::RemainingArgs layers,
                                   Result attention) {
  const auto of_query = query.dimensions(), of_states = states.dimensions();
  if (of_query.size() != 2 || of_states.size() != 2 || length.element_count() != 1)
    return unexpected();
  const Index N = of_query[0], H = of_query[1], T = of_states[0];
  Network network;
  if (of_states[1] != H || !read_network(first, 2 * H, layers, &network)) return unexpected();
  const ffi::Error error =
      check({counted(shared, N * network.widths[0]), counted(*attention, N * T)});
  if (error.failure()) return error;
  Pool threads(pool);
  chosen().kernels->candidate_attention(
      {N, T, H, query.typed_data(), shared.typed_data(), states.typed_data(), length.typed_data(),
       network, attention->typed_data()},
      threads);
  return ffi::Error::Success();
}

ffi::Error run_last_states(ffi::ThreadPool pool, Floats inputs, Floats attention, Integers length,
                           Floats recurrent, Floats bias, Floats recurrent_bias, Result last,
                           bool paper, bool scales_inputs) {
  const auto of_inputs = inputs.dimensions(), of_attention = attention.dimensions();
  if (of_inputs.size() != 3 || of_attention.size() != 2 || length.element_count() != 1)
    return unexpected();
  const Index T = of_inputs[0], G = of_inputs[1], H = of_inputs[2], N = of_attention[0];
  const ffi::Error error = check({counted(attention, N * T), counted(recurrent, H * G * H),
                                  counted(bias, G * H), counted(recurrent_bias, H),
                                  counted(*last, N * H)});
  if (error.failure()) return error;
  LastStates read = {N, T, H, G, paper, scales_inputs, {0, 0}, {0, 0}, inputs.typed_data(),
                     attention.typed_data(), length.typed_data(), recurrent.typed_data(),
                     bias.typed_data(), recurrent_bias.typed_data(), last->typed_data()};
  // The table of contract.py: offset and slope, each a constant and a multiple of attention.
  if (G == 2) {
    read.offset[1] = 1;
  } else if (scales_inputs) {
    read.offset[0] = paper ? 0 : 1;
    read.slope[0] = paper ? 1 : -1;
  } else if (paper) {
    read.slope[1] = 1;
  } else {
    read.offset[0] = 1;
    read.slope[0] = -1;
    read.slope[1] = 1;
  }
  Pool threads(pool);
  chosen().kernels->last_states(read, threads);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace dien

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(dien_kernels_candidate_attention, dien::run_candidate_attention,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<dien::Floats>()    // query
                                  .Arg<dien::Floats>()    // shared
                                  .Arg<dien::Floats>()    // states
                                  .Arg<dien::Integers>()  // length
                                  .Arg<dien::Floats>()    // first
                                  .RemainingArgs()        // layers
                                  .Ret<dien::Floats>());  // attention
XLA_FFI_DEFINE_HANDLER_SYMBOL(dien_kernels_last_states, dien::run_last_states,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<dien::Floats>()    // inputs
                                  .Arg<dien::Floats>()    // attention
                                  .Arg<dien::Integers>()  // length
                                  .Arg<dien::Floats>()    // recurrent
                                  .Arg<dien::Floats>()    // bias
                                  .Arg<dien::Floats>()    // recurrent_bias
                                  .Ret<dien::Floats>()    // last
                                  .Attr<bool>("paper")
                                  .Attr<bool>("scales_inputs"));
#pragma GCC visibility pop
