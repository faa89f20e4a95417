// The definition of query_occupancy that the CPU and CUDA kernels share: arguments and activation.
//
// The decoder for a point p of shape b, with C channels and L blocks. Scale and shift are the
// affines into which the norms were folded:
//
//     x = input^T p
//     for block i < L:
//         h = relu(scale[b, 2i] x + shift[b, 2i])
//         g = relu(scale[b, 2i + 1] (W[2i] h) + shift[b, 2i + 1])
//         x = x + W[2i + 1] g
//     logit = head[:C] . relu(scale[b, 2L] x + shift[b, 2L]) + head[C]
//
// W, h and g are rounded to the precision. Everything else is float32, sums included.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cmath>
#include <cstdint>

#include "query_points.h"

namespace occvae {

// Returns relu(scale x + shift). NaN stays NaN.
C10_HOST_DEVICE inline float affine_relu(float x, float scale, float shift) {
  const float y = fmaf(x, scale, shift);
  return y < 0.0f ? 0.0f : y;
}

struct QuerySizes {
  int64_t points;    // M
  int64_t shapes;    // B
  int64_t channels;  // C
  int64_t layers;    // 2L
};

inline Precision check_precision(int64_t precision, const char* op) {
  STD_TORCH_CHECK(precision >= 0 && precision <= 2, op, ": precision must be 0, 1 or 2, got ",
                  precision);
  return static_cast<Precision>(precision);
}

inline void check_pack_arguments(const Tensor& weights, int64_t precision) {
  constexpr const char* kOp = "_pack_query_weights";
  check_precision(precision, kOp);
  check_dtype(weights, ScalarType::Float, kOp, "weights");
  check_dim(weights, 3, kOp, "weights");
  STD_TORCH_CHECK(weights.size(0) % 2 == 0 && weights.size(1) == weights.size(2) &&
                      weights.size(1) % kPanel == 0 && weights.size(1) > 0,
                  kOp, ": weights must be (2L, C, C) with C a multiple of ", kPanel);
}

// Checks everything except the layouts of the two weights, which each kernel checks itself. The
// values of `offsets` are not checked, because they may be on a device.
inline QuerySizes check_query_arguments(const Tensor& points, const Tensor& offsets,
                                        const Tensor& input, const Tensor& weights,
                                        const Tensor& exact_weights, const Tensor& affines,
                                        const Tensor& head, int64_t precision) {
  constexpr const char* kOp = "query_occupancy";
  check_precision(precision, kOp);
  for (const Tensor* tensor : {&offsets, &input, &weights, &exact_weights, &affines, &head}) {
    check_same_device(points, *tensor, kOp);
  }
  check_dtype(points, ScalarType::Float, kOp, "points");
  check_dtype(offsets, ScalarType::Long, kOp, "offsets");
  check_dtype(input, ScalarType::Float, kOp, "input");
  check_dtype(affines, ScalarType::Float, kOp, "affines");
  check_dtype(head, ScalarType::Float, kOp, "head");
  check_dim(points, 2, kOp, "points");
  check_dim(offsets, 1, kOp, "offsets");
  check_dim(input, 2, kOp, "input");
  check_dim(affines, 4, kOp, "affines");
  check_dim(head, 1, kOp, "head");
  const QuerySizes sizes{points.size(0), affines.size(0), input.size(1), affines.size(1) - 1};
  STD_TORCH_CHECK(points.size(1) == 3, kOp, ": points must be (M, 3)");
  STD_TORCH_CHECK(sizes.shapes >= 1 && offsets.size(0) == sizes.shapes + 1, kOp,
                  ": offsets must be (B + 1,) with B = ", sizes.shapes,
                  " >= 1, the first size of affines");
  STD_TORCH_CHECK(input.size(0) == 3 && sizes.channels > 0 && sizes.channels % kPanel == 0, kOp,
                  ": input must be (3, C) with C a multiple of ", kPanel);
  STD_TORCH_CHECK(sizes.layers >= 0 && sizes.layers % 2 == 0 && affines.size(2) == 2 &&
                      affines.size(3) == sizes.channels,
                  kOp, ": affines must be (B, 2L + 1, 2, C)");
  STD_TORCH_CHECK(head.size(0) == sizes.channels + 1, kOp, ": head must be (C + 1,)");
  return sizes;
}

}  // namespace occvae
