// Activations as tensor-core operands, for the mma and wgmma kernels of query_occupancy. An
// accumulator and an operand A hold neighboring columns of a row in the same lane. Two accumulators
// of 8 columns, rounded to 16 bits, are therefore one operand of 16 columns. No data moves between
// lanes.
//
// Of an accumulator of 16 rows by 8 columns, lane l holds (row, column) = (l / 4, 2 (l % 4) + {0,
// 1}), then the same columns of row l / 4 + 8. The four columns of a pair of accumulators are four
// consecutive channels, because the packed weights are permuted (see channel_of_column). A lane
// therefore loads per-channel values as vectors of 128 bits.
#pragma once

#include "ptx.cuh"
#include "query_kernels.cuh"

namespace occvae {

using ptx::Operand;

constexpr int kRowTile = 16;  // rows of an accumulator or an operand
using Pair = float[2][4];     // one lane's part of two adjacent accumulators

__device__ inline int lane_row(int lane) { return lane / 4; }
// Returns the first of a lane's four channels in a tile of kColumnTile columns.
__device__ inline int lane_channel(int lane) { return lane % 4 * 4; }

// Four consecutive values of a Pair's channels: two per accumulator.
struct PairVector {
  float2 side[2];
};

__device__ inline PairVector load_pair(const float* values) {
  const float4 v = *reinterpret_cast<const float4*>(values);
  return {{{v.x, v.y}, {v.z, v.w}}};
}

// Scale and shift of a lane's four channels of a Pair.
struct PairAffine {
  PairVector scale;
  PairVector shift;
};

// `channel` is the lane's first channel. The table stays in the L1 cache, so it needs no copy in
// shared memory.
__device__ inline PairAffine load_affine(const float* affine, int channels, int channel) {
  return {load_pair(affine + channel), load_pair(affine + channels + channel)};
}

// Returns relu(scale * x + shift) of two neighboring columns. fp16 values out of range become NaN,
// so that their points are found and computed again in fp32.
template <Operand kOperand>
__device__ inline uint32_t activate(float x, float y, float2 scale, float2 shift) {
  const uint32_t packed =
      ptx::pack_relu<kOperand>(fmaf(x, scale.x, shift.x), fmaf(y, scale.y, shift.y));
  return kOperand == Operand::kFp16 ? ptx::nan_where_saturated(packed) : packed;
}

// Converts a pair of sums into an operand: rows l / 4 and l / 4 + 8 of the left accumulator, then
// of the right one.
template <Operand kOperand>
__device__ inline void activate(uint32_t (&operand)[4], const Pair& pair,
                                const PairAffine& affine) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* sums = pair[i / 2] + i % 2 * 2;
    operand[i] =
        activate<kOperand>(sums[0], sums[1], affine.scale.side[i / 2], affine.shift.side[i / 2]);
  }
}

// Computes a pair of accumulators of the residual stream before the first block. Its loads, and
// those of add_to_head, have 64 bits. With 128 bits ptxas spills 50 registers of the wgmma kernel.
__device__ inline void start_residual(Pair& pair, const Query& query, const Point (&points)[2],
                                      int channel) {
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const float* weight = query.input + channel + 2 * side;
    const auto x = *reinterpret_cast<const float2*>(weight);
    const auto y = *reinterpret_cast<const float2*>(weight + query.channels);
    const auto z = *reinterpret_cast<const float2*>(weight + 2 * query.channels);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      pair[side][2 * row] = input_layer(points[row], x.x, y.x, z.x);
      pair[side][2 * row + 1] = input_layer(points[row], x.y, y.y, z.y);
    }
  }
}

// Adds a pair's contribution to the head's sums of the lane's two rows.
__device__ inline void add_to_head(float (&sums)[2], const Pair& pair, const PairAffine& affine,
                                   const float* head) {
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const auto weight = *reinterpret_cast<const float2*>(head + 2 * side);
    const float2 scale = affine.scale.side[side];
    const float2 shift = affine.shift.side[side];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float left = affine_relu(pair[side][2 * row], scale.x, shift.x);
      const float right = affine_relu(pair[side][2 * row + 1], scale.y, shift.y);
      sums[row] = fmaf(right, weight.y, fmaf(left, weight.x, sums[row]));
    }
  }
}

// Sums over the four lanes that share a row.
__device__ inline float sum_of_row(float sum) {
  sum += __shfl_xor_sync(kFullWarp, sum, 1);
  return sum + __shfl_xor_sync(kFullWarp, sum, 2);
}

}  // namespace occvae
