// The recurrence backward: from gradients of the states to those of the inputs and the weights.
//
// With h the state before a step and g the gradient of the state after it,
//
//   d_c = g z (1 - c c),  d_u = g (c - h) slope u (1 - u)             before tanh and sigmoid
//   d_r = d_c product r (1 - r),    product = h U_c + d               in the paper's form
//   d_r = (d_c U_c^T) h r (1 - r)                                     in the authors' form
//   d_h = g (1 - z) + d_r U_r^T + d_u U_u^T + (d_c r) U_c^T           in the paper's form
//   d_h = g (1 - z) + d_r U_r^T + d_u U_u^T + (d_c U_c^T) r           in the authors' form
//
// Gradients of the gates lie in the order product, reset, update, candidate: those that h needs
// are contiguous, and so are those that x needs. In the authors' form the first one holds r o h.
#pragma once

#include "forward.h"

namespace dien {
namespace {

constexpr Index kChunk = 16;  // steps that become weight gradients together

struct BackwardWeights {
  Packed to_state, to_masked, to_x;
};

// Gradients of all weights, one after the other.
struct WeightSums {
  float *input, *recurrent, *bias, *recurrent_bias;

  WeightSums(const Sizes& sizes, float* first)
      : input(first),
        recurrent(input + sizes.inputs * sizes.gates * sizes.hidden),
        bias(recurrent + sizes.hidden * sizes.gates * sizes.hidden),
        recurrent_bias(bias + sizes.gates * sizes.hidden) {}

  static Index floats(const Sizes& sizes) {
    return ((sizes.inputs + sizes.hidden + 1) * sizes.gates + 1) * sizes.hidden;
  }
};

// The backward pass of one panel, in the memory of its task.
class BackwardPanel {
 public:
  BackwardPanel(const Backward& p, const BackwardWeights& weights, WeightSums sums)
      : p_(p),
        sizes_(p.sizes),
        slots_(p.sizes),
        weights_(weights),
        sums_(sums),
        gradients_((1 + p.sizes.gates) * slots_.panel),
        x_size_(p.sizes.inputs * kPanel) {
    const Index wider = sizes_.inputs + sizes_.hidden;
    of_task.reserve(kChunk * (gradients_ + x_size_) + 2 * slots_.panel + x_size_ + 2 * wider);
    unused_ = of_task.take(wider);
    row_ = of_task.take(sizes_.hidden);
    xs_ = of_task.take(kChunk * x_size_);
    all_gradients_ = of_task.take(kChunk * gradients_);
    dh_ = of_task.take(slots_.panel);
    scratch_ = of_task.take(slots_.panel);
    dx_ = of_task.take(x_size_);
  }

  void run(const Rows& rows, Index number) {
    kept_ = p_.kept + number * (sizes_.steps + 1) * slots_.size;
    start(rows);
    for (Index end = rows.longest; end > 0; end -= kChunk) {
      const Index count = end < kChunk ? end : kChunk, first = end - count;
      for (Index step = end - 1; step >= first; step--) back(rows, step, step - first);
      add_weight_gradients(first, count);
    }
    float* d_initial[kPanel];
    rows.point<float>(d_initial, p_.d_initial, sizes_.hidden, unused_);
    scatter(d_initial, dh_, sizes_.hidden);
  }

 private:
  // Points to the end of the panel's steps; the last state gets the gradients of later steps.
  void start(const Rows& rows) {
    const Index T = sizes_.steps, D = sizes_.inputs, H = sizes_.hidden, longest = rows.longest;
    const float* d_last[kPanel];
    rows.point<const float>(inputs_, p_.operands.x, T * D, p_.operands.x);
    rows.point<const float>(d_last, p_.d_last, H, p_.d_last);
    rows.point<float>(d_x_, p_.d_x, T * D, unused_);
    if (p_.d_states) rows.point<const float>(d_states_, p_.d_states, T * H, p_.d_states);
    Mask live[kParts];
    all_live(live);
    gather(dh_, d_last, H, live);
    for (Index i = 0; i < kPanel; i++) {
      if (!rows.exists(i)) continue;
      if (p_.d_states) add_repeated(i, rows.lengths[i]);
      memset(d_x_[i] + longest * D, 0, sizeof(float) * static_cast<size_t>((T - longest) * D));
      for (Index step = rows.lengths[i]; step < T; step++) {
        p_.d_offset[step * sizes_.rows + rows.numbers[i]] = 0;
        p_.d_slope[step * sizes_.rows + rows.numbers[i]] = 0;
      }
    }
    rows.advance(inputs_, longest * D);
    rows.advance(d_x_, longest * D);
    if (p_.d_states) rows.advance(d_states_, longest * H);
  }

