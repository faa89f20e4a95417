// The state of exact MISE and its rules for one cell or one word of cells. Shared by CPU and CUDA.
//
// Level l < depth has coarse_resolution * 2^l cells per axis, stored as bits. A word holds a block
// of 4 x 4 x 4 cells: cell (x, y, z) of the block is bit 16 x + 4 y + z. The blocks of each level
// are surrounded by a border of one block that is never split, so every block has 26 neighbors:
//
//     state of a shape = | words of level 0 | words of level 1 | ... | dirty bits, one per word |
//
// A word is stored as a record of four such masks. `above` and `below` tell on which sides of the
// level the known points of the closed cell lie. A cell may collect these marks before it exists.
// `split` marks the cells with children, `now` the cells chosen in this round. A point is marked in
// the cells of the finest level around it, then in their ancestors, because a closed cell is the
// union of its children's closed cells. A dirty word may hold new cells to split.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

#include "atomic.h"
#include "common.h"

namespace occvae {

constexpr int kMaxDepth = 24;

struct CellWord {
  uint64_t above;
  uint64_t below;
  uint64_t split;
  uint64_t now;
};

struct MiseLayout {
  int depth;
  int64_t resolution;
  int64_t cells[kMaxDepth];      // cells per axis, by level
  int64_t blocks[kMaxDepth];     // blocks per axis, for each level, border included
  int64_t first[kMaxDepth + 1];  // first word of each level; the last entry is the number of words

  C10_HOST_DEVICE int64_t words() const { return first[depth]; }
  C10_HOST_DEVICE int64_t dirty_words() const { return (words() + 63) / 64; }
  // Size of the state of one shape, in 64-bit integers.
  C10_HOST_DEVICE int64_t size() const { return 4 * words() + dirty_words(); }

  C10_HOST_DEVICE int64_t word(int level, int64_t bx, int64_t by, int64_t bz) const {
    return first[level] + (bx * blocks[level] + by) * blocks[level] + bz;
  }
};

inline MiseLayout mise_layout(int64_t resolution, int64_t coarse_resolution) {
  MiseLayout layout{};
  layout.resolution = resolution;
  for (int64_t n = coarse_resolution; n < resolution && layout.depth < kMaxDepth; n *= 2) {
    const int level = layout.depth++;
    layout.cells[level] = n;
    layout.blocks[level] = (n + 3) / 4 + 2;
    const int64_t b = layout.blocks[level];
    layout.first[level + 1] = layout.first[level] + b * b * b;
  }
  return layout;
}

// A block of cells: its word, its level and its position among the blocks of that level.
struct Block {
  int level;
  int64_t word;
  int64_t x, y, z;

  C10_HOST_DEVICE int64_t cell_x(int bit) const { return 4 * (x - 1) + (bit >> 4); }
  C10_HOST_DEVICE int64_t cell_y(int bit) const { return 4 * (y - 1) + ((bit >> 2) & 3); }
  C10_HOST_DEVICE int64_t cell_z(int bit) const { return 4 * (z - 1) + (bit & 3); }
};

C10_HOST_DEVICE inline Block block_of(const MiseLayout& layout, int64_t word) {
  int level = 0;
  while (word >= layout.first[level + 1]) ++level;
  const int64_t n = layout.blocks[level];
  const int64_t place = word - layout.first[level];
  return {level, word, place / (n * n), place / n % n, place % n};
}

// The states of all shapes, stored one after the other.
struct MiseState {
  MiseLayout layout;
  int64_t num_shapes;
  uint64_t* data;

