// The rows of a batch by falling length, and those of one panel.
#pragma once

#include "workspace.h"

namespace dien {
namespace {

// Row numbers by falling length, -1 where the last panel has no row. A stable
// counting sort.
inline const std::int32_t* sorted_rows(const Sizes& sizes, const std::int32_t* lengths,
                                       std::int32_t* order, std::int32_t* starts) {
  auto place = [&](Index row) {
    const Index length = lengths[row] < 0 ? 0 : lengths[row];
    return length > sizes.steps ? 0 : sizes.steps - length;
  };
  memset(starts, 0, sizeof *starts * static_cast<size_t>(sizes.steps + 2));
  for (Index row = 0; row < sizes.rows; row++) starts[place(row) + 1]++;
  for (Index i = 1; i <= sizes.steps; i++) starts[i] += starts[i - 1];
  for (Index row = 0; row < sizes.rows; row++)
    order[starts[place(row)]++] = static_cast<std::int32_t>(row);
  for (Index i = sizes.rows; i < sizes.panels() * kPanel; i++) order[i] = -1;
  return order;
}

// One panel's rows, and how many live steps each has, 0 where there is no row.
struct Rows {
  const std::int32_t* numbers;
  std::int32_t lengths[kPanel];
  Index longest = 0;

  Rows(const Sizes& sizes, const std::int32_t* all_lengths, const std::int32_t* row_numbers)
      : numbers(row_numbers) {
    const std::int32_t steps = static_cast<std::int32_t>(sizes.steps);
    for (Index i = 0; i < kPanel; i++) {
      std::int32_t length = exists(i) ? all_lengths[numbers[i]] : 0;
      length = length < 0 ? 0 : length > steps ? steps : length;
      lengths[i] = length;
      if (length > longest) longest = length;
    }
  }

  bool exists(Index i) const { return numbers[i] >= 0; }

  // Start of each row in an array of stride floats a row, for lanes without a row otherwise.
  template <class Float>
  void point(Float** pointers, Float* array, Index stride, Float* otherwise) const {
    for (Index i = 0; i < kPanel; i++)
      pointers[i] = exists(i) ? array + numbers[i] * stride : otherwise;
  }

  template <class Float>
  void advance(Float** pointers, Index by) const {
    for (Index i = 0; i < kPanel; i++)
      if (exists(i)) pointers[i] += by;
  }

  void live_at(Index step, Mask* masks) const {
    for (int part = 0; part < kParts; part++) {
      Mask length;
      memcpy(&length, lengths + part * kLanes, sizeof length);
      masks[part] = length > static_cast<std::int32_t>(step);
    }
  }

  // An array [T, B] at a step, 0 in dead lanes, whose values may be anything.
  void read(const float* array, Index rows, Index step, Vector* values) const {
    float lanes[kPanel];
    for (Index i = 0; i < kPanel; i++)
      lanes[i] = lengths[i] > step ? array[step * rows + numbers[i]] : 0;
    for (int part = 0; part < kParts; part++) values[part] = load(lanes + part * kLanes);
  }

  // The live lanes of an array [T, B] at a step.
  void write(float* array, Index rows, Index step, const Vector* values) const {
    float lanes[kPanel];
    for (int part = 0; part < kParts; part++) store(lanes + part * kLanes, values[part]);
    for (Index i = 0; i < kPanel; i++)
      if (lengths[i] > step) array[step * rows + numbers[i]] = lanes[i];
  }
};

inline void all_live(Mask* masks) {
  for (int part = 0; part < kParts; part++) masks[part] = Mask{} - 1;
}

}  // namespace
}  // namespace dien
