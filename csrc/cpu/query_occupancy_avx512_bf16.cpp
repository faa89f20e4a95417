// query_occupancy in bf16 with the dot products of AVX512-BF16: each instruction multiplies two
// input channels. The register tile is 12 points by 32 channels.
#include <cstring>

#include "query_occupancy_avx512.h"

#ifdef OCCVAE_X86

#define OCCVAE_TARGET OCCVAE_AVX512_BF16
#include "query_occupancy_tile.h"

namespace occvae {
namespace {

struct DotProducts : Avx512 {
  using Factor = __m512bh;
  using Operand = uint16_t;
  using Weight = uint32_t;  // a pair of input channels
  static constexpr int kRows = 12;
  static constexpr int kDepth = 2;
  static constexpr int kSteps = 1;

  OCCVAE_TARGET OCCVAE_INLINE static Factor weights(const Weight* pairs, int) {
    return reinterpret_cast<Factor>(_mm512_loadu_si512(pairs));
  }
  OCCVAE_TARGET OCCVAE_INLINE static Factor operand(const Operand* pair) {
    int32_t bits;
    std::memcpy(&bits, pair, sizeof(bits));
    return reinterpret_cast<Factor>(_mm512_set1_epi32(bits));
  }
  OCCVAE_TARGET OCCVAE_INLINE static Vector multiply_operands(Factor a, Factor b, Vector sum) {
    return _mm512_dpbf16_ps(sum, a, b);
  }
  OCCVAE_TARGET OCCVAE_INLINE static void store_operand(Operand* p, Vector v) {
    const auto bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
  }
  OCCVAE_TARGET OCCVAE_INLINE static bool exceeds_range(const Vector (&)[kVectors]) {
    return false;
  }
};

}  // namespace

QueryKernel query_kernel_avx512_bf16() { return {DotProducts::kRows, query_tile<DotProducts>}; }

}  // namespace occvae

#endif  // OCCVAE_X86
