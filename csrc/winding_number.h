// The winding number of a mesh around a point: the signed solid angles of its faces over 4 pi
// (Jacobson, Kavan and Sorkine-Hornung 2013). Shared by CPU and CUDA.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cmath>
#include <cstdint>

#include "common.h"

namespace occvae {

// Sums solid angles of triangles seen from the origin. Half the solid angle of a triangle a, b, c
// is the argument of the complex number
//
//     (|a||b||c| + (a.b)|c| + (b.c)|a| + (c.a)|b|) + i a.(b x c)
//
// (Van Oosterom and Strackee 1983). Multiplying complex numbers adds their arguments, which costs
// much less than one arctangent per triangle. The product loses whole turns, so `turns` counts
// them.
struct SolidAngles {
  double real = 1;
  double imaginary = 0;
  double turns = 0;

  // Returns whether the angle is certain: at the triangle and very close to it, rounding decides on
  // which side the origin is.
  C10_HOST_DEVICE bool add(const double (&a)[3], const double (&b)[3], const double (&c)[3]) {
    const double length_a = std::sqrt(dot(a, a));
    const double length_b = std::sqrt(dot(b, b));
    const double length_c = std::sqrt(dot(c, c));
    const double x = length_a * length_b * length_c + dot(a, b) * length_c + dot(b, c) * length_a +
                     dot(c, a) * length_b;
    const double y = a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) +
                     a[2] * (b[0] * c[1] - b[1] * c[0]);
    const double size = std::fabs(x) + std::fabs(y);
    const double scale = size > 0 ? 1 / size : 0;  // at a corner the angle counts as 0
    multiply(size > 0 ? x * scale : 1, y * scale);
    const double least = kLeastCertain * length_a * length_b * length_c;
    return x > least || std::fabs(y) > least;
  }

  // Returns the sum in units of the full sphere.
  C10_HOST_DEVICE double total() const {
    constexpr double kPi = 3.14159265358979323846;
    return turns + std::atan2(imaginary, real) / (2 * kPi);
  }

 private:
  static constexpr double kLeastCertain = 1e-5;  // of |a||b||c|, the scale of the rounding errors

  C10_HOST_DEVICE static double dot(const double (&a)[3], const double (&b)[3]) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  }

  // Angles are in (-pi, pi]. The sum of two angles of the same sign leaves this range exactly if
  // the argument of the product has the other sign.
  C10_HOST_DEVICE void multiply(double x, double y) {
    const double next_real = real * x - imaginary * y;
    const double next_imaginary = real * y + imaginary * x;
    const bool beyond = (imaginary >= 0) & (y >= 0) & (next_imaginary < 0);
    const bool below = (imaginary < 0) & (y < 0) & (next_imaginary >= 0) & ((real <= 0) | (x <= 0));
    turns += (beyond ? 1.0 : 0.0) - (below ? 1.0 : 0.0);
    // Each factor has a magnitude between 1/sqrt(2) and 1. This scaling keeps the product in range.
    const double scale = 1 / (std::fabs(next_real) + std::fabs(next_imaginary));
    real = next_real * scale;
    imaginary = next_imaginary * scale;
  }
};

// Adds the face seen from p. Its corners must exist. Returns whether its solid angle is certain.
template <typename scalar_t>
C10_HOST_DEVICE bool add_face(SolidAngles& angles, const scalar_t* vertices, const int64_t* corners,
                              const double (&p)[3]) {
  double from_p[3][3];
  for (int i = 0; i < 3; ++i) {
    const scalar_t* corner = vertices + 3 * corners[i];
    for (int axis = 0; axis < 3; ++axis) from_p[i][axis] = corner[axis] - p[axis];
  }
  return angles.add(from_p[0], from_p[1], from_p[2]);
}

}  // namespace occvae
