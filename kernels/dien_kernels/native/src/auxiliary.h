// The auxiliary loss: a panel of positions goes through the network with each of its behaviours,
// forward and backward at once, so that only gradients are kept.
#pragma once

#include "network.h"

namespace dien {
namespace {

// The weights, packed. The first layer has a part for the state, which all behaviours of a position
// share, and one for the behaviour.
struct AuxiliaryWeights {
  Packed state, behaviour, to_state, to_behaviour;
  PackedLayers layers;

  static Index floats(const Auxiliary& p) {
    const Index H = p.hidden, D = p.inputs, M = p.network.widths[0];
    return packed_floats(H, M) + packed_floats(D, M) + packed_floats(M, H) + packed_floats(M, D) +
           PackedLayers::floats(p.network);
  }

  explicit AuxiliaryWeights(const Auxiliary& p) : layers(p.network, true) {
    const Index H = p.hidden, D = p.inputs, M = p.network.widths[0];
    const float *of_state = p.network.first, *of_behaviour = of_state + H * M;
    auto room = [](Index depth, Index columns) {
      return of_call.take(packed_floats(depth, columns));
    };
    state = pack(room(H, M), of_state, H, M, M, 1);
    behaviour = pack(room(D, M), of_behaviour, D, M, M, 1);
    to_state = pack(room(M, H), of_state, M, H, 1, M);
    to_behaviour = pack(room(M, D), of_behaviour, M, D, 1, M);
  }
};

inline bool has_share(const Auxiliary& p, Index position) {
  const Index positions = p.rows * (p.steps - 1);
  for (Index k = 0; k < p.choices; k++)
    if (p.shares[k * positions + position] != 0) return true;
  return false;
}

// Positions from first to end, a block of panels at a time.
class AuxiliaryTask {
 public:
  AuxiliaryTask(const Auxiliary& p, const AuxiliaryWeights& weights, float* sums)
      : p_(p),
        weights_(weights),
        places_(p.network, true),
        sums_(p.network, sums),
        H_(p.hidden),
        D_(p.inputs),
        M_(p.network.widths[0]),
        choice_(D_ * kPanel + places_.size),
        size_((H_ + M_) * kPanel + p.choices * choice_),
        block_(block_of(size_)) {
    const Index widest = H_ > D_ ? H_ : D_;
    of_task.reserve(block_ * size_ + widest * (kPanel + 1));
    panels_ = of_task.take(block_ * size_);
    d_input_ = of_task.take(widest * kPanel);
    unused_ = of_task.take(widest);
  }

  // Returns the positions' share of the loss.
  float run(Index first, Index end) {
    for (Index next = first; next < end;) {
      Index filled = 0;
      for (; filled < block_ && next < end; filled++) {
        Lanes steps, positions;
        for (; next < end && positions.count < kPanel; next++) take(next, &steps, &positions);
        if (!positions.count) break;
        panel(steps, positions, panels_ + filled * size_);
      }
      add_weight_gradients(filled);
    }
    Vector loss[1] = {loss_};
    return sum_lanes<1>(loss)[0];
  }

 private:
  // Adds a position to the lanes, or clears its gradients if its shares are 0.
  void take(Index position, Lanes* steps, Lanes* positions) const {
    const Index S = p_.steps - 1, row = position / S, step = position % S, at = row * p_.steps + step;
    if (step == 0) clear(p_.d_history + at * D_, D_);
    if (step == S - 1) clear(p_.d_states + (at + 1) * H_, H_);
    if (has_share(p_, position)) {
      steps->add(at);
      positions->add(position);
      return;
    }
    clear(p_.d_states + at * H_, H_);
    clear(p_.d_history + (at + 1) * D_, D_);
    for (Index k = 1; k < p_.choices; k++)
      clear(p_.d_sampled + ((k - 1) * p_.rows * S + position) * D_, D_);
  }

  static void clear(float* to, Index count) {
    memset(to, 0, sizeof(float) * static_cast<size_t>(count));
  }

