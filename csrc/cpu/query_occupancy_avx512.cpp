// query_occupancy on AVX-512. The register tile is 14 points by 32 channels.
#include "query_simd_avx512.h"

#ifdef OCCVAE_X86

#define OCCVAE_TARGET OCCVAE_AVX512
#include "query_occupancy_tile.h"

namespace occvae {

QueryKernel query_kernel_avx512(Precision precision) {
  return choose_query_kernel<Avx512>(precision);
}

}  // namespace occvae

#endif  // OCCVAE_X86
