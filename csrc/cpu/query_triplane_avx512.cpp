// query_triplane on AVX-512.
#include "query_simd_avx512.h"

#ifdef OCCVAE_X86

#define OCCVAE_TARGET OCCVAE_AVX512
#include "query_triplane_tile.h"

namespace occvae {

TriplaneKernel triplane_kernel_avx512(Precision precision) {
  return choose_triplane_kernel<Avx512>(precision);
}

}  // namespace occvae

#endif  // OCCVAE_X86
