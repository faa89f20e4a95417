// The CPU kernels of query_occupancy, one for each precision and instruction set: what a tile of
// points is given. Tiles are cut and handed to threads in query_occupancy.cpp.
#pragma once

#include <cstdint>

#include "../query_occupancy.h"
#include "isa.h"

namespace occvae {

constexpr int64_t kCacheLine = 64;

// Points of one shape. `scratch` is for the activations x, h and g.
struct QueryTile {
  const float* points;    // (count, 3)
  int64_t count;          // of points
  const float* input;     // (3, channels)
  const void* weights;    // panels, see query_occupancy.cpp
  const float* affines;   // (layers + 1, 2, channels)
  const float* head;      // (channels + 1,)
  int64_t channels;       // C
  int64_t layers;         // 2L
  std::byte* scratch;     // scratch_bytes(rows, channels), where a cache line starts
  uint8_t* out_of_range;  // (rows,) set to 1 for points that fp16 cannot serve
  float* logits;          // (count,)
};

struct QueryKernel {
  int64_t row_block;  // the rows of a tile, its count rounded up, are a multiple of it
  void (*run)(const QueryTile& tile);
};

// A row of activations in elements of `size` bytes. A cache line more than the channels: rows at
// powers of two would meet in the same few sets of the first cache.
constexpr int64_t row_stride(int64_t channels, int64_t size) {
  return channels + kCacheLine / size;
}

constexpr int64_t scratch_bytes(int64_t rows, int64_t channels) {
  constexpr int64_t kSize = sizeof(float);
  return 3 * rows * row_stride(channels, kSize) * kSize;
}

QueryKernel query_kernel_portable(Precision precision);
#ifdef OCCVAE_X86
QueryKernel query_kernel_avx2(Precision precision);
QueryKernel query_kernel_avx512(Precision precision);
QueryKernel query_kernel_avx512_bf16();
#endif

}  // namespace occvae
