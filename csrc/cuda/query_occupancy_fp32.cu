// query_occupancy in fp32, for every GPU and every width up to 1024. It is also the second pass of
// fp16, for the points that the 16-bit kernels found out of range.
#include "query_kernels.cuh"
#include "query_slabs.cuh"

namespace occvae {
namespace {

using Square = float[kEdge][kEdge];  // [channel][point]

// A thread's square consists of four 4 x 4 squares, half the points and half the channels apart.
// Neighboring threads therefore read neighboring float4.
struct Place {
  Geometry geometry;
  int row;      // row of threads, along the points
  int column;   // column of threads, along the channels
  int swizzle;  // mask of the bank swizzle

  __device__ explicit Place(const Geometry& g)
      : geometry(g),
        row(threadIdx.x / g.columns()),
        column(threadIdx.x % g.columns()),
        swizzle((g.points / 4 < 8 ? g.points / 4 : 8) - 1) {}
  __device__ int point(int i) const { return i / 4 * (geometry.points / 2) + row * 4 + i % 4; }
  __device__ int channel(int i) const {
    return i / 4 * (geometry.channels / 2) + column * 4 + i % 4;
  }
  // Activations are [channel][point]. The threads of a warp store float4 of channels that are 4
  // apart, which would all fall on the same banks. The float4 of a row are therefore permuted by
  // the channel.
  __device__ int activation(int channel, int half) const {
    const int vector = half * (geometry.points / kEdge) + row;
    return channel * geometry.points + (vector ^ (channel / 4 & swizzle)) * 4;
  }
};

__device__ void load_two(float (&to)[kEdge], const float* left, const float* right) {
  const float4 a = *reinterpret_cast<const float4*>(left);
  const float4 b = *reinterpret_cast<const float4*>(right);
  to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
  to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

// Adds the product of one slab to the sums. Input channels are added in ascending order, as in all
// kernels.
__device__ void multiply_slab(Square& sums, const float* activations, const float* slab, int first,
                              const Place& place) {
  const Geometry& geometry = place.geometry;
  const int half = geometry.channels / 2;
  const int panel = geometry.depth() * kPanel;
  const int left = place.column * 4;
  const float* weights[2] = {slab + left / kPanel * panel + left % kPanel,
                             slab + (half + left) / kPanel * panel + (half + left) % kPanel};
  for (int k = 0; k < geometry.depth(); k += 4) {
    const float* points[2] = {activations + place.activation(first + k, 0),
                              activations + place.activation(first + k, 1)};
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      float a[kEdge];
      float w[kEdge];
      load_two(a, points[0] + step * geometry.points, points[1] + step * geometry.points);
      load_two(w, weights[0] + (k + step) * kPanel, weights[1] + (k + step) * kPanel);
#pragma unroll
      for (int c = 0; c < kEdge; ++c) {
#pragma unroll
        for (int p = 0; p < kEdge; ++p) sums[c][p] = fmaf(a[p], w[c], sums[c][p]);
      }
    }
  }
}

__device__ void clear(Square& x) {
#pragma unroll
  for (int i = 0; i < kEdge * kEdge; ++i) x[i / kEdge][i % kEdge] = 0.0f;
}

// Sets sums to a layer's product with the activations.
__device__ void multiply(Square& sums, const float* activations, SlabStream& stream,
                         const Place& place) {
  clear(sums);
  for (int slab = 0; slab < place.geometry.slabs(); ++slab) {
    stream.fetch_next();
    multiply_slab(sums, activations, stream.current(), slab * place.geometry.depth(), place);
    stream.advance();
  }
}

// Stores the operand of the next product, relu(scale * x + shift).
__device__ void store_activations(float* activations, const Square& x, const float* affine,
                                  const Place& place) {
#pragma unroll
  for (int i = 0; i < kEdge; ++i) {
    const int c = place.channel(i);
    const float scale = affine[c];
    const float shift = affine[place.geometry.channels + c];
    float y[kEdge];
#pragma unroll
    for (int p = 0; p < kEdge; ++p) y[p] = affine_relu(x[i][p], scale, shift);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<float4*>(activations + place.activation(c, half)) =
          make_float4(y[4 * half], y[4 * half + 1], y[4 * half + 2], y[4 * half + 3]);
    }
  }
  __syncthreads();
}

// Adds a block's sums to x. The sums start at 0 because x is larger than its updates: sums that
// start at x would have four times the rounding error.
__device__ void add(Square& x, const Square& sums) {
#pragma unroll
  for (int i = 0; i < kEdge * kEdge; ++i) x[i / kEdge][i % kEdge] += sums[i / kEdge][i % kEdge];
}

__device__ void start_residual(Square& x, const Query& query, const Tile& tile,
                               const Place& place) {
  Point points[kEdge];
#pragma unroll
  for (int p = 0; p < kEdge; ++p) points[p] = load_point(query, tile, tile.begin + place.point(p));
#pragma unroll
  for (int i = 0; i < kEdge; ++i) {
    const float* weight = query.input + place.channel(i);
    const float from_x = weight[0];
    const float from_y = weight[query.channels];
    const float from_z = weight[2 * query.channels];
#pragma unroll
    for (int p = 0; p < kEdge; ++p) x[i][p] = input_layer(points[p], from_x, from_y, from_z);
  }
}

// Sums the head over the channels: first over those of a thread, then over the columns of threads,
// in order.
__device__ void write_logits(const Square& x, const Query& query, const Tile& tile, bool only_nan,
                             float* partial,  // [columns, points], where activations were
                             const Place& place) {
  const Geometry& geometry = place.geometry;
  const float* affine = layer_affine(query, tile.shape, 2 * query.blocks);
  float sums[kEdge] = {};
#pragma unroll
  for (int i = 0; i < kEdge; ++i) {
    const int c = place.channel(i);
#pragma unroll
    for (int p = 0; p < kEdge; ++p) {
      const float y = affine_relu(x[i][p], affine[c], affine[geometry.channels + c]);
      sums[p] = fmaf(y, query.head[c], sums[p]);
    }
  }
#pragma unroll
  for (int p = 0; p < kEdge; ++p)
    partial[place.column * geometry.points + place.point(p)] = sums[p];
  __syncthreads();
  for (int p = threadIdx.x; p < geometry.points; p += blockDim.x) {
    float logit = query.head[geometry.channels];
    for (int c = 0; c < geometry.columns(); ++c) logit += partial[c * geometry.points + p];
    const int64_t row = tile.begin + p;
    if (row < tile.end && (!only_nan || is_nan(query.logits[row]))) query.logits[row] = logit;
  }
  __syncthreads();
}

// With a guard, only logits that are NaN are computed and written. All others keep their value.
__global__ void __launch_bounds__(kMaxThreads)
    query_kernel(Query query, const float* __restrict__ weights, Geometry geometry,
                 RangeGuard guard) {
  OCCVAE_DYNAMIC_SHARED(shared);
  const bool only_nan = guard.reports != nullptr;
  if (only_nan && !any_reported(guard)) return;
  auto* activations = reinterpret_cast<float*>(shared);  // [C, points]
  const Place place(geometry);
  SlabStream stream(weights, activations + geometry.channels * geometry.points, geometry,
                    2 * query.blocks);
  if (!only_nan) clear_unused(query);
  const int64_t tiles = count_tiles(query, geometry.points);
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile tile = find_tile(query, index, geometry.points);
    if (tile.end <= tile.begin || (only_nan && !has_nan(query, tile))) continue;
    Square x;
    start_residual(x, query, tile, place);
    for (int block = 0; block < query.blocks; ++block) {
      Square sums;
      store_activations(activations, x, layer_affine(query, tile.shape, 2 * block), place);
      multiply(sums, activations, stream, place);
      store_activations(activations, sums, layer_affine(query, tile.shape, 2 * block + 1), place);
      multiply(sums, activations, stream, place);
      add(x, sums);
    }
    write_logits(x, query, tile, only_nan, activations, place);
  }
}

}  // namespace

void launch_fp32_query(const Query& query, const Tensor& weights, const RangeGuard& guard,
                       const QueryDevice& device, cudaStream_t stream) {
  const Geometry geometry = choose_geometry(query.channels);
  const int64_t tiles = most_tiles(query, geometry.points);
  // A second pass usually has nothing to do, so it gets few blocks: two per multiprocessor.
  const int64_t blocks = guard.reports == nullptr ? tiles : std::min(tiles, 2 * device.processors);
  launch(query_kernel, grid_size(blocks, 1), geometry.threads(), geometry.shared_bytes(), stream,
         query, static_cast<const float*>(weights.const_data_ptr()), geometry, guard);
}

}  // namespace occvae
