// The rules of sparse marching cubes for one brick, one cell or one edge at a time.
//
// The lattice gets a border of one point a side, which is outside: it closes surfaces that reach
// the domain's faces. Bricks hold 8 x 8 x 8 points of this padded lattice as bits, point (x, y, z)
// of a brick at bit 8 y + z of word x, and exist where points are known. A cell belongs to its
// lowest corner and an edge to its lower end. The vertex on an edge is numbered by counting the
// crossed edges before it, so that vertices are shared without looking for equal ones.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

#include "bits.h"

namespace occvae {

// Corner i of a cell is 4 x + 2 y + z; edge 4 axis + 2 u + v is at (u, v) on the two other axes in
// the order x, y, z. Faces show their corners counter-clockwise seen from outside.
struct CubeTable {
  uint8_t triangles[256];   // of each case, whose bit i is 1 if corner i is inside
  uint8_t edges[256][15];   // three a triangle, counter-clockwise seen from outside
  uint8_t edge_corner[12];  // the lower end of each edge
};

namespace detail {

constexpr int edge_between(int a, int b) {
  const int low = a < b ? a : b;
  const int x = low >> 2, y = (low >> 1) & 1, z = low & 1;
  switch ((a ^ b)) {
    case 4:
      return 2 * y + z;
    case 2:
      return 4 + 2 * x + z;
    default:
      return 8 + 2 * x + y;
  }
}

// Corner k of the cycle around a face, 2 axis + (0 for the lower, 1 for the upper face).
constexpr int face_corner(int face, int k) {
  const int axis = face / 2, side = face % 2;
  const int turn = side == 1 ? k % 4 : 3 - k % 4;
  const int u = turn == 1 || turn == 2 ? 1 : 0;
  const int v = turn >= 2 ? 1 : 0;
  const int bit[3] = {4, 2, 1};
  return side * bit[axis] + u * bit[(axis + 1) % 3] + v * bit[(axis + 2) % 3];
}

constexpr bool share_face(int edge_a, int edge_b) {
  for (int face = 0; face < 6; ++face) {
    int found = 0;
    for (int k = 0; k < 4; ++k) {
      const int edge = edge_between(face_corner(face, k), face_corner(face, k + 1));
      found += edge == edge_a || edge == edge_b ? 1 : 0;
    }
    if (found == 2) return true;
  }
  return false;
}

// follows[e] is the edge that the surface reaches on leaving edge e, or -1. On each face every run
// of outside corners is cut off by one segment: where two are diagonal the inside is connected.
// That depends on the face alone, so that the cells on both of its sides agree.
constexpr void trace_faces(int inside, int (&follows)[12]) {
  for (int& next : follows) next = -1;
  for (int face = 0; face < 6; ++face) {
    for (int k = 0; k < 4; ++k) {
      int last = k + 1;
      if (!((inside >> face_corner(face, k)) & 1)) continue;
      if ((inside >> face_corner(face, last)) & 1) continue;
      while (!((inside >> face_corner(face, last + 1)) & 1)) ++last;
      follows[edge_between(face_corner(face, last), face_corner(face, last + 1))] =
          edge_between(face_corner(face, k), face_corner(face, k + 1));
    }
  }
}

// Twice the coordinate of the middle of an edge.
constexpr int doubled_middle(int edge, int axis) {
  const int along = edge / 4;
  if (axis == along) return 1;
  const int first_other = along == 0 ? 1 : 0;
  return axis == first_other ? 2 * ((edge >> 1) & 1) : 2 * (edge & 1);
}

constexpr int squared_length(int edge_a, int edge_b) {
  int sum = 0;
  for (int axis = 0; axis < 3; ++axis) {
    const int d = doubled_middle(edge_a, axis) - doubled_middle(edge_b, axis);
    sum += d * d;
  }
  return sum;
}

// Where the fan over a loop starts: where its diagonals are short, and none lies in a face of the
// cell. The cell behind might have the same diagonal, and four triangles would meet there. All
// loops have such a start.
constexpr int fan_start(const int (&loop)[12], int length) {
  int best = 0;
  int shortest = 1 << 30;
  for (int start = 0; start < length; ++start) {
    int cost = 0;
    for (int d = 2; d + 1 < length; ++d) {
      const int end = loop[(start + d) % length];
      cost += share_face(loop[start], end) ? 1 << 20 : squared_length(loop[start], end);
    }
    if (cost < shortest) {
      shortest = cost;
      best = start;
    }
  }
  return best;
}

constexpr void add_fan(CubeTable& table, int inside, const int (&loop)[12], int length) {
  const int start = fan_start(loop, length);
  for (int d = 1; d + 1 < length; ++d) {
    const int corners[3] = {loop[start], loop[(start + d) % length],
                            loop[(start + d + 1) % length]};
    for (int i = 0; i < 3; ++i) {
      table.edges[inside][3 * table.triangles[inside] + i] = static_cast<uint8_t>(corners[i]);
    }
    ++table.triangles[inside];
  }
}

}  // namespace detail

constexpr CubeTable cube_table() {
  CubeTable table{};
  for (int corner = 0; corner < 8; ++corner) {
    for (int bit = 1; bit < 8; bit *= 2) {
      if (corner & bit) continue;
      table.edge_corner[detail::edge_between(corner, corner | bit)] = static_cast<uint8_t>(corner);
    }
  }
  for (int inside = 0; inside < 256; ++inside) {
    int follows[12] = {};
    detail::trace_faces(inside, follows);
    for (int first = 0; first < 12; ++first) {
      int loop[12] = {};
      int length = 0;
      for (int edge = first; follows[edge] >= 0;) {
        loop[length++] = edge;
        const int next = follows[edge];
        follows[edge] = -1;
        edge = next;
      }
      if (length > 0) detail::add_fan(table, inside, loop, length);
    }
  }
  return table;
}

struct Brick {
  uint64_t known[8];
  uint64_t inside[8];
  uint64_t edges[3][8];  // crossed edges by axis
  int64_t first_value;   // values, vertices and triangles before those of this brick
  int64_t first_vertex;
  int64_t first_triangle;
  uint16_t values_before[8];  // within the brick, up to a word
  uint16_t vertices_before[3][8];
  int32_t x, y, z;  // place among the bricks
  bool has_inside;  // known points of either side
  bool has_outside;
};

C10_HOST_DEVICE inline int point_bit(int y, int z) { return 8 * y + z; }

C10_HOST_DEVICE inline uint64_t next_z(uint64_t here, uint64_t after) {
  return ((here >> 1) & 0x7F7F7F7F7F7F7F7F) | ((after & 0x0101010101010101) << 7);
}

C10_HOST_DEVICE inline uint64_t next_y(uint64_t here, uint64_t after) {
  return (here >> 8) | (after << 56);
}

// The bits of a brick's word x at the corners of its 64 cells. bricks[i] is the brick itself and
// those after it, in the order of corners; `masks` chooses known or inside.
C10_HOST_DEVICE inline void corner_bits(const Brick* const (&bricks)[8],
                                        uint64_t const (Brick::*masks)[8], int x,
                                        uint64_t (&corners)[8]) {
  for (int dx = 0; dx < 2; ++dx) {
    const int first = x + dx < 8 ? 0 : 4;
    const int word = (x + dx) & 7;
    const uint64_t here = (bricks[first]->*masks)[word];
    const uint64_t z = (bricks[first + 1]->*masks)[word];
    const uint64_t y = (bricks[first + 2]->*masks)[word];
    const uint64_t yz = (bricks[first + 3]->*masks)[word];
    corners[4 * dx] = here;
    corners[4 * dx + 1] = next_z(here, z);
    corners[4 * dx + 2] = next_y(here, y);
    corners[4 * dx + 3] = next_y(next_z(here, z), next_z(y, yz));
  }
}

// Marks the crossed edges of one word; returns how many.
C10_HOST_DEVICE inline int mark_edges(Brick& brick, const uint64_t (&known)[8],
                                      const uint64_t (&inside)[8], int x) {
  int count = 0;
  for (int axis = 0; axis < 3; ++axis) {
    const int end = 4 >> axis;
    const uint64_t crossed = (inside[0] ^ inside[end]) & known[0] & known[end];
    brick.edges[axis][x] = crossed;
    count += count_bits(crossed);
  }
  return count;
}

struct ActiveCells {
  uint64_t complete;    // all corners known, some inside and some outside
  uint64_t incomplete;  // corners on both sides known, but not all
};

C10_HOST_DEVICE inline ActiveCells active_cells(const uint64_t (&known)[8],
                                                const uint64_t (&inside)[8]) {
  uint64_t all = ~uint64_t{0}, some_inside = 0, some_outside = 0;
  for (int i = 0; i < 8; ++i) {
    all &= known[i];
    some_inside |= known[i] & inside[i];
    some_outside |= known[i] & ~inside[i];
  }
  const uint64_t both = some_inside & some_outside;
  return {both & all, both & ~all};
}

C10_HOST_DEVICE inline int cube_case(const uint64_t (&inside)[8], int bit) {
  int result = 0;
  for (int i = 0; i < 8; ++i) result |= static_cast<int>((inside[i] >> bit) & 1) << i;
  return result;
}

C10_HOST_DEVICE inline int64_t value_index(const Brick& brick, int x, int bit) {
  const uint64_t before = brick.known[x] & ((uint64_t{1} << bit) - 1);
  return brick.first_value + brick.values_before[x] + count_bits(before);
}

C10_HOST_DEVICE inline int64_t vertex_index(const Brick& brick, int axis, int x, int bit) {
  const uint64_t before = brick.edges[axis][x] & ((uint64_t{1} << bit) - 1);
  return brick.first_vertex + brick.vertices_before[axis][x] + count_bits(before);
}

// Where a vertex lies between its ends, whose values have the signs of these heights: the zero of
// the linear interpolation. It keeps a share of the edge to both ends; without that a value equal
// to the level would put several vertices on one point, and triangles without area between them.
constexpr double kMinEdgeFraction = 1e-3;

C10_HOST_DEVICE inline double edge_fraction(double first, double second) {
  constexpr double kLimit = 1.7976931348623157e308 / 4;  // room for differences of infinities
  first = first < -kLimit ? -kLimit : first > kLimit ? kLimit : first;
  second = second < -kLimit ? -kLimit : second > kLimit ? kLimit : second;
  const double fraction = first / (first - second);
  if (fraction < kMinEdgeFraction) return kMinEdgeFraction;
  return fraction > 1 - kMinEdgeFraction ? 1 - kMinEdgeFraction : fraction;
}

}  // namespace occvae
