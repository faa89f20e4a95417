// The last steps of sparse marching cubes: function objects that turn the bricks into the vertices
// and triangles of their rows. CPU and CUDA run the same objects, in the sequence of
// marching_cubes.h.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

#include "marching_cubes_bricks.h"
#include "marching_cubes_points.h"
#include "marching_cubes_table.h"

namespace occvae {

// The kRows rows of a work item, starting at row `first`. kRows divides 8.
template <int kRows>
struct RowItem {
  int64_t brick;
  int first;

  C10_HOST_DEVICE explicit RowItem(int64_t i)
      : brick(i / (8 / kRows)), first(static_cast<int>(i % (8 / kRows)) * kRows) {}
};

// Marks the crossed edges of rows. Counts their vertices, triangles and incomplete cells.
template <int kRows>
struct CountRows {
  Bricks bricks;
  MarchCounts* counts;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const RowItem<kRows> item(i);
    const BricksAround around(bricks, item.brick);
    if (!around.have_both_sides(bricks)) return;
    Brick& brick = bricks.bricks[item.brick];
    for (int row = item.first; row < item.first + kRows; ++row) {
      const Corners corners(bricks, around, row);
      int vertices = 0;
      for (int axis = 0; axis < 3; ++axis) {
        brick.edges[axis][row] = crossed_edges(corners, axis);
        vertices += count_bits(brick.edges[axis][row]);
      }
      const ActiveCells cells = active_cells(corners);
      int triangles = 0;
      for (uint64_t rest = cells.complete; rest != 0; rest &= rest - 1) {
        triangles += cubes().triangles[cube_case(corners, lowest_bit(rest))];
      }
      brick.vertices_before[row] = static_cast<uint16_t>(vertices);  // counts until NumberRows runs
      brick.triangles_before[row] = static_cast<uint16_t>(triangles);
      if (cells.incomplete != 0) add(&counts->missing, count_bits(cells.incomplete));
    }
  }
};

// Turns the counts per row of a brick into running sums. Sets first_vertex[b + 1] and
// first_triangle[b + 1] to the totals of the brick.
struct NumberRows {
  Bricks bricks;

  C10_HOST_DEVICE void operator()(int64_t b) const {
    Brick& brick = bricks.bricks[b];
    bricks.first_vertex[b + 1] = number(brick.vertices_before);
    bricks.first_triangle[b + 1] = number(brick.triangles_before);
  }

  C10_HOST_DEVICE static int64_t number(uint16_t (&counts)[8]) {
    uint16_t before = 0;
    for (uint16_t& count : counts) {
      const uint16_t here = count;
      count = before;
      before += here;
    }
    return before;
  }
};

// Writes the numbers of vertices and triangles before each shape, and of all shapes at the end.
struct CountShapes {
  Bricks bricks;
  int64_t* before;  // (shapes + 1, 2)

  C10_HOST_DEVICE void operator()(int64_t shape) const {
    const int64_t brick = bricks.first_brick(shape);
    before[2 * shape] = bricks.first_vertex[brick];
    before[2 * shape + 1] = bricks.first_triangle[brick];
  }
};

// Position of a vertex on its edge, from 0 at the first end to 1 at the second: the zero of the
// linear interpolation of the two heights (value - level). The position keeps a minimum distance to
// both ends. Otherwise a value equal to the level would put several vertices on one point, with
// triangles of zero area between them.
constexpr double kMinEdgeFraction = 1e-3;

C10_HOST_DEVICE inline double edge_fraction(double first, double second) {
  constexpr double kLimit = 1.7976931348623157e308 / 4;  // no overflow in first - second
  first = first < -kLimit ? -kLimit : first > kLimit ? kLimit : first;
  second = second < -kLimit ? -kLimit : second > kLimit ? kLimit : second;
  const double fraction = first / (first - second);
  if (fraction < kMinEdgeFraction) return kMinEdgeFraction;
  return fraction > 1 - kMinEdgeFraction ? 1 - kMinEdgeFraction : fraction;
}

