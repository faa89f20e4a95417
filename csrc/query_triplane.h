// The definition of query_triplane that the CPU and CUDA kernels share: arguments and the place of
// a point on the planes.
//
// The decoder for a point p of shape b, with R nodes per axis, C channels and L layers:
//
//     x, y, z = (clamp(p, -0.55, 0.55) + 0.55) / 1.1 (R - 1)
//     h = relu(bilinear(planes[b, 0], x, y) + bilinear(planes[b, 1], x, z)
//              + bilinear(planes[b, 2], y, z))
//     for layer i < L:
//         h = relu(W[i] h + bias[i])
//     logit = head[:C] . h + head[C]
//
// The planes, W, and h before it is multiplied by W are rounded to the precision. Everything else
// is float32: the sums, the weights of the bilinear samples, the biases and the head.
#pragma once

#include <cmath>

#include "query_points.h"

namespace occvae {

constexpr float kHalfSize = 0.55f;              // the planes cover the cube [-0.55, 0.55]^3
constexpr int64_t kMostNodes = 16384;           // per axis; three planes have fewer than 2^31 nodes
constexpr int64_t kMostTriplaneChannels = 128;  // of the CUDA kernels

// A coordinate on the lattice: the lower node, and the way from it to the next one, in [0, 1].
struct LatticePlace {
  int node;
  float fraction;
};

// Maps coordinates to the lattice of R nodes.
struct LatticeMap {
  float scale, scale_rest;  // their sum is (R - 1) / 1.1, with twice the digits of float32
  float center;             // (R - 1) / 2, exact
  float last;               // R - 2, the highest lower node

  explicit LatticeMap(int64_t nodes)
      : scale(static_cast<float>(static_cast<double>(nodes - 1) / 1.1)),
        scale_rest(static_cast<float>(static_cast<double>(nodes - 1) / 1.1 - scale)),
        center(0.5f * static_cast<float>(nodes - 1)),
        last(static_cast<float>(nodes - 2)) {}

  // A coordinate that is NaN has node 0 and fraction NaN.
  C10_HOST_DEVICE LatticePlace operator()(float p) const {
    p = p < -kHalfSize ? -kHalfSize : p;
    p = p > kHalfSize ? kHalfSize : p;
    float node = fmaf(p, scale, center);
    node = node > 0.0f ? node : 0.0f;
    const int lower = static_cast<int>(node < last ? node : last);
    // center - lower is exact, and the rest is small: the fraction has all digits on fine lattices.
    float fraction = fmaf(p, scale, center - static_cast<float>(lower));
    fraction = fmaf(p, scale_rest, fraction);
    fraction = fraction < 0.0f ? 0.0f : fraction;
    return {lower, fraction > 1.0f ? 1.0f : fraction};
  }
};

struct TriplaneSizes {
  int64_t points;    // M
  int64_t shapes;    // B
  int64_t nodes;     // R
  int64_t channels;  // C
  int64_t layers;    // L
};

// Returns the precision that the dtype of the planes stands for.
inline Precision plane_precision(const Tensor& planes) {
  switch (planes.scalar_type()) {
    case ScalarType::Float:
      return Precision::kFp32;
    case ScalarType::Half:
      return Precision::kFp16;
    case ScalarType::BFloat16:
      return Precision::kBf16;
    default:
      STD_TORCH_CHECK(false, "query_triplane: planes must be float32, float16 or bfloat16");
  }
}

// Checks packed weights: panels (L, C / kPanel, C, kPanel) in fp32, and with pairs of input
// channels (L, C / kPanel, C / 2, kPanel, 2) in 16 bits.
inline void check_triplane_weights(const Tensor& weights, const Tensor& planes,
                                   const TriplaneSizes& sizes) {
  const bool pairs = planes.scalar_type() != ScalarType::Float;
  STD_TORCH_CHECK(
      weights.scalar_type() == planes.scalar_type() && weights.dim() == (pairs ? 5 : 4) &&
          weights.numel() == sizes.layers * sizes.channels * sizes.channels &&
          weights.size(3) == kPanel && weights.is_contiguous(),
      "query_triplane: weights do not fit the planes; pack both again with pack_triplane");
}

// The values of `offsets` are not checked, because they may be on a device.
inline TriplaneSizes check_triplane_arguments(const Tensor& points, const Tensor& offsets,
                                              const Tensor& planes, const Tensor& weights,
                                              const Tensor& exact_planes,
                                              const Tensor& exact_weights, const Tensor& biases,
                                              const Tensor& head) {
  constexpr const char* kOp = "query_triplane";
  for (const Tensor* tensor :
       {&offsets, &planes, &weights, &exact_planes, &exact_weights, &biases, &head}) {
    check_same_device(points, *tensor, kOp);
  }
  check_dtype(points, ScalarType::Float, kOp, "points");
  check_dtype(offsets, ScalarType::Long, kOp, "offsets");
  check_dtype(exact_planes, ScalarType::Float, kOp, "exact_planes");
  check_dtype(exact_weights, ScalarType::Float, kOp, "exact_weights");
  check_dtype(biases, ScalarType::Float, kOp, "biases");
  check_dtype(head, ScalarType::Float, kOp, "head");
  check_dim(points, 2, kOp, "points");
  check_dim(offsets, 1, kOp, "offsets");
  check_dim(planes, 5, kOp, "planes");
  check_dim(exact_planes, 5, kOp, "exact_planes");
  check_dim(biases, 2, kOp, "biases");
  check_dim(head, 1, kOp, "head");
  const TriplaneSizes sizes{points.size(0), planes.size(0), planes.size(2), planes.size(4),
                            biases.size(0)};
  STD_TORCH_CHECK(points.size(1) == 3, kOp, ": points must be (M, 3)");
  STD_TORCH_CHECK(sizes.shapes >= 1 && offsets.size(0) == sizes.shapes + 1, kOp,
                  ": offsets must be (B + 1,) with B = ", sizes.shapes,
                  " >= 1, the first size of planes");
  STD_TORCH_CHECK(planes.size(1) == 3 && planes.size(3) == sizes.nodes && sizes.nodes >= 2 &&
                      sizes.nodes <= kMostNodes && sizes.channels > 0 &&
                      sizes.channels % kPanel == 0 && planes.is_contiguous(),
                  kOp, ": planes must be contiguous (B, 3, R, R, C) with R from 2 to ", kMostNodes,
                  " and C a multiple of ", kPanel);
  STD_TORCH_CHECK(exact_planes.numel() == planes.numel() && exact_planes.is_contiguous(), kOp,
                  ": exact_planes must have the shape of planes");
  STD_TORCH_CHECK(biases.size(1) == sizes.channels, kOp, ": biases must be (L, C)");
  STD_TORCH_CHECK(head.size(0) == sizes.channels + 1, kOp, ": head must be (C + 1,)");
  check_triplane_weights(weights, planes, sizes);
  check_triplane_weights(exact_weights, exact_planes, sizes);
  return sizes;
}

}  // namespace occvae
