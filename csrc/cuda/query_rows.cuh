// What the CUDA kernels of query_occupancy and query_triplane share: tiles of points that belong to
// one shape, and the range guard of fp16.
#pragma once

#include <algorithm>

#include "launch.cuh"

namespace occvae {

// The points of all shapes on the device, and their logits.
struct QueryRows {
  const float* __restrict__ points;     // [M, 3]
  const int64_t* __restrict__ offsets;  // [B + 1]
  float* __restrict__ logits;           // [M]
  int64_t num_points;                   // M
  int64_t shapes;                       // B
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
__device__ inline int64_t first_row(const QueryRows& query, int64_t shape) {
  const int64_t row = query.offsets[shape];
  return row < 0 ? 0 : row < query.num_points ? row : query.num_points;
}

__device__ inline int64_t count_tiles(const QueryRows& query, int rows) {
  return first_tile(first_row(query, query.shapes), query.shapes, rows);
}

// Returns an upper bound of the number of tiles. Unlike the exact number, it does not depend on the
// offsets, which the host cannot read without waiting for the device.
inline int64_t most_tiles(const QueryRows& query, int rows) {
  return first_tile(query.num_points, query.shapes, rows);
}

__device__ inline Tile find_tile(const QueryRows& query, int64_t index, int rows) {
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

struct Point {
  float x, y, z;
};

// Rows past the end of a tile are computed from its last point and not written.
__device__ inline Point load_point(const QueryRows& query, const Tile& tile, int64_t row) {
  const float* point = query.points + 3 * (row < tile.end ? row : tile.end - 1);
  return {point[0], point[1], point[2]};
}

// Sets the logits of rows that belong to no shape to 0. All threads of the grid call it.
__device__ inline void clear_unused(const QueryRows& query) {
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

// Returns whether any logit of the tile is NaN. All threads of the block must call it, and all get
// the same answer.
__device__ inline bool has_nan(const QueryRows& query, const Tile& tile) {
  bool nan = false;
  for (int64_t row = tile.begin + threadIdx.x; row < tile.end; row += blockDim.x) {
    nan = nan || is_nan(query.logits[row]);
  }
  return __syncthreads_or(nan);
}

__device__ inline bool any_reported(const RangeGuard& guard) {
  bool nan = false;
  for (int64_t i = threadIdx.x; i < guard.count; i += blockDim.x) nan = nan || guard.reports[i];
  return __syncthreads_or(nan);
}

// Makes a tensor contiguous and aligned for vector loads. Only views of other tensors may be
// neither.
inline Tensor as_operand(const Tensor& x) {
  const Tensor result = torch::stable::contiguous(x);
  const bool aligned = reinterpret_cast<uintptr_t>(result.const_data_ptr()) % 16 == 0;
  return aligned ? result : torch::stable::clone(result);
}

}  // namespace occvae
