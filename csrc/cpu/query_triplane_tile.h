// The fused decoder of query_triplane on one tile of points, written once for all instruction sets.
// query_products.h describes the Products class. A Planes class reads features of a precision.
//
// A tile passes three stages: the places of its points on the planes, the samples of the planes,
// and the layers. The activations of a tile and the weights of a layer stay in the L1 cache.
#pragma once

#include <algorithm>

#include "query_products.h"
#include "query_triplane.h"

namespace occvae {
namespace {  // each file has its own copy, for its own instruction set

// The scratch memory of a tile.
template <class Products>
struct TriplaneScratch {
  using Operand = typename Products::Operand;

  int64_t rows;        // a multiple of kRows
  int64_t place_rows;  // a multiple of kPlaceRows
  int64_t stride;      // of the operands
  float* coordinates;  // (3, place_rows)
  float* weights;      // (12, place_rows) of the corners (0, 0), (0, 1), (1, 0), (1, 1) per plane
  int32_t* nodes;      // (3, place_rows) number of the corner (0, 0), counted through all planes
  float* partial;      // (rows, kWidth) sums of the head
  Operand* operands[2];

  explicit TriplaneScratch(const TriplaneTile& tile)
      : rows(ceil_div(tile.count, Products::kRows) * Products::kRows),
        place_rows(ceil_div(rows, kPlaceRows) * kPlaceRows),
        stride(row_stride(tile.channels, sizeof(Operand))),
        coordinates(reinterpret_cast<float*>(tile.scratch)),
        weights(coordinates + 3 * place_rows),
        nodes(reinterpret_cast<int32_t*>(weights + 12 * place_rows)),
        partial(reinterpret_cast<float*>(nodes + 3 * place_rows)),
        operands{reinterpret_cast<Operand*>(partial + 16 * place_rows),
                 reinterpret_cast<Operand*>(partial + 16 * place_rows) + rows * stride} {
    static_assert(Products::kWidth <= 16);
  }
};

// Computes the places of kPlaceRows rows. The number of rows is a constant, so that the compiler
// makes vectors without a remainder, which would be computed by other instructions.
template <class Products>
OCCVAE_TARGET void find_places(const LatticeMap& lattice, int32_t nodes,
                               const TriplaneScratch<Products>& scratch, int64_t first) {
  int32_t node[3][kPlaceRows];
  float fraction[3][kPlaceRows];
  for (int axis = 0; axis < 3; ++axis) {
    const float* coordinates = scratch.coordinates + axis * scratch.place_rows + first;
    for (int64_t i = 0; i < kPlaceRows; ++i) {
      const LatticePlace place = lattice(coordinates[i]);
      node[axis][i] = place.node;
      fraction[axis][i] = place.fraction;
    }
  }
  constexpr int kAxes[3][2] = {{0, 1}, {0, 2}, {1, 2}};
  for (int plane = 0; plane < 3; ++plane) {
    const int32_t *a = node[kAxes[plane][0]], *b = node[kAxes[plane][1]];
    const float *u = fraction[kAxes[plane][0]], *v = fraction[kAxes[plane][1]];
    int32_t* number = scratch.nodes + plane * scratch.place_rows + first;
    float* weights = scratch.weights + 4 * plane * scratch.place_rows + first;
    for (int64_t i = 0; i < kPlaceRows; ++i) {
      number[i] = (plane * nodes + a[i]) * nodes + b[i];
      const float low_u = 1.0f - u[i], low_v = 1.0f - v[i];
      weights[i] = low_u * low_v;
      weights[scratch.place_rows + i] = low_u * v[i];
      weights[2 * scratch.place_rows + i] = u[i] * low_v;
      weights[3 * scratch.place_rows + i] = u[i] * v[i];
    }
  }
}

template <class Products>
OCCVAE_TARGET void find_all_places(const TriplaneTile& tile,
                                   const TriplaneScratch<Products>& scratch) {
  for (int axis = 0; axis < 3; ++axis) {
    float* to = scratch.coordinates + axis * scratch.place_rows;
    for (int64_t row = 0; row < tile.count; ++row) to[row] = tile.points[3 * row + axis];
    std::fill(to + tile.count, to + scratch.place_rows, 0.0f);
  }
  const LatticeMap lattice(tile.nodes);
  const auto nodes = static_cast<int32_t>(tile.nodes);
  for (int64_t row = 0; row < scratch.place_rows; row += kPlaceRows) {
    find_places(lattice, nodes, scratch, row);
  }
}

// Adds to partial sums of the head, from kVectors vectors of the last activations of a row.
template <class Products>
OCCVAE_TARGET OCCVAE_INLINE void add_to_head(const TriplaneTile& tile, int64_t channel,
                                             const typename Products::Vector* activations,
                                             float* partial) {
  auto sum = channel == 0 ? Products::zero() : Products::load(partial);
  OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) {
    const auto head = Products::load(tile.head + channel + j * Products::kWidth);
    sum = Products::multiply_add(activations[j], head, sum);
  }
  Products::store(partial, sum);
}

// Stores kVectors vectors of activations as operands of the next layer.
template <class Products>
OCCVAE_TARGET OCCVAE_INLINE void store_operands(
    const typename Products::Vector (&activations)[Products::kVectors],
    typename Products::Operand* to, uint8_t* out_of_range) {
  OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) {
    Products::store_operand(to + j * Products::kWidth, activations[j]);
  }
  if (Products::exceeds_range(activations)) *out_of_range = 1;
}

