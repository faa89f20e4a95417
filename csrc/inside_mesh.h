// What the CPU and the CUDA kernels of inside_mesh agree on: which facets a ray crosses, and the
// grid of columns that finds them.
//
// A ray goes from the point towards +z. Every decision is the exact one for the point moved by an
// infinitesimal amount, towards +z, less towards +x, still less towards +y. The moved point and its
// ray meet no vertex, edge or vertical facet, so that no crossing is missed or counted twice.
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
  scalar_t corner[3][3];  // in rising order of y
};

// Coordinates too small to calculate with count as 0.
template <typename scalar_t>
C10_HOST_DEVICE scalar_t usable_coordinate(scalar_t x) {
  return std::fabs(x) < kLeastCoordinate ? scalar_t(0) : x;
}

// A usable face as a facet.
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

// Whether p lies to the left of the edge that rises in y from corner `low` to corner `high`, seen
// along the ray. The edge has the same two ends in every facet that shares it.
template <typename scalar_t>
C10_HOST_DEVICE bool is_left_of_edge(const Facet<scalar_t>& facet, int low, int high,
                                     const scalar_t (&p)[3]) {
  const auto& a = facet.corner[low];
  const auto& b = facet.corner[high];
  return orientation(a[0], a[1], b[0], b[1], p[0], p[1]) > 0;
}

// Whether the ray from p crosses the facet.
template <typename scalar_t>
C10_HOST_DEVICE bool ray_crosses(const Facet<scalar_t>& facet, const scalar_t (&p)[3]) {
  const auto& corner = facet.corner;
  if ((p[1] < corner[0][1]) | (p[1] >= corner[2][1]) | (p[2] >= greatest_of(facet, 2))) {
    return false;
  }
  // At the height of p there are the edge from corner 0 to corner 2 and one of the other two; the
  // facet is between them.
  const int low = p[1] < corner[1][1] ? 0 : 1;
  const bool left_of_long = is_left_of_edge(facet, 0, 2, p);
  if (left_of_long == is_left_of_edge(facet, low, low + 1, p)) return false;
  if (p[2] < least_of(facet, 2)) return true;
  const int side = side_of_plane(corner[0], corner[1], corner[2], p);
  return left_of_long ? side < 0 : side > 0;  // seen against the ray, the corners are clockwise
}

// Columns along z over the box of the facets, `edge` in x by `edge` in y, each with the facets in
// it.
struct ColumnGrid {
  double low[2];
  double scale[2];  // columns a unit of length; 0 where the box is flat
  int32_t edge;     // columns an axis

  C10_HOST_DEVICE int32_t columns() const { return edge * edge; }

  C10_HOST_DEVICE double in_columns(double x, int axis) const {
    return (x - low[axis]) * scale[axis];
  }

  // Never falls where `place` rises: a point over a facet is in one of its columns.
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

// Whether a ray from p may cross a facet in the box. Points that are not finite have none.
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

// Widens [from, to] to hold the part of a facet in one row of a grid, all in columns; y rises.
C10_HOST_DEVICE inline void clip_to_row(const double (&x)[3], const double (&y)[3], int32_t row,
                                        double& from, double& to) {
  // Far more than the error of positions calculated on an edge that is longer than this. A shorter
  // one that leaves the widened row has no part in the row itself.
  constexpr double kMargin = 1.0 / 1024;
  const double low = row - kMargin, high = row + 1 + kMargin;
  for (int edge = 0; edge < 3; ++edge) {
    const int i = edge == 1 ? 1 : 0, j = edge == 0 ? 1 : 2;
    if (y[j] < low || y[i] > high) continue;
    const double slope = (x[j] - x[i]) / (y[j] - y[i]);  // not used where it is not finite
    const double ends[2] = {y[i] < low ? x[i] + slope * (low - y[i]) : x[i],
                            y[j] > high ? x[i] + slope * (high - y[i]) : x[j]};
    for (const double end : ends) {
      from = end - kMargin < from ? end - kMargin : from;
      to = end + kMargin > to ? end + kMargin : to;
    }
  }
}

// Rows of the grid that a facet is in.
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

// The columns of one of these rows that the facet may be in: all that it is in, and few others.
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

// Columns cost time to make, and save time for each point; a few a facet are enough for any number.
inline int32_t first_grid_edge(int64_t num_facets, int64_t num_points) {
  constexpr double kGreatestEdge = 1024;
  const auto facets = static_cast<double>(num_facets);
  const double columns =
      std::clamp(0.1 * static_cast<double>(num_points), 0.5 * facets, 4 * facets);
  return static_cast<int32_t>(std::clamp(std::sqrt(columns), 1.0, kGreatestEdge));
}

// Where facets span many columns each, a coarser grid costs less memory and hardly more time.
inline bool is_grid_too_fine(int64_t entries, int64_t num_facets, int32_t edge) {
  return entries > 16 * num_facets + (int64_t{1} << 20) && edge > 1;
}

}  // namespace occvae
