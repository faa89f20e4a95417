// The triangle table of marching cubes, computed at compile time for CPU and CUDA. It lists the
// triangles of each of the 256 cases of a cell. Neighboring cells always agree on their common
// face, so meshes are watertight.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace occvae {

// Corner i of a cell is 4 x + 2 y + z. Edge 4 axis + 2 u + v is parallel to `axis` and lies at (u,
// v) on the two other axes, in the order x, y, z. The corners of a face are listed
// counter-clockwise seen from outside the cell.
struct CubeTable {
  uint8_t triangles[256];   // per case; bit i of a case is 1 if corner i is inside
  uint8_t edges[256][15];   // three per triangle, counter-clockwise seen from outside
  uint8_t edge_corner[12];  // lower end of each edge
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

// Returns corner k of the cycle around a face. Face 2 axis is the lower, 2 axis + 1 the upper face.
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

// Sets follows[e] to the edge that the surface reaches from edge e across a face, or -1. On each
// face, one segment cuts off every run of outside corners. If two outside corners are diagonal, the
// inside is therefore connected. The rule uses only the corners of the face, so the cells on both
// sides of it agree.
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

// Returns twice the coordinate of the middle of an edge.
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

// Returns the index in a loop where its triangle fan starts. It prefers short diagonals and
// rejects diagonals that lie in a face of the cell: the neighboring cell might use the same
// diagonal, and four triangles would meet there. Every loop has a start without such diagonals.
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

// Returns the table in the memory of the device that calls it.
C10_HOST_DEVICE inline const CubeTable& cubes() {
  static constexpr CubeTable kTable = cube_table();
  return kTable;
}

}  // namespace occvae
