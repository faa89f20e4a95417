// query_occupancy in fp16 and bf16 on the tensor cores of sm_80 and later (mma.sync).
//
// A warp owns 64 points by 64 channels of the residual stream x. Its 128 registers per lane are the
// accumulators of each block's second product, so x never leaves them. h and g of the block's
// points are in shared memory. g is computed in two halves of its channels, because the sums of a
// whole g do not fit the registers next to x: first half of g = relu(W0 h), then x += W1 (that
// half).
//
// Operands lie in shared memory in the order of the lanes, 16 bytes per lane. Loads and stores are
// consecutive, so there are no bank conflicts and no need for ldmatrix or a swizzle.
#include "query_chunks.cuh"
#include "query_fragments.cuh"
#include "query_kernels.cuh"

namespace occvae {
namespace {

constexpr int kWarpPoints = 64;
constexpr int kWarpChannels = 64;
constexpr int kRowTiles = kWarpPoints / kRowTile;
constexpr int kColumnTiles = kWarpChannels / kColumnTile;
constexpr int kHalfColumnTiles = kColumnTiles / 2;

// The two block sizes. Blocks have 8 warps if shared memory allows (sm_80, sm_90). They have 4 on
// other GPUs (sm_86, sm_89), and for few points, which then spread over more multiprocessors.
template <int kChannels_, int kWarps_>
struct Shape {
  static constexpr int kChannels = kChannels_;
  static constexpr int kWarps = kWarps_;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kColumns = kChannels / kWarpChannels;  // columns of warps
  static constexpr int kPoints = kWarps / kColumns * kWarpPoints;
  using Stream = ChunkStream<kWarps == 8 ? 4 : 3, kThreads>;  // 64 KB; 48 KB
  static constexpr int kTilesH = kChannels / kColumnTile;
  static constexpr int kTilesG = kTilesH / 2;
  static constexpr int kVectorsH = kPoints / kRowTile * kTilesH * kWarp;
  static constexpr int kVectorsG = kVectorsH / 2;
  static constexpr int kChunksOfHalf = kChannels / 2 * kChannels / kMmaChunk;
  static constexpr int64_t kSharedBytes =
      (kVectorsH + kVectorsG + Stream::kVectors) * sizeof(uint4) +
      kColumns * kPoints * sizeof(float);
};

// The limits per block on sm_80, and on sm_86 and sm_89.
static_assert(Shape<256, 8>::kSharedBytes <= 163 << 10 && Shape<128, 8>::kSharedBytes <= 163 << 10);
static_assert(Shape<256, 4>::kSharedBytes <= 99 << 10 && Shape<128, 4>::kSharedBytes <= 99 << 10);

__device__ void load_operand(uint32_t (&operand)[4], const uint4* from) {
  const uint4 v = *from;
  operand[0] = v.x, operand[1] = v.y, operand[2] = v.z, operand[3] = v.w;
}

// Adds activations (this warp's rows) times the chunk's weights to the sums. The chunk holds all
// kAllTiles column tiles of some input channels. The warp uses kTiles of them, starting at `first`.
template <Operand kOperand, int kTiles, int kAllTiles>
__device__ void multiply_chunk(Pair (&sums)[kRowTiles][kTiles],
                               const uint4* activations,  // this lane's, at the chunk's first tile
                               int row_stride, const uint4* chunk, int first) {
  constexpr int kDepth = kMmaChunk / (kAllTiles * kColumnTile * kColumnTile);
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      load_operand(a[i], activations + i * row_stride + k * kWarp);
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      uint32_t b[4];
      load_operand(b, chunk + (k * kAllTiles + first + t) * kWarp + threadIdx.x % kWarp);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        ptx::mma_m16n8k16<kOperand>(sums[i][t][0], a[i], b[0], b[1]);
        ptx::mma_m16n8k16<kOperand>(sums[i][t][1], a[i], b[2], b[3]);
      }
    }
  }
}

