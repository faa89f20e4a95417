// AVX2 vector operations, with FMA, for query_products.h.
#pragma once

#include "isa.h"

#ifdef OCCVAE_X86

namespace occvae {

struct Avx2 {
  using Vector = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kRows = 6;  // 12 sums, 2 weight vectors, 1 operand: 15 of 16
  static constexpr int kVectors = 2;

  OCCVAE_AVX2 OCCVAE_INLINE static Vector zero() { return _mm256_setzero_ps(); }
  OCCVAE_AVX2 OCCVAE_INLINE static Vector load(const float* p) { return _mm256_loadu_ps(p); }
  OCCVAE_AVX2 OCCVAE_INLINE static void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  OCCVAE_AVX2 OCCVAE_INLINE static Vector broadcast(const float* p) {
    return _mm256_broadcast_ss(p);
  }
  OCCVAE_AVX2 OCCVAE_INLINE static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  OCCVAE_AVX2 OCCVAE_INLINE static Vector multiply_add(Vector a, Vector b, Vector sum) {
    return _mm256_fmadd_ps(a, b, sum);
  }
  OCCVAE_AVX2 OCCVAE_INLINE static Vector relu(Vector v) {
    return _mm256_max_ps(zero(), v);  // this operand order keeps NaN
  }
  OCCVAE_AVX2 OCCVAE_INLINE static float sum(Vector v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
  }
  OCCVAE_AVX2 OCCVAE_INLINE static bool any_at_least(const Vector (&v)[kVectors], float bound) {
    const Vector b = _mm256_set1_ps(bound);
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(v[0], b, _CMP_GE_OQ),
                                           _mm256_cmp_ps(v[1], b, _CMP_GE_OQ))) != 0;
  }

  OCCVAE_AVX2 OCCVAE_INLINE static Vector round_to_half(Vector v) {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  OCCVAE_AVX2 OCCVAE_INLINE static Vector round_to_bfloat(Vector v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
    const __m256 rounded = upper_half(_mm256_add_epi32(bits, half));
    return _mm256_blendv_ps(rounded, v, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  }
  OCCVAE_AVX2 OCCVAE_INLINE static Vector lower_bfloats(const uint32_t* pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(load_pairs(pairs), 16));
  }
  OCCVAE_AVX2 OCCVAE_INLINE static Vector upper_bfloats(const uint32_t* pairs) {
    return upper_half(load_pairs(pairs));
  }

  OCCVAE_AVX2 OCCVAE_INLINE static Vector load_halves(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // Replaces even and odd channels by the lower and upper half of the channels.
  OCCVAE_AVX2 OCCVAE_INLINE static void interleave(Vector& even, Vector& odd) {
    const Vector low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    even = _mm256_permute2f128_ps(low, high, 0x20);
    odd = _mm256_permute2f128_ps(low, high, 0x31);
  }

 private:
  OCCVAE_AVX2 OCCVAE_INLINE static __m256i load_pairs(const uint32_t* pairs) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
  }
  OCCVAE_AVX2 OCCVAE_INLINE static Vector upper_half(__m256i bits) {
    // Shifts are used because a mask would need one more register than there are.
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_srli_epi32(bits, 16), 16));
  }
};

}  // namespace occvae

#endif  // OCCVAE_X86
