// A stream of weights by asynchronous copies (cp.async, sm_80), for the mma kernel of
// query_occupancy.
#pragma once

#include "ptx.cuh"
#include "query_kernels.cuh"

namespace occvae {

constexpr int kChunkVectors = kMmaChunk * 2 / sizeof(uint4);

// Streams the chunks of weights through kStages buffers, and starts again after the last chunk. All
// threads of the block copy.
template <int kStages, int kThreads>
class ChunkStream {
 public:
  static constexpr int kVectors = kStages * kChunkVectors;  // total size of the buffers

  __device__ ChunkStream(const uint4* weights, uint4* buffers, int chunks)
      : weights_(weights), source_(weights), buffers_(buffers), chunks_(chunks) {
    for (int i = 0; i < kStages - 1; ++i) load();
  }

  // Returns the next chunk when it has arrived. The whole block waits here, which has two effects.
  // Everything stored to shared memory before is visible afterwards. The previous chunk is no
  // longer in use, so its buffer is loaded again.
  __device__ const uint4* next() {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();
    load();
    const uint4* chunk = buffers_ + read_ * kChunkVectors;
    read_ = read_ + 1 == kStages ? 0 : read_ + 1;
    return chunk;
  }

  // Waits for all copies. None may be in flight when a block ends.
  __device__ void finish() { ptx::cp_async_wait<0>(); }

 private:
  __device__ void load() {
    const uint32_t to = ptx::shared_address(buffers_ + write_ * kChunkVectors + threadIdx.x);
#pragma unroll
    for (int i = 0; i < kChunkVectors / kThreads; ++i) {
      const int vector = i * kThreads;
      ptx::cp_async_16(to + vector * sizeof(uint4), source_ + vector + threadIdx.x);
    }
    ptx::cp_async_commit();
    write_ = write_ + 1 == kStages ? 0 : write_ + 1;
    source_ += kChunkVectors;
    if (++chunk_ == chunks_) {
      chunk_ = 0;
      source_ = weights_;
    }
  }

  const uint4* weights_;
  const uint4* source_;
  uint4* buffers_;
  int chunks_;
  int chunk_ = 0;
  int write_ = 0;
  int read_ = 0;
};

}  // namespace occvae
