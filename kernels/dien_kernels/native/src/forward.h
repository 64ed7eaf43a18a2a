// The recurrence forward: a panel of rows goes through all of its steps with its state in the
// first-level cache, and stops at its own longest row.
#pragma once

#include "products.h"
#include "rows.h"

namespace dien {
namespace {

// Weights of the forward pass. The gates before the candidate read the same input: one matrix.
struct ForwardWeights {
  Packed input_gates, input_candidate, state_gates, state_candidate;
  const float *bias, *recurrent_bias;
};

// The place of each array within the slots that a step keeps.
struct Slots {
  Index gates, panel, size;

  explicit Slots(const Sizes& sizes)
      : gates(sizes.gates), panel(sizes.hidden * kPanel), size(sizes.slots() * panel) {}

  float* reset(float* state) const { return state + panel; }
  float* candidate(float* state) const { return state + gates * panel; }
  float* product(float* state) const { return candidate(state) + panel; }
  const float* reset(const float* state) const { return state + panel; }
  const float* update(const float* state) const { return state + 2 * panel; }
  const float* candidate(const float* state) const { return state + gates * panel; }
  const float* product(const float* state) const { return candidate(state) + panel; }
};

// Computes the gates of a step from its inputs x and the state before it, in place in the slots.
inline void gates_of(const Sizes& sizes, const ForwardWeights& weights, const float* x,
                     float* state, float* masked) {
  const Slots slots(sizes);
  const Index early = (sizes.gates - 1) * sizes.hidden;
  float *gates = slots.reset(state), *candidate = slots.candidate(state);
  multiply_bias(gates, x, weights.input_gates, weights.bias);
  multiply_add(gates, state, weights.state_gates, gates);
  each(early, [&](Index i, int) { store(gates + i, sigmoid(load(gates + i))); });
  multiply_bias(candidate, x, weights.input_candidate, weights.bias + early);
  if (sizes.paper) {
    multiply_bias(slots.product(state), state, weights.state_candidate, weights.recurrent_bias);
  } else {
    each(sizes.hidden,
         [&](Index i, int) { store(masked + i, load(gates + i) * load(state + i)); });
    multiply_add(candidate, masked, weights.state_candidate, candidate);
  }
}

// after = h + (offset + slope u) (c - h) in live lanes and h in others.
inline void next_state(const Sizes& sizes, const Vector* offset, const Vector* slope,
                       const Mask* live, float* state, float* after) {
  const Slots slots(sizes);
  float* candidate = slots.candidate(state);
  const float *reset = slots.reset(state), *update = slots.update(state);
  const bool paper = sizes.paper, has_update = sizes.gates == 3;
  each(sizes.hidden, [&](Index i, int part) {
    const Vector h = load(state + i);
    Vector c = load(candidate + i), z = offset[part];
    if (paper) c += load(reset + i) * load(slots.product(state) + i);
    c = hyperbolic_tangent(c);
    store(candidate + i, c);
    if (has_update) z += slope[part] * load(update + i);
    store(after + i, select(live[part], h + z * (c - h), h));
  });
}

inline void forward_panel(const Forward& p, const ForwardWeights& weights, const Rows& rows,
                          Index number) {
  const Sizes& sizes = p.sizes;
  const Index B = sizes.rows, T = sizes.steps, D = sizes.inputs, H = sizes.hidden;
  const Slots slots(sizes);
  of_task.reserve(2 * slots.size + D * kPanel + slots.panel + H);
  float* unused = of_task.take(H);  // lanes without a row write here
  float* x = of_task.take(D * kPanel);
  float* masked = of_task.take(slots.panel);
  float* scratch = of_task.take(2 * slots.size);
  float* kept = p.kept ? p.kept + number * (T + 1) * slots.size : nullptr;
  auto state_at = [&](Index step) {
    return kept ? kept + step * slots.size : scratch + step % 2 * slots.size;
  };

  const float *inputs[kPanel], *initial[kPanel];
  float* states[kPanel];
  rows.point<const float>(inputs, p.operands.x, T * D, p.operands.x);
  rows.point<const float>(initial, p.initial, H, p.initial);
  rows.point<float>(states, p.states, T * H, unused);
  Mask live[kParts];
  all_live(live);
  gather(state_at(0), initial, H, live);
  for (Index step = 0; step < rows.longest; step++) {
    Vector offset[kParts], slope[kParts];
    rows.live_at(step, live);
    rows.read(p.operands.offset, B, step, offset);
    rows.read(p.operands.slope, B, step, slope);
    gather(x, inputs, D, live);
    rows.advance(inputs, D);
    float* state = state_at(step);
    gates_of(sizes, weights, x, state, masked);
    next_state(sizes, offset, slope, live, state, state_at(step + 1));
    scatter(states, state_at(step + 1), H);
    rows.advance(states, H);
  }
  // Steps in which no row of the panel is live repeat its last state.
  if (rows.longest == T) return;
  scatter(states, state_at(rows.longest), H);
  for (Index i = 0; i < kPanel; i++) {
    if (!rows.exists(i)) continue;
    for (Index step = rows.longest + 1; step < T; step++)
      memcpy(states[i] + (step - rows.longest) * H, states[i],
             sizeof(float) * static_cast<size_t>(H));
  }
}

void forward(const Forward& p, Threads& threads) {
  const Sizes& sizes = p.sizes;
  const Index D = sizes.inputs, H = sizes.hidden, GH = sizes.gates * H, early = GH - H;
  const Index panels = sizes.panels();
  of_call.reserve(packed_floats(D, early) + packed_floats(D, H) + packed_floats(H, early) +
                  packed_floats(H, H) + panels * kPanel + sizes.steps + 2);
  auto packed = [&](const float* from, Index depth, Index columns) {
    return pack(of_call.take(packed_floats(depth, columns)), from, depth, columns, GH, 1);
  };
  const Operands& operands = p.operands;
  const ForwardWeights weights = {
      packed(operands.input, D, early),        packed(operands.input + early, D, H),
      packed(operands.recurrent, H, early),    packed(operands.recurrent + early, H, H),
      p.bias,                                  p.recurrent_bias};
  const std::int32_t* order = sorted_rows(
      sizes, operands.lengths, reinterpret_cast<std::int32_t*>(of_call.take(panels * kPanel)),
      reinterpret_cast<std::int32_t*>(of_call.take(sizes.steps + 2)));
  parallel(threads, panels, [&](Index number) {
    forward_panel(p, weights, Rows(sizes, operands.lengths, order + number * kPanel), number);
  });
}

}  // namespace
}  // namespace dien
