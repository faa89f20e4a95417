// The rules of voxel_iou_counts that the CPU and CUDA kernels share: arguments, bit order, rounding
// of thresholds, ties and NaN.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>
#include <type_traits>

#include "common.h"

namespace occvae {

// Values are compared as double if they are double, else as float.
template <typename scalar_t>
using compare_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

// Rounds a threshold to the dtype of the prediction. A float32 prediction of 0.7 then equals the
// threshold 0.7.
template <typename scalar_t>
inline compare_t<scalar_t> round_threshold(double threshold) {
  return static_cast<scalar_t>(static_cast<compare_t<scalar_t>>(threshold));
}

// A value equal to the threshold is occupied. NaN is not.
template <typename scalar_t>
C10_HOST_DEVICE inline bool occupied(scalar_t value, compare_t<scalar_t> threshold) {
  return static_cast<compare_t<scalar_t>>(value) >= threshold;
}

// Whether a target given as numbers is occupied. For bool and uint8, `>= 0.5` means "not zero".
template <typename scalar_t>
C10_HOST_DEVICE inline bool target_occupied(scalar_t value) {
  if constexpr (std::is_same_v<scalar_t, uint8_t>) {
    return value != 0;
  } else {
    return occupied<scalar_t>(value, 0.5f);
  }
}

// Bytes of one packed sample. Samples start at whole bytes; voxel i is bit 7 - i % 8 of byte i / 8,
// as numpy.packbits writes it.
constexpr int64_t packed_bytes(int64_t voxels) { return ceil_div(voxels, 8); }

inline int64_t voxels_per_sample(const Tensor& pred) {
  int64_t voxels = 1;
  for (int64_t d = 1; d < pred.dim(); ++d) voxels *= pred.size(d);
  return voxels;
}

inline void check_iou_arguments(const Tensor& pred, const Tensor& target, bool packed) {
  constexpr const char* kOp = "voxel_iou_counts";
  check_same_device(pred, target, kOp);
  STD_TORCH_CHECK(pred.dim() >= 1, kOp, ": pred must be (B, ...)");
  if (packed) {
    check_dtype(target, ScalarType::Byte, kOp, "a packed target");
    check_dim(target, 2, kOp, "a packed target");
    STD_TORCH_CHECK(
        target.size(0) == pred.size(0) && target.size(1) == packed_bytes(voxels_per_sample(pred)),
        kOp, ": a packed target must be (B, ceil(n / 8))");
  } else {
    STD_TORCH_CHECK(target.sizes().equals(pred.sizes()), kOp, ": target must have pred's shape");
  }
}

}  // namespace occvae