  C10_HOST_DEVICE CellWord* words(int64_t shape) const {
    return reinterpret_cast<CellWord*>(data + shape * layout.size());
  }
  C10_HOST_DEVICE uint64_t* dirty(int64_t shape) const {
    return data + shape * layout.size() + 4 * layout.words();
  }
};

inline MiseState open_state(const Tensor& state, int64_t resolution, int64_t coarse_resolution) {
  constexpr const char* kOp = "mise";
  check_dtype(state, ScalarType::Long, kOp, "state");
  check_dim(state, 2, kOp, "state");
  const MiseLayout layout = mise_layout(resolution, coarse_resolution);
  STD_TORCH_CHECK(state.size(1) == layout.size() && state.is_contiguous(), kOp,
                  ": state is not of this resolution; it must be contiguous (B, _mise_state_size)");
  return {layout, state.size(0), static_cast<uint64_t*>(state.mutable_data_ptr())};
}

// first_cells() is the mask of the cells of a block with coordinate 0 on an axis. bit_stride() is
// the distance in bits to the next cell on that axis.
C10_HOST_DEVICE inline uint64_t first_cells(int axis) {
  return axis == 0 ? 0xFFFF : axis == 1 ? 0x000F000F000F000F : 0x1111111111111111;
}

C10_HOST_DEVICE inline int bit_stride(int axis) { return 16 >> (2 * axis); }

// Returns the cells of a block whose coordinate on `axis` is `low` or `high`. `block` is the
// coordinate of the block on that axis.
C10_HOST_DEVICE inline uint64_t cells_between(int axis, int64_t block, int64_t low, int64_t high) {
  uint64_t cells = 0;
  if (low >> 2 == block) cells |= first_cells(axis) << (bit_stride(axis) * (low & 3));
  if (high >> 2 == block) cells |= first_cells(axis) << (bit_stride(axis) * (high & 3));
  return cells;
}

// Marks the cells from `low` to `high`, at most 2 x 2 x 2. Returns whether any mark was new.
C10_HOST_DEVICE inline bool mark_cells(const MiseLayout& layout, CellWord* words, uint64_t* dirty,
                                       int level, const int64_t (&low)[3], const int64_t (&high)[3],
                                       bool above, bool below) {
  bool any = false;
  for (int64_t x = low[0] >> 2; x <= high[0] >> 2; ++x) {
    for (int64_t y = low[1] >> 2; y <= high[1] >> 2; ++y) {
      for (int64_t z = low[2] >> 2; z <= high[2] >> 2; ++z) {
        const uint64_t cells = cells_between(0, x, low[0], high[0]) &
                               cells_between(1, y, low[1], high[1]) &
                               cells_between(2, z, low[2], high[2]);
        const int64_t w = layout.word(level, x + 1, y + 1, z + 1);
        bool changed = false;
        if (above) changed |= set_bits(&words[w].above, cells) != cells;
        if (below) changed |= set_bits(&words[w].below, cells) != cells;
        if (changed) set_bits(&dirty[w >> 6], uint64_t{1} << (w & 63));
        any |= changed;
      }
    }
  }
  return any;
}

// Marks every cell whose closed cube contains the point. A cell of the finest level is two lattice
// steps wide: an odd coordinate touches one such cell, an even one touches two. The loop stops at
// the first level without a new mark, because the ancestors of marked cells are marked already.
C10_HOST_DEVICE inline void mark_point(const MiseLayout& layout, CellWord* words, uint64_t* dirty,
                                       const int32_t* point, bool above, bool below) {
  int64_t low[3];
  int64_t high[3];
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t p = point[axis];
    low[axis] = p == 0 ? 0 : (p - 1) >> 1;
    high[axis] = p == layout.resolution ? (p - 1) >> 1 : p >> 1;
  }
  for (int level = layout.depth - 1; level >= 0; --level) {
    if (!mark_cells(layout, words, dirty, level, low, high, above, below)) return;
    for (int axis = 0; axis < 3; ++axis) {
      low[axis] >>= 1;
      high[axis] >>= 1;
    }
  }
}

