// The points of sparse marching cubes as bits, and the rules for one brick, cell or edge at a time.
// Shared by CPU and CUDA.
//
// The lattice is padded by one point per side. Padding points are outside, which closes surfaces
// that reach the faces of the domain. A brick holds 8 x 8 x 8 points of the padded lattice as 8
// rows of 64 bits: point (x, y, z) of a brick is bit 8 y + z of row x. Bricks exist only where
// points are known.
//
// The shapes of a batch follow each other along x. The last place for a brick along each axis is
// always empty, so no cell has corners of two shapes.
//
// A cell belongs to its lowest corner, and an edge to its lower end. The vertex on an edge is
// numbered by counting the crossed edges before it, in the order brick, row, axis, bit. Cells
// therefore share vertices without a search for equal ones.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

#include "atomic.h"
#include "bits.h"

namespace occvae {

constexpr int32_t kNoBrick = -1;
constexpr uint8_t kHasInside = 1;
constexpr uint8_t kHasOutside = 2;

struct Brick {
  uint64_t known[8];
  uint64_t inside[8];
  uint64_t edges[3][8];       // crossed edges by axis
  uint16_t values_before[8];  // known points in the rows before, within the brick
  uint16_t vertices_before[8];
  uint16_t triangles_before[8];
  int32_t x, y, z;  // position in units of bricks
  uint8_t sides;    // sides of its known points: kHasInside | kHasOutside
};
static_assert(sizeof(Brick) == 384);

C10_HOST_DEVICE inline int point_bit(int y, int z) { return 8 * y + z; }

// A point of the padded lattice. The lowest coordinate of the first shape is 0.
struct PaddedPoint {
  int64_t x, y, z;

  C10_HOST_DEVICE int row() const { return static_cast<int>(x & 7); }
  C10_HOST_DEVICE int bit() const {
    return point_bit(static_cast<int>(y & 7), static_cast<int>(z & 7));
  }
};

// All bricks of all shapes. A "place" is the linear index of a possible brick. Each axis has one
// place more than the points need, so every brick has successors.
struct Bricks {
  int64_t per_axis;       // of each shape
  const int32_t* before;  // (shapes * per_axis^3 + 1): number of bricks before each place
  Brick* bricks;          // (count + 1): the last brick is empty
  int64_t count;
  int64_t* first_value;  // (count + 1) each: numbers of items before each brick
  int64_t* first_vertex;
  int64_t* first_triangle;

  C10_HOST_DEVICE PaddedPoint padded(const int32_t* point, int64_t shape) const {
    return {int64_t{point[0]} + 1 + shape * width(), int64_t{point[1]} + 1, int64_t{point[2]} + 1};
  }

  // Points along x from one shape to the next.
  C10_HOST_DEVICE int64_t width() const { return 8 * per_axis; }

  C10_HOST_DEVICE int64_t places() const { return per_axis * per_axis * per_axis; }  // of a shape

  // The first brick of a shape, or the number of bricks before it if it has none.
  C10_HOST_DEVICE int64_t first_brick(int64_t shape) const { return before[shape * places()]; }

  C10_HOST_DEVICE int64_t place(const PaddedPoint& p) const {
    return ((p.x >> 3) * per_axis + (p.y >> 3)) * per_axis + (p.z >> 3);
  }

  C10_HOST_DEVICE int32_t id(int64_t place) const {
    const int32_t id = before[place];
    return before[place + 1] == id ? kNoBrick : id;
  }

  // Marks a point as known. Its brick must exist. Returns whether the point was known before.
  C10_HOST_DEVICE bool set_point(const PaddedPoint& p, bool inside) const {
    Brick& brick = bricks[before[place(p)]];
    const uint64_t bit = uint64_t{1} << p.bit();
    if (inside) set_bits(&brick.inside[p.row()], bit);
    return set_bits(&brick.known[p.row()], bit) != 0;
  }

  // Returns whether a point is known. If it is, sets `inside` to its side.
  C10_HOST_DEVICE bool is_known(const PaddedPoint& p, bool& inside) const {
    const int32_t brick = id(place(p));
    if (brick == kNoBrick) return false;
    inside = (bricks[brick].inside[p.row()] >> p.bit()) & 1;
    return (bricks[brick].known[p.row()] >> p.bit()) & 1;
  }

  C10_HOST_DEVICE int64_t value_index(int64_t brick, int row, int bit) const {
    const uint64_t before_bit = (uint64_t{1} << bit) - 1;
    return first_value[brick] + bricks[brick].values_before[row] +
           count_bits(bricks[brick].known[row] & before_bit);
  }

