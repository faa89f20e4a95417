// What the three CUDA kernels of query_occupancy share: the arguments on the device and the first
// layer.
#pragma once

#include "../query_occupancy.h"
#include "query_rows.cuh"

namespace occvae {

struct Query : QueryRows {
  const float* __restrict__ input;    // [3, C]
  const float* __restrict__ affines;  // [B, 2L + 1, 2, C]
  const float* __restrict__ head;     // [C + 1]
  int channels;                       // C
  int blocks;                         // L
};

// Returns the affine that one shape has before one layer: C scales, then C shifts.
__device__ inline const float* layer_affine(const Query& query, int64_t shape, int layer) {
  return query.affines + (shape * (2 * query.blocks + 1) + layer) * 2 * query.channels;
}

// A channel of the residual stream before the first block. from_x, from_y and from_z are its
// weights.
__device__ inline float input_layer(const Point& point, float from_x, float from_y, float from_z) {
  return fmaf(point.z, from_z, fmaf(point.y, from_y, point.x * from_x));
}

}  // namespace occvae
