// The fused decoder on one tile of points, written once for all instruction sets. A file that
// includes this defines OCCVAE_TARGET, the attribute of its set, and gives a Products class:
//
//     Vector                 kWidth floats; load, store, zero, multiply_add, relu, sum
//     kRows, kVectors        the register tile: kRows points by kVectors vectors of channels
//     Operand                as what h and g are stored; store_operand rounds to it
//     Weight, kDepth         one entry of a panel, and the input channels it holds (1 or 2)
//     kSteps                 products that a row of the panel takes: 1 where an instruction sums
//                            over kDepth channels, else kDepth
//     weights, operand       kWidth weights of one step; one operand (of one step) in all lanes
//     multiply_operands      a product of these added to a Vector
//     exceeds_range          whether a vector of activations has one that the precision cannot hold
//
// What is computed for a point does not depend on its row: batch invariance, bit for bit.
#pragma once

#include "query_occupancy.h"

namespace occvae {
namespace {  // each file has its own, for its own instruction set

template <class Products>
struct Activations {
  using Operand = typename Products::Operand;

  int64_t rows;       // a multiple of kRows
  int64_t stride;     // of x
  int64_t op_stride;  // of h and g
  float* x;
  Operand* h;
  Operand* g;

  explicit Activations(const QueryTile& tile)
      : rows(ceil_div(tile.count, Products::kRows) * Products::kRows),
        stride(row_stride(tile.channels, sizeof(float))),
        op_stride(row_stride(tile.channels, sizeof(Operand))),
        x(reinterpret_cast<float*>(tile.scratch)),
        h(reinterpret_cast<Operand*>(x + rows * stride)),
        g(h + rows * op_stride) {}
};

// relu(scale x + shift), of one layer's affine.
template <class Products>
struct Affine {
  using Vector = typename Products::Vector;

  const float* scale;
  const float* shift;

  Affine(const QueryTile& tile, int64_t layer)
      : scale(tile.affines + 2 * layer * tile.channels), shift(scale + tile.channels) {}

  OCCVAE_TARGET OCCVAE_INLINE Vector relu(Vector x, int64_t channel) const {
    return Products::relu(Products::multiply_add(x, Products::load(scale + channel),
                                                 Products::load(shift + channel)));
  }
};

template <class Products>
OCCVAE_TARGET OCCVAE_INLINE void store_activation(typename Products::Operand* to,
                                                  typename Products::Vector value,
                                                  uint8_t* out_of_range) {
  *out_of_range |= Products::exceeds_range(value);
  Products::store_operand(to, value);
}

// x = input^T p, and h of the first block. Rows beyond the last point are the origin.
template <class Products>
OCCVAE_TARGET void enter(const QueryTile& tile, const Activations<Products>& act) {
  using Vector = typename Products::Vector;
  const Affine<Products> affine(tile, 0);
  const float origin[3] = {0.0f, 0.0f, 0.0f};
  for (int64_t row = 0; row < act.rows; ++row) {
    const float* point = row < tile.count ? tile.points + 3 * row : origin;
    tile.out_of_range[row] = 0;
    for (int64_t c = 0; c < tile.channels; c += Products::kWidth) {
      Vector x = Products::zero();
      for (int axis = 0; axis < 3; ++axis) {
        x = Products::multiply_add(Products::load(tile.input + axis * tile.channels + c),
                                   Products::broadcast(point + axis), x);
      }
      Products::store(act.x + row * act.stride + c, x);
      if (tile.layers > 0) {
        store_activation<Products>(act.h + row * act.op_stride + c, affine.relu(x, c),
                                   tile.out_of_range + row);
      }
    }
  }
}

// g = relu(scale (W h) + shift)
template <class Products>
struct InnerEpilogue {
  const QueryTile& tile;
  const Activations<Products>& act;
  Affine<Products> affine;

  OCCVAE_TARGET OCCVAE_INLINE void operator()(typename Products::Vector product, int64_t row,
                                              int64_t channel) const {
    store_activation<Products>(act.g + row * act.op_stride + channel, affine.relu(product, channel),
                               tile.out_of_range + row);
  }
};

// x = x + W g, and h of the next block.
template <class Products>
struct ResidualEpilogue {
  const QueryTile& tile;
  const Activations<Products>& act;
  Affine<Products> next;
  bool last;

