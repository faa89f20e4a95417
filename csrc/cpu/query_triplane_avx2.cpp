// query_triplane on AVX2 with FMA.
#include "query_simd_avx2.h"

#ifdef OCCVAE_X86

#define OCCVAE_TARGET OCCVAE_AVX2
#include "query_triplane_tile.h"

namespace occvae {

TriplaneKernel triplane_kernel_avx2(Precision precision) {
  return choose_triplane_kernel<Avx2>(precision);
}

}  // namespace occvae

#endif  // OCCVAE_X86
