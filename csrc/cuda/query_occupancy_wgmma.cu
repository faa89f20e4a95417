// query_occupancy in fp16 and bf16 on Hopper (sm_90a), 256 channels.
//
// Two warpgroups compute, 64 points each. One thread of a third warpgroup copies the weights for
// both, chunk by chunk. A computing thread has 240 registers. 128 of them hold the residual stream
// x, the accumulator of each block's second product. g is computed in two halves of its channels:
// 64 registers hold the sums of the first product, which become 32 registers of rounded g without
// leaving the thread. Only h goes through shared memory. The two warpgroups are not synchronized
// with each other: while one applies affines, the other keeps the tensor cores busy.
#include "query_fragments.cuh"
#include "query_kernels.cuh"
#include "query_ring.cuh"

namespace occvae {
namespace {

constexpr int kChannels = 256;
constexpr int kPoints = 64;  // per tile; one warpgroup computes a tile
constexpr int kGroup = 128;  // threads per warpgroup
constexpr int kGroups = 2;   // warpgroups that compute
constexpr int kWarps = kGroups * kGroup / kWarp;
constexpr int kBlockThreads = (kGroups + 1) * kGroup;
constexpr int kChunkBytes = 2 * kWgmmaChunk;
constexpr int kBytesH = 2 * kPoints * kChannels;

// What the variants of the kernel differ in: the number of buffers for weights, and the number of
// blocks in a cluster that share the copies of weights.
template <int kStages, int kBlocks_>
struct Variant {
  static constexpr int kBlocks = kBlocks_;
  using Weights = Ring<kStages, kChunkBytes, kWarps, kBlocks>;
  static constexpr int64_t kSharedBytes =
      Weights::kBytes + kGroups * kBytesH + Weights::kBarrierBytes;
  static_assert(kSharedBytes <= 227 << 10);  // limit of sm_90
};
using Usual = Variant<4, 1>;
using Deep = Variant<5, 1>;
using Pairs = Variant<4, 2>;

// If the module was built without code for the loaded device, the kernel is empty. Its launch bound
// then excludes blocks of this size, which wgmma_query_loaded() checks.
constexpr int kMostThreads = OCCVAE_HAS_WGMMA ? kBlockThreads : kWarp;

#if OCCVAE_HAS_WGMMA

constexpr int kTiles = kChannels / kColumnTile;
constexpr int kHalfTiles = kTiles / 2;
constexpr int kChunksOfHalf = 2;  // per layer, for half of g's channels
constexpr int kChunksOfBlock = 8;
constexpr int kPanelBytesH = kPoints * 128;  // 64 channels (128 bytes) of all points

// The tiles of one round of a cluster, one per warpgroup. All warpgroups consume the same number of
// chunks, even if some have no points. Tiles are dealt to the blocks one by one, so a few tiles
// spread over many multiprocessors.
template <int kBlocks>
struct Round {
  Tile tile;
  bool mine = false;    // this warpgroup has a tile
  bool anyone = false;  // at least one of the cluster has a tile

  __device__ Round(const Query& query, int64_t number, int64_t tiles, int group) {
#pragma unroll(kGroups)
    for (int i = 0; i < kGroups * kBlocks; ++i) {
      const int64_t block = first_block() + i % kBlocks;
      const int64_t index = (number * kGroups + i / kBlocks) * gridDim.x + block;
      if (index >= tiles) break;
      const Tile found = find_tile(query, index, kPoints);
      if (found.end <= found.begin) continue;
      anyone = true;
      if (i / kBlocks != group || block != blockIdx.x) continue;
      tile = found;
      mine = true;
    }
  }
  __device__ static int64_t count(int64_t tiles) {
    const int64_t dealt = static_cast<int64_t>(kGroups) * gridDim.x;
    return (tiles + dealt - 1 - first_block()) / dealt;
  }

 private:
  __device__ static unsigned first_block() { return blockIdx.x / kBlocks * kBlocks; }
};

template <int kBlocks, typename Weights>
__device__ void bring_weights(const Query& query, const uint8_t* weights, Weights& ring) {
  const int64_t tiles = count_tiles(query, kPoints);
  const int chunks = query.blocks * kChunksOfBlock;
  const int64_t rounds = Round<kBlocks>::count(tiles);
  for (int64_t number = 0; number < rounds; ++number) {
    if (!Round<kBlocks>(query, number, tiles, 0).anyone) continue;
    for (int64_t i = 0; i < chunks; ++i) ring.bring(weights + i * kChunkBytes);
  }
}

// One of the two warpgroups that compute.
template <Operand kOperand, typename Weights>
struct Group {
  const Query& query;
  uint32_t h;  // 4 panels of [64 points][64 channels], 128-byte swizzle
  int number;
  int thread = threadIdx.x % kGroup;
  int lane = threadIdx.x % kWarp;

