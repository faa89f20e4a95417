// query_triplane in fp32, for every GPU. It is also the second pass of fp16, for the points that
// the 16-bit kernel found out of range.
//
// A block computes a tile of points. The activations of the tile are in shared memory. A layer
// replaces them: each thread first sums kThreadPoints points by two channels of each panel of 32.
#include "triplane_query.cuh"

namespace occvae {
namespace {

constexpr int kBlockThreads = 256;
constexpr int kRowThreads = 16;  // threads with the same points, next to each other in a warp

template <int kChannels_>
struct Shape {
  static constexpr int kChannels = kChannels_;
  static constexpr int kPanels = kChannels / kPanel;
  static constexpr int kThreadPoints = kChannels <= 64 ? 8 : 4;
  static constexpr int kPoints = kBlockThreads / kRowThreads * kThreadPoints;
  static constexpr int kStride = kChannels + 4;  // of a point: neighbors use other banks
  static constexpr int kSharedBytes = kPoints * kStride * static_cast<int>(sizeof(float));
  static_assert(kSharedBytes <= 48 << 10);

  using Sums = float[kThreadPoints][kPanels][2];
};

__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }

// Samples the planes. Neighboring threads take 4 channels each of the same point.
template <typename S>
__device__ void sample_all(const TriplaneQuery& query, const Tile& tile, float* activations) {
  constexpr int kVectors = S::kChannels / 4;  // of a point
  const auto* planes = static_cast<const float*>(query.planes);
  for (int i = threadIdx.x; i < S::kPoints * kVectors; i += kBlockThreads) {
    const int row = i / kVectors, channel = i % kVectors * 4;
    const Point point = load_point(query, tile, tile.begin + row);
    const TriplaneCorners<S::kChannels> corners(query, tile.shape, point);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int plane = 0; plane < 3; ++plane) {
      const PlaneCorners& corner = corners.planes[plane];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int64_t step = static_cast<int64_t>(c / 2 * query.nodes + c % 2) * S::kChannels;
        const float4 features =
            __ldg(reinterpret_cast<const float4*>(planes + corner.first + step + channel));
        sum.x = fmaf(features.x, corner.weights[c], sum.x);
        sum.y = fmaf(features.y, corner.weights[c], sum.y);
        sum.z = fmaf(features.z, corner.weights[c], sum.z);
        sum.w = fmaf(features.w, corner.weights[c], sum.w);
      }
    }
    *reinterpret_cast<float4*>(activations + row * S::kStride + channel) =
        make_float4(relu(sum.x), relu(sum.y), relu(sum.z), relu(sum.w));
  }
  __syncthreads();
}

// The points and channels of a thread.
struct Place {
  int row = threadIdx.x / kRowThreads;         // first point, in units of kThreadPoints
  int column = threadIdx.x % kRowThreads * 2;  // first channel within a panel
};

// Computes relu(W h + bias) of a layer.
template <typename S>
__device__ void multiply(typename S::Sums& sums, const TriplaneQuery& query,
                         const float* activations, int layer, const Place& place) {
  const auto* weights = static_cast<const float*>(query.weights) +
                        static_cast<int64_t>(layer) * S::kChannels * S::kChannels + place.column;
  const float* rows = activations + place.row * S::kThreadPoints * S::kStride;
#pragma unroll
  for (int p = 0; p < S::kThreadPoints; ++p) {
#pragma unroll
    for (int panel = 0; panel < S::kPanels; ++panel) {
      sums[p][panel][0] = 0.0f, sums[p][panel][1] = 0.0f;
    }
  }
  for (int k = 0; k < S::kChannels; k += 4) {
    float h[S::kThreadPoints][4];
#pragma unroll
    for (int p = 0; p < S::kThreadPoints; ++p) {
      const float4 vector = *reinterpret_cast<const float4*>(rows + p * S::kStride + k);
      h[p][0] = vector.x, h[p][1] = vector.y, h[p][2] = vector.z, h[p][3] = vector.w;
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int panel = 0; panel < S::kPanels; ++panel) {
        const int entry = (panel * S::kChannels + k + step) * kPanel;
        const float2 w = __ldg(reinterpret_cast<const float2*>(weights + entry));
#pragma unroll
        for (int p = 0; p < S::kThreadPoints; ++p) {
          sums[p][panel][0] = fmaf(h[p][step], w.x, sums[p][panel][0]);
          sums[p][panel][1] = fmaf(h[p][step], w.y, sums[p][panel][1]);
        }
      }
    }
  }