  // Dead steps repeat the last live state, which gets their gradients.
  void add_repeated(Index i, Index length) {
    const Index H = sizes_.hidden;
    memset(row_, 0, sizeof(float) * static_cast<size_t>(H));
    for (Index step = length; step < sizes_.steps; step++)
      for (Index c = 0; c < H; c++) row_[c] += d_states_[i][step * H + c];
    for (Index c = 0; c < H; c++) dh_[c * kPanel + i] += row_[c];
  }

  // One step back; its gradients of the gates become number slot of the chunk.
  void back(const Rows& rows, Index step, Index slot) {
    const Index B = sizes_.rows, D = sizes_.inputs, H = sizes_.hidden;
    rows.advance(inputs_, -D);
    rows.advance(d_x_, -D);
    Mask live[kParts];
    Vector offset[kParts], slope[kParts], d_offset[kParts] = {}, d_slope[kParts] = {};
    rows.live_at(step, live);
    rows.read(p_.operands.offset, B, step, offset);
    rows.read(p_.operands.slope, B, step, slope);
    gather(xs_ + slot * x_size_, inputs_, D, live);
    if (p_.d_states) {
      rows.advance(d_states_, -H);
      gather(scratch_, d_states_, H, live);
      each(H, [&](Index i, int) { store(dh_ + i, load(dh_ + i) + load(scratch_ + i)); });
    }

    const float* state = kept_ + step * slots_.size;
    const float *reset = slots_.reset(state), *update = slots_.update(state);
    const float *candidate = slots_.candidate(state), *product = slots_.product(state);
    float* d_product = all_gradients_ + slot * gradients_;
    float *d_reset = d_product + slots_.panel, *d_update = d_reset + slots_.panel;
    float* d_candidate = d_product + sizes_.gates * slots_.panel;
    const bool paper = sizes_.paper, has_update = sizes_.gates == 3;
    each(H, [&](Index i, int part) {
      const Vector h = load(state + i), c = load(candidate + i), g = load(dh_ + i);
      const Vector dz = keep(live[part], g * (c - h));
      Vector z = offset[part];
      if (has_update) {
        const Vector u = load(update + i);
        z += slope[part] * u;
        d_slope[part] += dz * u;
        store(d_update + i, dz * slope[part] * u * (1 - u));
      }
      d_offset[part] += dz;
      const Vector dc = keep(live[part], g * z * (1 - c * c));
      store(d_candidate + i, dc);
      store(dh_ + i, g * (1 - z));
      if (paper) {
        const Vector r = load(reset + i);
        store(d_reset + i, dc * load(product + i) * r * (1 - r));
        store(d_product + i, dc * r);
      }
    });
    if (paper) {
      multiply_add(dh_, d_product, weights_.to_state, dh_);
    } else {
      multiply(scratch_, d_candidate, weights_.to_masked);
      each(H, [&](Index i, int) {
        const Vector h = load(state + i), r = load(reset + i), d = load(scratch_ + i);
        store(d_reset + i, d * h * r * (1 - r));
        store(d_product + i, r * h);
        store(dh_ + i, load(dh_ + i) + d * r);
      });
      multiply_add(dh_, d_reset, weights_.to_state, dh_);
    }
    multiply(dx_, d_reset, weights_.to_x);
    scatter(d_x_, dx_, D);
    rows.write(p_.d_offset, B, step, d_offset);
    rows.write(p_.d_slope, B, step, d_slope);
  }

