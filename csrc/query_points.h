// What query_occupancy and query_triplane share on CPU and CUDA: precisions, rounding and the range
// guard of fp16.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

#include "common.h"

namespace occvae {

// The values of an op's `precision` argument. PRECISIONS in occvae/ops/query_points.py names them.
enum class Precision : int64_t { kFp32 = 0, kFp16 = 1, kBf16 = 2 };

// The number of channels is a multiple of kPanel. Packed fp32 weights are (layers, C, C) as
// [out][in], or panels (layers, C / kPanel, C, kPanel) as [panel of out][in][out in panel]. The
// gradient in Python reads both layouts.
constexpr int64_t kPanel = 32;

constexpr float kHalfMax = 65504.0f;  // largest finite fp16

// Rounds to nearest, ties to even. Values beyond the largest finite value become infinite.
template <Precision precision>
C10_HOST_DEVICE inline float round_to(float x) {
  if constexpr (precision == Precision::kFp16) return static_cast<float>(static_cast<Half>(x));
  if constexpr (precision == Precision::kBf16) return static_cast<float>(static_cast<BFloat16>(x));
  return x;
}

// Returns whether an activation, before rounding, is too large for the precision. A point
// with such an activation is computed again in fp32. Only that point is, because its value must not
// depend on its neighbors.
template <Precision precision>
C10_HOST_DEVICE inline bool out_of_range(float activation) {
  return precision == Precision::kFp16 && activation >= kHalfMax;
}

}  // namespace occvae