// Writes the vertices and triangles of rows.
template <typename scalar_t, int kRows>
struct WriteRows {
  Samples<scalar_t> samples;
  Domain domain;
  Bricks bricks;
  const scalar_t* values;  // in the order of value_index()
  float* vertices;         // (V, 3)
  int64_t* faces;          // (F, 3): indices among the vertices of their shape
  int32_t* edges;          // (V, 4): lower end (3) and axis (1); or nullptr
  double* ends;            // (V, 2): value - level at both ends

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const RowItem<kRows> item(i);
    const BricksAround around(bricks, item.brick);
    if (!around.have_both_sides(bricks)) return;
    for (int row = item.first; row < item.first + kRows; ++row) {
      write_vertices(around, row);
      write_triangles(around, row);
    }
  }

 private:
  C10_HOST_DEVICE void write_vertices(const BricksAround& around, int row) const {
    const Brick& brick = bricks.bricks[around.ids[0]];
    int64_t out = bricks.first_vertex[around.ids[0]] + brick.vertices_before[row];
    for (int axis = 0; axis < 3; ++axis) {
      for (uint64_t rest = brick.edges[axis][row]; rest != 0; rest &= rest - 1) {
        write_vertex(around, axis, row, lowest_bit(rest), out++);
      }
    }
  }

  C10_HOST_DEVICE void write_vertex(const BricksAround& around, int axis, int row, int bit,
                                    int64_t out) const {
    const Brick& brick = bricks.bricks[around.ids[0]];
    const int local[3] = {row, bit >> 3, bit & 7};
    const int64_t point[3] = {8 * (brick.x % bricks.per_axis) + local[0] - 1,
                              8 * int64_t{brick.y} + local[1] - 1,
                              8 * int64_t{brick.z} + local[2] - 1};
    double heights[2] = {0, 0};
    double fraction = 0;
    if (point[axis] < 0) {  // cap vertices lie just outside the domain
      fraction = 1 - kMinEdgeFraction;
    } else if (point[axis] == domain.resolution) {
      fraction = kMinEdgeFraction;
    } else {
      heights[0] = samples.height(values[bricks.value_index(around.ids[0], row, bit)]);
      heights[1] = samples.height(values[other_end(around, axis, local)]);
      fraction = edge_fraction(heights[0], heights[1]);
    }
    for (int k = 0; k < 3; ++k) {
      const auto low = static_cast<double>(point[k]);
      vertices[3 * out + k] = domain.to_world(k == axis ? low + fraction : low);
    }
    if (edges == nullptr) return;
    for (int k = 0; k < 3; ++k) edges[4 * out + k] = static_cast<int32_t>(point[k]);
    edges[4 * out + 3] = axis;
    for (int k = 0; k < 2; ++k) ends[2 * out + k] = heights[k];
  }

  C10_HOST_DEVICE int64_t other_end(const BricksAround& around, int axis,
                                    const int (&local)[3]) const {
    int end[3] = {local[0], local[1], local[2]};
    const int neighbor = ++end[axis] == 8 ? 4 >> axis : 0;
    end[axis] &= 7;
    return bricks.value_index(around.ids[neighbor], end[0], point_bit(end[1], end[2]));
  }

  C10_HOST_DEVICE void write_triangles(const BricksAround& around, int row) const {
    const int64_t brick = around.ids[0];
    int64_t* out =
        faces + 3 * (bricks.first_triangle[brick] + bricks.bricks[brick].triangles_before[row]);
    const int64_t shape = bricks.bricks[brick].x / bricks.per_axis;
    const int64_t first = bricks.first_vertex[bricks.first_brick(shape)];
    const Corners corners(bricks, around, row);
    for (uint64_t rest = active_cells(corners).complete; rest != 0; rest &= rest - 1) {
      const int bit = lowest_bit(rest);
      const int cube = cube_case(corners, bit);
      for (int k = 0; k < 3 * cubes().triangles[cube]; ++k) {
        *out++ = vertex_of(around, row, bit, cubes().edges[cube][k]) - first;
      }
    }
  }

  // Returns the index of the vertex on an edge of the cell at `row` and `bit`.
  C10_HOST_DEVICE int64_t vertex_of(const BricksAround& around, int row, int bit, int edge) const {
    const int corner = cubes().edge_corner[edge];
    const int x = row + (corner >> 2);
    const int y = (bit >> 3) + ((corner >> 1) & 1);
    const int z = (bit & 7) + (corner & 1);
    const int64_t owner = around.ids[(x >> 3) * 4 + (y >> 3) * 2 + (z >> 3)];
    return bricks.vertex_index(owner, edge / 4, x & 7, point_bit(y & 7, z & 7));
  }
};

}  // namespace occvae
