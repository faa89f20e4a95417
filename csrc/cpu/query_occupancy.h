// The interface of the CPU kernels of query_occupancy: a kernel computes one tile of points. There
// is one kernel per precision and instruction set. query_occupancy.cpp cuts the tiles and
// distributes them over threads.
#pragma once

#include <cstdint>

#include "../query_occupancy.h"
#include "isa.h"
#include "query_tiles.h"

namespace occvae {

// A tile: points of one shape. `scratch` holds the activations x, h and g.
struct QueryTile {
  const float* points;    // (count, 3)
  int64_t count;          // number of points
  const float* input;     // (3, channels)
  const void* weights;    // panels as in query_occupancy.cpp
  const float* affines;   // (layers + 1, 2, channels)
  const float* head;      // (channels + 1,)
  int64_t channels;       // C
  int64_t layers;         // 2L
  std::byte* scratch;     // scratch_bytes(rows, channels) bytes, aligned to a cache line
  uint8_t* out_of_range;  // (rows,) 1 for points out of the range of fp16
  float* logits;          // (count,)
};

struct QueryKernel {
  int64_t row_block;  // a tile computes its count rounded up to a multiple of this
  void (*run)(const QueryTile& tile);
};

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