  using Residual = Pair[kTiles];
  using Operands = uint32_t[kHalfTiles][4];

  __device__ int channel(int tile) const { return tile * kColumnTile + lane_channel(lane); }
  __device__ int row() const { return thread / kWarp * kRowTile + lane_row(lane); }

  __device__ void start(Residual& x, const Tile& tile) const {
    const int64_t first = tile.begin + row();
    const Point points[2] = {load_point(query, tile, first), load_point(query, tile, first + 8)};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) start_residual(x[t], query, points, channel(t));
  }

  // Stores h = relu(scale * x + shift). The first barrier keeps warps from overwriting what
  // products of other warps may still read. The second one makes h visible to all.
  __device__ void store(const Residual& x, const float* affine) const {
    const int matrix_row = thread / kWarp * kRowTile + lane % 16;
    ptx::bar_sync(number + 1, kGroup);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      uint32_t operand[4];
      activate<kOperand>(operand, x[t], load_affine(affine, kChannels, channel(t)));
      const int vector = (t % 4 * 2 + lane / 16) ^ (lane % 8);
      ptx::stmatrix_x4(h + t / 4 * kPanelBytesH + matrix_row * 128 + vector * 16, operand);
    }
    ptx::fence_proxy_async();
    ptx::bar_sync(number + 1, kGroup);
  }

  // Computes one half of g = relu(scale * (W0 h) + shift), as operands of the second product.
  __device__ void first_product(Operands& g, const float* affine, int half, Weights& ring) const {
    Pair sums[kHalfTiles];
    auto& d = reinterpret_cast<float (&)[kChannels / 4]>(sums);
#pragma unroll
    for (int i = 0; i < kChunksOfHalf; ++i) {  // 128 input channels each, in two panels of 64
      const uint32_t chunk = ring.take();
      ptx::wgmma_fence(d);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const uint32_t a = h + (2 * i + k / 4) * kPanelBytesH + k % 4 * 32;
        const uint32_t b = chunk + k / 4 * (kChunkBytes / 2) + k % 4 * 32;
        ptx::wgmma_ss_n128<kOperand>(d, ptx::wgmma_descriptor(a), ptx::wgmma_descriptor(b),
                                     i + k > 0);
      }
      ptx::wgmma_commit();
    }
    const auto affine_of = [&](int t) {
      return load_affine(affine, kChannels, channel(half * kHalfTiles + t));
    };
    const PairAffine first = affine_of(0);  // its load overlaps the wait
    ptx::wgmma_wait<1>();
    ring.release();
    ptx::wgmma_wait<0>(d);
    ring.release();
#pragma unroll
    for (int t = 0; t < kHalfTiles; ++t) {
      activate<kOperand>(g[t], sums[t], t == 0 ? first : affine_of(t));
    }
  }

  // Adds W1 g to x, over one half of g's channels.
  __device__ void second_product(Residual& x, Operands& g, Weights& ring) const {
    auto& d = reinterpret_cast<float (&)[kChannels / 2]>(x);
#pragma unroll
    for (int i = 0; i < kChunksOfHalf; ++i) {  // 64 input channels each
      const uint32_t chunk = ring.take();
      ptx::pin_registers(g);
      ptx::wgmma_fence(d);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        ptx::wgmma_rs_n256<kOperand>(d, g[4 * i + k], ptx::wgmma_descriptor(chunk + k * 32), true);
      }
      ptx::wgmma_commit();
    }
    ptx::wgmma_wait<1>();
    ring.release();
    ptx::wgmma_wait<0>(d);
    ptx::pin_registers(g);
    ring.release();
  }

  // Returns whether this thread wrote a NaN.
  __device__ bool write_logits(const Residual& x, const Tile& tile) const {
    const float* affine = layer_affine(query, tile.shape, 2 * query.blocks);
    float sums[2] = {};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int c = channel(t);
      add_to_head(sums, x[t], load_affine(affine, kChannels, c), query.head + c);
    }
    bool nan = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float logit = sum_of_row(sums[r]) + query.head[kChannels];
      const int64_t point = tile.begin + row() + 8 * r;
      if (lane % 4 != 0 || point >= tile.end) continue;
      query.logits[point] = logit;
      nan = nan || is_nan(logit);
    }
    return nan;
  }

  // Returns whether this thread wrote a NaN.
  __device__ bool compute(const Tile& tile, Weights& ring) const {
    Residual x;
    start(x, tile);
    for (int block = 0; block < query.blocks; ++block) {
      const float* affine = layer_affine(query, tile.shape, 2 * block);
      store(x, affine);
#pragma unroll 1
      for (int half = 0; half < 2; ++half) {
        Operands g;
        first_product(g, affine + 2 * kChannels, half, ring);
        second_product(x, g, ring);
      }
    }
    return write_logits(x, tile);
  }

  // Takes and releases the chunks of a round in which only others have tiles.
  __device__ void skip(Weights& ring) const {
    for (int i = 0; i < query.blocks * kChunksOfBlock; ++i) {
      ring.take();
      ring.release();
    }
  }
};

