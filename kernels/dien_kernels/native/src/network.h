// A network on panels: its layers forward and backward, and the sums of its weights' gradients.
//
// Lanes are positions. A panel goes through all layers, and back, in the second-level cache.
#pragma once

#include "products.h"
#include "workspace.h"

namespace dien {
namespace {

constexpr Index kMostBlock = 8;              // panels that become weight gradients together
constexpr Index kMostBlockFloats = 3 << 16;  // and the cache that they may take

// Panels of size floats that become weight gradients together.
inline Index block_of(Index size) {
  const Index fit = kMostBlockFloats / size;
  return fit > kMostBlock ? kMostBlock : fit > 1 ? fit : 1;
}

// Rows of arrays in the lanes of a panel; lanes from count on have none.
struct Lanes {
  Index numbers[kPanel];
  Index count = 0;

  void add(Index number) { numbers[count++] = number; }

  void read(float* panel, const float* array, Index columns) const {
    const float* rows[kPanel];
    float mask[kPanel];
    Mask live[kParts];
    for (Index i = 0; i < kPanel; i++) {
      rows[i] = i < count ? array + numbers[i] * columns : array;
      mask[i] = i < count ? 1 : 0;
    }
    for (int part = 0; part < kParts; part++) live[part] = load(mask + part * kLanes) > 0.0f;
    if (count)
      gather(panel, rows, columns, live);
    else
      memset(panel, 0, sizeof(float) * static_cast<size_t>(columns * kPanel));
  }

  void write(float* array, const float* panel, Index columns, float* unused) const {
    float* rows[kPanel];
    for (Index i = 0; i < kPanel; i++) rows[i] = i < count ? array + numbers[i] * columns : unused;
    scatter(rows, panel, columns);
  }
};

inline void activate(float* panel, Index columns) {
  each(columns, [&](Index i, int) { store(panel + i, sigmoid(load(panel + i))); });
}

// The layers after the first one, packed for both directions.
struct PackedLayers {
  Packed forward[kMostLayers], back[kMostLayers];

  static Index floats(const Network& network) {
    Index sum = 0;
    for (Index i = 0; i < network.count; i++) {
      const Index from = network.widths[i], to = network.widths[i + 1];
      sum += packed_floats(from, to) + packed_floats(to, from);
    }
    return sum;
  }

  PackedLayers(const Network& network, bool both) {
    for (Index i = 0; i < network.count; i++) {
      const Index from = network.widths[i], to = network.widths[i + 1];
      float* taken = of_call.take(packed_floats(from, to));
      forward[i] = pack(taken, network.kernel[i], from, to, to, 1);
      if (!both) continue;
      taken = of_call.take(packed_floats(to, from));
      back[i] = pack(taken, network.kernel[i], to, from, 1, to);
    }
  }
};

// Where a panel has the values of its layers, and their gradients before the sigmoid. Those of the
// last layer, the score, take the place of its values.
struct Places {
  Index values[kMostLayers + 1], gradients[kMostLayers + 1], size = 0;

  Places(const Network& network, bool both) {
    for (Index i = 0; i <= network.count; i++) {
      values[i] = gradients[i] = size;
      size += network.widths[i] * kPanel;
      if (!both || i == network.count) continue;
      gradients[i] = size;
      size += network.widths[i] * kPanel;
    }
  }
};

// From the first layer before its sigmoid to the scores, which are returned.
inline float* run_layers(const Network& network, const PackedLayers& packed, const Places& places,
                         float* panel) {
  for (Index i = 0; i < network.count; i++) {
    float* value = panel + places.values[i];
    activate(value, network.widths[i]);
    multiply_bias(panel + places.values[i + 1], value, packed.forward[i], network.bias[i]);
  }
  return panel + places.values[network.count];
}

// From the gradient of the scores to those of the first layer, which are returned.
inline float* run_back(const Network& network, const PackedLayers& packed, const Places& places,
                       float* panel) {
  for (Index i = network.count - 1; i >= 0; i--) {
    const float* value = panel + places.values[i];
    float* gradient = panel + places.gradients[i];
    multiply(gradient, panel + places.gradients[i + 1], packed.back[i]);
    each(network.widths[i], [&](Index at, int) {
      const Vector a = load(value + at);
      store(gradient + at, load(gradient + at) * a * (1 - a));
    });
  }
  return panel + places.gradients[0];
}

// Sums of the gradients of all weights, one after the other; bias is that of the first layer.
struct NetworkSums {
  float *first, *bias;
  float *kernels[kMostLayers], *biases[kMostLayers];

  NetworkSums(const Network& network, float* sums) : first(sums) {
    bias = first + network.inputs * network.widths[0];
    float* next = bias + network.widths[0];
    for (Index i = 0; i < network.count; i++) {
      kernels[i] = next;
      biases[i] = next + network.widths[i] * network.widths[i + 1];
      next = biases[i] + network.widths[i + 1];
    }
  }

  static Index floats(const Network& network) {
    Index sum = (network.inputs + 1) * network.widths[0];
    for (Index i = 0; i < network.count; i++) sum += (network.widths[i] + 1) * network.widths[i + 1];
    return (sum + 15) / 16 * 16;  // no two tasks in one cache line
  }

  // Adds the gradients of the layers after the first one, of count panels, stride floats apart.
  void add_layers(const Network& network, const Places& places, const float* panels, Index stride,
                  Index count) const {
    for (Index i = 0; i < network.count; i++) {
      const Index from = network.widths[i], to = network.widths[i + 1];
      const Panels gradients = {panels + places.gradients[i + 1], stride, to};
      add_outer(kernels[i], to, {panels + places.values[i], stride, from}, gradients, count);
      add_sums(biases[i], gradients, count);
    }
  }
};

// Writes the sums over tasks, whose sums start at all.
inline void finish(const Network& network, float* all, Index tasks, const NetworkGradients& to) {
  const NetworkSums sums(network, all);
  const Index stride = NetworkSums::floats(network);
  add_up(to.first, sums.first, stride, tasks, network.inputs * network.widths[0]);
  for (Index i = 0; i < network.count; i++) {
    const Index from = network.widths[i], columns = network.widths[i + 1];
    add_up(to.kernel[i], sums.kernels[i], stride, tasks, from * columns);
    add_up(to.bias[i], sums.biases[i], stride, tasks, columns);
  }
}

}  // namespace
}  // namespace dien
