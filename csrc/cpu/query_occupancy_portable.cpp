// query_occupancy on any CPU, with the compiler's vectors of four floats (SSE2, NEON). The register
// tile is 6 points by 8 channels.
#include <cstring>

#include "isa.h"

#define OCCVAE_TARGET
#include "query_occupancy_tile.h"

namespace occvae {
namespace {

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

}  // namespace

QueryKernel query_kernel_portable(Precision precision) {
  return choose_query_kernel<Portable>(precision);
}

}  // namespace occvae