  // Of a panel: the states, the state's share of the first layer and later the sum of its
  // gradients, then of each choice the behaviours and the layers.
  void panel(const Lanes& steps, const Lanes& positions, float* memory) {
    const Index count = p_.rows * (p_.steps - 1);
    float* shared = memory + H_ * kPanel;
    steps.read(memory, p_.states, H_);
    multiply_bias(shared, memory, weights_.state, p_.bias);
    for (Index k = 0; k < p_.choices; k++) {
      float *behaviour = choice(memory, k), *layers = behaviour + D_ * kPanel;
      if (k == 0)
        steps.read(behaviour, p_.history + D_, D_);  // of the next step
      else
        positions.read(behaviour, p_.sampled + (k - 1) * count * D_, D_);
      multiply_add(layers, behaviour, weights_.behaviour, shared);
      float* score = run_layers(p_.network, weights_.layers, places_, layers);
      positions.read(d_input_, p_.shares + k * count, 1);
      each(1, [&](Index i, int) {
        const Vector share = load(d_input_ + i), s = load(score + i), l = k ? s : -s;
        const Vector slope = share * sigmoid(l);
        loss_ += share * softplus(l);
        store(score + i, k ? slope : -slope);
      });
      const float* d_first = run_back(p_.network, weights_.layers, places_, layers);
      multiply(d_input_, d_first, weights_.to_behaviour);
      if (k == 0)
        steps.write(p_.d_history + D_, d_input_, D_, unused_);
      else
        positions.write(p_.d_sampled + (k - 1) * count * D_, d_input_, D_, unused_);
    }
    const Index gradients = D_ * kPanel + places_.gradients[0];
    each(M_, [&](Index i, int) {
      Vector sum = load(choice(memory, 0) + gradients + i);
      for (Index k = 1; k < p_.choices; k++) sum += load(choice(memory, k) + gradients + i);
      store(shared + i, sum);
    });
    multiply(d_input_, shared, weights_.to_state);
    steps.write(p_.d_states, d_input_, H_, unused_);
  }

  float* choice(float* memory, Index k) const { return memory + (H_ + M_) * kPanel + k * choice_; }

  void add_weight_gradients(Index filled) {
    const Panels summed = {panels_ + H_ * kPanel, size_, M_};
    add_outer(sums_.first, M_, {panels_, size_, H_}, summed, filled);
    add_sums(sums_.bias, summed, filled);
    for (Index k = 0; k < p_.choices; k++) {
      const float *behaviour = choice(panels_, k), *layers = behaviour + D_ * kPanel;
      add_outer(sums_.first + H_ * M_, M_, {behaviour, size_, D_},
                {layers + places_.gradients[0], size_, M_}, filled);
      sums_.add_layers(p_.network, places_, layers, size_, filled);
    }
  }

  const Auxiliary& p_;
  const AuxiliaryWeights& weights_;
  const Places places_;
  const NetworkSums sums_;
  const Index H_, D_, M_, choice_, size_, block_;  // floats of a choice, and of a panel
  float *panels_, *d_input_, *unused_;
  Vector loss_ = {};
};

void auxiliary(const Auxiliary& p, Threads& threads) {
  const Index positions = p.rows * (p.steps - 1), floats = NetworkSums::floats(p.network);
  Index live = 0;
  for (Index i = 0; i < positions; i++) live += has_share(p, i);
  const Index tasks = summing_tasks((live + 4 * kPanel - 1) / (4 * kPanel), floats);
  of_call.reserve(AuxiliaryWeights::floats(p) + tasks * (floats + 1));
  const AuxiliaryWeights weights(p);
  float *sums = of_call.take_zeros(tasks * floats), *losses = of_call.take(tasks);
  // Tasks have equal numbers of live positions: task n begins after n tasks' worth of them.
  Index ends[kMostTasks], past = 0, task = 0;
  for (Index i = 0; i < positions; i++) {
    past += has_share(p, i);
    while (task < tasks - 1 && past * tasks >= (task + 1) * live) ends[task++] = i + 1;
  }
  while (task < tasks) ends[task++] = positions;
  parallel(threads, tasks, [&](Index number) {
    AuxiliaryTask own(p, weights, sums + number * floats);
    losses[number] = own.run(number ? ends[number - 1] : 0, ends[number]);
  });
  add_up(p.loss, losses, 1, tasks, 1);
  add_up(p.d_bias, NetworkSums(p.network, sums).bias, floats, tasks, p.network.widths[0]);
  finish(p.network, sums, tasks, p.d_network);
}

}  // namespace
}  // namespace dien
