// What the three CUDA kernels of query_occupancy share: the arguments on the device, tiles of
// points that belong to one shape, the first layer and the range guard.
#pragma once

#include <algorithm>

#include "../query_occupancy.h"
#include "launch.cuh"

namespace occvae {

struct Query {
  const float* __restrict__ points;     // [M, 3]
  const int64_t* __restrict__ offsets;  // [B + 1]
  const float* __restrict__ input;      // [3, C]
  const float* __restrict__ affines;    // [B, 2L + 1, 2, C]
  const float* __restrict__ head;       // [C + 1]
  float* __restrict__ logits;           // [M]
  int64_t num_points;                   // M
  int64_t shapes;                       // B
  int channels;                         // C
  int blocks;                           // L
};

// Rows [begin, end) belong to `shape`. The tile is empty if end <= begin.
struct Tile {
  int64_t begin;
  int64_t end;
  int64_t shape;
};

// Shape b owns the tiles from offsets[b] / rows + b on. This leaves each shape enough tiles, and at
// most one more, which stays empty. It needs no sum over the previous shapes.
__host__ __device__ inline int64_t first_tile(int64_t offset, int64_t shape, int rows) {
  return offset / rows + shape;
}

// Returns the first row of a shape, or the end of all shapes for shape B. The offsets are on the
// device and unchecked, so the row is clamped: wrong offsets give wrong logits, but no access
// outside the tensors.
__device__ inline int64_t first_row(const Query& query, int64_t shape) {
  const int64_t row = query.offsets[shape];
  return row < 0 ? 0 : row < query.num_points ? row : query.num_points;
}

__device__ inline int64_t count_tiles(const Query& query, int rows) {
  return first_tile(first_row(query, query.shapes), query.shapes, rows);
}

// Returns an upper bound of the number of tiles. Unlike the exact number, it does not depend on the
// offsets, which the host cannot read without waiting for the device.
inline int64_t most_tiles(const Query& query, int rows) {
  return first_tile(query.num_points, query.shapes, rows);
}

__device__ inline Tile find_tile(const Query& query, int64_t index, int rows) {
  int64_t shape = 0;
  int64_t beyond = query.shapes;
  while (beyond - shape > 1) {
    const int64_t middle = shape + (beyond - shape) / 2;
    (first_tile(first_row(query, middle), middle, rows) <= index ? shape : beyond) = middle;
  }
  const int64_t offset = first_row(query, shape);
  const int64_t begin = offset + (index - first_tile(offset, shape, rows)) * rows;
  const int64_t end = first_row(query, shape + 1);
  return {begin, begin + rows < end ? begin + rows : end, shape};
}

// Returns the affine that one shape has before one layer: C scales, then C shifts.
__device__ inline const float* layer_affine(const Query& query, int64_t shape, int layer) {
  return query.affines + (shape * (2 * query.blocks + 1) + layer) * 2 * query.channels;
}

struct Point {
  float x, y, z;
};

// Rows past the end of a tile are computed from its last point and not written.
__device__ inline Point load_point(const Query& query, const Tile& tile, int64_t row) {
  const float* point = query.points + 3 * (row < tile.end ? row : tile.end - 1);
  return {point[0], point[1], point[2]};
}

// A channel of the residual stream before the first block. from_x, from_y and from_z are its
// weights.
__device__ inline float input_layer(const Point& point, float from_x, float from_y, float from_z) {
  return fmaf(point.z, from_z, fmaf(point.y, from_y, point.x * from_x));
}

// Sets the logits of rows that belong to no shape to 0. All threads of the grid call it.
__device__ inline void clear_unused(const Query& query) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t row = first_row(query, query.shapes) + first; row < query.num_points;
       row += stride) {
    query.logits[row] = 0.0f;
  }
}

__device__ inline bool is_nan(float x) { return x != x; }

// The range guard of fp16. An activation out of range becomes NaN, which spreads to the logit. Each
// warp reports whether it wrote a NaN, and a second launch computes NaN logits again in fp32. The
// reports need no clearing, and the host reads nothing.
struct RangeGuard {
  int* __restrict__ reports;  // [count], or null
  int64_t count;
};

// All lanes of warp `warp` of the grid call this at their end.
__device__ inline void report_nan(int* reports, int warp, bool nan) {
  if (reports == nullptr) return;
  const bool any = __any_sync(kFullWarp, nan);
  if (threadIdx.x % kWarp == 0) reports[warp] = any;
}

}  // namespace occvae
