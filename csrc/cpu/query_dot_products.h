// Products of bf16 with the dot products of AVX512-BF16, for query_products.h: each instruction
// multiplies two input channels.
#pragma once

#include <cstring>

#include "query_simd_avx512.h"

#ifdef OCCVAE_X86

namespace occvae {
namespace {

struct DotProducts : Avx512 {
  using Factor = __m512bh;
  using Operand = uint16_t;
  using Weight = uint32_t;  // a pair of input channels
  static constexpr int kRows = 12;
  static constexpr int kDepth = 2;
  static constexpr int kSteps = 1;

  OCCVAE_AVX512_BF16 OCCVAE_INLINE static Factor weights(const Weight* pairs, int) {
    return reinterpret_cast<Factor>(_mm512_loadu_si512(pairs));
  }
  OCCVAE_AVX512_BF16 OCCVAE_INLINE static Factor operand(const Operand* pair) {
    int32_t bits;
    std::memcpy(&bits, pair, sizeof(bits));
    return reinterpret_cast<Factor>(_mm512_set1_epi32(bits));
  }
  OCCVAE_AVX512_BF16 OCCVAE_INLINE static Vector multiply_operands(Factor a, Factor b, Vector sum) {
    return _mm512_dpbf16_ps(sum, a, b);
  }
  OCCVAE_AVX512_BF16 OCCVAE_INLINE static void store_operand(Operand* p, Vector v) {
    const auto bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
  }
  OCCVAE_AVX512_BF16 OCCVAE_INLINE static bool exceeds_range(const Vector (&)[kVectors]) {
    return false;
  }
};

}  // namespace
}  // namespace occvae

#endif  // OCCVAE_X86
