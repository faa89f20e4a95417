// The faces of the domain where the inside reaches them: every point of theirs needs a sign, known
// or not, because the cap over it is as fine as the lattice.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

#include "atomic.h"
#include "marching_cubes_bricks.h"

namespace occvae {

// Face 2 axis + (0 for the lower, 1 for the upper one) has the two other axes in cyclic order.
struct DomainFaces {
  static constexpr uint8_t kUnknown = 0, kOutside = 1, kInside = 2;

  struct Place {
    int face;
    int64_t u, v;
  };

  int64_t resolution;
  uint64_t touched;  // a bit for each face with known points inside; the others need no cap
  uint8_t* sides;    // (6, resolution + 1, resolution + 1)

  C10_HOST_DEVICE static uint64_t faces_of(const int32_t* p, int64_t resolution) {
    uint64_t faces = 0;
    for (int f = 0; f < 6; ++f) {
      if (p[f / 2] == (f % 2) * resolution) faces |= uint64_t{1} << f;
    }
    return faces;
  }

  // Points of the six faces whose coordinates are multiples of `step`.
  C10_HOST_DEVICE int64_t size(int64_t step) const {
    return 6 * (resolution / step + 1) * (resolution / step + 1);
  }

  C10_HOST_DEVICE Place place(int64_t i, int64_t step) const {
    const int64_t n = resolution / step + 1;
    return {static_cast<int>(i / (n * n)), i / n % n * step, i % n * step};
  }

  C10_HOST_DEVICE bool is_touched(const Place& p) const { return (touched >> p.face) & 1; }

  C10_HOST_DEVICE uint8_t& side(int face, int64_t u, int64_t v) const {
    return sides[(face * (resolution + 1) + u) * (resolution + 1) + v];
  }

  C10_HOST_DEVICE void set(const int32_t* p, bool inside) const {
    for (uint64_t rest = faces_of(p, resolution); rest != 0; rest &= rest - 1) {
      const int f = lowest_bit(rest);
      store(&side(f, p[(f / 2 + 1) % 3], p[(f / 2 + 2) % 3]), inside ? kInside : kOutside);
    }
  }

  // From level to level an unknown point copies the next coarser one below it. Both are in the
  // closed cube of one leaf, down to that leaf's own corners, and in a leaf that was not split all
  // known points have one side.
  C10_HOST_DEVICE void spread(const Place& p, int64_t step) const {
    uint8_t& here = side(p.face, p.u, p.v);
    const int64_t coarser = ~(2 * step - 1);
    if (here == kUnknown) here = side(p.face, p.u & coarser, p.v & coarser);
  }

  // Calls visit(point, inside) for the corners of the cells between the domain and its border that
  // have this point as a corner, if it is inside.
  template <typename Visit>
  C10_HOST_DEVICE void visit_cap(const Place& p, const Visit& visit) const {
    if (side(p.face, p.u, p.v) != kInside) return;
    const int axis = p.face / 2;
    const bool upper = p.face % 2 == 1;
    for (int64_t a = p.u - 1; a <= p.u + 1; ++a) {
      for (int64_t b = p.v - 1; b <= p.v + 1; ++b) {
        const bool within = a >= 0 && a <= resolution && b >= 0 && b <= resolution;
        for (int64_t d = -1; d <= 1; ++d) {
          if (within && (upper ? d < 0 : d > 0)) continue;  // in the domain
          int64_t point[3];
          point[axis] = (upper ? resolution : 0) + d;
          point[(axis + 1) % 3] = a;
          point[(axis + 2) % 3] = b;
          visit(PaddedPoint{point[0] + 1, point[1] + 1, point[2] + 1},
                d == 0 && within && side(p.face, a, b) == kInside);
        }
      }
    }
  }
};

}  // namespace occvae