// Samples the planes at the point of a row: the sum of 12 corners, then the first ReLU.
template <class Products, class Planes>
OCCVAE_TARGET OCCVAE_INLINE void sample_row(const TriplaneTile& tile,
                                            const TriplaneScratch<Products>& scratch, int64_t row) {
  using Vector = typename Products::Vector;
  constexpr int kVectors = kPanel / Products::kWidth;  // of a panel of channels
  const auto* planes = static_cast<const typename Planes::Element*>(tile.planes);
  const int64_t steps[4] = {0, tile.channels, tile.nodes * tile.channels,
                            (tile.nodes + 1) * tile.channels};
  const typename Planes::Element* first[3];
  OCCVAE_UNROLL for (int plane = 0; plane < 3; ++plane) {
    first[plane] = planes + scratch.nodes[plane * scratch.place_rows + row] * tile.channels;
  }
  auto* to = scratch.operands[0] + row * scratch.stride;
  for (int64_t c = 0; c < tile.channels; c += kPanel) {
    Vector sums[kVectors];
    OCCVAE_UNROLL for (int j = 0; j < kVectors; ++j) sums[j] = Products::zero();
    OCCVAE_UNROLL for (int corner = 0; corner < 12; ++corner) {
      const auto* features = first[corner / 4] + steps[corner % 4] + c;
      const float* weight = scratch.weights + corner * scratch.place_rows + row;
      Planes::add(features, Products::broadcast(weight), sums);
    }
    Planes::finish(sums);
    OCCVAE_UNROLL for (int j = 0; j < kVectors; j += Products::kVectors) {
      Vector activations[Products::kVectors];
      OCCVAE_UNROLL for (int i = 0; i < Products::kVectors; ++i) {
        activations[i] = Products::relu(sums[j + i]);
      }
      const int64_t channel = c + j * Products::kWidth;
      if (tile.layers > 0) {
        store_operands<Products>(activations, to + channel, tile.out_of_range + row);
      } else {
        add_to_head<Products>(tile, channel, activations, scratch.partial + row * Products::kWidth);
      }
    }
  }
}

// Computes a layer. Its activations become operands of the next one, or partial sums of the head.
template <class Products>
OCCVAE_TARGET void multiply_triplane_layer(const TriplaneTile& tile,
                                           const TriplaneScratch<Products>& scratch,
                                           int64_t layer) {
  using Vector = typename Products::Vector;
  const auto* operands = scratch.operands[layer % 2];
  auto* next = scratch.operands[(layer + 1) % 2];
  const int64_t panel_size = kPanel * tile.channels / Products::kDepth;
  const auto* weights = static_cast<const typename Products::Weight*>(tile.weights) +
                        layer * (tile.channels / kPanel) * panel_size;
  const bool is_last = layer + 1 == tile.layers;
  for (int64_t c = 0; c < tile.channels; c += kColumns<Products>) {
    const auto* panel = weights + c / kPanel * panel_size + c % kPanel;
    const float* biases = tile.biases + layer * tile.channels + c;
    for (int64_t row = 0; row < scratch.rows; row += Products::kRows) {
      Block<Products> sums;
      multiply_block<Products>(operands + row * scratch.stride, scratch.stride, panel,
                               tile.channels, sums);
      OCCVAE_UNROLL for (int j = 0; j < Products::kVectors; ++j) {
        const Vector bias = Products::load(biases + j * Products::kWidth);
        OCCVAE_UNROLL for (int r = 0; r < Products::kRows; ++r) {
          sums[r][j] = Products::relu(Products::add(sums[r][j], bias));
        }
      }
      OCCVAE_UNROLL for (int r = 0; r < Products::kRows; ++r) {
        if (is_last) {
          add_to_head<Products>(tile, c, sums[r], scratch.partial + (row + r) * Products::kWidth);
        } else {
          store_operands<Products>(sums[r], next + (row + r) * scratch.stride + c,
                                   tile.out_of_range + row + r);
        }
      }
    }
  }
}