  void add_weight_gradients(Index first, Index count) {
    const Index H = sizes_.hidden, GH = sizes_.gates * H, early = GH - H;
    auto part = [&](Index gate, Index columns) {
      return Panels{all_gradients_ + gate * slots_.panel, gradients_, columns};
    };
    const Panels xs = {xs_, x_size_, sizes_.inputs};
    const Panels states = {kept_ + first * slots_.size, slots_.size, H};
    const Panels all_gates = part(1, GH), gates = part(1, early), products = part(0, H);
    add_outer(sums_.input, GH, xs, all_gates, count);
    add_sums(sums_.bias, all_gates, count);
    add_outer(sums_.recurrent, GH, states, gates, count);
    if (sizes_.paper) {
      add_outer(sums_.recurrent + early, GH, states, products, count);
      add_sums(sums_.recurrent_bias, products, count);
    } else {
      add_outer(sums_.recurrent + early, GH, products, part(sizes_.gates, H), count);
    }
  }

  const Backward& p_;
  const Sizes& sizes_;
  const Slots slots_;
  const BackwardWeights& weights_;
  const WeightSums sums_;
  const Index gradients_, x_size_;  // floats of a step's gradients, and of its inputs
  float *unused_, *row_, *xs_, *all_gradients_, *dh_, *scratch_, *dx_;
  const float* kept_ = nullptr;
  const float *inputs_[kPanel], *d_states_[kPanel];
  float* d_x_[kPanel];
};

// The recurrent weights as rows of gate columns, in the order of the gradients.
inline void turn(const Sizes& sizes, const float* recurrent, float* turned) {
  const Index H = sizes.hidden, G = sizes.gates;
  for (Index place = 0; place < G; place++) {
    const Index gate = sizes.paper ? (place + G - 1) % G : place;
    for (Index c = 0; c < H; c++)
      for (Index k = 0; k < H; k++)
        turned[(place * H + c) * H + k] = recurrent[(k * G + gate) * H + c];
  }
}

void backward(const Backward& p, Threads& threads) {
  const Sizes& sizes = p.sizes;
  const Index D = sizes.inputs, H = sizes.hidden, GH = sizes.gates * H, early = GH - H;
  const Index panels = sizes.panels(), floats = WeightSums::floats(sizes);
  const Index tasks = summing_tasks(panels, floats);
  of_call.reserve(packed_floats(GH, H) + packed_floats(GH, D) + packed_floats(H, H) +
                  panels * kPanel + sizes.steps + 2 + tasks * floats + GH * H);
  float* turned = of_call.take(GH * H);
  turn(sizes, p.operands.recurrent, turned);
  auto packed = [&](const float* from, Index depth, Index columns, Index down, Index across) {
    float* to = of_call.take(packed_floats(depth, columns));
    return pack(to, from, depth, columns, down, across);
  };
  const BackwardWeights weights = {packed(turned, sizes.paper ? GH : early, H, H, 1),
                                   packed(p.operands.recurrent + early, H, H, 1, GH),
                                   packed(p.operands.input, GH, D, 1, GH)};
  const std::int32_t* order = sorted_rows(
      sizes, p.operands.lengths, reinterpret_cast<std::int32_t*>(of_call.take(panels * kPanel)),
      reinterpret_cast<std::int32_t*>(of_call.take(sizes.steps + 2)));
  float* sums = of_call.take_zeros(tasks * floats);

  parallel(threads, tasks, [&](Index task) {
    BackwardPanel panel(p, weights, WeightSums(sizes, sums + task * floats));
    for (Index number = task; number < panels; number += tasks)
      panel.run(Rows(sizes, p.operands.lengths, order + number * kPanel), number);
  });
  const WeightSums first(sizes, sums);
  add_up(p.d_input, first.input, floats, tasks, D * GH);
  add_up(p.d_recurrent, first.recurrent, floats, tasks, H * GH);
  add_up(p.d_bias, first.bias, floats, tasks, GH);
  add_up(p.d_recurrent_bias, first.recurrent_bias, floats, tasks, H);
}

}  // namespace
}  // namespace dien
