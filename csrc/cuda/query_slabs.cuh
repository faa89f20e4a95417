// How the fp32 kernel of query_occupancy divides its work, and its stream of weights.
#pragma once

#include "query_tiles.cuh"

namespace occvae {

// A block works on `points` points by all channels. Each of its threads owns a square of 8 points
// by 8 channels: 64 registers for the residual stream and 64 for the sums of a product. More
// channels mean fewer points, so the activations always fit 64 KB. A slab of weights is `depth`
// input channels by all output channels: 16 floats, or 4 float4, per thread.
constexpr int kEdge = 8;  // points and channels of a thread's square
constexpr int kMaxThreads = 256;
constexpr int kMaxPoints = 128;
constexpr int kMaxActivations = kMaxThreads * kEdge * kEdge;
constexpr int kVectors = 4;  // float4 of a slab that each thread copies

struct Geometry {
  int channels;
  int points;  // points per tile, a power of two >= 16

  __host__ __device__ int depth() const { return points / 4; }
  __host__ __device__ int columns() const { return channels / kEdge; }  // columns of threads
  __host__ __device__ int slabs() const { return channels / depth(); }  // slabs per layer
  __host__ __device__ int slab_floats() const { return depth() * channels; }
  int threads() const { return points / kEdge * columns(); }
  size_t shared_bytes() const { return sizeof(float) * (points * channels + 2 * slab_floats()); }
};

inline Geometry choose_geometry(int channels) {
  int points = kMaxPoints;
  while (points * channels > kMaxActivations) points /= 2;
  return {channels, points};
}

// Streams the weights of all layers through two buffers, slab by slab, and starts again for the
// next tile. The next slab is loaded into registers while the current one is multiplied.
class SlabStream {
 public:
  __device__ SlabStream(const float* weights, float* buffers, const Geometry& geometry, int layers)
      : weights_(weights),
        source_(weights),
        buffers_(buffers),
        geometry_(geometry),
        layers_(layers) {
    const int vectors = geometry.depth() * (kPanel / 4);  // float4 of a slab per panel
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int vector = threadIdx.x + i * blockDim.x;
      offset_[i] = vector / vectors * geometry.channels * kPanel + vector % vectors * 4;
    }
    if (layers == 0) return;
    fetch();
    keep();
  }

  __device__ const float* current() const { return buffers_ + parity_ * geometry_.slab_floats(); }

  __device__ void fetch_next() {
    const int size = geometry_.channels * geometry_.channels;
    source_ += geometry_.depth() * kPanel;
    if (++slab_ == geometry_.slabs()) {
      slab_ = 0;
      source_ += size - geometry_.channels * kPanel;
      if (++layer_ == layers_) {
        layer_ = 0;
        source_ = weights_;
      }
    }
    fetch();
  }

  // Ends the work on the current slab. After its barrier, no thread reads the old activations any
  // more.
  __device__ void advance() {
    parity_ ^= 1;
    keep();
    __syncthreads();
  }

 private:
  // Of each panel of 32 output channels, a slab holds `depth` contiguous rows.
  __device__ void fetch() {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      next_[i] = *reinterpret_cast<const float4*>(source_ + offset_[i]);
    }
  }
  __device__ void keep() {
    auto* to = reinterpret_cast<float4*>(buffers_ + parity_ * geometry_.slab_floats());
#pragma unroll
    for (int i = 0; i < kVectors; ++i) to[threadIdx.x + i * blockDim.x] = next_[i];
  }

  const float* weights_;  // [2L, C / 32, C, 32]
  const float* source_;   // the newest slab
  float* buffers_;        // [2, C / 32, depth, 32]
  Geometry geometry_;
  int layers_;
  int layer_ = 0;
  int slab_ = 0;
  int parity_ = 0;
  int offset_[kVectors];
  float4 next_[kVectors];
};

}  // namespace occvae
