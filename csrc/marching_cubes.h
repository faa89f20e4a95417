// The steps of sparse marching cubes, one shape: what is done for one point, brick or row. march.h
// puts them together.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

#include "bricks.h"
#include "cube_table.h"
#include "domain_faces.h"

namespace occvae {

// What the host reads: problems of the input, faces of the domain to cap, sizes of the results.
struct MarchCounts {
  int64_t missing;   // unknown ends of crossed edges
  int64_t repeated;  // points that occur twice
  int64_t nan;       // values
  int64_t outside;   // points that are not of the lattice
  uint64_t touched;  // see DomainFaces
  int64_t bricks;
  int64_t values;  // points with a place for a value
  int64_t vertices;
  int64_t triangles;
};

struct Domain {
  int64_t resolution;
  int64_t coarsest_step;
  double lower;
  double upper;

  C10_HOST_DEVICE bool has(const int32_t* p) const {
    bool inside = true;
    for (int i = 0; i < 3; ++i) inside &= p[i] >= 0 && p[i] <= resolution;
    return inside;
  }

  // As lattice_to_world of the Python package, in the same order of operations, none of them fused.
  C10_HOST_DEVICE float to_world(double coordinate) const {
    const double unit = coordinate / static_cast<double>(resolution) - 0.5;
#ifdef __CUDA_ARCH__
    return static_cast<float>(__dadd_rn(__dmul_rn(upper - lower, unit), (lower + upper) / 2));
#else
    return static_cast<float>((upper - lower) * unit + (lower + upper) / 2);
#endif
  }
};

template <typename scalar_t>
struct Samples {
  const int32_t* points;   // (N, 3)
  const scalar_t* values;  // (N,)
  double level;

  // The sign of a difference of doubles is exact, whatever the dtype of the values.
  C10_HOST_DEVICE double height(scalar_t value) const { return static_cast<double>(value) - level; }
  C10_HOST_DEVICE bool inside(int64_t i) const { return height(values[i]) >= 0; }
};

// Marks the place of the brick of point i, and the faces that it touches from inside.
template <typename scalar_t>
struct MarkPlace {
  Samples<scalar_t> samples;
  Domain domain;
  Bricks bricks;
  uint8_t* marks;
  MarchCounts* counts;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const int32_t* point = samples.points + 3 * i;
    if (!domain.has(point)) return add(&counts->outside, 1);
    const scalar_t value = samples.values[i];
    if (value != value) add(&counts->nan, 1);
    store(&marks[bricks.place(padded(point))], 1);
    const uint64_t faces = DomainFaces::faces_of(point, domain.resolution);
    if (faces != 0 && samples.inside(i)) set_bits(&counts->touched, faces);
  }
};

// before[i + 1] becomes 1 where place i is marked; their sums are the bricks before each place.
struct CountPlace {
  const uint8_t* marks;
  int32_t* before;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    if (i == 0) before[0] = 0;
    before[i + 1] = marks[i];
  }
};

// Copies one number to where the host reads it.
template <typename T>
struct Report {
  const T* number;
  int64_t* count;

  C10_HOST_DEVICE void operator()(int64_t) const { *count = *number; }
};

template <typename scalar_t>
struct SetFacePoint {
  Samples<scalar_t> samples;
  DomainFaces faces;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const int32_t* point = samples.points + 3 * i;
    if (DomainFaces::faces_of(point, faces.resolution) != 0) faces.set(point, samples.inside(i));
  }
};

struct SpreadFace {
  DomainFaces faces;
  int64_t step;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const DomainFaces::Place place = faces.place(i, step);
    if (faces.is_touched(place)) faces.spread(place, step);
  }
};

struct MarkCap {
  DomainFaces faces;
  Bricks bricks;
  uint8_t* marks;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const DomainFaces::Place place = faces.place(i, 1);
    if (!faces.is_touched(place)) return;
    faces.visit_cap(place, [&](const PaddedPoint& p, bool) { store(&marks[bricks.place(p)], 1); });
  }
};

struct SetCap {
  DomainFaces faces;
  Bricks bricks;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const DomainFaces::Place place = faces.place(i, 1);
    if (!faces.is_touched(place)) return;
    faces.visit_cap(place, [&](const PaddedPoint& p, bool inside) { bricks.set_point(p, inside); });
  }
};

struct PlaceBrick {
  Bricks bricks;

  C10_HOST_DEVICE void operator()(int64_t place) const {
    const int32_t id = bricks.id(place);
    if (id == kNoBrick) return;
    const int64_t n = bricks.per_axis;
    bricks.bricks[id].x = static_cast<int32_t>(place / (n * n));
    bricks.bricks[id].y = static_cast<int32_t>(place / n % n);
    bricks.bricks[id].z = static_cast<int32_t>(place % n);
  }
};

