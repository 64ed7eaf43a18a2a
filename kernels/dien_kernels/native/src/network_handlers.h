// The handlers of the auxiliary loss and of attention. The layers of the network are the remaining
// arguments, a kernel and a bias for each after the first one, and so are their gradients.
#pragma once

#include "handlers.h"

namespace dien {
namespace {

ffi::Error unexpected() {
  return ffi::Error::InvalidArgument("dien_kernels: a buffer has an unexpected shape");
}

// Reads a network with a first layer [inputs, .]. False if shapes do not fit.
bool read_network(const Floats& first, Index inputs, const ffi::RemainingArgs& arguments,
                  Network* network) {
  const auto of_first = first.dimensions();
  if (of_first.size() != 2 || of_first[0] != inputs) return false;
  network->inputs = inputs;
  network->first = first.typed_data();
  network->widths[0] = of_first[1];
  network->count = static_cast<Index>(arguments.size() / 2);
  if (network->count < 1 || network->count > kMostLayers) return false;
  for (Index i = 0; i < network->count; i++) {
    const auto kernel = arguments.get<Floats>(static_cast<size_t>(2 * i));
    const auto bias = arguments.get<Floats>(static_cast<size_t>(2 * i + 1));
    if (!kernel.has_value() || !bias.has_value()) return false;
    const auto sizes = kernel->dimensions();
    if (sizes.size() != 2 || sizes[0] != network->widths[i]) return false;
    network->widths[i + 1] = sizes[1];
    if (static_cast<Index>(bias->element_count()) != sizes[1]) return false;
    network->kernel[i] = kernel->typed_data();
    network->bias[i] = bias->typed_data();
  }
  return network->widths[network->count] == 1;
}

bool read_gradients(const Network& network, Result& first, const ffi::RemainingRets& results,
                    NetworkGradients* gradients) {
  if (static_cast<Index>(results.size()) != 2 * network.count) return false;
  if (counted(*first, 0).found != network.inputs * network.widths[0]) return false;
  gradients->first = first->typed_data();
  for (Index i = 0; i < network.count; i++) {
    auto kernel = results.get<Floats>(static_cast<size_t>(2 * i));
    auto bias = results.get<Floats>(static_cast<size_t>(2 * i + 1));
    if (!kernel.has_value() || !bias.has_value()) return false;
    const Index columns = network.widths[i + 1];
    if (counted(**kernel, 0).found != network.widths[i] * columns) return false;
    if (counted(**bias, 0).found != columns) return false;
    gradients->kernel[i] = (*kernel)->typed_data();
    gradients->bias[i] = (*bias)->typed_data();
  }
  return true;
}

ffi::Error run_auxiliary(ffi::ThreadPool pool, Floats states, Floats history, Floats sampled,
                         Floats shares, Floats first, Floats bias, ffi::RemainingArgs layers,
                         Result loss, Result d_states, Result d_history, Result d_sampled,
                         Result d_first, Result d_bias, ffi::RemainingRets d_layers) {
  const auto of_states = states.dimensions(), of_history = history.dimensions();
  if (of_states.size() != 3 || of_history.size() != 3 || sampled.dimensions().size() != 4 ||
      of_states[1] < 2)
    return unexpected();
  const Index B = of_states[0], T = of_states[1], H = of_states[2], D = of_history[2];
  const Index K = sampled.dimensions()[0] + 1, positions = B * (T - 1);
  Network network;
  NetworkGradients gradients;
  if (!read_network(first, H + D, layers, &network) ||
      !read_gradients(network, d_first, d_layers, &gradients))
    return unexpected();
  const Index M = network.widths[0];
  const ffi::Error error = check(
      {counted(history, B * T * D), counted(sampled, (K - 1) * positions * D),
       counted(shares, K * positions), counted(bias, M), counted(*loss, 1),
       counted(*d_states, B * T * H), counted(*d_history, B * T * D),
       counted(*d_sampled, (K - 1) * positions * D), counted(*d_bias, M)});
  if (error.failure()) return error;
  Pool threads(pool);
  chosen().kernels->auxiliary(
      {B, T, K, H, D, states.typed_data(), history.typed_data(), sampled.typed_data(),
       shares.typed_data(), network, bias.typed_data(), loss->typed_data(), d_states->typed_data(),
       d_history->typed_data(), d_sampled->typed_data(), gradients, d_bias->typed_data()},
      threads);
  return ffi::Error::Success();
}

// Reads the arguments that both directions of attention take.
ffi::Error read_attention(const Floats& states, const Floats& query, const Floats& shared,
                          const Integers& lengths, const Floats& first,
                          const ffi::RemainingArgs& layers, Attention* attention) {
  const auto of_states = states.dimensions();
  if (of_states.size() != 3) return unexpected();
  const Index B = of_states[0], T = of_states[1], H = of_states[2];
  *attention = {B, T, H, states.typed_data(), query.typed_data(), shared.typed_data(),
                lengths.typed_data(), Network{}};
  if (!read_network(first, 2 * H, layers, &attention->network)) return unexpected();
  return check({counted(query, B * H), counted(shared, B * attention->network.widths[0]),
                {static_cast<Index>(lengths.element_count()), B}});
}

ffi::Error run_attention(ffi::ThreadPool pool, Floats states, Floats query, Floats shared,
                         Integers lengths, Floats first, ffi::RemainingArgs layers,
                         Result attention) {
  Attention read;
  ffi::Error error = read_attention(states, query, shared, lengths, first, layers, &read);
  if (error.success()) error = check({counted(*attention, read.rows * read.steps)});
  if (error.failure()) return error;
  Pool threads(pool);
  chosen().kernels->attention(read, attention->typed_data(), threads);
  return ffi::Error::Success();
}

ffi::Error run_attention_backward(ffi::ThreadPool pool, Floats states, Floats query, Floats shared,
                                  Integers lengths, Floats attention, Floats d_attention,
                                  Floats first, ffi::RemainingArgs layers, Result d_states,
                                  Result d_query, Result d_shared, Result d_first,
                                  ffi::RemainingRets d_layers) {
  AttentionBackward read;
  Attention& forward = read.forward;
  ffi::Error error = read_attention(states, query, shared, lengths, first, layers, &forward);
  if (error.failure()) return error;
  if (!read_gradients(forward.network, d_first, d_layers, &read.d_network)) return unexpected();
  const Index places = forward.rows * forward.steps;
  error = check({counted(attention, places), counted(d_attention, places),
                 counted(*d_states, places * forward.hidden),
                 counted(*d_query, forward.rows * forward.hidden),
                 counted(*d_shared, forward.rows * forward.network.widths[0])});
  if (error.failure()) return error;
  read.attention = attention.typed_data();
  read.d_attention = d_attention.typed_data();
  read.d_states = d_states->typed_data();
  read.d_query = d_query->typed_data();
  read.d_shared = d_shared->typed_data();
  Pool threads(pool);
  chosen().kernels->attention_backward(read, threads);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace dien

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(dien_kernels_auxiliary, dien::run_auxiliary,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<dien::Floats>()  // states
                                  .Arg<dien::Floats>()  // history
                                  .Arg<dien::Floats>()  // sampled
                                  .Arg<dien::Floats>()  // shares
                                  .Arg<dien::Floats>()  // first
                                  .Arg<dien::Floats>()  // bias
                                  .RemainingArgs()      // layers
                                  .Ret<dien::Floats>()  // loss
                                  .Ret<dien::Floats>()  // d_states
                                  .Ret<dien::Floats>()  // d_history
                                  .Ret<dien::Floats>()  // d_sampled
                                  .Ret<dien::Floats>()  // d_first
                                  .Ret<dien::Floats>()  // d_bias
                                  .RemainingRets());    // d_layers
XLA_FFI_DEFINE_HANDLER_SYMBOL(dien_kernels_attention, dien::run_attention,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<dien::Floats>()    // states
                                  .Arg<dien::Floats>()    // query
                                  .Arg<dien::Floats>()    // shared
                                  .Arg<dien::Integers>()  // lengths
                                  .Arg<dien::Floats>()    // first
                                  .RemainingArgs()        // layers
                                  .Ret<dien::Floats>());  // attention
XLA_FFI_DEFINE_HANDLER_SYMBOL(dien_kernels_attention_backward, dien::run_attention_backward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<dien::Floats>()    // states
                                  .Arg<dien::Floats>()    // query
                                  .Arg<dien::Floats>()    // shared
                                  .Arg<dien::Integers>()  // lengths
                                  .Arg<dien::Floats>()    // attention
                                  .Arg<dien::Floats>()    // d_attention
                                  .Arg<dien::Floats>()    // first
                                  .RemainingArgs()        // layers
                                  .Ret<dien::Floats>()    // d_states
                                  .Ret<dien::Floats>()    // d_query
                                  .Ret<dien::Floats>()    // d_shared
                                  .Ret<dien::Floats>()    // d_first
                                  .RemainingRets());      // d_layers
#pragma GCC visibility pop
