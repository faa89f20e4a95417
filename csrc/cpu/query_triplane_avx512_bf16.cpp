// query_triplane in bf16 with the dot products of AVX512-BF16.
#include "query_dot_products.h"

#ifdef OCCVAE_X86

#define OCCVAE_TARGET OCCVAE_AVX512_BF16
#include "query_triplane_tile.h"

namespace occvae {

TriplaneKernel triplane_kernel_avx512_bf16() {
  return {DotProducts::kRows, query_triplane_tile<DotProducts, BfloatPlanes<Avx512>>};
}

}  // namespace occvae

#endif  // OCCVAE_X86