#pragma unroll
  for (int panel = 0; panel < S::kPanels; ++panel) {
    const float* from = query.biases + layer * S::kChannels + panel * kPanel + place.column;
    const float2 bias = *reinterpret_cast<const float2*>(from);
#pragma unroll
    for (int p = 0; p < S::kThreadPoints; ++p) {
      sums[p][panel][0] = relu(sums[p][panel][0] + bias.x);
      sums[p][panel][1] = relu(sums[p][panel][1] + bias.y);
    }
  }
}

// Copies activations of this thread to shared memory (`store`), or back.
template <typename S, bool store>
__device__ void move(typename S::Sums& sums, float* activations, const Place& place) {
#pragma unroll
  for (int p = 0; p < S::kThreadPoints; ++p) {
    float* row = activations + (place.row * S::kThreadPoints + p) * S::kStride + place.column;
#pragma unroll
    for (int panel = 0; panel < S::kPanels; ++panel) {
      auto* pair = reinterpret_cast<float2*>(row + panel * kPanel);
      if constexpr (store) {
        *pair = make_float2(sums[p][panel][0], sums[p][panel][1]);
      } else {
        sums[p][panel][0] = pair->x, sums[p][panel][1] = pair->y;
      }
    }
  }
}

// Sums the head over the channels of a thread, then over the threads of a row.
template <typename S>
__device__ void write_logits(const typename S::Sums& sums, const TriplaneQuery& query,
                             const Tile& tile, bool only_nan, const Place& place) {
#pragma unroll
  for (int p = 0; p < S::kThreadPoints; ++p) {
    float sum = 0.0f;
#pragma unroll
    for (int panel = 0; panel < S::kPanels; ++panel) {
      const float* from = query.head + panel * kPanel + place.column;
      const float2 weights = *reinterpret_cast<const float2*>(from);
      sum = fmaf(sums[p][panel][0], weights.x, sum);
      sum = fmaf(sums[p][panel][1], weights.y, sum);
    }
#pragma unroll
    for (int lanes = kRowThreads / 2; lanes > 0; lanes /= 2) {
      sum += __shfl_xor_sync(kFullWarp, sum, lanes);
    }
    const int64_t row = tile.begin + place.row * S::kThreadPoints + p;
    if (place.column != 0 || row >= tile.end) continue;
    if (!only_nan || is_nan(query.logits[row])) query.logits[row] = sum + query.head[S::kChannels];
  }
}

// With a guard, only logits that are NaN are computed and written. All others keep their value.
template <typename S>
__global__ void __launch_bounds__(kBlockThreads)
    triplane_kernel(TriplaneQuery query, RangeGuard guard) {
  OCCVAE_DYNAMIC_SHARED(shared);
  auto* activations = reinterpret_cast<float*>(shared);  // [kPoints, kStride]
  const bool only_nan = guard.reports != nullptr;
  if (only_nan && !any_reported(guard)) return;
  if (!only_nan) clear_unused(query);
  const Place place;
  const int64_t tiles = count_tiles(query, S::kPoints);
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile tile = find_tile(query, index, S::kPoints);
    if (tile.end <= tile.begin || (only_nan && !has_nan(query, tile))) continue;
    sample_all<S>(query, tile, activations);
    typename S::Sums sums;
    if (query.layers == 0) move<S, false>(sums, activations, place);
    for (int layer = 0; layer < query.layers; ++layer) {
      multiply<S>(sums, query, activations, layer, place);
      __syncthreads();  // no thread reads the old activations any more
      if (layer + 1 == query.layers) break;
      move<S, true>(sums, activations, place);
      __syncthreads();
    }
    write_logits<S>(sums, query, tile, only_nan, place);
    __syncthreads();
  }
}

template <int kChannels>
void launch_width(const TriplaneQuery& query, const RangeGuard& guard, cudaStream_t stream) {
  using S = Shape<kChannels>;
  constexpr int64_t kRepeatBlocks = 256;  // a second pass usually has nothing to do
  const int64_t tiles = most_tiles(query, S::kPoints);
  const int64_t blocks = guard.reports == nullptr ? tiles : std::min(tiles, kRepeatBlocks);
  launch(triplane_kernel<S>, grid_size(blocks, 1), kBlockThreads, S::kSharedBytes, stream, query,
         guard);
}

}  // namespace

void launch_fp32_triplane(const TriplaneQuery& query, int channels, const RangeGuard& guard,
                          cudaStream_t stream) {
  const auto run = channels == 32   ? launch_width<32>
                   : channels == 64 ? launch_width<64>
                   : channels == 96 ? launch_width<96>
                                    : launch_width<128>;
  run(query, guard, stream);
}

}  // namespace occvae
