// The solid angle of a group of faces, seen from far away: the first two terms of a series around
// the center of the group (Barill et al., "Fast Winding Numbers for Soups and Clouds", 2018), with
// a bound of the error.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

namespace occvae {

// A winding number that is at most `error` away from `value`.
struct WindingEstimate {
  double value = 0;
  double error = 0;
};

// A face with unit normal n has the solid angle of the integral of n . r / |r|^3 over its points,
// where r leads from the observer to the point. The series of r / |r|^3 around the center is the
// gradient of the series of 1 / |r| in Legendre polynomials. Term n of it is at most n q^(n - 1) /
// d^2 long (Bernstein's inequality), for a point at a distance of q d from the center and an
// observer at the distance d. The terms from the third on are therefore at most 1 / (1 - q)^2 - 1 -
// 2 q, times the area over d^2.
class WindingExpansion {
 public:
  template <typename scalar_t>
  void set(const scalar_t* vertices, const std::array<int64_t, 3>* first,
           const std::array<int64_t, 3>* last) {
    double low[3], high[3];
    for (int axis = 0; axis < 3; ++axis) {
      low[axis] = high[axis] = vertices[3 * (*first)[0] + axis];
      for (auto face = first; face < last; ++face) {
        for (const int64_t v : *face) {
          low[axis] = std::min<double>(low[axis], vertices[3 * v + axis]);
          high[axis] = std::max<double>(high[axis], vertices[3 * v + axis]);
        }
      }
      center_[axis] = low[axis] + 0.5 * (high[axis] - low[axis]);
    }
    double square = 0;
    for (auto face = first; face < last; ++face) {
      double corners[3][3];
      for (int i = 0; i < 3; ++i) {
        double length = 0;
        for (int axis = 0; axis < 3; ++axis) {
          corners[i][axis] = vertices[3 * (*face)[i] + axis] - center_[axis];
          length += corners[i][axis] * corners[i][axis];
        }
        square = std::max(square, length);
      }
      add(corners);
    }
    radius_ = std::sqrt(square);
  }

  // Adds the solid angle seen from p, over 4 pi. The error holds for all observers at most `reach`
  // away from p. Does nothing if the error may exceed the tolerance, unless the reach is as large
  // as the group and the group is not too close: smaller groups would not have smaller errors then.
  // Returns whether it added. Numbers that overflow become NaN, which the caller must expect in the
  // sum.
  bool try_add(const double (&p)[3], double reach, double tolerance, WindingEstimate& sum) const {
    constexpr double kFullSphere = 4 * 3.14159265358979323846;
    double r[3];
    for (int axis = 0; axis < 3; ++axis) r[axis] = center_[axis] - p[axis];
    const double square = r[0] * r[0] + r[1] * r[1] + r[2] * r[2];
    const double inverse = 1 / std::sqrt(square);
    const double q = (radius_ + reach) * inverse;
    if (!(q < kGreatestRatio)) return false;
    // Moving the observer changes the second term by at most 2 * reach / d.
    const double rest = q * q * (3 - 2 * q) / ((1 - q) * (1 - q)) + 2 * reach * inverse;
    const double error = area_ * inverse * inverse * rest / kFullSphere;
    if (!(error <= tolerance || radius_ <= reach)) return false;
    double flux = 0, bent = 0;
    for (int i = 0; i < 3; ++i) {
      const double u = r[i] * inverse;
      flux += u * flux_[i];
      for (int j = 0; j < 3; ++j) bent += u * moment_[i][j] * r[j] * inverse;
    }
    const double trace = moment_[0][0] + moment_[1][1] + moment_[2][2];
    sum.value += (flux + (trace - 3 * bent) * inverse) * inverse * inverse / kFullSphere;
    sum.error += error;
    return true;
  }

 private:
  static constexpr double kGreatestRatio = 0.7;

  void add(const double (&corners)[3][3]) {
    double normal[3], middle[3];  // the normal is as long as the area
    for (int axis = 0; axis < 3; ++axis) {
      const int y = (axis + 1) % 3, z = (axis + 2) % 3;
      normal[axis] = 0.5 * ((corners[1][y] - corners[0][y]) * (corners[2][z] - corners[0][z]) -
                            (corners[1][z] - corners[0][z]) * (corners[2][y] - corners[0][y]));
      middle[axis] = (corners[0][axis] + corners[1][axis] + corners[2][axis]) / 3;
    }
    for (int i = 0; i < 3; ++i) {
      flux_[i] += normal[i];
      for (int j = 0; j < 3; ++j) moment_[i][j] += normal[i] * middle[j];
    }
    area_ += std::sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]);
  }

  double center_[3] = {};
  double radius_ = 0;
  double area_ = 0;
  double flux_[3] = {};       // integral of the normal
  double moment_[3][3] = {};  // integral of normal times position, relative to the center
};

// Bounds how much the winding number of a triangle changes if the observer moves from p by at most
// `reach`. The gradient of the solid angle is the integral of dl x r / |r|^3 over the border (the
// law of Biot and Savart). Returns infinity if the observer may cross the plane of the triangle.
template <typename scalar_t>
double greatest_change(const scalar_t* vertices, const int64_t* corners, const double (&p)[3],
                       double reach) {
  constexpr double kPi = 3.14159265358979323846;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double r[3][3], sides[3][3];  // from p to the corners, and from each corner to the next one
  for (int i = 0; i < 3; ++i) {
    for (int axis = 0; axis < 3; ++axis) r[i][axis] = vertices[3 * corners[i] + axis] - p[axis];
  }
  const auto dot = [](const double (&a)[3], const double (&b)[3]) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  };
  double change = 0;
  for (int i = 0; i < 3; ++i) {
    for (int axis = 0; axis < 3; ++axis) sides[i][axis] = r[(i + 1) % 3][axis] - r[i][axis];
    const double square = dot(sides[i], sides[i]);
    if (square == 0) continue;
    const double place = std::clamp(-dot(r[i], sides[i]) / square, 0.0, 1.0);
    double nearest[3];
    for (int axis = 0; axis < 3; ++axis) nearest[axis] = r[i][axis] + place * sides[i][axis];
    const double distance = std::sqrt(dot(nearest, nearest)) - reach;
    if (!(distance > 0)) return kInfinity;
    change += std::min(std::sqrt(square) / distance, kPi) / distance;
  }
  double normal[3];
  for (int axis = 0; axis < 3; ++axis) {
    const int y = (axis + 1) % 3, z = (axis + 2) % 3;
    normal[axis] = sides[0][y] * sides[1][z] - sides[0][z] * sides[1][y];
  }
  const bool is_apart = std::fabs(dot(r[0], normal)) >= reach * std::sqrt(dot(normal, normal));
  return is_apart ? reach * change / (4 * kPi) : kInfinity;
}

}  // namespace occvae
