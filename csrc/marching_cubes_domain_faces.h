// The faces of the domain that the inside of a shape reaches. A cap as fine as the lattice closes
// the mesh there, so every lattice point of such a face needs a side, even if its value is unknown.
// Shared by CPU and CUDA.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

#include "atomic.h"
#include "marching_cubes_bricks.h"

namespace occvae {

// Face 6 shape + 2 axis + s is the lower (s = 0) or upper (s = 1) face of an axis. Its coordinates
// u and v are the two other axes in cyclic order.
struct DomainFaces {
  static constexpr uint8_t kUnknown = 0, kOutside = 1, kInside = 2;

  struct Place {
    int64_t face;
    int64_t u, v;
  };

  int64_t resolution;
  int64_t shapes;
  int64_t width;     // points along x from one shape to the next
  uint64_t touched;  // one bit per face of any shape with known points inside; no others need a cap
  uint8_t* sides;    // (6 shapes, resolution + 1, resolution + 1)

  C10_HOST_DEVICE static uint64_t faces_of(const int32_t* p, int64_t resolution) {
    uint64_t faces = 0;
    for (int f = 0; f < 6; ++f) {
      if (p[f / 2] == (f % 2) * resolution) faces |= uint64_t{1} << f;
    }
    return faces;
  }

  // Number of points on the faces whose coordinates are multiples of `step`.
  C10_HOST_DEVICE int64_t size(int64_t step) const {
    return 6 * shapes * (resolution / step + 1) * (resolution / step + 1);
  }

  C10_HOST_DEVICE Place place(int64_t i, int64_t step) const {
    const int64_t n = resolution / step + 1;
    return {i / (n * n), i / n % n * step, i % n * step};
  }

  C10_HOST_DEVICE bool is_touched(const Place& p) const { return (touched >> (p.face % 6)) & 1; }

  C10_HOST_DEVICE uint8_t& side(int64_t face, int64_t u, int64_t v) const {
    return sides[(face * (resolution + 1) + u) * (resolution + 1) + v];
  }

  C10_HOST_DEVICE void set(const int32_t* p, int64_t shape, bool inside) const {
    for (uint64_t rest = faces_of(p, resolution); rest != 0; rest &= rest - 1) {
      const int f = lowest_bit(rest);
      store(&side(6 * shape + f, p[(f / 2 + 1) % 3], p[(f / 2 + 2) % 3]),
            inside ? kInside : kOutside);
    }
  }

  // Gives an unknown point the side of the nearest point below it on the next coarser lattice. This
  // is correct because both points lie in the closed cube of the same leaf cell, at every step down
  // to the corner of that leaf. All known points of a leaf that was not split are on the same side.
  C10_HOST_DEVICE void spread(const Place& p, int64_t step) const {
    uint8_t& here = side(p.face, p.u, p.v);
    const int64_t coarser = ~(2 * step - 1);
    if (here == kUnknown) here = side(p.face, p.u & coarser, p.v & coarser);
  }

  // Calls visit(point, inside) for the points of the cap around a face point that is inside. These
  // are the corners of the cells between the domain and its padding that touch the point.
  template <typename Visit>
  C10_HOST_DEVICE void visit_cap(const Place& p, const Visit& visit) const {
    if (side(p.face, p.u, p.v) != kInside) return;
    const int axis = static_cast<int>(p.face % 6) / 2;
    const bool upper = p.face % 2 == 1;
    const int64_t start = p.face / 6 * width;
    for (int64_t a = p.u - 1; a <= p.u + 1; ++a) {
      for (int64_t b = p.v - 1; b <= p.v + 1; ++b) {
        const bool within = a >= 0 && a <= resolution && b >= 0 && b <= resolution;
        for (int64_t d = -1; d <= 1; ++d) {
          if (within && (upper ? d < 0 : d > 0)) continue;  // that point is in the domain
          int64_t point[3];
          point[axis] = (upper ? resolution : 0) + d;
          point[(axis + 1) % 3] = a;
          point[(axis + 2) % 3] = b;
          visit(PaddedPoint{point[0] + 1 + start, point[1] + 1, point[2] + 1},
                d == 0 && within && side(p.face, a, b) == kInside);
        }
      }
    }
  }
};

}  // namespace occvae