#endif  // OCCVAE_HAS_WGMMA

// Persistent blocks: they take tiles round by round.
template <Operand kOperand, typename Variant>
__global__ void __launch_bounds__(kMostThreads, 1)
    query_kernel(Query query, const uint8_t* __restrict__ weights, int* __restrict__ reports) {
#if OCCVAE_HAS_WGMMA
  OCCVAE_DYNAMIC_SHARED(shared);
  using Weights = typename Variant::Weights;
  const uint32_t base = ptx::shared_address(shared);
  Weights ring(base, base + Weights::kBytes + kGroups * kBytesH);
  if (threadIdx.x == 0) ring.initialize();
  clear_unused(query);
  constexpr int kBlocks = Variant::kBlocks;
  constexpr bool kCluster = kBlocks > 1;
  kCluster ? ptx::cluster_sync() : __syncthreads();
  const int number = threadIdx.x / kGroup;
  if (number == kGroups) {
    ptx::setmaxnreg_dec<24>();
    if (threadIdx.x == kGroups * kGroup) bring_weights<kBlocks>(query, weights, ring);
    if (kCluster) ptx::cluster_sync();
    return;
  }
  ptx::setmaxnreg_inc<240>();
  const Group<kOperand, Weights> group{query, base + Weights::kBytes + number * kBytesH, number};
  const int64_t tiles = count_tiles(query, kPoints);
  bool nan = false;
  const int64_t rounds = Round<kBlocks>::count(tiles);
  for (int64_t i = 0; i < rounds; ++i) {
    const Round<kBlocks> round(query, i, tiles, number);
    if (round.mine) {
      nan = group.compute(round.tile, ring) || nan;
    } else if (round.anyone) {
      group.skip(ring);
    }
  }
  report_nan(reports, blockIdx.x * kWarps + threadIdx.x / kWarp, nan);
  // A block's memory must exist until the others have copied to it and arrived at its barriers.
  if (kCluster) ptx::cluster_sync();
#endif
}

template <typename Variant>
int64_t launch_variant(const Query& query, const Tensor& weights, int* reports,
                       const QueryDevice& device, cudaStream_t stream) {
  const bool half = weights.scalar_type() == ScalarType::Half;
  const auto kernel =
      half ? query_kernel<Operand::kFp16, Variant> : query_kernel<Operand::kBf16, Variant>;
  constexpr int kBlocks = Variant::kBlocks;
  const int64_t clusters =
      std::min(ceil_div(most_tiles(query, kPoints), kBlocks), device.processors / kBlocks);
  const unsigned blocks = kBlocks * grid_size(clusters, 1);
  const auto* packed = static_cast<const uint8_t*>(weights.const_data_ptr());
  if constexpr (kBlocks == 1) {
    launch(kernel, blocks, kBlockThreads, Variant::kSharedBytes, stream, query, packed, reports);
  } else {
    launch_clusters(kernel, kBlocks, blocks, kBlockThreads, Variant::kSharedBytes, stream, query,
                    packed, reports);
  }
  return static_cast<int64_t>(blocks) * kWarps;
}

}  // namespace

bool wgmma_query_loaded() {
  cudaFuncAttributes attributes;
  STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, query_kernel<Operand::kFp16, Usual>));
  return attributes.maxThreadsPerBlock >= kBlockThreads;
}

int64_t wgmma_query_bytes() { return Deep::kSharedBytes; }

int64_t launch_wgmma_query(const Query& query, const Tensor& weights, int* reports,
                           QueryKernel variant, const QueryDevice& device, cudaStream_t stream) {
  const auto run = variant == QueryKernel::kWgmmaPairs  ? launch_variant<Pairs>
                   : variant == QueryKernel::kWgmmaDeep ? launch_variant<Deep>
                                                        : launch_variant<Usual>;
  return run(query, weights, reports, device, stream);
}

}  // namespace occvae
