// The rules of inside_mesh, shared by the CPU and CUDA kernels: which facets a ray crosses, and a
// grid of columns that finds candidate facets. A point is inside if its ray crosses an odd number
// of facets.
//
// A ray goes from its point towards +z. Every decision is the exact one for a point moved by
// infinitesimal amounts: most towards +z, less towards +x, least towards +y. The ray of the moved
// point meets no vertex, no edge and no vertical facet. No crossing is missed or counted twice.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "exact_sign.h"
#include "mesh_arguments.h"

namespace occvae {

template <typename scalar_t>
struct Facet {
  scalar_t corner[3][3];  // in ascending order of y
};

// Treats coordinates too small for exact_sign.h as 0.
template <typename scalar_t>
C10_HOST_DEVICE scalar_t usable_coordinate(scalar_t x) {
  return std::fabs(x) < kLeastCoordinate ? scalar_t(0) : x;
}

// Makes a facet of a usable face: sorts its corners by y and rounds tiny coordinates to 0.
template <typename scalar_t>
C10_HOST_DEVICE Facet<scalar_t> make_facet(const scalar_t* vertices, const int64_t* corners) {
  int64_t order[3] = {corners[0], corners[1], corners[2]};
  const auto order_pair = [&](int i, int j) {
    if (vertices[3 * order[j] + 1] < vertices[3 * order[i] + 1]) {
      const int64_t other = order[i];
      order[i] = order[j];
      order[j] = other;
    }
  };
  order_pair(0, 1);
  order_pair(1, 2);
  order_pair(0, 1);
  Facet<scalar_t> facet;
  for (int i = 0; i < 3; ++i) {
    for (int axis = 0; axis < 3; ++axis) {
      facet.corner[i][axis] = usable_coordinate(vertices[3 * order[i] + axis]);
    }
  }
  return facet;
}

template <typename scalar_t>
C10_HOST_DEVICE scalar_t least_of(const Facet<scalar_t>& facet, int axis) {
  const auto& c = facet.corner;
  const scalar_t least = c[0][axis] < c[1][axis] ? c[0][axis] : c[1][axis];
  return c[2][axis] < least ? c[2][axis] : least;
}

template <typename scalar_t>
C10_HOST_DEVICE scalar_t greatest_of(const Facet<scalar_t>& facet, int axis) {
  const auto& c = facet.corner;
  const scalar_t greatest = c[0][axis] > c[1][axis] ? c[0][axis] : c[1][axis];
  return c[2][axis] > greatest ? c[2][axis] : greatest;
}

// Returns whether p lies to the left of an edge, seen along the ray. Corner `low` of the edge has
// the smaller y, corner `high` the greater. Facets that share an edge get the same answer, because
// they see its two ends in the same order.
template <typename scalar_t>
C10_HOST_DEVICE bool is_left_of_edge(const Facet<scalar_t>& facet, int low, int high,
                                     const scalar_t (&p)[3]) {
  const auto& a = facet.corner[low];
  const auto& b = facet.corner[high];
  return orientation(a[0], a[1], b[0], b[1], p[0], p[1]) > 0;
}

// Returns whether the ray from p crosses the facet.
template <typename scalar_t>
C10_HOST_DEVICE bool ray_crosses(const Facet<scalar_t>& facet, const scalar_t (&p)[3]) {
  const auto& corner = facet.corner;
  if ((p[1] < corner[0][1]) | (p[1] >= corner[2][1]) | (p[2] >= greatest_of(facet, 2))) {
    return false;
  }
  // At the y of p lie two edges: the one from corner 0 to corner 2, and one of the other two. The
  // ray passes through the facet only if p lies between them.
  const int low = p[1] < corner[1][1] ? 0 : 1;
  const bool left_of_long = is_left_of_edge(facet, 0, 2, p);
  if (left_of_long == is_left_of_edge(facet, low, low + 1, p)) return false;
  if (p[2] < least_of(facet, 2)) return true;
  const int side = side_of_plane(corner[0], corner[1], corner[2], p);
  return left_of_long ? side < 0 : side > 0;  // corners are clockwise seen against the ray
}

// A grid of columns along z over the bounding box of the facets, `edge` by `edge` in x and y. Each
// column lists the facets that it may contain.
struct ColumnGrid {
  double low[2];
  double scale[2];  // columns per unit of length; 0 where the box is flat
  int32_t edge;     // columns per axis

  C10_HOST_DEVICE int32_t columns() const { return edge * edge; }

  C10_HOST_DEVICE double in_columns(double x, int axis) const {
    return (x - low[axis]) * scale[axis];
  }

  // Monotonic in `place`, so a point over a facet always lies in one of the facet's columns.
  C10_HOST_DEVICE int32_t index(double place) const {
    if (!(place > 0)) return 0;
    return place < edge ? static_cast<int32_t>(place) : edge - 1;
  }

