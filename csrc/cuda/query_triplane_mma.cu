// query_triplane in fp16 and bf16 on the tensor cores of sm_80 and later (mma.sync).
//
// A warp computes kRowTiles tiles of 16 points by itself, without shared memory. Four lanes share
// the points of rows l / 4 and l / 4 + 8. Each of them reads 8 neighboring channels of every 32 at
// once, and sums the 12 corners in float32. The sums of a lane, rounded, are its part of the
// operand A of the first layer: the order of the input channels of a product is free, so an operand
// takes the channels that its lane has read. Accumulators of one layer become operands of the next
// one in the same lane, too. Weights are read from the L1 cache.
#include "ptx.cuh"
#include "triplane_query.cuh"

namespace occvae {
namespace {

using ptx::Operand;

constexpr int kRowTile = 16;      // rows of an operand A
constexpr int kLaneChannels = 8;  // that a lane reads at once: 16 bytes
constexpr int kBlockThreads = kTriplaneWarps * kWarp;

__device__ __forceinline__ float sum_of_quad(float sum) {
  sum += __shfl_xor_sync(kFullWarp, sum, 1);
  return sum + __shfl_xor_sync(kFullWarp, sum, 2);
}

// Converts two 16-bit features to float32.
template <Operand kOperand>
__device__ __forceinline__ float2 unpack(uint32_t pair) {
  if constexpr (kOperand == Operand::kBf16) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
  } else {
    const Half low(static_cast<uint16_t>(pair), Half::from_bits());
    const Half high(static_cast<uint16_t>(pair >> 16), Half::from_bits());
    return make_float2(static_cast<float>(low), static_cast<float>(high));
  }
}

template <Operand kOperand>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  const uint32_t packed = ptx::pack_relu<kOperand>(low, high);
  return kOperand == Operand::kFp16 ? ptx::nan_where_saturated(packed) : packed;
}

template <Operand kOperand, int kChannels_>
struct Warp {
  static constexpr int kChannels = kChannels_;
  static constexpr int kRowTiles = kChannels <= 64 ? 2 : 1;
  static constexpr int kPoints = kRowTiles * kRowTile;
  static constexpr int kGroups = kChannels / kPanel;  // of 32 channels
  static constexpr int kDepth = kChannels / 16;       // operands A per row tile
  static constexpr int kColumns = kChannels / 8;      // accumulators per row tile

  using Operands = uint32_t[kRowTiles][kDepth][4];
  using Sums = float[kRowTiles][kColumns][4];

  const TriplaneQuery& query;
  int lane = threadIdx.x % kWarp;
  int row = lane / 4;   // and row + 8
  int quad = lane % 4;  // the lane among those that share a row

  // Returns the row of the tile of points that the lane has at half 0 or 1 of a row tile.
  __device__ int point(int tile, int half) const { return tile * kRowTile + 8 * half + row; }

  // Sums the corners of 8 channels of a point, those of this lane in one group of 32.
  __device__ void sample(float (&sums)[kLaneChannels], const TriplaneCorners<kChannels>& corners,
                         int group) const {
    const auto* planes = static_cast<const uint16_t*>(query.planes);
    const int64_t channel = group * kPanel + quad * kLaneChannels;
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) sums[i] = 0.0f;
#pragma unroll
    for (int plane = 0; plane < 3; ++plane) {
      const PlaneCorners& corner = corners.planes[plane];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int64_t step = static_cast<int64_t>(c / 2 * query.nodes + c % 2) * kChannels;
        const auto* from = reinterpret_cast<const uint4*>(planes + corner.first + step + channel);
        const uint4 vector = __ldg(from);
        const uint32_t pairs[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 features = unpack<kOperand>(pairs[i]);
          sums[2 * i] = fmaf(features.x, corner.weights[c], sums[2 * i]);
          sums[2 * i + 1] = fmaf(features.y, corner.weights[c], sums[2 * i + 1]);
        }
      }
    }
  }

  // Samples the planes at all points of the warp. Without layers, adds to the sums of the head.
  __device__ void sample_all(Operands& operands, float (&head)[kRowTiles][2],
                             const Tile& tile) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Point place = load_point(query, tile, tile.begin + point(i, half));
        const TriplaneCorners<kChannels> corners(query, tile.shape, place);
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          float sums[kLaneChannels];
          sample(sums, corners, group);
          if (query.layers == 0) {
            const float* weights = query.head + group * kPanel + quad * kLaneChannels;
#pragma unroll
            for (int c = 0; c < kLaneChannels; ++c) {
              const float h = sums[c] < 0.0f ? 0.0f : sums[c];
              head[i][half] = fmaf(h, weights[c], head[i][half]);
            }
            continue;
          }
