// query_occupancy on AVX2 with FMA. The register tile is 6 points by 16 channels.
#include "query_simd_avx2.h"

#ifdef OCCVAE_X86

#define OCCVAE_TARGET OCCVAE_AVX2
#include "query_occupancy_tile.h"

namespace occvae {

QueryKernel query_kernel_avx2(Precision precision) { return choose_query_kernel<Avx2>(precision); }

}  // namespace occvae

#endif  // OCCVAE_X86
