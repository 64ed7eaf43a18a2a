// Candidates that share one history: the attention of each over its states, and the last state of a
// recurrence under each attention. Lanes are candidates; shared parts are computed once.
#pragma once

#include "network.h"

namespace dien {
namespace {

inline Index live_steps(const std::int32_t* length, Index steps) {
  return *length < 0 ? 0 : *length > steps ? steps : *length;
}

// The candidates of a panel.
inline Lanes candidates_of(Index panel, Index rows) {
  Lanes lanes;
  for (Index row = panel * kPanel; row < rows && lanes.count < kPanel; row++) lanes.add(row);
  return lanes;
}

inline Index panels_of(Index rows) { return (rows + kPanel - 1) / kPanel; }

// total[c] += sum over k of x[k] w[k * columns + c].
inline void add_product(float* total, const float* x, const float* w, Index depth, Index columns) {
  for (Index k = 0; k < depth; k++)
    for (Index c = 0; c < columns; c++) total[c] += x[k] * w[k * columns + c];
}

// In place, the softmax over the first length columns of a panel.
inline void softmax_of_lanes(float* panel, Index length) {
  for (int part = 0; part < kParts; part++) {
    float* column = panel + part * kLanes;
    Vector highest = load(column), total = {};
    for (Index t = 1; t < length; t++) {
      const Vector score = load(column + t * kPanel);
      highest = score > highest ? score : highest;
    }
    for (Index t = 0; t < length; t++) {
      const Vector power = exponential(load(column + t * kPanel) - highest);
      total += power;
      store(column + t * kPanel, power);
    }
    for (Index t = 0; t < length; t++)
      store(column + t * kPanel, load(column + t * kPanel) / total);
  }
}

void candidate_attention(const CandidateAttention& p, Threads& threads) {
  const Network& network = p.network;
  const Index H = p.hidden, M = network.widths[0], T = p.steps, length = live_steps(p.length, T);
  of_call.reserve(packed_floats(H, M) + PackedLayers::floats(network) + length * M);
  const PackedLayers layers(network, false);
  const Places places(network, false);
  const float *of_state = network.first, *of_product = of_state + H * M;
  const Packed products = pack(of_call.take(packed_floats(H, M)), of_product, H, M, M, 1);
  float* shares = of_call.take_zeros(length * M);  // of each step's state in the first layer
  for (Index t = 0; t < length; t++) add_product(shares + t * M, p.states + t * H, of_state, H, M);

  parallel(threads, panels_of(p.rows), [&](Index number) {
    of_task.reserve((2 * H + M + T) * kPanel + places.size + T);
    float *query = of_task.take(H * kPanel), *product = of_task.take(H * kPanel);
    float *shared = of_task.take(M * kPanel), *memory = of_task.take(places.size);
    float *scores = of_task.take_zeros(T * kPanel), *unused = of_task.take(T);
    const Lanes lanes = candidates_of(number, p.rows);
    lanes.read(query, p.query, H);
    lanes.read(shared, p.shared, M);
    for (Index t = 0; t < length; t++) {
      const float *state = p.states + t * H, *share = shares + t * M;
      each(H, [&](Index i, int) { store(product + i, load(query + i) * state[i / kPanel]); });
      each(M, [&](Index i, int) { store(memory + i, load(shared + i) + share[i / kPanel]); });
      multiply_add(memory, product, products, memory);
      const float* score = run_layers(network, layers, places, memory);
      memcpy(scores + t * kPanel, score, sizeof(float) * kPanel);
    }
    if (length) softmax_of_lanes(scores, length);
    lanes.write(p.attention, scores, T, unused);
  });
}

// One step of a panel of candidates: gates from their shared inputs, h in place.
inline void candidate_step(const LastStates& p, Packed early, Packed last, const float* inputs,
                           const float* attention, float* gates, float* product, float* h) {
  const Index H = p.hidden, GH = p.gates * H, before = GH - H;
  float* candidate = gates + before * kPanel;
  each(GH, [&](Index i, int part) {
    Vector input = broadcast(inputs[i / kPanel]);
    if (p.scales_inputs) input *= load(attention + part * kLanes);
    store(gates + i, input + p.bias[i / kPanel]);
  });
  multiply_add(gates, h, early, gates);
  activate(gates, before);
  if (p.paper) {
    multiply_bias(product, h, last, p.recurrent_bias);
    each(H, [&](Index i, int) {
      store(candidate + i, load(candidate + i) + load(gates + i) * load(product + i));
    });
  } else {
    each(H, [&](Index i, int) { store(product + i, load(gates + i) * load(h + i)); });
    multiply_add(candidate, product, last, candidate);
  }
  each(H, [&](Index i, int part) {
    const Vector a = load(attention + part * kLanes), old = load(h + i);
    Vector z = p.offset[0] + p.offset[1] * a;
    if (p.gates == 3) z += (p.slope[0] + p.slope[1] * a) * load(gates + H * kPanel + i);
    store(h + i, old + z * (hyperbolic_tangent(load(candidate + i)) - old));
  });
}

void last_states(const LastStates& p, Threads& threads) {
  const Index H = p.hidden, GH = p.gates * H, T = p.steps, length = live_steps(p.length, T);
  of_call.reserve(packed_floats(H, GH - H) + packed_floats(H, H));
  const Packed early =
      pack(of_call.take(packed_floats(H, GH - H)), p.recurrent, H, GH - H, GH, 1);
  const Packed last = pack(of_call.take(packed_floats(H, H)), p.recurrent + GH - H, H, H, GH, 1);
  parallel(threads, panels_of(p.rows), [&](Index number) {
    of_task.reserve((T + GH + 2 * H) * kPanel + H);
    float *attention = of_task.take(T * kPanel), *gates = of_task.take(GH * kPanel);
    float *product = of_task.take(H * kPanel), *h = of_task.take_zeros(H * kPanel);
    float* unused = of_task.take(H);
    const Lanes lanes = candidates_of(number, p.rows);
    lanes.read(attention, p.attention, T);
    for (Index t = 0; t < length; t++)
      candidate_step(p, early, last, p.inputs + t * GH, attention + t * kPanel, gates, product, h);
    lanes.write(p.last, h, H, unused);
  });
}

}  // namespace
}  // namespace dien
