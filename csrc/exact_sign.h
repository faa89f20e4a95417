// Exact signs of small determinants, for CPU and CUDA. Floating point decides where its error bound
// allows it, which is nearly always. An exact sum decides the other cases (Shewchuk 1997, "Adaptive
// precision floating-point arithmetic and fast robust geometric predicates").
//
// Each coordinate must be 0 or have a magnitude between kLeastCoordinate and 1e90. Then nothing
// here overflows or underflows: coordinates are multiples of 2^-351, and products of three
// coordinates are multiples of 2^-1053.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cmath>

namespace occvae {

constexpr double kLeastCoordinate = 1e-90;
constexpr double kRoundOff = 1.1102230246251565e-16;  // 2^-53

// Returns a b, rounded. The compiler cannot fuse this product with a later addition, so
// product_error() gives its exact error.
C10_HOST_DEVICE inline double rounded_product(double a, double b) { return std::fma(a, b, 0.0); }

C10_HOST_DEVICE inline double product_error(double a, double b, double product) {
  return std::fma(a, b, -product);
}

// The exact difference a - b, as value + error.
struct Difference {
  double value;
  double error;
};

C10_HOST_DEVICE inline Difference exact_difference(double a, double b) {
  const double value = a - b;
  const double from_b = a - value;
  const double from_a = value + from_b;
  return {value, (a - from_a) + (from_b - b)};
}

// Adds numbers without rounding error. The sum is stored as non-overlapping parts, smallest first.
// Each addition adds at most one part, so kCapacity must be at least the number of additions.
template <int kCapacity>
class ExactSum {
 public:
  C10_HOST_DEVICE void add(double value) {
    int kept = 0;
    for (int i = 0; i < size_; ++i) {
      const double sum = value + parts_[i];
      const double from_part = sum - value;
      const double error = (value - (sum - from_part)) + (parts_[i] - from_part);
      if (error != 0) parts_[kept++] = error;
      value = sum;
    }
    if (value != 0) parts_[kept++] = value;
    size_ = kept;
  }

  C10_HOST_DEVICE void add_product(double a, double b) {
    const double product = rounded_product(a, b);
    add(product_error(a, b, product));
    add(product);
  }

  C10_HOST_DEVICE void add_product(double a, double b, double c) {
    const double product = rounded_product(a, b);
    add_product(product_error(a, b, product), c);
    add_product(product, c);
  }

  C10_HOST_DEVICE int sign() const {
    if (size_ == 0) return 0;
    return parts_[size_ - 1] > 0 ? 1 : -1;
  }

 private:
  double parts_[kCapacity];
  int size_ = 0;
};

C10_HOST_DEVICE inline int sign_of_difference(double a, double b) { return (a > b) - (a < b); }

// Returns the sign of a0 b1 - a1 b0.
C10_HOST_DEVICE inline int exact_cross_sign(const Difference (&a)[2], const Difference (&b)[2]) {
  if (a[0].error == 0 && a[1].error == 0 && b[0].error == 0 && b[1].error == 0) {
    const double first = rounded_product(a[0].value, b[1].value);
    const double second = rounded_product(a[1].value, b[0].value);
    if (first != second) return first > second ? 1 : -1;
    return sign_of_difference(product_error(a[0].value, b[1].value, first),
                              product_error(a[1].value, b[0].value, second));
  }
  ExactSum<16> sum;
  for (int i = 0; i < 4; ++i) {
    const double a0 = i & 1 ? a[0].error : a[0].value, a1 = i & 1 ? a[1].error : a[1].value;
    const double b0 = i & 2 ? b[0].error : b[0].value, b1 = i & 2 ? b[1].error : b[1].value;
    sum.add_product(a0, b1);
    sum.add_product(-a1, b0);
  }
  return sum.sign();
}

// Returns the sign of the determinant with rows a, b, c.
C10_HOST_DEVICE inline int exact_determinant_sign(const Difference (&a)[3],
                                                  const Difference (&b)[3],
                                                  const Difference (&c)[3]) {
  ExactSum<192> sum;
  for (int axis = 0; axis < 3; ++axis) {
    const int next = (axis + 1) % 3, last = (axis + 2) % 3;
    for (int i = 0; i < 8; ++i) {
      const double first = i & 1 ? a[axis].error : a[axis].value;
      if (first == 0) continue;
      sum.add_product(first, i & 2 ? b[next].error : b[next].value,
                      i & 4 ? c[last].error : c[last].value);
      sum.add_product(-first, i & 2 ? b[last].error : b[last].value,
                      i & 4 ? c[next].error : c[next].value);
    }
  }
  return sum.sign();
}

// Returns the sign of (b - a) x (p - a): 1 if p lies to the left of the directed line from a to b.
C10_HOST_DEVICE inline int orientation(double ax, double ay, double bx, double by, double px,
                                       double py) {
  const double first = (bx - ax) * (py - ay);
  const double second = (by - ay) * (px - ax);
  const double cross = first - second;
  const double bound = (3 + 16 * kRoundOff) * kRoundOff * (std::fabs(first) + std::fabs(second));
  if (std::fabs(cross) >= bound) return (cross > 0) - (cross < 0);
  const Difference along[2] = {exact_difference(bx, ax), exact_difference(by, ay)};
  const Difference away[2] = {exact_difference(px, ax), exact_difference(py, ay)};
  return exact_cross_sign(along, away);
}

// Returns the sign of the determinant with rows a - p, b - p, c - p: 1 if a, b, c appear clockwise
// seen from p.
template <typename scalar_t>
C10_HOST_DEVICE int side_of_plane(const scalar_t (&a)[3], const scalar_t (&b)[3],
                                  const scalar_t (&c)[3], const scalar_t (&p)[3]) {
  Difference from[3][3];
  const scalar_t* corners[3] = {a, b, c};
  for (int corner = 0; corner < 3; ++corner) {
    for (int axis = 0; axis < 3; ++axis) {
      from[corner][axis] = exact_difference(corners[corner][axis], p[axis]);
    }
  }
  double determinant = 0, permanent = 0;
  for (int axis = 0; axis < 3; ++axis) {
    const int next = (axis + 1) % 3, last = (axis + 2) % 3;
    const double first = from[1][next].value * from[2][last].value;
    const double second = from[1][last].value * from[2][next].value;
    determinant += from[0][axis].value * (first - second);
    permanent += std::fabs(from[0][axis].value) * (std::fabs(first) + std::fabs(second));
  }
  const double bound = (7 + 56 * kRoundOff) * kRoundOff * permanent;
  if (std::fabs(determinant) >= bound) return (determinant > 0) - (determinant < 0);
  return exact_determinant_sign(from[0], from[1], from[2]);
}

}  // namespace occvae