template <typename scalar_t>
struct SetPoint {
  Samples<scalar_t> samples;
  Bricks bricks;
  MarchCounts* counts;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    if (bricks.set_point(padded(samples.points + 3 * i), samples.inside(i))) {
      add(&counts->repeated, 1);
    }
  }
};

// Numbers the values of a brick; first_value[b + 1] becomes how many there are.
struct NumberValues {
  Bricks bricks;

  C10_HOST_DEVICE void operator()(int64_t b) const {
    Brick& brick = bricks.bricks[b];
    uint16_t before = 0;
    for (int row = 0; row < 8; ++row) {
      brick.values_before[row] = before;
      before += static_cast<uint16_t>(count_bits(brick.known[row]));
      if ((brick.known[row] & brick.inside[row]) != 0) brick.sides |= kHasInside;
      if ((brick.known[row] & ~brick.inside[row]) != 0) brick.sides |= kHasOutside;
    }
    bricks.first_value[b + 1] = before;
  }
};

// Stores the value of point i by its number, and looks for crossed edges of coarser lattices of
// which only the ends are known: MISE knows their middles.
template <typename scalar_t>
struct StoreValue {
  Samples<scalar_t> samples;
  Domain domain;
  Bricks bricks;
  scalar_t* values;
  MarchCounts* counts;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const PaddedPoint p = padded(samples.points + 3 * i);
    values[bricks.value_index(bricks.before[bricks.place(p)], p.row(), p.bit())] =
        samples.values[i];
    const int64_t common = (p.x - 1) | (p.y - 1) | (p.z - 1);
    if (common & 1) return;
    for (int64_t step = 2; step <= domain.coarsest_step && (common & (step - 1)) == 0; step *= 2) {
      for (int axis = 0; axis < 3; ++axis) {
        if (lacks_middle(samples.inside(i), p, axis, step)) add(&counts->missing, 1);
      }
    }
  }

  C10_HOST_DEVICE bool lacks_middle(bool here, const PaddedPoint& p, int axis, int64_t step) const {
    const auto known = [&](int64_t d, bool& inside) {
      return bricks.is_known({p.x + (axis == 0) * d, p.y + (axis == 1) * d, p.z + (axis == 2) * d},
                             inside);
    };
    if ((axis == 0 ? p.x : axis == 1 ? p.y : p.z) == domain.resolution + 1) return false;
    bool there = false, middle = false;
    return known(step, there) && there != here && !known(step / 2, middle);
  }
};

// The rows of an item: kRows, a divisor of 8, from `first` on.
template <int kRows>
struct RowItem {
  int64_t brick;
  int first;

  C10_HOST_DEVICE explicit RowItem(int64_t i)
      : brick(i / (8 / kRows)), first(static_cast<int>(i % (8 / kRows)) * kRows) {}
};

// Marks the crossed edges of rows and counts their vertices, triangles and incomplete cells.
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
      brick.vertices_before[row] = static_cast<uint16_t>(vertices);  // counts, for now
      brick.triangles_before[row] = static_cast<uint16_t>(triangles);
      if (cells.incomplete != 0) add(&counts->missing, count_bits(cells.incomplete));
    }
  }
};

// Turns the counts of a brick's rows into numbers; first_vertex[b + 1] becomes their sum.
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

// Writes the vertices and triangles of rows.
template <typename scalar_t, int kRows>
struct WriteRows {
  Samples<scalar_t> samples;
  Domain domain;
  Bricks bricks;
  const scalar_t* values;  // by number
  float* vertices;         // (V, 3)
  int64_t* faces;          // (F, 3)
  int32_t* edges;          // (V, 4): lower end and axis; or nullptr
  double* ends;            // (V, 2): heights of both ends

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
    const int64_t point[3] = {8 * int64_t{brick.x} + local[0] - 1,
                              8 * int64_t{brick.y} + local[1] - 1,
                              8 * int64_t{brick.z} + local[2] - 1};
    double heights[2] = {0, 0};
    double fraction = 0;
    if (point[axis] < 0) {  // caps lie next to the domain
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
    const int neighbour = ++end[axis] == 8 ? 4 >> axis : 0;
    end[axis] &= 7;
    return bricks.value_index(around.ids[neighbour], end[0], point_bit(end[1], end[2]));
  }

  C10_HOST_DEVICE void write_triangles(const BricksAround& around, int row) const {
    const int64_t brick = around.ids[0];
    int64_t* out =
        faces + 3 * (bricks.first_triangle[brick] + bricks.bricks[brick].triangles_before[row]);
    const Corners corners(bricks, around, row);
    for (uint64_t rest = active_cells(corners).complete; rest != 0; rest &= rest - 1) {
      const int bit = lowest_bit(rest);
      const int cube = cube_case(corners, bit);
      for (int k = 0; k < 3 * cubes().triangles[cube]; ++k) {
        *out++ = vertex_of(around, row, bit, cubes().edges[cube][k]);
      }
    }
  }

  // The vertex on an edge of the cell of a row and bit.
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
