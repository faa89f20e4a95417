// query_occupancy on any CPU. The register tile is 6 points by 8 channels.
#include "query_simd_portable.h"

#define OCCVAE_TARGET
#include "query_occupancy_tile.h"

namespace occvae {

QueryKernel query_kernel_portable(Precision precision) {
  return choose_query_kernel<Portable>(precision);
}

}  // namespace occvae
