// query_occupancy in bf16 with the dot products of AVX512-BF16. The register tile is 12 points by
// 32 channels.
#include "query_dot_products.h"

#ifdef OCCVAE_X86

#define OCCVAE_TARGET OCCVAE_AVX512_BF16
#include "query_occupancy_tile.h"

namespace occvae {

QueryKernel query_kernel_avx512_bf16() { return {DotProducts::kRows, query_tile<DotProducts>}; }

}  // namespace occvae

#endif  // OCCVAE_X86
