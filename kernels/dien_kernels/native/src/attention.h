// Attention of a row's query over its states, forward and backward. Lanes are live steps, of as many
// rows as it takes to fill a panel; the backward pass recomputes the layers.
#pragma once

#include "network.h"

namespace dien {
namespace {

inline Index live_steps(const Attention& p, Index row) {
  const Index length = p.lengths[row];
  return length < 0 ? 0 : length > p.steps ? p.steps : length;
}

// A share of the rows, and its live steps a panel at a time.
class LiveSteps {
 public:
  LiveSteps(const Attention& p, Index first, Index end) : p_(p), row_(first), end_(end) {}

  // The indices of the next steps in [B, T], and their rows. False if none are left.
  bool next(Lanes* places, Lanes* rows) {
    places->count = rows->count = 0;
    while (row_ < end_ && places->count < kPanel) {
      if (step_ >= live_steps(p_, row_)) {
        row_++;
        step_ = 0;
        continue;
      }
      places->add(row_ * p_.steps + step_++);
      rows->add(row_);
    }
    return places->count > 0;
  }

 private:
  const Attention& p_;
  Index row_, end_, step_ = 0;
};

// The rows of each task, which have about the same number of live steps.
struct RowShares {
  Index tasks, ends[kMostTasks];

  explicit RowShares(const Attention& p) {
    Index live = 0, past = 0, task = 0;
    for (Index row = 0; row < p.rows; row++) live += live_steps(p, row);
    tasks = summing_tasks((live + 4 * kPanel - 1) / (4 * kPanel), NetworkSums::floats(p.network));
    for (Index row = 0; row < p.rows; row++) {
      past += live_steps(p, row);
      while (task < tasks - 1 && past * tasks >= (task + 1) * live) ends[task++] = row + 1;
    }
    while (task < tasks) ends[task++] = p.rows;
  }

  Index first(Index task) const { return task ? ends[task - 1] : 0; }
};

struct AttentionWeights {
  Packed first, back;
  PackedLayers layers;

  static Index floats(const Network& network) {
    const Index inputs = network.inputs, M = network.widths[0];
    return packed_floats(inputs, M) + packed_floats(M, inputs) + PackedLayers::floats(network);
  }

  AttentionWeights(const Network& network, bool both) : layers(network, both) {
    const Index inputs = network.inputs, M = network.widths[0];
    first = pack(of_call.take(packed_floats(inputs, M)), network.first, inputs, M, M, 1);
    if (both) back = pack(of_call.take(packed_floats(M, inputs)), network.first, M, inputs, 1, M);
  }
};

// The scores of a panel; memory has [h, h o q], q and the layers.
inline float* scores_of(const Attention& p, const AttentionWeights& weights, const Places& places,
                        const Lanes& steps, const Lanes& rows, float* memory) {
  const Index H = p.hidden;
  float *product = memory + H * kPanel, *query = product + H * kPanel, *layers = query + H * kPanel;
  steps.read(memory, p.states, H);
  rows.read(query, p.query, H);
  each(H, [&](Index i, int) { store(product + i, load(memory + i) * load(query + i)); });
  rows.read(layers, p.shared, p.network.widths[0]);
  multiply_add(layers, memory, weights.first, layers);
  return run_layers(p.network, weights.layers, places, layers);
}

// In place: the softmax of the first length values, and 0 beyond.
inline void softmax(float* values, Index length, Index steps) {
  memset(values + length, 0, sizeof(float) * static_cast<size_t>(steps - length));
  if (!length) return;
  float highest = values[0];
  double total = 0;
  for (Index t = 1; t < length; t++) highest = values[t] > highest ? values[t] : highest;
  for (Index t = 0; t < length; t += kLanes) {
    float part[kLanes] = {};
    const Index width = length - t < kLanes ? length - t : kLanes;
    memcpy(part, values + t, sizeof(float) * static_cast<size_t>(width));
    store(part, exponential(load(part) - highest));
    for (Index i = 0; i < width; i++) total += part[i];
    memcpy(values + t, part, sizeof(float) * static_cast<size_t>(width));
  }
  const float inverse = static_cast<float>(1 / total);
  for (Index t = 0; t < length; t++) values[t] *= inverse;
}

void attention(const Attention& p, float* attention, Threads& threads) {
  of_call.reserve(AttentionWeights::floats(p.network));
  const AttentionWeights weights(p.network, false);
  const Places places(p.network, false);
  const RowShares shares(p);
  parallel(threads, shares.tasks, [&](Index task) {
    of_task.reserve(3 * p.hidden * kPanel + places.size);
    float* memory = of_task.take(3 * p.hidden * kPanel + places.size);
    LiveSteps live(p, shares.first(task), shares.ends[task]);
    Lanes steps, rows;
    while (live.next(&steps, &rows)) {
      const float* scores = scores_of(p, weights, places, steps, rows, memory);
      for (Index i = 0; i < steps.count; i++) attention[steps.numbers[i]] = scores[i];
    }
    for (Index row = shares.first(task); row < shares.ends[task]; row++)
      softmax(attention + row * p.steps, live_steps(p, row), p.steps);
  });
}

// The backward pass of the rows of one task.
class AttentionTask {
 public:
  AttentionTask(const AttentionBackward& b, const AttentionWeights& weights, float* sums)
      : b_(b),
        p_(b.forward),
        weights_(weights),
        places_(p_.network, true),
        sums_(p_.network, sums),
        H_(p_.hidden),
        M_(p_.network.widths[0]),
        size_(3 * H_ * kPanel + places_.size),
        block_(block_of(size_)) {
    of_task.reserve(block_ * size_ + (2 * H_ + H_ + M_) * kPanel + H_ + M_ + p_.steps);
    panels_ = of_task.take(block_ * size_);
    d_input_ = of_task.take(2 * H_ * kPanel);
    of_rows_ = of_task.take((H_ + M_) * kPanel);
    unused_ = of_task.take(H_ + M_);
    d_scores_ = of_task.take(p_.steps);
  }

