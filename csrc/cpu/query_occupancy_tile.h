// The fused decoder of query_occupancy on one tile of points, written once for all instruction
// sets. query_products.h describes the Products class.
#pragma once

#include <algorithm>

#include "query_occupancy.h"
#include "query_products.h"

namespace occvae {
namespace {  // each file has its own copy, for its own instruction set

template <class Products>
struct Activations {
  using Operand = typename Products::Operand;

  int64_t rows;       // a multiple of kRows
  int64_t stride;     // stride of x
  int64_t op_stride;  // stride of h and g
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

// relu(scale x + shift) of one layer, for kVectors vectors of a row, starting at `channel`.
template <class Products>
struct AffineRelu {
  using Vector = typename Products::Vector;

  Vector scale[Products::kVectors];
  Vector shift[Products::kVectors];

  OCCVAE_TARGET OCCVAE_INLINE AffineRelu(const QueryTile& tile, int64_t layer, int64_t channel) {
    const float* first = tile.affines + 2 * layer * tile.channels + channel;
    OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) {
      scale[j] = Products::load(first + j * Products::kWidth);
      shift[j] = Products::load(first + tile.channels + j * Products::kWidth);
    }
  }

  OCCVAE_TARGET OCCVAE_INLINE Vector operator()(Vector x, int j) const {
    return Products::relu(Products::multiply_add(x, scale[j], shift[j]));
  }

  // Stores the activations of a row as operands of the next layer. Sets *out_of_range if one of
  // them is out of the precision's range.
  OCCVAE_TARGET OCCVAE_INLINE void store(const Vector (&x)[Products::kVectors],
                                         typename Products::Operand* to,
                                         uint8_t* out_of_range) const {
    Vector activations[Products::kVectors];
    OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) {
      activations[j] = (*this)(x[j], j);
      Products::store_operand(to + j * Products::kWidth, activations[j]);
    }
    if (Products::exceeds_range(activations)) *out_of_range = 1;
  }
};

// Computes x = input^T p, and h of the first block. Rows beyond the last point compute the origin.
template <class Products>
OCCVAE_TARGET void enter(const QueryTile& tile, const Activations<Products>& act) {
  using Vector = typename Products::Vector;
  const float origin[3] = {0.0f, 0.0f, 0.0f};
  std::fill(tile.out_of_range, tile.out_of_range + act.rows, 0);
  for (int64_t c = 0; c < tile.channels; c += kColumns<Products>) {
    const AffineRelu<Products> affine(tile, 0, c);
    for (int64_t row = 0; row < act.rows; ++row) {
      const float* point = row < tile.count ? tile.points + 3 * row : origin;
      Vector x[Products::kVectors];
      OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) {
        x[j] = Products::zero();
        const float* column = tile.input + c + j * Products::kWidth;
        OCCVAE_UNROLL for (int axis = 0; axis < 3; ++axis) {
          const Vector weights = Products::load(column + axis * tile.channels);
          x[j] = Products::multiply_add(weights, Products::broadcast(point + axis), x[j]);
        }
        Products::store(act.x + row * act.stride + c + j * Products::kWidth, x[j]);
      }
      if (tile.layers == 0) continue;
      affine.store(x, act.h + row * act.op_stride + c, tile.out_of_range + row);
    }
  }
}

// Stores g = relu(scale (W h) + shift).
template <class Products>
OCCVAE_TARGET OCCVAE_INLINE void finish_inner(const QueryTile& tile,
                                              const Activations<Products>& act, int64_t layer,
                                              int64_t row, int64_t channel,
                                              const Block<Products>& sums) {
  const AffineRelu<Products> affine(tile, layer + 1, channel);
  const int64_t stride = act.op_stride;
  auto* g = act.g + row * stride + channel;
  uint8_t* out_of_range = tile.out_of_range + row;
  OCCVAE_UNROLL for (int r = 0; r < Products::kRows; ++r) {
    affine.store(sums[r], g + r * stride, out_of_range + r);
  }
}

