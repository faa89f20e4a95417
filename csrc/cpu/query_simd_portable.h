// Vector operations for query_products.h on any CPU, with the compiler's vectors of four floats
// (SSE2, NEON).
#pragma once

#include <cstring>

#include "../query_points.h"
#include "isa.h"

namespace occvae {

struct Portable {
  typedef float Vector __attribute__((vector_size(16)));
  typedef int32_t Mask __attribute__((vector_size(16)));
  typedef uint32_t Bits __attribute__((vector_size(16)));
  static constexpr int kWidth = 4;
  static constexpr int kRows = 6;  // 12 sums, 2 weight vectors, 1 operand: 15 of 16
  static constexpr int kVectors = 2;

  OCCVAE_INLINE static Vector zero() { return Vector{}; }
  OCCVAE_INLINE static Vector load(const float* p) {
    Vector v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  OCCVAE_INLINE static void store(float* p, Vector v) { std::memcpy(p, &v, sizeof(v)); }
  OCCVAE_INLINE static Vector broadcast(const float* p) { return Vector{*p, *p, *p, *p}; }
  OCCVAE_INLINE static Vector add(Vector a, Vector b) { return a + b; }
  OCCVAE_INLINE static Vector multiply_add(Vector a, Vector b, Vector sum) { return a * b + sum; }
  OCCVAE_INLINE static Vector relu(Vector v) {
    const Mask negative = v < zero();  // false for NaN, so NaN stays
    return reinterpret_cast<Vector>(~negative & reinterpret_cast<Mask>(v));
  }
  OCCVAE_INLINE static float sum(Vector v) { return (v[0] + v[2]) + (v[1] + v[3]); }
  OCCVAE_INLINE static bool any_at_least(const Vector (&v)[kVectors], float bound) {
    bool any = false;
    for (int i = 0; i < kVectors * kWidth; ++i) any |= v[i / kWidth][i % kWidth] >= bound;
    return any;
  }

  OCCVAE_INLINE static Vector round_to_half(Vector v) { return round_lanes<Precision::kFp16>(v); }
  OCCVAE_INLINE static Vector round_to_bfloat(Vector v) { return round_lanes<Precision::kBf16>(v); }
  OCCVAE_INLINE static Vector lower_bfloats(const uint32_t* pairs) {
    return reinterpret_cast<Vector>(load_pairs(pairs) << 16);
  }
  OCCVAE_INLINE static Vector upper_bfloats(const uint32_t* pairs) {
    return reinterpret_cast<Vector>(load_pairs(pairs) & 0xFFFF0000u);
  }

  OCCVAE_INLINE static Vector load_halves(const uint16_t* p) {
    Half halves[kWidth];
    std::memcpy(halves, p, sizeof(halves));
    return Vector{static_cast<float>(halves[0]), static_cast<float>(halves[1]),
                  static_cast<float>(halves[2]), static_cast<float>(halves[3])};
  }
  // Replaces even and odd channels by the lower and upper half of the channels.
  OCCVAE_INLINE static void interleave(Vector& even, Vector& odd) {
    const Vector lower{even[0], odd[0], even[1], odd[1]};
    odd = Vector{even[2], odd[2], even[3], odd[3]};
    even = lower;
  }

 private:
  template <Precision precision>
  OCCVAE_INLINE static Vector round_lanes(Vector v) {
    return Vector{round_to<precision>(v[0]), round_to<precision>(v[1]), round_to<precision>(v[2]),
                  round_to<precision>(v[3])};
  }
  OCCVAE_INLINE static Bits load_pairs(const uint32_t* pairs) {
    Bits bits;
    std::memcpy(&bits, pairs, sizeof(bits));
    return bits;
  }
};

}  // namespace occvae
