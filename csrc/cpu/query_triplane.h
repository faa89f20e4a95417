// The interface of the CPU kernels of query_triplane: a kernel computes one tile of points. There
// is one kernel per precision and instruction set. query_triplane.cpp cuts the tiles and
// distributes them over threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../query_triplane.h"
#include "isa.h"
#include "query_tiles.h"

namespace occvae {

constexpr int64_t kPlaceRows = 16;  // the places of so many points are computed at once

// A tile: points of one shape.
struct TriplaneTile {
  const float* points;    // (count, 3)
  int64_t count;          // number of points
  const void* planes;     // (3, nodes, nodes, channels)
  const void* weights;    // panels: fp32 and fp16 as float32, bf16 with pairs of input channels
  const float* biases;    // (layers, channels)
  const float* head;      // (channels + 1,)
  int64_t nodes;          // R
  int64_t channels;       // C
  int64_t layers;         // L
  std::byte* scratch;     // triplane_scratch_bytes(rows, channels), aligned to a cache line
  uint8_t* out_of_range;  // (rows,) 1 for points out of the range of fp16
  float* logits;          // (count,)
};

struct TriplaneKernel {
  int64_t row_block;  // a tile computes its count rounded up to a multiple of this
  void (*run)(const TriplaneTile& tile);
};

// Scratch holds, for each row, two buffers of activations, 12 weights and 3 nodes of its place, its
// coordinates, and a vector of partial sums.
constexpr int64_t triplane_scratch_bytes(int64_t rows, int64_t channels) {
  constexpr int64_t kSize = sizeof(float);
  const int64_t place_rows = ceil_div(rows, kPlaceRows) * kPlaceRows;
  return (2 * rows * row_stride(channels, kSize) + 34 * place_rows) * kSize;
}

TriplaneKernel triplane_kernel_portable(Precision precision);
#ifdef OCCVAE_X86
TriplaneKernel triplane_kernel_avx2(Precision precision);
TriplaneKernel triplane_kernel_avx512(Precision precision);
TriplaneKernel triplane_kernel_avx512_bf16();
#endif

}  // namespace occvae
