// Arguments of the kernels, the same for every instruction set. Arrays are row-major.
//
// The recurrences have B rows, T steps, D inputs, H hidden, G gates: reset, update (not of AGRU), candidate. One step is
//
//   r = sigmoid(x W_r + h U_r + b_r),  u = sigmoid(x W_u + h U_u + b_u)
//   c = tanh(x W_c + b_c + r o (h U_c + d))    in the paper's form
//   c = tanh(x W_c + b_c + (r o h) U_c)        in the authors' form
//   h' = h + z o (c - h),                      z = offset + slope u
//
// A step at or past a row's length leaves its state unchanged.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dien {

using Index = std::ptrdiff_t;

// Rows that go through time together; the same for every instruction set, because forward and
// backward may be compiled separately but share the arrays that forward keeps.
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

// d_ means the gradient of.
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

// An MLP, sigmoid after each layer but the last one, which has one column, the score. How the first
// layer reads its inputs is up to the kernel; the further layers, the score included, are Dense.
constexpr Index kMostLayers = 8;  // after the first one

struct Network {
  Index inputs;                     // rows of first
  const float* first;               // [inputs, widths[0]]
  Index count;                      // layers after the first one
  Index widths[kMostLayers + 1];    // columns of each layer; the last one is 1
  const float* kernel[kMostLayers]; // [widths[i], widths[i + 1]]
  const float* bias[kMostLayers];   // [widths[i + 1]]
};

struct NetworkGradients {
  float* first;
  float* kernel[kMostLayers];
  float* bias[kMostLayers];
};

// The auxiliary loss and all of its gradients. Behaviours follow states: position (b, t), t < T - 1,
// has the state of step t, and K behaviours, the real one of step t + 1 and K - 1 sampled ones. With
// the network's score l of [state, behaviour] the loss is the sum of share softplus(-l) over real
// and of share softplus(l) over sampled ones. Positions with share 0 are not read.
struct Auxiliary {
  Index rows, steps, choices, hidden, inputs;  // B, T, K, H of a state, D of a behaviour
  const float* states;   // [B, T, H]
  const float* history;  // [B, T, D]
  const float* sampled;  // [K - 1, B, T - 1, D]
  const float* shares;   // [K, B, T - 1]
  Network network;       // inputs H + D
  const float* bias;     // [widths[0]], of the first layer
  float* loss;           // [1]
  float* d_states;
  float* d_history;
  float* d_sampled;
  NetworkGradients d_network;
  float* d_bias;
};

// Attention of a row's query over its states: the softmax over live steps of the network's score,
// whose first layer is shared + [h, h o q] first, where shared is what the steps of a row share.
struct Attention {
  Index rows, steps, hidden;    // B, T, H
  const float* states;          // [B, T, H]
  const float* query;           // [B, H]
  const float* shared;          // [B, widths[0]]
  const std::int32_t* lengths;  // [B]
  Network network;              // inputs 2 H
};

struct AttentionBackward {
  Attention forward;
  const float* attention;    // [B, T], as forward returned it
  const float* d_attention;
  float* d_states;
  float* d_query;
  float* d_shared;
  NetworkGradients d_network;
};

// N candidates that share one history: the attention of each as above, over the history's states.
struct CandidateAttention {
  Index rows, steps, hidden;   // N, T, H
  const float* query;          // [N, H]
  const float* shared;         // [N, widths[0]]
  const float* states;         // [T, H]
  const std::int32_t* length;  // [1]
  Network network;             // inputs 2 H
  float* attention;            // [N, T]
};

// The last state of a recurrence from zero, as at the top, over one history under the attention of
// each candidate: z = offset[0] + offset[1] a + (slope[0] + slope[1] a) u.
struct LastStates {
  Index rows, steps, hidden, gates;  // N, T, H, G
  bool paper, scales_inputs;         // attention multiplies the inputs, as in AIGRU
  float offset[2], slope[2];
  const float* inputs;               // [T, G, H], x W without the bias
  const float* attention;            // [N, T]
  const std::int32_t* length;        // [1]
  const float* recurrent;            // [H, G, H]
  const float* bias;                 // [G, H]
  const float* recurrent_bias;       // [H]
  float* last;                       // [N, H]
};

// One array of Adam's update. The new arrays may be the old ones.
constexpr Index kAdamPart = 16384;  // elements of a task

struct AdamArray {
  Index count;
  const float* parameter;
  const float* mean;
  const float* variance;
  const float* gradient;
  float* new_parameter;
  float* new_mean;
  float* new_variance;

  Index parts() const { return (count + kAdamPart - 1) / kAdamPart; }
};

// With decays .9 and .999: m' = .9 m + .1 g, v' = .999 v + .001 g g, and
// p' = p - scales[0] scales[1] m' / (sqrt(scales[2] v') + 1e-8).
struct Adam {
  const AdamArray* arrays;
  Index parts;          // of all arrays
  const float* scales;  // [3]
  double* sums;         // [parts], of squares of gradients
  float* norm;          // [1], of all gradients
};

// The kernels as compiled for one instruction set.
struct Kernels {
  void (*forward)(const Forward&, Threads&);
  void (*backward)(const Backward&, Threads&);
  void (*auxiliary)(const Auxiliary&, Threads&);
  void (*attention)(const Attention&, float* attention, Threads&);
  void (*attention_backward)(const AttentionBackward&, Threads&);
  void (*candidate_attention)(const CandidateAttention&, Threads&);
  void (*last_states)(const LastStates&, Threads&);
  void (*adam)(const Adam&, Threads&);
};

}  // namespace dien
