// Lists the lattice points that one block of cells adds when cells are split in a round of MISE.
// Shared by CPU and CUDA.
#pragma once

#include <cstdint>

#include "bits.h"
#include "mise.h"

namespace occvae {

// Shifts cells along an axis: each cell gets the bit of the next cell (direction 1) or of the
// previous one (direction -1). `beyond` is the neighboring block on that side.
C10_HOST_DEVICE inline uint64_t neighbors(uint64_t here, uint64_t beyond, int axis, int direction) {
  const int stride = bit_stride(axis);
  const uint64_t first = first_cells(axis);
  const uint64_t last = first << (3 * stride);
  if (direction > 0) return (here & ~first) >> stride | (beyond & first) << (3 * stride);
  return (here & ~last) << stride | (beyond & last) >> (3 * stride);
}

// A split adds up to 19 of the 27 points of its cell. The 8 corners were known before. A point is
// identified by its direction from the cell's center: -1, 0 or 1 per axis. The other cells whose
// closed cubes contain the point lie in the same direction. The point was known before if and only
// if one of these cells was split in an earlier round. Of the cells split in this round, the first
// in lexicographic order adds the point. This rule needs neither a set of known points nor a sort.
class AddedPoints {
 public:
  C10_HOST_DEVICE AddedPoints(const MiseLayout& layout, const CellWord* words, const Block& block)
      : here_(words + block.word) {
    const int64_t n = layout.blocks[block.level];
    const int64_t strides[3] = {n * n, n, 1};
    for (int axis = 0; axis < 3; ++axis) {
      strides_[axis] = strides[axis];
      for (int side = 0; side < 2; ++side) {
        const int d = 2 * side - 1;
        across_face_[axis][side] =
            neighbors(taken(0, d < 0), taken(d * strides[axis], d < 0), axis, d);
      }
    }
  }

  // Returns the cells of the block that add their own point in `direction` (see above).
  C10_HOST_DEVICE uint64_t cells(const int (&direction)[3]) const {
    uint64_t others = 0;
    int axes[3];
    int count = 0;
    for (int axis = 0; axis < 3; ++axis) {
      if (direction[axis] == 0) continue;
      axes[count++] = axis;
      others |= across_face_[axis][direction[axis] > 0];
    }
    if (count == 3) return 0;
    if (count == 2) others |= across_edge(axes[0], direction[axes[0]], axes[1], direction[axes[1]]);
    return here_->now & ~others;
  }

 private:
  // Returns the cells of the block at `offset` that already own the points shared with cells here.
  // If `before` is true, that block precedes the cells here, so its splits of this round count too.
  C10_HOST_DEVICE uint64_t taken(int64_t offset, bool before) const {
    return here_[offset].split | (before ? here_[offset].now : 0);
  }

  C10_HOST_DEVICE uint64_t across_edge(int a, int da, int b, int db) const {
    const int64_t to_a = da * strides_[a];
    const int64_t to_b = db * strides_[b];
    const bool before = da < 0;
    return neighbors(neighbors(taken(0, before), taken(to_a, before), a, da),
                     neighbors(taken(to_b, before), taken(to_a + to_b, before), a, da), b, db);
  }

  const CellWord* here_;
  int64_t strides_[3];
  uint64_t across_face_[3][2];
};

// Calls visit(direction, cells) for all 27 directions. `cells` are the cells of the block that add
// their point in that direction.
template <typename Visit>
C10_HOST_DEVICE void for_each_added(const MiseLayout& layout, const CellWord* words,
                                    const Block& block, const Visit& visit) {
  const AddedPoints added(layout, words, block);
  for (int dx = -1; dx <= 1; ++dx) {
    for (int dy = -1; dy <= 1; ++dy) {
      for (int dz = -1; dz <= 1; ++dz) {
        const int direction[3] = {dx, dy, dz};
        visit(direction, added.cells(direction));
      }
    }
  }
}

C10_HOST_DEVICE inline int64_t count_added(const MiseLayout& layout, const CellWord* words,
                                           const Block& block) {
  int64_t count = 0;
  for_each_added(layout, words, block,
                 [&](const int (&)[3], uint64_t cells) { count += count_bits(cells); });
  return count;
}

// Writes the points that the cells of a block add, starting at row `out`.
C10_HOST_DEVICE inline void write_added(const MiseLayout& layout, const CellWord* words,
                                        const Block& block, int64_t shape, int64_t out,
                                        int32_t* points, int64_t* shape_index) {
  const int64_t step = int64_t{1} << (layout.depth - block.level - 1);
  for_each_added(layout, words, block, [&](const int (&direction)[3], uint64_t cells) {
    for (; cells != 0; cells &= cells - 1) {
      const int bit = lowest_bit(cells);
      const int64_t cell[3] = {block.cell_x(bit), block.cell_y(bit), block.cell_z(bit)};
      for (int axis = 0; axis < 3; ++axis) {
        const int64_t half_edges = 2 * cell[axis] + 1 + direction[axis];
        points[3 * out + axis] = static_cast<int32_t>(half_edges * step);
      }
      shape_index[out++] = shape;
    }
  });
}

// Turns the cells chosen in this round into split cells. Their children may already have marks, so
// the words of the children become dirty.
C10_HOST_DEVICE inline void commit_split(const MiseLayout& layout, CellWord* words, uint64_t* dirty,
                                         const Block& block) {
  CellWord& word = words[block.word];
  const uint64_t cells = word.now;
  word.split |= cells;
  word.now = 0;
  if (block.level + 1 == layout.depth) return;
  for (uint64_t rest = cells; rest != 0; rest &= rest - 1) {
    const int bit = lowest_bit(rest);
    const int64_t child = layout.word(block.level + 1, (block.cell_x(bit) >> 1) + 1,
                                      (block.cell_y(bit) >> 1) + 1, (block.cell_z(bit) >> 1) + 1);
    set_bits(&dirty[child >> 6], uint64_t{1} << (child & 63));
  }
}

}  // namespace occvae