  void run(Index first, Index end) {
    for (Index row = first; row < end; row++) {
      const Index length = live_steps(p_, row);
      clear(b_.d_query + row * H_, H_);
      clear(b_.d_shared + row * M_, M_);
      clear(b_.d_states + (row * p_.steps + length) * H_, (p_.steps - length) * H_);
    }
    LiveSteps live(p_, first, end);
    for (bool more = true; more;) {
      Index filled = 0;
      for (; filled < block_; filled++) {
        Lanes steps, rows;
        more = live.next(&steps, &rows);
        if (!more) break;
        panel(steps, rows, panels_ + filled * size_);
      }
      const float* layers = panels_ + 3 * H_ * kPanel;
      add_outer(sums_.first, M_, {panels_, size_, 2 * H_},
                {layers + places_.gradients[0], size_, M_}, filled);
      sums_.add_layers(p_.network, places_, layers, size_, filled);
    }
  }

 private:
  static void clear(float* to, Index count) {
    memset(to, 0, sizeof(float) * static_cast<size_t>(count));
  }

  void panel(const Lanes& steps, const Lanes& rows, float* memory) {
    float *query = memory + 2 * H_ * kPanel, *layers = query + H_ * kPanel;
    float* scores = scores_of(p_, weights_, places_, steps, rows, memory);
    for (Index i = 0; i < kPanel; i++)
      scores[i] = i < steps.count ? d_score(rows.numbers[i], steps.numbers[i]) : 0;
    const float* d_first = run_back(p_.network, weights_.layers, places_, layers);
    multiply(d_input_, d_first, weights_.back);
    float* d_product = d_input_ + H_ * kPanel;
    each(H_, [&](Index i, int) {
      const Vector d = load(d_product + i);
      store(d_input_ + i, load(d_input_ + i) + d * load(query + i));
      store(d_product + i, d * load(memory + i));  // the part of the query
    });
    steps.write(b_.d_states, d_input_, H_, unused_);
    add_to_rows(rows, d_first, d_product);
  }

  // Through the softmax, a whole row at a time.
  float d_score(Index row, Index place) {
    const Index length = live_steps(p_, row), start = row * p_.steps;
    const float *a = b_.attention + start, *d = b_.d_attention + start;
    if (row != softmax_row_) {
      softmax_row_ = row;
      double sum = 0;  // double, because d - mean cancels below
      for (Index t = 0; t < length; t++) sum += static_cast<double>(a[t]) * d[t];
      const float mean = static_cast<float>(sum);
      for (Index t = 0; t < length; t++) d_scores_[t] = a[t] * (d[t] - mean);
    }
    return d_scores_[place - start];
  }

  // Rows get the sums over their own lanes.
  void add_to_rows(const Lanes& rows, const float* d_first, const float* d_query) {
    float *of_first[kPanel], *of_query[kPanel];
    for (Index i = 0; i < kPanel; i++) {
      of_first[i] = of_rows_ + i * (H_ + M_);
      of_query[i] = of_first[i] + M_;
    }
    scatter(of_first, d_first, M_);
    scatter(of_query, d_query, H_);
    for (Index i = 0; i < rows.count; i++) {
      float *to_shared = b_.d_shared + rows.numbers[i] * M_;
      float *to_query = b_.d_query + rows.numbers[i] * H_;
      for (Index c = 0; c < M_; c++) to_shared[c] += of_first[i][c];
      for (Index c = 0; c < H_; c++) to_query[c] += of_query[i][c];
    }
  }

  const AttentionBackward& b_;
  const Attention& p_;
  const AttentionWeights& weights_;
  const Places places_;
  const NetworkSums sums_;
  const Index H_, M_, size_, block_;
  float *panels_, *d_input_, *of_rows_, *unused_, *d_scores_;
  Index softmax_row_ = -1;  // the row of d_scores_
};

void attention_backward(const AttentionBackward& b, Threads& threads) {
  const Network& network = b.forward.network;
  const Index floats = NetworkSums::floats(network);
  const RowShares shares(b.forward);
  of_call.reserve(AttentionWeights::floats(network) + shares.tasks * floats);
  const AttentionWeights weights(network, true);
  float* sums = of_call.take_zeros(shares.tasks * floats);
  parallel(threads, shares.tasks, [&](Index task) {
    AttentionTask own(b, weights, sums + task * floats);
    own.run(shares.first(task), shares.ends[task]);
  });
  finish(network, sums, shares.tasks, b.d_network);
}

}  // namespace
}  // namespace dien
