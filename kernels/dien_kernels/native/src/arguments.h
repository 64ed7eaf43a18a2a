// What the kernels are given, the same for every instruction set. Arrays are row-major.
//
// B rows, T steps, D inputs, H hidden, G gates: reset, update (not of AGRU), candidate. One step is
//
//   r = sigmoid(x W_r + h U_r + b_r),  u = sigmoid(x W_u + h U_u + b_u)
//   c = tanh(x W_c + b_c + r o (h U_c + d))    in the paper's form
//   c = tanh(x W_c + b_c + (r o h) U_c)        in the authors' form
//   h' = h + z o (c - h),                      z = offset + slope u
//
// A step at or past a row's length leaves its state as it is.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dien {

using Index = std::ptrdiff_t;

// Rows that go through time together; the same for every instruction set, as forward and backward
// may be compiled apart but share what forward keeps.
constexpr Index kPanel = 32;

// Runs tasks on the threads that take part.
class Threads {
 public:
  using Task = void (*)(void* data, Index number);

  // Runs every task below count once, and returns when all are done.
  virtual void run(Index count, Task task, void* data) = 0;

 protected:
  ~Threads() = default;
};

struct Sizes {
  Index rows, steps, inputs, hidden, gates;
  bool paper;

  Index panels() const { return (rows + kPanel - 1) / kPanel; }
  // Arrays of a panel that a step keeps: the state before it, the gates and, in the paper's form,
  // the candidate's recurrent product.
  Index slots() const { return 1 + gates + (paper ? 1 : 0); }
  Index kept_floats() const { return panels() * (steps + 1) * slots() * hidden * kPanel; }
};

struct Operands {
  const float* x;              // [B, T, D]
  const float* offset;         // [T, B]
  const float* slope;          // [T, B]
  const std::int32_t* lengths; // [B]
  const float* input;          // [D, G, H]
  const float* recurrent;      // [H, G, H]
};

struct Forward {
  Sizes sizes;
  Operands operands;
  const float* bias;            // [G, H]
  const float* recurrent_bias;  // [H], d above; the paper's form only
  const float* initial;         // [B, H]
  float* states;                // [B, T, H]
  float* kept;                  // [panels, T + 1, slots, H, 32], or null
};

// With d_ for the gradient of.
struct Backward {
  Sizes sizes;
  Operands operands;
  const float* kept;
  const float* d_states;  // [B, T, H], or null for zeros
  const float* d_last;    // [B, H], of the state after the last step
  float* d_x;
  float* d_offset;
  float* d_slope;
  float* d_input;
  float* d_recurrent;
  float* d_bias;
  float* d_recurrent_bias;
  float* d_initial;
};

// The kernels as compiled for one instruction set.
struct Kernels {
  void (*forward)(const Forward&, Threads&);
  void (*backward)(const Backward&, Threads&);
};

}  // namespace dien