template <class Products, class Planes>
OCCVAE_TARGET void query_triplane_tile(const TriplaneTile& tile) {
  const TriplaneScratch<Products> scratch(tile);
  std::fill(tile.out_of_range, tile.out_of_range + scratch.rows, 0);
  find_all_places(tile, scratch);
  for (int64_t row = 0; row < scratch.rows; ++row) {
    sample_row<Products, Planes>(tile, scratch, row);
  }
  for (int64_t layer = 0; layer < tile.layers; ++layer) {
    multiply_triplane_layer(tile, scratch, layer);
  }
  for (int64_t row = 0; row < tile.count; ++row) {
    const auto sum = Products::load(scratch.partial + row * Products::kWidth);
    tile.logits[row] = Products::sum(sum) + tile.head[tile.channels];
  }
}

// Planes of fp32. `add` adds weight * features to the sums of a panel of channels, and `finish`
// brings the sums into the order of the channels.
template <class Simd>
struct ExactPlanes {
  using Vector = typename Simd::Vector;
  using Element = float;
  static constexpr int kVectors = kPanel / Simd::kWidth;

  OCCVAE_TARGET OCCVAE_INLINE static void add(const Element* features, Vector weight,
                                              Vector (&sums)[kVectors]) {
    OCCVAE_UNROLL for (int j = 0; j < kVectors; ++j) {
      sums[j] = Simd::multiply_add(Simd::load(features + j * Simd::kWidth), weight, sums[j]);
    }
  }
  OCCVAE_TARGET OCCVAE_INLINE static void finish(Vector (&)[kVectors]) {}
};

template <class Simd>
struct HalfPlanes {
  using Vector = typename Simd::Vector;
  using Element = uint16_t;
  static constexpr int kVectors = kPanel / Simd::kWidth;

  OCCVAE_TARGET OCCVAE_INLINE static void add(const Element* features, Vector weight,
                                              Vector (&sums)[kVectors]) {
    OCCVAE_UNROLL for (int j = 0; j < kVectors; ++j) {
      sums[j] = Simd::multiply_add(Simd::load_halves(features + j * Simd::kWidth), weight, sums[j]);
    }
  }
  OCCVAE_TARGET OCCVAE_INLINE static void finish(Vector (&)[kVectors]) {}
};

// Planes of bf16 are read as pairs of channels. The even channels of a pair of vectors come first,
// until `finish` puts them between the odd ones.
template <class Simd>
struct BfloatPlanes {
  using Vector = typename Simd::Vector;
  using Element = uint16_t;
  static constexpr int kVectors = kPanel / Simd::kWidth;

  OCCVAE_TARGET OCCVAE_INLINE static void add(const Element* features, Vector weight,
                                              Vector (&sums)[kVectors]) {
    OCCVAE_UNROLL for (int j = 0; j < kVectors; j += 2) {
      const auto* pairs = reinterpret_cast<const uint32_t*>(features + j * Simd::kWidth);
      sums[j] = Simd::multiply_add(Simd::lower_bfloats(pairs), weight, sums[j]);
      sums[j + 1] = Simd::multiply_add(Simd::upper_bfloats(pairs), weight, sums[j + 1]);
    }
  }
  OCCVAE_TARGET OCCVAE_INLINE static void finish(Vector (&sums)[kVectors]) {
    OCCVAE_UNROLL for (int j = 0; j < kVectors; j += 2) Simd::interleave(sums[j], sums[j + 1]);
  }
};

template <class Simd>
TriplaneKernel choose_triplane_kernel(Precision precision) {
  if (precision == Precision::kFp16) {
    return {Simd::kRows, query_triplane_tile<HalfProducts<Simd>, HalfPlanes<Simd>>};
  }
  if (precision == Precision::kBf16) {
    return {Simd::kRows, query_triplane_tile<BfloatProducts<Simd>, BfloatPlanes<Simd>>};
  }
  return {Simd::kRows, query_triplane_tile<ExactProducts<Simd>, ExactPlanes<Simd>>};
}

}  // namespace
}  // namespace occvae
