// Activations as operands of tensor cores. An accumulator of the tensor cores and their operand A
// hold a row's neighbouring columns in the same lane: two accumulators of 8 columns become, rounded
// to 16 bits, one operand of 16 columns, without a word to another lane.
//
// Lane l holds, of an accumulator of 16 rows by 8 columns, (row, column) =
// (l / 4, 2 (l % 4) + {0, 1}), then the same of row l / 4 + 8.
#pragma once

#include "ptx.cuh"
#include "query_tiles.cuh"

namespace occvae {

using ptx::Operand;

constexpr int kRowTile = 16;     // rows of an accumulator or an operand
constexpr int kColumnTile = 16;  // columns of an operand: two accumulators
constexpr int kPairFloats = 8;   // of a lane, in two accumulators side by side

__device__ inline int lane_row(int lane) { return lane / 4; }
__device__ inline int lane_column(int lane) { return lane % 4 * 2; }

// Scale and shift of a lane's four columns of a pair of accumulators.
struct PairAffine {
  float2 scale[2];
  float2 shift[2];
};

// `column` is the lane's first. The table stays in L1, hence no copy of it in shared memory.
__device__ inline PairAffine load_affine(const float* affine, int channels, int column) {
  PairAffine result;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float* scale = affine + column + 8 * i;
    result.scale[i] = *reinterpret_cast<const float2*>(scale);
    result.shift[i] = *reinterpret_cast<const float2*>(scale + channels);
  }
  return result;
}

// relu(scale * x + shift) of two neighbouring columns; out of the range of fp16 is NaN.
template <Operand kOperand>
__device__ inline uint32_t activate(const float* x, float2 scale, float2 shift) {
  const uint32_t packed = ptx::pack_relu<kOperand>(fmaf(x[0], scale.x, shift.x),  //
                                                   fmaf(x[1], scale.y, shift.y));
  return kOperand == Operand::kFp16 ? ptx::nan_where_saturated(packed) : packed;
}

// The operand of which `pair` are the sums: rows l / 4 and l / 4 + 8 of the left, then the right.
template <Operand kOperand>
__device__ inline void activate(uint32_t (&operand)[4], const float* pair,
                                const PairAffine& affine) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    operand[i] = activate<kOperand>(pair + 2 * i, affine.scale[i / 2], affine.shift[i / 2]);
  }
}

// A pair of accumulators of the residual stream before the first block.
__device__ inline void start_residual(float* pair, const Query& query, const Point (&points)[2],
                                      int column) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // 2 (i / 2): left or right; i % 2: row
    const float* weight = query.input + column + i / 2 * 8;
    const auto x = *reinterpret_cast<const float2*>(weight);
    const auto y = *reinterpret_cast<const float2*>(weight + query.channels);
    const auto z = *reinterpret_cast<const float2*>(weight + 2 * query.channels);
    pair[2 * i] = input_layer(points[i % 2], x.x, y.x, z.x);
    pair[2 * i + 1] = input_layer(points[i % 2], x.y, y.y, z.y);
  }
}

// Adds a pair's share of the head's sum to those of the lane's two rows.
__device__ inline void add_to_head(float (&sums)[2], const float* pair, const PairAffine& affine,
                                   const float* head) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto weight = *reinterpret_cast<const float2*>(head + i / 2 * 8);
    const float2 scale = affine.scale[i / 2];
    const float2 shift = affine.shift[i / 2];
    float& sum = sums[i % 2];
    sum = fmaf(affine_relu(pair[2 * i], scale.x, shift.x), weight.x, sum);
    sum = fmaf(affine_relu(pair[2 * i + 1], scale.y, shift.y), weight.y, sum);
  }
}

// Over the four lanes that share a row.
__device__ inline float sum_of_row(float sum) {
  sum += __shfl_xor_sync(kFullWarp, sum, 1);
  return sum + __shfl_xor_sync(kFullWarp, sum, 2);
}

}  // namespace occvae
