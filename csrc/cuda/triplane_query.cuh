// What the CUDA kernels of query_triplane share: the arguments on the device and the place of a
// point on the planes.
#pragma once

#include "../query_triplane.h"
#include "query_rows.cuh"

namespace occvae {

// The arguments of a kernel. Planes and weights are those of its precision.
struct TriplaneQuery : QueryRows {
  const void* __restrict__ planes;   // [B, 3, R, R, C]
  const void* __restrict__ weights;  // packed, see check_triplane_weights
  const float* __restrict__ biases;  // [L, C]
  const float* __restrict__ head;    // [C + 1]
  LatticeMap lattice;
  int nodes;   // R
  int layers;  // L
};

// The four corners of a point on a plane: the first one, as a number of features, and the weights.
struct PlaneCorners {
  int64_t first;
  float weights[4];  // of the corners (0, 0), (0, 1), (1, 0), (1, 1)
};

template <int kChannels>
__device__ __forceinline__ PlaneCorners plane_corners(const TriplaneQuery& query, int64_t shape,
                                                      int plane, const LatticePlace& a,
                                                      const LatticePlace& b) {
  const int64_t node = ((shape * 3 + plane) * query.nodes + a.node) * query.nodes + b.node;
  const float low_a = 1.0f - a.fraction, low_b = 1.0f - b.fraction;
  return {node * kChannels,
          {low_a * low_b, low_a * b.fraction, a.fraction * low_b, a.fraction * b.fraction}};
}

// The place of a point on its three planes.
template <int kChannels>
struct TriplaneCorners {
  PlaneCorners planes[3];

  __device__ __forceinline__ TriplaneCorners(const TriplaneQuery& query, int64_t shape,
                                             const Point& point) {
    const LatticePlace x = query.lattice(point.x), y = query.lattice(point.y);
    const LatticePlace z = query.lattice(point.z);
    planes[0] = plane_corners<kChannels>(query, shape, 0, x, y);
    planes[1] = plane_corners<kChannels>(query, shape, 1, x, z);
    planes[2] = plane_corners<kChannels>(query, shape, 2, y, z);
  }
};

// The launch functions. `reports` holds most_triplane_reports() ints for the range guard with fp16,
// and is null for bf16. The function returns the number of reports that it uses.
constexpr int64_t kMostTriplaneBlocks = 8192;
constexpr int kTriplaneWarps = 4;  // of a block of the 16-bit kernels
constexpr int64_t most_triplane_reports() { return kMostTriplaneBlocks * kTriplaneWarps; }

int64_t launch_mma_triplane(const TriplaneQuery& query, int channels, bool is_half, int* reports,
                            cudaStream_t stream);

// Computes all logits if the guard has no reports. Otherwise it recomputes only the logits that are
// NaN, and does nothing if no warp reported one.
void launch_fp32_triplane(const TriplaneQuery& query, int channels, const RangeGuard& guard,
                          cudaStream_t stream);

}  // namespace occvae