// Adds W g to x, and stores h of the next block if there is one.
template <class Products>
OCCVAE_TARGET OCCVAE_INLINE void finish_outer(const QueryTile& tile,
                                              const Activations<Products>& act, int64_t layer,
                                              int64_t row, int64_t channel, Block<Products>& sums) {
  const int64_t stride = act.stride, op_stride = act.op_stride;
  float* x = act.x + row * stride + channel;
  OCCVAE_UNROLL for (int r = 0; r < Products::kRows; ++r) {
    OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) {
      float* place = x + r * stride + j * Products::kWidth;
      sums[r][j] = Products::add(Products::load(place), sums[r][j]);
      Products::store(place, sums[r][j]);
    }
  }
  if (layer + 1 == tile.layers) return;
  const AffineRelu<Products> affine(tile, layer + 1, channel);
  auto* h = act.h + row * op_stride + channel;
  uint8_t* out_of_range = tile.out_of_range + row;
  OCCVAE_UNROLL for (int r = 0; r < Products::kRows; ++r) {
    affine.store(sums[r], h + r * op_stride, out_of_range + r);
  }
}

// Computes a whole layer. Each panel of weights is read by all rows while it is in the L1 cache.
template <class Products, bool inner>
OCCVAE_TARGET void multiply_layer(const QueryTile& tile, const Activations<Products>& act,
                                  int64_t layer) {
  static_assert(kPanel % kColumns<Products> == 0);
  const auto* operands = inner ? act.h : act.g;
  const int64_t panel_size = kPanel * tile.channels / Products::kDepth;
  const auto* weights = static_cast<const typename Products::Weight*>(tile.weights) +
                        layer * (tile.channels / kPanel) * panel_size;
  for (int64_t c = 0; c < tile.channels; c += kColumns<Products>) {
    const auto* panel = weights + c / kPanel * panel_size + c % kPanel;
    for (int64_t row = 0; row < act.rows; row += Products::kRows) {
      Block<Products> sums;
      multiply_block<Products>(operands + row * act.op_stride, act.op_stride, panel, tile.channels,
                               sums);
      if constexpr (inner) {
        finish_inner(tile, act, layer, row, c, sums);
      } else {
        finish_outer(tile, act, layer, row, c, sums);
      }
    }
  }
}

// Writes logit = head . relu(scale x + shift) + bias.
template <class Products>
OCCVAE_TARGET void leave(const QueryTile& tile, const Activations<Products>& act) {
  for (int64_t row = 0; row < tile.count; ++row) {
    auto sum = Products::zero();
    for (int64_t c = 0; c < tile.channels; c += kColumns<Products>) {
      const AffineRelu<Products> affine(tile, tile.layers, c);
      OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) {
        const int64_t channel = c + j * Products::kWidth;
        const auto x = Products::load(act.x + row * act.stride + channel);
        sum = Products::multiply_add(affine(x, j), Products::load(tile.head + channel), sum);
      }
    }
    tile.logits[row] = Products::sum(sum) + tile.head[tile.channels];
  }
}

template <class Products>
OCCVAE_TARGET void query_tile(const QueryTile& tile) {
  const Activations<Products> act(tile);
  enter<Products>(tile, act);
  for (int64_t layer = 0; layer < tile.layers; layer += 2) {
    multiply_layer<Products, true>(tile, act, layer);
    multiply_layer<Products, false>(tile, act, layer + 1);
  }
  leave<Products>(tile, act);
}

template <class Simd>
QueryKernel choose_query_kernel(Precision precision) {
  if (precision == Precision::kFp16) return {Simd::kRows, query_tile<HalfProducts<Simd>>};
  if (precision == Precision::kBf16) return {Simd::kRows, query_tile<BfloatProducts<Simd>>};
  return {Simd::kRows, query_tile<ExactProducts<Simd>>};
}

}  // namespace
}  // namespace occvae
