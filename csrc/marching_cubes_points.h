// The first steps of sparse marching cubes, which put the points of all shapes into bricks. A step
// is a function object that handles one point, or one place where a brick may be. CPU and CUDA run
// the same objects, in the order that marching_cubes.h gives.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

#include "marching_cubes_bricks.h"
#include "marching_cubes_domain_faces.h"

namespace occvae {

// Counters that the host reads: problems of the input, faces to cap, sizes of the results.
struct MarchCounts {
  int64_t missing;   // crossed edges with an unknown end
  int64_t repeated;  // points given more than once
  int64_t nan;       // values that are NaN
  int64_t outside;   // points not on the lattice of a shape
  uint64_t touched;  // see DomainFaces
  int64_t bricks;
  int64_t values;  // places for values: points, those of caps included
  int64_t vertices;
  int64_t triangles;
};

struct Domain {
  int64_t shapes;
  int64_t resolution;
  int64_t coarsest_step;
  double lower;
  double upper;

  C10_HOST_DEVICE bool has(const int32_t* p, int64_t shape) const {
    bool inside = shape >= 0 && shape < shapes;
    for (int i = 0; i < 3; ++i) inside &= p[i] >= 0 && p[i] <= resolution;
    return inside;
  }

  // Equals lattice_to_world of the Python package: the same operations in the same order, none
  // fused.
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
  const int32_t* points;       // (N, 3)
  const scalar_t* values;      // (N,)
  const int64_t* shape_index;  // (N,), or nullptr for one shape
  double level;

  C10_HOST_DEVICE int64_t shape(int64_t i) const {
    return shape_index == nullptr ? 0 : shape_index[i];
  }

  // value - level in double. The difference of two doubles has the exact sign for every value
  // dtype.
  C10_HOST_DEVICE double height(scalar_t value) const { return static_cast<double>(value) - level; }
  C10_HOST_DEVICE bool inside(int64_t i) const { return height(values[i]) >= 0; }
};

// Marks the place of point i's brick, and the faces of the domain that the point touches if it is
// inside.
template <typename scalar_t>
struct MarkPlace {
  Samples<scalar_t> samples;
  Domain domain;
  Bricks bricks;
  uint8_t* marks;
  MarchCounts* counts;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const int32_t* point = samples.points + 3 * i;
    const int64_t shape = samples.shape(i);
    if (!domain.has(point, shape)) return add(&counts->outside, 1);
    const double height = samples.height(samples.values[i]);
    if (height != height) add(&counts->nan, 1);
    store(&marks[bricks.place(bricks.padded(point, shape))], 1);
    const uint64_t faces = DomainFaces::faces_of(point, domain.resolution);
    if (faces != 0 && height >= 0) set_bits(&counts->touched, faces);
  }
};

// Sets before[i + 1] to 1 if place i is marked, else 0. A scan then gives the number of bricks
// before each place.
struct CountPlace {
  const uint8_t* marks;
  int32_t* before;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    if (i == 0) before[0] = 0;
    before[i + 1] = marks[i];
  }
};

// Copies a computed number into one of the counters, which the host then reads all at once.
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
    if (DomainFaces::faces_of(point, faces.resolution) != 0) {
      faces.set(point, samples.shape(i), samples.inside(i));
    }
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
    const PaddedPoint p = bricks.padded(samples.points + 3 * i, samples.shape(i));
    if (bricks.set_point(p, samples.inside(i))) add(&counts->repeated, 1);
  }
};

// Numbers the values within a brick, and sets first_value[b + 1] to their count.
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

// Stores the value of point i in the order of the bricks. Also checks that the grid is complete: if
// an edge of a coarser lattice is crossed, exact MISE knows its middle point. An unknown middle
// point is counted as missing.
template <typename scalar_t>
struct StoreValue {
  Samples<scalar_t> samples;
  Domain domain;
  Bricks bricks;
  scalar_t* values;
  MarchCounts* counts;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const int32_t* point = samples.points + 3 * i;
    const PaddedPoint p = bricks.padded(point, samples.shape(i));
    values[bricks.value_index(bricks.before[bricks.place(p)], p.row(), p.bit())] =
        samples.values[i];
    const int64_t common = point[0] | point[1] | point[2];
    if (common & 1) return;
    for (int64_t step = 2; step <= domain.coarsest_step && (common & (step - 1)) == 0; step *= 2) {
      for (int axis = 0; axis < 3; ++axis) {
        if (point[axis] != domain.resolution && lacks_middle(samples.inside(i), p, axis, step)) {
          add(&counts->missing, 1);
        }
      }
    }
  }

  C10_HOST_DEVICE bool lacks_middle(bool here, const PaddedPoint& p, int axis, int64_t step) const {
    const auto known = [&](int64_t d, bool& inside) {
      return bricks.is_known({p.x + (axis == 0) * d, p.y + (axis == 1) * d, p.z + (axis == 2) * d},
                             inside);
    };
    bool there = false, middle = false;
    return known(step, there) && there != here && !known(step / 2, middle);
  }
};

}  // namespace occvae
