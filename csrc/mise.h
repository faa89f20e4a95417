// The state of exact MISE and its rules, for one cell or one word of cells at a time.
//
// Cells of level l < depth, coarse_resolution * 2^l an axis, are kept as bits. A word holds a block
// of 4 x 4 x 4 cells, cell (x, y, z) of it at bit 16 x + 4 y + z. Around the blocks of a level lies
// a border of one block, never split, so that every block has 26 neighbours:
//
//   state of a shape = | words of level 0 | words of level 1 | ... | dirty bits, one a word |
//
// A word's record holds four such masks. `above` and `below` say on which sides of the surface
// known points of the closed cell lie; a cell may collect them before it comes to exist. `split`
// cells have children, `now` those chosen in this round. A point is marked in the cells of the
// finest level around it, and from there upwards, because a closed cell is the union of its
// children's closed cells. Dirty words are those that may hold new cells to split.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

#include "bits.h"

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
  int64_t cells[kMaxDepth];      // of a level, an axis
  int64_t blocks[kMaxDepth];     // of a level, an axis, border included
  int64_t first[kMaxDepth + 1];  // word of a level; the last entry is the number of words

  int64_t words() const { return first[depth]; }
  int64_t dirty_words() const { return (words() + 63) / 64; }
  // 64-bit integers that the state of a shape takes.
  int64_t size() const { return 4 * words() + dirty_words(); }

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

// A block of cells: its word, its level and its place among the blocks of the level.
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

// Marks a cell of the finest level and its ancestors, up to those that have the mark already.
// SetBits(word*, bits) returns the bits that were set before.
template <typename SetBits>
C10_HOST_DEVICE void mark_cell(const MiseLayout& layout, CellWord* words, uint64_t* dirty,
                               int64_t x, int64_t y, int64_t z, bool above, bool below,
                               SetBits set_bits) {
  for (int level = layout.depth - 1; level >= 0; --level) {
    const int64_t w = layout.word(level, (x >> 2) + 1, (y >> 2) + 1, (z >> 2) + 1);
    const uint64_t bit = uint64_t{1} << (16 * (x & 3) + 4 * (y & 3) + (z & 3));
    bool changed = false;
    if (above) changed |= set_bits(&words[w].above, bit) == 0;
    if (below) changed |= set_bits(&words[w].below, bit) == 0;
    if (!changed) return;
    set_bits(&dirty[w >> 6], uint64_t{1} << (w & 63));
    x >>= 1;
    y >>= 1;
    z >>= 1;
  }
}

// Marks every cell whose closed cube has the point. Cells of the finest of these levels are two
// points wide: an odd coordinate touches one, an even one touches two.
template <typename SetBits>
C10_HOST_DEVICE void mark_point(const MiseLayout& layout, CellWord* words, uint64_t* dirty,
                                const int32_t* point, bool above, bool below, SetBits set_bits) {
  int64_t low[3];
  int64_t high[3];
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t p = point[axis];
    low[axis] = p == 0 ? 0 : (p - 1) >> 1;
    high[axis] = p == layout.resolution ? (p - 1) >> 1 : p >> 1;
  }
  for (int64_t x = low[0]; x <= high[0]; ++x) {
    for (int64_t y = low[1]; y <= high[1]; ++y) {
      for (int64_t z = low[2]; z <= high[2]; ++z) {
        mark_cell(layout, words, dirty, x, y, z, above, below, set_bits);
      }
    }
  }
}

// The cells of a block that exist: those whose parent was split.
C10_HOST_DEVICE inline uint64_t existing_cells(const MiseLayout& layout, const CellWord* words,
                                               const Block& block) {
  if (block.level == 0) return ~uint64_t{0};
  const int64_t parent = layout.word(block.level - 1, ((block.x - 1) >> 1) + 1,
                                     ((block.y - 1) >> 1) + 1, ((block.z - 1) >> 1) + 1);
  // The block's parents are 2 x 2 x 2 cells in one octant of their own block.
  const int octant = static_cast<int>(32 * ((block.x - 1) & 1) + 8 * ((block.y - 1) & 1) +
                                      2 * ((block.z - 1) & 1));
  const uint64_t split = words[parent].split >> octant;
  constexpr uint64_t kChildren = 0x330033;  // of the first parent
  uint64_t existing = 0;
  for (int i = 0; i < 8; ++i) {
    const int x = i >> 2, y = (i >> 1) & 1, z = i & 1;
    if ((split >> (16 * x + 4 * y + z)) & 1) existing |= kChildren << (32 * x + 8 * y + 2 * z);
  }
  return existing;
}