  C10_HOST_DEVICE int64_t vertex_index(int64_t brick, int axis, int row, int bit) const {
    const uint64_t before_bit = (uint64_t{1} << bit) - 1;
    const auto& edges = bricks[brick].edges;
    int64_t index = first_vertex[brick] + bricks[brick].vertices_before[row] +
                    count_bits(edges[axis][row] & before_bit);
    for (int a = 0; a < axis; ++a) index += count_bits(edges[a][row]);
    return index;
  }
};

// A brick and its seven successors, in the order of a cell's corners. The empty brick replaces
// those that do not exist.
struct BricksAround {
  int64_t ids[8];

  C10_HOST_DEVICE BricksAround(const Bricks& bricks, int64_t brick) {
    const Brick& first = bricks.bricks[brick];
    for (int i = 0; i < 8; ++i) {
      const int64_t x = first.x + (i >> 2), y = first.y + ((i >> 1) & 1), z = first.z + (i & 1);
      const int32_t id = bricks.id((x * bricks.per_axis + y) * bricks.per_axis + z);
      ids[i] = id == kNoBrick ? bricks.count : id;
    }
  }

  // Returns whether cells of the first brick may have corners on both sides. Many bricks hold a
  // single point of the coarse lattice and no surface, and this check skips them.
  C10_HOST_DEVICE bool have_both_sides(const Bricks& bricks) const {
    uint8_t sides = 0;
    for (int64_t id : ids) sides |= bricks.bricks[id].sides;
    return sides == (kHasInside | kHasOutside);
  }
};

C10_HOST_DEVICE inline uint64_t next_z(uint64_t here, uint64_t after) {
  return ((here >> 1) & 0x7F7F7F7F7F7F7F7F) | ((after & 0x0101010101010101) << 7);
}

C10_HOST_DEVICE inline uint64_t next_y(uint64_t here, uint64_t after) {
  return (here >> 8) | (after << 56);
}

// Corner bits of the 64 cells of a row: bit b of word i belongs to corner i of the cell at bit b.
struct Corners {
  uint64_t known[8];
  uint64_t inside[8];

  C10_HOST_DEVICE Corners(const Bricks& bricks, const BricksAround& around, int row) {
    gather(bricks, around, row, &Brick::known, known);
    gather(bricks, around, row, &Brick::inside, inside);
  }

 private:
  C10_HOST_DEVICE static void gather(const Bricks& bricks, const BricksAround& around, int row,
                                     uint64_t const (Brick::*masks)[8], uint64_t (&corners)[8]) {
    for (int dx = 0; dx < 2; ++dx) {
      const int64_t* ids = around.ids + (row + dx < 8 ? 0 : 4);
      const int x = (row + dx) & 7;
      const uint64_t here = (bricks.bricks[ids[0]].*masks)[x];
      const uint64_t z = (bricks.bricks[ids[1]].*masks)[x];
      const uint64_t y = (bricks.bricks[ids[2]].*masks)[x];
      const uint64_t yz = (bricks.bricks[ids[3]].*masks)[x];
      corners[4 * dx] = here;
      corners[4 * dx + 1] = next_z(here, z);
      corners[4 * dx + 2] = next_y(here, y);
      corners[4 * dx + 3] = next_y(next_z(here, z), next_z(y, yz));
    }
  }
};

// The edges along an axis that start at the points of a row and cross the surface.
C10_HOST_DEVICE inline uint64_t crossed_edges(const Corners& corners, int axis) {
  const int end = 4 >> axis;
  return (corners.inside[0] ^ corners.inside[end]) & corners.known[0] & corners.known[end];
}

struct ActiveCells {
  uint64_t complete;    // all corners are known, some inside and some outside
  uint64_t incomplete;  // known corners on both sides, but some corners unknown
};

C10_HOST_DEVICE inline ActiveCells active_cells(const Corners& corners) {
  uint64_t all = ~uint64_t{0}, some_inside = 0, some_outside = 0;
  for (int i = 0; i < 8; ++i) {
    all &= corners.known[i];
    some_inside |= corners.known[i] & corners.inside[i];
    some_outside |= corners.known[i] & ~corners.inside[i];
  }
  const uint64_t both = some_inside & some_outside;
  return {both & all, both & ~all};
}

C10_HOST_DEVICE inline int cube_case(const Corners& corners, int bit) {
  int result = 0;
  for (int i = 0; i < 8; ++i) result |= static_cast<int>((corners.inside[i] >> bit) & 1) << i;
  return result;
}

}  // namespace occvae
