// Products of activations and weights in a register tile, written once for all instruction sets.
// A file that includes this header defines OCCVAE_TARGET, the attribute of its set, and provides a
// Products class:
//
//     Vector                 kWidth floats; load, store, zero, multiply_add, relu, sum
//     kRows, kVectors        the register tile: kRows points by kVectors vectors of channels
//     Operand                storage type of h and g; store_operand rounds to it
//     Weight, kDepth         one entry of a panel, and the input channels it holds (1 or 2)
//     kSteps                 products per row of the panel: 1 if one instruction sums over kDepth
//                            channels, else kDepth
//     weights, operand       kWidth weights of one step; one operand (of one step) in all lanes
//     multiply_operands      adds the product of these two to a Vector
//     exceeds_range          whether kVectors vectors hold a value that the precision cannot hold
//
// Each row is computed by the same operations in the same order. A point's logit therefore does not
// depend on its row or on the other points, bit for bit (batch invariance).
#pragma once

#include "../query_points.h"
#include "isa.h"

namespace occvae {
namespace {  // each file has its own copy, for its own instruction set

template <class Products>
constexpr int64_t kColumns = Products::kVectors * Products::kWidth;  // channels per register tile

// Products of a layer for kRows rows starting at `row` and kColumns channels starting at `channel`.
template <class Products>
using Block = typename Products::Vector[Products::kRows][Products::kVectors];

// Sets sums[r][j] to operands of row r times column group j of a panel. Channels are added in
// order.
template <class Products>
OCCVAE_TARGET OCCVAE_INLINE void multiply_block(const typename Products::Operand* operands,
                                                int64_t stride,
                                                const typename Products::Weight* panel,
                                                int64_t channels, Block<Products>& sums) {
  OCCVAE_UNROLL for (int r = 0; r < Products::kRows; ++r) {
    OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) sums[r][j] = Products::zero();
  }
  for (int64_t k = 0; k < channels; k += Products::kDepth, panel += kPanel) {
    OCCVAE_UNROLL for (int step = 0; step < Products::kSteps; ++step) {
      typename Products::Factor weights[Products::kVectors];
      OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) {
        weights[j] = Products::weights(panel + j * Products::kWidth, step);
      }
      OCCVAE_UNROLL for (int r = 0; r < Products::kRows; ++r) {
        const auto operand = Products::operand(operands + r * stride + k + step);
        OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) {
          sums[r][j] = Products::multiply_operands(operand, weights[j], sums[r][j]);
        }
      }
    }
  }
}

// The three Products classes without a pair instruction are built from the vector operations (Simd)
// of an instruction set. This one is fp32.
template <class Simd>
struct ExactProducts : Simd {
  using Vector = typename Simd::Vector;
  using Factor = Vector;
  using Operand = float;
  using Weight = float;
  static constexpr int kDepth = 1;
  static constexpr int kSteps = 1;

  OCCVAE_TARGET OCCVAE_INLINE static Vector weights(const Weight* entry, int) {
    return Simd::load(entry);
  }
  OCCVAE_TARGET OCCVAE_INLINE static Vector operand(const Operand* p) { return Simd::broadcast(p); }
  OCCVAE_TARGET OCCVAE_INLINE static Vector multiply_operands(Vector a, Vector b, Vector sum) {
    return Simd::multiply_add(a, b, sum);
  }
  OCCVAE_TARGET OCCVAE_INLINE static void store_operand(Operand* p, Vector v) { Simd::store(p, v); }
  OCCVAE_TARGET OCCVAE_INLINE static bool exceeds_range(const Vector (&)[Simd::kVectors]) {
    return false;
  }
};

// fp16: the same as fp32, with rounded operands. Weights were rounded when they were packed.
template <class Simd>
struct HalfProducts : ExactProducts<Simd> {
  using Vector = typename Simd::Vector;

  OCCVAE_TARGET OCCVAE_INLINE static void store_operand(float* p, Vector v) {
    Simd::store(p, Simd::round_to_half(v));
  }
  OCCVAE_TARGET OCCVAE_INLINE static bool exceeds_range(const Vector (&values)[Simd::kVectors]) {
    return Simd::any_at_least(values, kHalfMax);
  }
};

// bf16: weights come in pairs of input channels, the first one in the lower half of 32 bits.
template <class Simd>
struct BfloatProducts : ExactProducts<Simd> {
  using Vector = typename Simd::Vector;
  using Weight = uint32_t;
  static constexpr int kDepth = 2;
  static constexpr int kSteps = 2;

  OCCVAE_TARGET OCCVAE_INLINE static Vector weights(const Weight* pairs, int step) {
    return step == 0 ? Simd::lower_bfloats(pairs) : Simd::upper_bfloats(pairs);
  }
  OCCVAE_TARGET OCCVAE_INLINE static void store_operand(float* p, Vector v) {
    Simd::store(p, Simd::round_to_bfloat(v));
  }
};

}  // namespace
}  // namespace occvae