  OCCVAE_TARGET OCCVAE_INLINE void operator()(typename Products::Vector product, int64_t row,
                                              int64_t channel) const {
    float* place = act.x + row * act.stride + channel;
    const auto x = Products::add(Products::load(place), product);
    Products::store(place, x);
    if (last) return;
    store_activation<Products>(act.h + row * act.op_stride + channel, next.relu(x, channel),
                               tile.out_of_range + row);
  }
};

// sums[r][j] = operands of row r . column group j of a panel, in the order of the channels.
template <class Products>
OCCVAE_TARGET OCCVAE_INLINE void multiply_block(
    const typename Products::Operand* operands, int64_t stride,
    const typename Products::Weight* panel, int64_t channels,
    typename Products::Vector (&sums)[Products::kRows][Products::kVectors]) {
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

// A whole layer: each panel of weights is read by all rows while it is in the first cache.
template <class Products, class Epilogue>
OCCVAE_TARGET void multiply_layer(const typename Products::Operand* operands,
                                  const Activations<Products>& act, const QueryTile& tile,
                                  int64_t layer, const Epilogue& epilogue) {
  constexpr int64_t kColumns = Products::kVectors * Products::kWidth;
  static_assert(kPanel % kColumns == 0);
  const int64_t panel_size = kPanel * tile.channels / Products::kDepth;
  const auto* weights = static_cast<const typename Products::Weight*>(tile.weights) +
                        layer * (tile.channels / kPanel) * panel_size;
  for (int64_t c = 0; c < tile.channels; c += kColumns) {
    const auto* panel = weights + c / kPanel * panel_size + c % kPanel;
    for (int64_t row = 0; row < act.rows; row += Products::kRows) {
      typename Products::Vector sums[Products::kRows][Products::kVectors];
      multiply_block<Products>(operands + row * act.op_stride, act.op_stride, panel, tile.channels,
                               sums);
      OCCVAE_UNROLL for (int r = 0; r < Products::kRows; ++r) {
        OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) {
          epilogue(sums[r][j], row + r, c + j * Products::kWidth);
        }
      }
    }
  }
}

// logit = head . relu(scale x + shift) + bias
template <class Products>
OCCVAE_TARGET void leave(const QueryTile& tile, const Activations<Products>& act) {
  const Affine<Products> affine(tile, tile.layers);
  for (int64_t row = 0; row < tile.count; ++row) {
    auto sum = Products::zero();
    for (int64_t c = 0; c < tile.channels; c += Products::kWidth) {
      const auto activation = affine.relu(Products::load(act.x + row * act.stride + c), c);
      sum = Products::multiply_add(activation, Products::load(tile.head + c), sum);
    }
    tile.logits[row] = Products::sum(sum) + tile.head[tile.channels];
  }
}

template <class Products>
OCCVAE_TARGET void query_tile(const QueryTile& tile) {
  const Activations<Products> act(tile);
  enter<Products>(tile, act);
  for (int64_t layer = 0; layer < tile.layers; layer += 2) {
    const InnerEpilogue<Products> inner{tile, act, {tile, layer + 1}};
    multiply_layer<Products>(act.h, act, tile, layer, inner);
    const bool last = layer + 2 == tile.layers;
    const ResidualEpilogue<Products> residual{tile, act, {tile, layer + 2}, last};
    multiply_layer<Products>(act.g, act, tile, layer + 1, residual);
  }
  leave<Products>(tile, act);
}

// The three kinds of Products without an instruction for pairs, of a set's vector operations.
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
  OCCVAE_TARGET OCCVAE_INLINE static bool exceeds_range(Vector) { return false; }
};

// fp16: the same with operands, and weights when they were packed, rounded.
template <class Simd>
struct HalfProducts : ExactProducts<Simd> {
  using Vector = typename Simd::Vector;

  OCCVAE_TARGET OCCVAE_INLINE static void store_operand(float* p, Vector v) {
    Simd::store(p, Simd::round_to_half(v));
  }
  OCCVAE_TARGET OCCVAE_INLINE static bool exceeds_range(Vector v) {
    return Simd::any_at_least(v, kHalfMax);
  }
};

// bf16: weights come in pairs of input channels, the first in the lower half of 32 bits.
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

template <class Simd>
QueryKernel choose_query_kernel(Precision precision) {
  if (precision == Precision::kFp16) return {Simd::kRows, query_tile<HalfProducts<Simd>>};
  if (precision == Precision::kBf16) return {Simd::kRows, query_tile<BfloatProducts<Simd>>};
  return {Simd::kRows, query_tile<ExactProducts<Simd>>};
}

}  // namespace
}  // namespace occvae