// The state and the steps of one warp in a block's work on a tile.
template <Operand kOperand, typename S>
struct Warp {
  const Query& query;
  uint4* h;  // [row tiles, S::kTilesH, lanes] of the block
  uint4* g;  // [row tiles, S::kTilesG, lanes]
  int lane = threadIdx.x % kWarp;
  int column = threadIdx.x / kWarp % S::kColumns;
  int first_row = threadIdx.x / kWarp / S::kColumns * kWarpPoints;

  using Residual = Pair[kRowTiles][kColumnTiles];
  using HalfSums = Pair[kRowTiles][kHalfColumnTiles];

  // Returns this lane's first channel of a column tile of the block.
  __device__ int channel(int tile) const { return tile * kColumnTile + lane_channel(lane); }

  __device__ void start(Residual& x, const Tile& tile) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      const int64_t row = tile.begin + first_row + i * kRowTile + lane_row(lane);
      const Point points[2] = {load_point(query, tile, row), load_point(query, tile, row + 8)};
#pragma unroll
      for (int t = 0; t < kColumnTiles; ++t) {
        start_residual(x[i][t], query, points, channel(column * kColumnTiles + t));
      }
    }
  }

  // Stores kTiles column tiles of activations: to tile `first` of `to` and the following ones, from
  // the channels of tile `first_channel` and the following ones.
  template <int kTiles>
  __device__ void store(uint4* to, int row_tiles, int first, int first_channel,
                        const Pair (&sums)[kRowTiles][kTiles], const float* affine) const {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const PairAffine pair = load_affine(affine, S::kChannels, channel(first_channel + t));
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        uint32_t v[4];
        activate<kOperand>(v, sums[i][t], pair);
        const int row_tile = first_row / kRowTile + i;
        to[(row_tile * row_tiles + first + t) * kWarp + lane] = make_uint4(v[0], v[1], v[2], v[3]);
      }
    }
  }

  // Computes one half (0 or 1) of the columns of g = relu(W0 h).
  __device__ void first_product(int half, const float* affine, typename S::Stream& stream) const {
    HalfSums sums = {};
    const uint4* rows = h + first_row / kRowTile * S::kTilesH * kWarp + lane;
    const int first = column * kHalfColumnTiles;
    for (int chunk = 0; chunk < S::kChunksOfHalf; ++chunk) {
      constexpr int kStep = S::kTilesH / S::kChunksOfHalf * kWarp;
      multiply_chunk<kOperand, kHalfColumnTiles, S::kTilesG>(
          sums, rows + chunk * kStep, S::kTilesH * kWarp, stream.next(), first);
    }
    store<kHalfColumnTiles>(g, S::kTilesG, first, half * S::kTilesG + first, sums, affine);
  }

  // Adds W1 g to x, over the half of g that is in shared memory.
  __device__ void second_product(Residual& x, typename S::Stream& stream) const {
    const uint4* rows = g + first_row / kRowTile * S::kTilesG * kWarp + lane;
    for (int chunk = 0; chunk < S::kChunksOfHalf; ++chunk) {
      constexpr int kStep = S::kTilesG / S::kChunksOfHalf * kWarp;
      multiply_chunk<kOperand, kColumnTiles, S::kTilesH>(
          x, rows + chunk * kStep, S::kTilesG * kWarp, stream.next(), column * kColumnTiles);
    }
  }

  // Writes this warp's part of the head's sum for each of its points.
  __device__ void head(float* partial, const Residual& x, const float* affine) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      float sums[2] = {};
#pragma unroll
      for (int t = 0; t < kColumnTiles; ++t) {
        const int c = channel(column * kColumnTiles + t);
        add_to_head(sums, x[i][t], load_affine(affine, S::kChannels, c), query.head + c);
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float sum = sum_of_row(sums[r]);
        const int row = first_row + i * kRowTile + 8 * r + lane_row(lane);
        if (lane % 4 == 0) partial[column * S::kPoints + row] = sum;
      }
    }
  }
};

