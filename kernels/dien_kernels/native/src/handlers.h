// Shared parts of the handlers of XLA's foreign function interface.
#pragma once

#include <initializer_list>

#include "arguments.h"
#include "pool.h"
#include "xla/ffi/api/ffi.h"

namespace dien {

// The kernels of the instruction set that this processor runs, and its name.
struct InstructionSet {
  const char* name;
  const Kernels* kernels;
};
const InstructionSet& chosen();

namespace {

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;
using Result = ffi::Result<Floats>;

struct Counted {
  Index found, expected;
};
Counted counted(const Floats& buffer, Index expected) {
  return {static_cast<Index>(buffer.element_count()), expected};
}

// Only the Python side makes shapes, so a mismatch is a bug of this package.
ffi::Error check(std::initializer_list<Counted> buffers) {
  for (const Counted& buffer : buffers)
    if (buffer.found != buffer.expected)
      return ffi::Error::InvalidArgument("dien_kernels: a buffer has an unexpected size");
  return ffi::Error::Success();
}

float* or_null(const Floats& buffer) {
  return buffer.element_count() ? buffer.typed_data() : nullptr;
}

}  // namespace
}  // namespace dien