// Marks point i. Values that are NaN are counted in problems[0]. Points outside the lattice and
// shape indices out of range are counted in problems[1]. None of these points are marked.
template <typename scalar_t>
struct MarkPoint {
  MiseState state;
  const int32_t* points;       // (N, 3)
  const int64_t* shape_index;  // (N,)
  const scalar_t* values;      // (N,)
  double level;
  int64_t* problems;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t shape = shape_index[i];
    const int32_t* point = points + 3 * i;
    const auto value = static_cast<double>(values[i]);  // exact for every dtype
    if (value != value) add(&problems[0], 1);
    if (shape < 0 || shape >= state.num_shapes || !is_on_lattice(point)) {
      add(&problems[1], 1);
      return;
    }
    mark_point(state.layout, state.words(shape), state.dirty(shape), point, value >= level,
               value <= level);
  }

  C10_HOST_DEVICE bool is_on_lattice(const int32_t* point) const {
    bool inside = true;
    for (int axis = 0; axis < 3; ++axis) {
      inside &= point[axis] >= 0 && point[axis] <= state.layout.resolution;
    }
    return inside;
  }
};

// The checked and contiguous arguments of mise_mark, and its result.
struct MarkArguments {
  MarkArguments(const Tensor& state, const Tensor& points, const Tensor& shape_index,
                const Tensor& values, int64_t resolution, int64_t coarse_resolution)
      : state(open_state(state, resolution, coarse_resolution)),
        points(torch::stable::contiguous(points)),
        shape_index(torch::stable::contiguous(shape_index)),
        values(torch::stable::contiguous(values)),
        problems(torch::stable::new_zeros(state, {2}, ScalarType::Long)) {
    constexpr const char* kOp = "mise_mark";
    check_dtype(points, ScalarType::Int, kOp, "points");
    check_dtype(shape_index, ScalarType::Long, kOp, "shape_index");
    for (const Tensor* tensor : {&points, &shape_index, &values}) {
      check_same_device(state, *tensor, kOp);
    }
    const int64_t count = values.numel();
    STD_TORCH_CHECK(points.numel() == 3 * count && shape_index.numel() == count, kOp,
                    ": points must be (N, 3), shape_index and values (N,)");
  }

  template <typename scalar_t>
  MarkPoint<scalar_t> mark_point(double level) const {
    return {state,
            static_cast<const int32_t*>(points.const_data_ptr()),
            static_cast<const int64_t*>(shape_index.const_data_ptr()),
            static_cast<const scalar_t*>(values.const_data_ptr()),
            level,
            static_cast<int64_t*>(problems.mutable_data_ptr())};
  }

  MiseState state;
  Tensor points, shape_index, values, problems;
};

// Returns the cells of a block that exist: level 0, or cells whose parent was split.
C10_HOST_DEVICE inline uint64_t existing_cells(const MiseLayout& layout, const CellWord* words,
                                               const Block& block) {
  if (block.level == 0) return ~uint64_t{0};
  const int64_t parent = layout.word(block.level - 1, ((block.x - 1) >> 1) + 1,
                                     ((block.y - 1) >> 1) + 1, ((block.z - 1) >> 1) + 1);
  // The parents of the block are 2 x 2 x 2 cells in one octant of their own block.
  const int octant = static_cast<int>(32 * ((block.x - 1) & 1) + 8 * ((block.y - 1) & 1) +
                                      2 * ((block.z - 1) & 1));
  const uint64_t split = words[parent].split >> octant;
  constexpr uint64_t kChildren = 0x330033;  // children of the first parent
  uint64_t existing = 0;
  for (int i = 0; i < 8; ++i) {
    const int x = i >> 2, y = (i >> 1) & 1, z = i & 1;
    if ((split >> (16 * x + 4 * y + z)) & 1) existing |= kChildren << (32 * x + 8 * y + 2 * z);
  }
  return existing;
}

// Returns the leaf cells of a block that have known points on both sides.
C10_HOST_DEVICE inline uint64_t cells_to_split(const MiseLayout& layout, const CellWord* words,
                                               int64_t word) {
  const CellWord& cell = words[word];
  const uint64_t both = cell.above & cell.below & ~cell.split;
  return both == 0 ? 0 : both & existing_cells(layout, words, block_of(layout, word));
}

}  // namespace occvae