// Adds up the parts of the columns of warps, in order. Returns whether this thread wrote a NaN.
template <typename S>
__device__ bool write_logits(const Query& query, const Tile& tile, const float* partial) {
  __syncthreads();
  bool nan = false;
  for (int p = threadIdx.x; p < S::kPoints && tile.begin + p < tile.end; p += S::kThreads) {
    float logit = query.head[S::kChannels];
    for (int c = 0; c < S::kColumns; ++c) logit += partial[c * S::kPoints + p];
    query.logits[tile.begin + p] = logit;
    nan = nan || is_nan(logit);
  }
  return nan;
}

// Persistent blocks: each takes every gridDim-th tile. The stream of weights continues from one
// tile to the next.
template <Operand kOperand, typename S>
__global__ void __launch_bounds__(S::kThreads, 1)
    query_kernel(Query query, const uint4* __restrict__ weights, int* __restrict__ reports) {
  OCCVAE_DYNAMIC_SHARED(shared);
  auto* h = reinterpret_cast<uint4*>(shared);
  auto* g = h + S::kVectorsH;
  auto* partial = reinterpret_cast<float*>(g + S::kVectorsG + S::Stream::kVectors);
  const Warp<kOperand, S> warp{query, h, g};
  typename S::Stream stream(weights, g + S::kVectorsG, query.blocks * 4 * S::kChunksOfHalf);
  clear_unused(query);
  bool nan = false;
  const int64_t tiles = count_tiles(query, S::kPoints);
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile tile = find_tile(query, index, S::kPoints);
    if (tile.end <= tile.begin) continue;
    Pair x[kRowTiles][kColumnTiles];
    warp.start(x, tile);
    for (int block = 0; block < query.blocks; ++block) {
      const float* affine = layer_affine(query, tile.shape, 2 * block);
      warp.template store<kColumnTiles>(h, S::kTilesH, warp.column * kColumnTiles,
                                        warp.column * kColumnTiles, x, affine);
#pragma unroll 1
      for (int half = 0; half < 2; ++half) {
        warp.first_product(half, affine + 2 * S::kChannels, stream);
        warp.second_product(x, stream);
      }
    }
    warp.head(partial, x, layer_affine(query, tile.shape, 2 * query.blocks));
    nan = write_logits<S>(query, tile, partial) || nan;
  }
  stream.finish();
  report_nan(reports, (blockIdx.x * S::kThreads + threadIdx.x) / kWarp, nan);
}

template <Operand kOperand, typename S>
int64_t launch_shape(const Query& query, const Tensor& weights, int* reports,
                     const QueryDevice& device, cudaStream_t stream) {
  const int64_t blocks = std::min(most_tiles(query, S::kPoints), device.processors);
  launch(query_kernel<kOperand, S>, grid_size(blocks, 1), S::kThreads, S::kSharedBytes, stream,
         query, static_cast<const uint4*>(weights.const_data_ptr()), reports);
  return blocks * S::kWarps;
}

template <Operand kOperand, int kChannels>
int64_t launch_width(const Query& query, const Tensor& weights, int* reports,
                     const QueryDevice& device, cudaStream_t stream) {
  using Large = Shape<kChannels, 8>;
  using Small = Shape<kChannels, 4>;
  const bool few = 2 * most_tiles(query, Large::kPoints) <= device.processors;
  return few || device.shared_bytes < Large::kSharedBytes
             ? launch_shape<kOperand, Small>(query, weights, reports, device, stream)
             : launch_shape<kOperand, Large>(query, weights, reports, device, stream);
}

}  // namespace

int64_t mma_query_bytes() {
  return std::max(Shape<128, 4>::kSharedBytes, Shape<256, 4>::kSharedBytes);
}

int64_t launch_mma_query(const Query& query, const Tensor& weights, int* reports,
                         const QueryDevice& device, cudaStream_t stream) {
  const bool half = weights.scalar_type() == ScalarType::Half;
  const auto run =
      query.channels == 256
          ? (half ? launch_width<Operand::kFp16, 256> : launch_width<Operand::kBf16, 256>)
          : (half ? launch_width<Operand::kFp16, 128> : launch_width<Operand::kBf16, 128>);
  return run(query, weights, reports, device, stream);
}

}  // namespace occvae