// The leaves of a block that have known points on both sides.
C10_HOST_DEVICE inline uint64_t cells_to_split(const MiseLayout& layout, const CellWord* words,
                                               int64_t word) {
  const CellWord& cell = words[word];
  const uint64_t both = cell.above & cell.below & ~cell.split;
  return both == 0 ? 0 : both & existing_cells(layout, words, block_of(layout, word));
}

// The split and the new cells in a block and one cell around it: z is the bit, from -1 at bit 0.
struct Surroundings {
  uint8_t split[6][6];
  uint8_t now[6][6];
};

C10_HOST_DEVICE inline uint8_t six_cells(uint64_t before, uint64_t here, uint64_t after, int row) {
  const uint64_t middle = (here >> row) & 15;
  return static_cast<uint8_t>(((before >> row) & 15) >> 3 | middle << 1 |
                              ((after >> row) & 1) << 5);
}

C10_HOST_DEVICE inline Surroundings surroundings(const MiseLayout& layout, const CellWord* words,
                                                 const Block& block) {
  Surroundings result;
  const int64_t blocks = layout.blocks[block.level];
  for (int i = 0; i < 6; ++i) {
    const int64_t dx = (i + 3) / 4 - 1;
    for (int j = 0; j < 6; ++j) {
      const int64_t dy = (j + 3) / 4 - 1;
      const CellWord* row = words + block.word + (dx * blocks + dy) * blocks;
      const int bit = 16 * ((i + 3) & 3) + 4 * ((j + 3) & 3);
      result.split[i][j] = six_cells(row[-1].split, row[0].split, row[1].split, bit);
      result.now[i][j] = six_cells(row[-1].now, row[0].now, row[1].now, bit);
    }
  }
  return result;
}

// A split adds up to 19 of the 27 points of its cell, counted in half edges from its lower corner,
// point (a, b, c) as 9 a + 3 b + c; the corners were known. Of its 27 neighbours, numbered alike
// with 13 for the cell itself, those in kAround[point] have the point in their closed cubes.
struct PointTable {
  uint32_t around[27];
};

C10_HOST_DEVICE constexpr PointTable point_table() {
  PointTable table{};
  for (int p = 0; p < 27; ++p) {
    for (int n = 0; n < 27; ++n) {
      const int point[3] = {p / 9, p / 3 % 3, p % 3};
      const int cell[3] = {n / 9, n / 3 % 3, n % 3};
      bool touches = true;
      for (int axis = 0; axis < 3; ++axis) {
        touches = touches && (cell[axis] == 1 || cell[axis] == point[axis]);
      }
      if (touches) table.around[p] |= uint32_t{1} << n;
    }
  }
  return table;
}

C10_HOST_DEVICE constexpr bool is_corner(int point) {
  return point / 9 != 1 && point / 3 % 3 != 1 && point % 3 != 1;
}

// The points that a cell of a block adds, as a mask of 27. A point was known before if and only if
// a cell of this level around it was split earlier; of the cells around it that are split now, the
// first in lexicographic order adds it. This needs neither a set of known points nor a sort.
C10_HOST_DEVICE inline uint32_t added_points(const Surroundings& around, int bit) {
  constexpr PointTable kTable = point_table();
  constexpr uint32_t kBefore = (uint32_t{1} << 13) - 1;
  const int x = bit >> 4, y = (bit >> 2) & 3, z = bit & 3;
  uint32_t split = 0;
  uint32_t now = 0;
  for (int a = 0; a < 3; ++a) {
    for (int b = 0; b < 3; ++b) {
      split |= static_cast<uint32_t>((around.split[x + a][y + b] >> z) & 7) << (9 * a + 3 * b);
      now |= static_cast<uint32_t>((around.now[x + a][y + b] >> z) & 7) << (9 * a + 3 * b);
    }
  }
  const uint32_t taken = split | (now & kBefore);
  uint32_t added = 0;
  for (int p = 0; p < 27; ++p) {
    if (!is_corner(p) && (taken & kTable.around[p]) == 0) added |= uint32_t{1} << p;
  }
  return added;
}

}  // namespace occvae
