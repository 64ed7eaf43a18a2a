// The handler of Adam. Arguments are the scales, then all parameters, means, variances and gradients.
#pragma once

#include <vector>

#include "handlers.h"

namespace dien {
namespace {

ffi::Error run_adam(ffi::ThreadPool pool, Floats scales, ffi::RemainingArgs arguments, Result norm,
                    ffi::RemainingRets results) {
  const size_t count = arguments.size() / 4;
  const auto unexpected = ffi::Error::InvalidArgument("dien_kernels: unexpected arrays of Adam");
  if (arguments.size() != 4 * count || results.size() != 3 * count || scales.element_count() != 3)
    return unexpected;
  std::vector<AdamArray> arrays(count);
  Index parts = 0;
  for (size_t i = 0; i < count; i++) {
    const float* read[4];
    float* written[3];
    for (size_t kind = 0; kind < 4; kind++) {
      const auto buffer = arguments.get<Floats>(kind * count + i);
      if (!buffer.has_value()) return unexpected;
      const Index elements = static_cast<Index>(buffer->element_count());
      if (kind == 0) arrays[i].count = elements;
      if (elements != arrays[i].count) return unexpected;
      read[kind] = buffer->typed_data();
    }
    for (size_t kind = 0; kind < 3; kind++) {
      auto buffer = results.get<Floats>(kind * count + i);
      if (!buffer.has_value()) return unexpected;
      if (counted(**buffer, 0).found != arrays[i].count) return unexpected;
      written[kind] = (*buffer)->typed_data();
    }
    arrays[i] = {arrays[i].count, read[0],    read[1],    read[2],
                 read[3],         written[0], written[1], written[2]};
    parts += arrays[i].parts();
  }
  std::vector<double> sums(static_cast<size_t>(parts));
  Pool threads(pool);
  chosen().kernels->adam(
      {arrays.data(), parts, scales.typed_data(), sums.data(), norm->typed_data()}, threads);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace dien

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(dien_kernels_adam, dien::run_adam,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<dien::Floats>()  // scales
                                  .RemainingArgs()      // parameters, means, variances, gradients
                                  .Ret<dien::Floats>()  // norm
                                  .RemainingRets());    // parameters, means, variances
#pragma GCC visibility pop
