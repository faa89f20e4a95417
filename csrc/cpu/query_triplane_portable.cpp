// query_triplane on any CPU.
#include "query_simd_portable.h"

#define OCCVAE_TARGET
#include "query_triplane_tile.h"

namespace occvae {

TriplaneKernel triplane_kernel_portable(Precision precision) {
  return choose_triplane_kernel<Portable>(precision);
}

}  // namespace occvae