  template <typename scalar_t>
  C10_HOST_DEVICE int32_t column(const scalar_t (&p)[3]) const {
    return index(in_columns(p[1], 1)) * edge + index(in_columns(p[0], 0));
  }
};

struct Box {
  double low[3];
  double high[3];
};

// Returns whether the ray from p may cross a facet in the box. Returns false if p is not finite.
template <typename scalar_t>
C10_HOST_DEVICE bool is_below(const Box& box, const scalar_t (&p)[3]) {
  return (p[0] >= box.low[0]) & (p[0] <= box.high[0]) & (p[1] >= box.low[1]) &
         (p[1] <= box.high[1]) & (p[2] < box.high[2]) & (p[2] - p[2] == 0);
}

inline ColumnGrid make_column_grid(const Box& box, int32_t edge) {
  ColumnGrid grid{};
  grid.edge = edge;
  for (int axis = 0; axis < 2; ++axis) {
    const double extent = box.high[axis] - box.low[axis];
    grid.low[axis] = box.low[axis];
    grid.scale[axis] = extent > 0 ? edge / extent : 0;
  }
  return grid;
}

// Widens [from, to] so that it holds the part of a facet that lies in one row of the grid. All
// values are in columns, and y is ascending.
C10_HOST_DEVICE inline void clip_to_row(const double (&x)[3], const double (&y)[3], int32_t row,
                                        double& from, double& to) {
  // The margin is far larger than the rounding error of positions computed on edges longer than the
  // margin. A shorter edge that leaves the widened row does not touch the row itself.
  constexpr double kMargin = 1.0 / 1024;
  const double low = row - kMargin, high = row + 1 + kMargin;
  for (int edge = 0; edge < 3; ++edge) {
    const int i = edge == 1 ? 1 : 0, j = edge == 0 ? 1 : 2;
    if (y[j] < low || y[i] > high) continue;
    const double slope = (x[j] - x[i]) / (y[j] - y[i]);  // unused if it is not finite
    const double ends[2] = {y[i] < low ? x[i] + slope * (low - y[i]) : x[i],
                            y[j] > high ? x[i] + slope * (high - y[i]) : x[j]};
    for (const double end : ends) {
      from = end - kMargin < from ? end - kMargin : from;
      to = end + kMargin > to ? end + kMargin : to;
    }
  }
}

// first_row() and last_row() return the first and the last row of the grid that a facet touches.
template <typename scalar_t>
C10_HOST_DEVICE int32_t first_row(const ColumnGrid& grid, const Facet<scalar_t>& facet) {
  return grid.index(grid.in_columns(facet.corner[0][1], 1));
}

template <typename scalar_t>
C10_HOST_DEVICE int32_t last_row(const ColumnGrid& grid, const Facet<scalar_t>& facet) {
  return grid.index(grid.in_columns(facet.corner[2][1], 1));
}

struct Span {
  int32_t first;
  int32_t last;
};

// Returns the columns of one row that the facet may touch. The span holds all columns that it does
// touch, and few others.
template <typename scalar_t>
C10_HOST_DEVICE Span span_in_row(const ColumnGrid& grid, const Facet<scalar_t>& facet,
                                 int32_t row) {
  const double least = grid.in_columns(least_of(facet, 0), 0);
  const double greatest = grid.in_columns(greatest_of(facet, 0), 0);
  const Span whole = {grid.index(least), grid.index(greatest)};
  double x[3], y[3];
  for (int i = 0; i < 3; ++i) {
    x[i] = grid.in_columns(facet.corner[i][0], 0);
    y[i] = grid.in_columns(facet.corner[i][1], 1);
  }
  if (whole.last - whole.first < 2 || grid.index(y[2]) - grid.index(y[0]) < 2) return whole;
  double from = greatest, to = least;
  clip_to_row(x, y, row, from, to);
  return {grid.index(from > least ? from : least), grid.index(to < greatest ? to : greatest)};
}

// Returns the number of columns per axis to try first. More columns take longer to build but save
// time per point. A few columns per facet are enough for any number of points.
inline int32_t first_grid_edge(int64_t num_facets, int64_t num_points) {
  constexpr double kGreatestEdge = 1024;
  const auto facets = static_cast<double>(num_facets);
  const double columns =
      std::clamp(0.1 * static_cast<double>(num_points), 0.5 * facets, 4 * facets);
  return static_cast<int32_t>(std::clamp(std::sqrt(columns), 1.0, kGreatestEdge));
}

// Returns whether facets span so many columns that the lists waste memory. A coarser grid then
// costs less memory and hardly more time.
inline bool is_grid_too_fine(int64_t entries, int64_t num_facets, int32_t edge) {
  return entries > 16 * num_facets + (int64_t{1} << 20) && edge > 1;
}

}  // namespace occvae
