// Emulates stmatrix and mma.m16n8k16: the last lane of the warp to arrive computes for all.
// wgmma.cpp emulates wgmma.
#include "tensor_cores.h"

#include <cstring>

#include "async.h"
#include "block.h"
#include "operands.h"

namespace emulator {
namespace {

struct MatrixArguments {
  uint32_t* matrices;
  uint32_t row;
};

struct MmaArguments {
  bool bf16;
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};

constexpr unsigned kFullWarp = 0xFFFFFFFF;

uint8_t* row_of(void* const* all, int matrix, int row) {
  const auto* arguments = static_cast<const MatrixArguments*>(all[8 * matrix + row]);
  return shared_pointer(arguments->row, 16, 16);
}

void store(void* const* all) {
  for (int m = 0; m < 4; ++m) {
    for (int lane = 0; lane < 32; ++lane) {
      const uint32_t pair = static_cast<const MatrixArguments*>(all[lane])->matrices[m];
      std::memcpy(row_of(all, m, lane / 4) + 4 * (lane % 4), &pair, 4);
    }
  }
}

void multiply(void* const* all) {
  const bool bf16 = static_cast<const MmaArguments*>(all[0])->bf16;
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* arguments = static_cast<const MmaArguments*>(all[lane]);
    const int g = lane / 4, c = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) unpack(bf16, arguments->a[i], &a[g + 8 * (i % 2)][c + 8 * (i / 2)]);
    for (int i = 0; i < 2; ++i) {
      float pair[2];
      unpack(bf16, arguments->b[i], pair);
      b[c + 8 * i][g] = pair[0];
      b[c + 8 * i + 1][g] = pair[1];
    }
  }
  float d[16][8] = {};
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    float* out = static_cast<const MmaArguments*>(all[lane])->d;
    const int g = lane / 4, c = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) out[i] += d[g + 8 * (i / 2)][c + i % 2];
  }
}

}  // namespace

void store_matrices(uint32_t row, const uint32_t* matrices) {
  require_capability(90, "stmatrix");
  MatrixArguments arguments{const_cast<uint32_t*>(matrices), row};
  warp_collective("stmatrix", kFullWarp, &arguments,
                  [](void* const* all, unsigned) { store(all); });
}

void multiply_m16n8k16(bool bf16, float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  require_capability(80, "mma.m16n8k16");
  MmaArguments arguments{bf16, d, a, {b0, b1}};
  warp_collective("mma.m16n8k16", kFullWarp, &arguments,
                  [](void* const* all, unsigned) { multiply(all); });
}

}  // namespace emulator
