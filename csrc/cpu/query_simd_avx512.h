// AVX-512 vector operations for query_products.h.
#pragma once

#include "isa.h"

#ifdef OCCVAE_X86

namespace occvae {

struct Avx512 {
  using Vector = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kRows = 14;  // 28 sums, 2 weight vectors, 1 operand: 31 of 32
  static constexpr int kVectors = 2;

  OCCVAE_AVX512 OCCVAE_INLINE static Vector zero() { return _mm512_setzero_ps(); }
  OCCVAE_AVX512 OCCVAE_INLINE static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  OCCVAE_AVX512 OCCVAE_INLINE static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  OCCVAE_AVX512 OCCVAE_INLINE static Vector broadcast(const float* p) { return _mm512_set1_ps(*p); }
  OCCVAE_AVX512 OCCVAE_INLINE static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  OCCVAE_AVX512 OCCVAE_INLINE static Vector multiply_add(Vector a, Vector b, Vector sum) {
    return _mm512_fmadd_ps(a, b, sum);
  }
  OCCVAE_AVX512 OCCVAE_INLINE static Vector relu(Vector v) {
    return _mm512_max_ps(zero(), v);  // this operand order keeps NaN
  }
  OCCVAE_AVX512 OCCVAE_INLINE static float sum(Vector v) { return _mm512_reduce_add_ps(v); }
  OCCVAE_AVX512 OCCVAE_INLINE static bool any_at_least(const Vector (&v)[kVectors], float bound) {
    const Vector b = _mm512_set1_ps(bound);
    return (_mm512_cmp_ps_mask(v[0], b, _CMP_GE_OQ) | _mm512_cmp_ps_mask(v[1], b, _CMP_GE_OQ)) != 0;
  }

  OCCVAE_AVX512 OCCVAE_INLINE static Vector round_to_half(Vector v) {
    return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  OCCVAE_AVX512 OCCVAE_INLINE static Vector round_to_bfloat(Vector v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
    const __m512 rounded = upper_half(_mm512_add_epi32(bits, half));
    return _mm512_mask_mov_ps(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), v);
  }
  OCCVAE_AVX512 OCCVAE_INLINE static Vector lower_bfloats(const uint32_t* pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16));
  }
  OCCVAE_AVX512 OCCVAE_INLINE static Vector upper_bfloats(const uint32_t* pairs) {
    return upper_half(_mm512_loadu_si512(pairs));
  }

  OCCVAE_AVX512 OCCVAE_INLINE static Vector load_halves(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // Replaces even and odd channels by the lower and upper half of the channels.
  OCCVAE_AVX512 OCCVAE_INLINE static void interleave(Vector& even, Vector& odd) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    const Vector lower = _mm512_permutex2var_ps(even, low, odd);
    odd = _mm512_permutex2var_ps(even, high, odd);
    even = lower;
  }

 private:
  OCCVAE_AVX512 OCCVAE_INLINE static Vector upper_half(__m512i bits) {
    const auto mask = static_cast<int>(0xFFFF0000u);
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(mask)));
  }
};

}  // namespace occvae

#endif  // OCCVAE_X86
