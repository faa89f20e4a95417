// How the CPU kernels of query_occupancy and query_triplane cut points into tiles. Each tile
// belongs to one shape. Threads take the next tile from a common counter. A thread that is delayed
// by other work on the machine therefore does not delay the others.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "../common.h"

namespace occvae {

constexpr int64_t kCacheLine = 64;

// The stride of a row of activations, in elements of `size` bytes. It is one cache line longer than
// the channels. Rows at powers of two would compete for the same few sets of the L1 cache.
constexpr int64_t row_stride(int64_t channels, int64_t size) {
  return channels + kCacheLine / size;
}

inline std::vector<int64_t> read_offsets(const Tensor& offsets, int64_t points, const char* op) {
  const Tensor contiguous = torch::stable::contiguous(offsets);
  const auto* data = static_cast<const int64_t*>(contiguous.const_data_ptr());
  std::vector<int64_t> values(data, data + offsets.size(0));
  STD_TORCH_CHECK(values.front() == 0 && values.back() <= points &&
                      std::is_sorted(values.begin(), values.end()),
                  op, ": offsets must ascend from 0 to at most the number of points");
  return values;
}

struct AlignedDelete {
  void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{kCacheLine}); }
};
using AlignedBytes = std::unique_ptr<std::byte, AlignedDelete>;

inline AlignedBytes allocate_aligned(int64_t bytes) {
  return AlignedBytes(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kCacheLine})));
}

// The tiles of all shapes, numbered one shape after the other.
class ShapeTiles {
 public:
  struct Place {
    int64_t shape;
    int64_t first;  // row of the first point
    int64_t count;  // number of points
  };

  ShapeTiles(const std::vector<int64_t>& offsets, int64_t tile_rows)
      : offsets_(offsets), tile_rows_(tile_rows) {
    first_tile_.push_back(0);
    for (size_t b = 0; b + 1 < offsets.size(); ++b) {
      const int64_t count = offsets[b + 1] - offsets[b];
      first_tile_.push_back(first_tile_.back() + ceil_div(count, tile_rows));
    }
  }

  int64_t count() const { return first_tile_.back(); }

  Place locate(int64_t tile) const {
    const auto after = std::upper_bound(first_tile_.begin(), first_tile_.end(), tile);
    const int64_t shape = after - first_tile_.begin() - 1;
    const int64_t first = offsets_[shape] + (tile - first_tile_[shape]) * tile_rows_;
    return {shape, first, std::min(tile_rows_, offsets_[shape + 1] - first)};
  }

 private:
  const std::vector<int64_t>& offsets_;
  const int64_t tile_rows_;
  std::vector<int64_t> first_tile_;  // of each shape; the last entry is the number of tiles
};

// Computes the points of a tile that left the range of fp16 again, together, in fp32. `exact` is
// the tile with the weights of fp32.
template <class Tile>
void repeat_exactly(Tile exact, void (*run)(const Tile&)) {
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < exact.count; ++row) {
    if (exact.out_of_range[row]) rows.push_back(row);
  }
  if (rows.empty()) return;
  std::vector<float> points;
  for (int64_t row : rows) {
    points.insert(points.end(), exact.points + 3 * row, exact.points + 3 * row + 3);
  }
  std::vector<float> logits(rows.size());
  float* const all = exact.logits;
  exact.points = points.data();
  exact.count = static_cast<int64_t>(rows.size());
  exact.logits = logits.data();
  run(exact);
  for (size_t i = 0; i < rows.size(); ++i) all[rows[i]] = logits[i];
}

}  // namespace occvae