#pragma unroll
          for (int step = 0; step < 2; ++step) {
            uint32_t* to = operands[i][2 * group + step];
            to[half] = pack<kOperand>(sums[4 * step], sums[4 * step + 1]);
            to[half + 2] = pack<kOperand>(sums[4 * step + 2], sums[4 * step + 3]);
          }
        }
      }
    }
  }

  // Computes the products of a layer.
  __device__ void multiply(Sums& sums, const Operands& operands, int layer) const {
    const auto* panels = static_cast<const uint32_t*>(query.weights) +
                         static_cast<int64_t>(layer) * kChannels * (kChannels / 2);
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      // Pairs of input channels of this lane. The first layer has them in the order of sample_all.
      const int pair = layer == 0 ? k / 2 * 16 + k % 2 * 2 + quad * 4 : k * 8 + quad;
      const int next = layer == 0 ? pair + 1 : pair + 4;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        const uint32_t* panel = panels + n / 4 * (kChannels / 2) * kPanel + n % 4 * 8 + row;
        const uint32_t b0 = __ldg(panel + pair * kPanel), b1 = __ldg(panel + next * kPanel);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          ptx::mma_m16n8k16<kOperand>(sums[i][n], operands[i][k], b0, b1);
        }
      }
    }
  }

  // Adds the biases of a layer to its products.
  __device__ void add_bias(Sums& sums, int layer) const {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const float* from = query.biases + layer * kChannels + n * 8 + quad * 2;
      const float2 bias = *reinterpret_cast<const float2*>(from);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        sums[i][n][0] += bias.x, sums[i][n][1] += bias.y;
        sums[i][n][2] += bias.x, sums[i][n][3] += bias.y;
      }
    }
  }

  // Turns the sums of two neighboring accumulators into an operand of the next layer.
  __device__ void activate(Operands& operands, const Sums& sums) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int k = 0; k < kDepth; ++k) {
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const float* from = sums[i][2 * k + side];
          operands[i][k][2 * side] = pack<kOperand>(from[0], from[1]);
          operands[i][k][2 * side + 1] = pack<kOperand>(from[2], from[3]);
        }
      }
    }
  }

  // Adds the last activations to the sums of the head.
  __device__ void add_to_head(float (&head)[kRowTiles][2], const Sums& sums) const {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const float2 weights = *reinterpret_cast<const float2*>(query.head + n * 8 + quad * 2);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float left = sums[i][n][2 * half], right = sums[i][n][2 * half + 1];
          head[i][half] = fmaf(left < 0.0f ? 0.0f : left, weights.x, head[i][half]);
          head[i][half] = fmaf(right < 0.0f ? 0.0f : right, weights.y, head[i][half]);
        }
      }
    }
  }

  // Computes the logits of a tile. Returns whether this lane wrote a NaN.
  __device__ bool run(const Tile& tile) const {
    Operands operands;
    float head[kRowTiles][2] = {};
    sample_all(operands, head, tile);
#pragma unroll 1
    for (int layer = 0; layer < query.layers; ++layer) {
      Sums sums = {};
      multiply(sums, operands, layer);
      add_bias(sums, layer);
      if (layer + 1 < query.layers) {
        activate(operands, sums);
      } else {
        add_to_head(head, sums);
      }
    }
    bool nan = false;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float logit = sum_of_quad(head[i][half]) + query.head[kChannels];
        const int64_t place = tile.begin + point(i, half);
        if (quad != 0 || place >= tile.end) continue;
        query.logits[place] = logit;
        nan = nan || is_nan(logit);
      }
    }
    return nan;
  }
};

// Warp w of the grid computes the tiles w, w + warps, w + 2 warps and so on.
template <Operand kOperand, int kChannels>
__global__ void __launch_bounds__(kBlockThreads)
    triplane_kernel(TriplaneQuery query, int* __restrict__ reports) {
  using W = Warp<kOperand, kChannels>;
  const W warp{query};
  clear_unused(query);
  bool nan = false;
  const int64_t tiles = count_tiles(query, W::kPoints);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTriplaneWarps + threadIdx.x / kWarp;
  for (int64_t index = first; index < tiles; index += gridDim.x * kTriplaneWarps) {
    const Tile tile = find_tile(query, index, W::kPoints);
    if (tile.end > tile.begin) nan = warp.run(tile) || nan;
  }
  report_nan(reports, static_cast<int>(first), nan);
}

template <Operand kOperand, int kChannels>
int64_t launch_width(const TriplaneQuery& query, int* reports, cudaStream_t stream) {
  const int64_t tiles = most_tiles(query, Warp<kOperand, kChannels>::kPoints);
  const int64_t blocks = std::min(ceil_div(tiles, kTriplaneWarps), kMostTriplaneBlocks);
  launch(triplane_kernel<kOperand, kChannels>, grid_size(blocks, 1), kBlockThreads, 0, stream,
         query, reports);
  return blocks * kTriplaneWarps;
}

template <Operand kOperand>
int64_t launch_operand(const TriplaneQuery& query, int channels, int* reports,
                       cudaStream_t stream) {
  const auto run = channels == 32   ? launch_width<kOperand, 32>
                   : channels == 64 ? launch_width<kOperand, 64>
                   : channels == 96 ? launch_width<kOperand, 96>
                                    : launch_width<kOperand, 128>;
  return run(query, reports, stream);
}

}  // namespace

int64_t launch_mma_triplane(const TriplaneQuery& query, int channels, bool is_half, int* reports,
                            cudaStream_t stream) {
  const auto run = is_half ? launch_operand<Operand::kFp16> : launch_operand<Operand::kBf16>;
  return run(query, channels, reports, stream);
}

}  // namespace occvae
