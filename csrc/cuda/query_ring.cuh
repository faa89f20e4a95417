// A ring of buffers in shared memory that brings chunks of weights from one producer thread to the
// warps that compute (sm_90), for the wgmma kernel of query_occupancy. The blocks of a cluster may
// share the copies: each brings its part of a chunk for all of them.
#pragma once

#include "ptx.cuh"
#include "query_tiles.cuh"

namespace occvae {

// Each of the kStages buffers has two barriers. `full` counts the bytes that have arrived. `empty`
// counts the warps that are done with the chunk: kReaders in each of the cluster's kBlocks blocks.
// Every thread has its own Ring object over the same memory. All blocks of a cluster must bring and
// take the same chunks.
template <int kStages, int kChunkBytes, int kReaders, int kBlocks>
class Ring {
 public:
  static constexpr int kBytes = kStages * kChunkBytes;
  static constexpr int kBarrierBytes = 2 * kStages * sizeof(uint64_t);

  __device__ Ring(uint32_t buffers, uint32_t barriers) : buffers_(buffers), barriers_(barriers) {}

  // One thread calls this. __syncthreads() must follow, or cluster_sync() in a cluster.
  __device__ void initialize() const {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(full(stage), 1);
      ptx::mbarrier_init(empty(stage), kBlocks * kReaders);
    }
    ptx::mbarrier_init_fence();
  }

  __device__ void bring(const uint8_t* chunk) {
    ptx::mbarrier_wait(empty(stage_), parity_ ^ 1);  // all buffers are empty in the first round
    ptx::mbarrier_arrive_expect_tx(full(stage_), kChunkBytes);
    const uint32_t buffer = buffers_ + stage_ * kChunkBytes;
    if constexpr (kBlocks == 1) {
      ptx::cp_async_bulk(buffer, chunk, kChunkBytes, full(stage_));
    } else {
      constexpr int kPart = kChunkBytes / kBlocks, kAllBlocks = (1 << kBlocks) - 1;
      const int offset = ptx::cluster_rank() * kPart;
      ptx::cp_async_bulk_multicast(buffer + offset, chunk + offset, kPart, full(stage_),
                                   kAllBlocks);
    }
    advance();
  }

  // Waits for the next chunk and returns its address.
  __device__ uint32_t take() {
    ptx::mbarrier_wait(full(stage_), parity_);
    const uint32_t chunk = buffers_ + stage_ * kChunkBytes;
    advance();
    return chunk;
  }

  // Whole warps call this, in the order of take(). The __syncwarp() keeps all lanes in the same
  // round of a buffer: a lane that is late in take() would miss the end of its phase if others
  // could start the next one.
  __device__ void release() {
    __syncwarp();
    const int lane = threadIdx.x % kWarp;
    if constexpr (kBlocks == 1) {
      if (lane == 0) ptx::mbarrier_arrive(empty(released_));
    } else {
      if (lane < kBlocks) ptx::mbarrier_arrive_in_block(empty(released_), lane);
    }
    released_ = (released_ + 1) % kStages;
  }

 private:
  __device__ uint32_t full(int stage) const { return barriers_ + stage * 8; }
  __device__ uint32_t empty(int stage) const { return barriers_ + (kStages + stage) * 8; }
  __device__ void advance() {
    if (++stage_ == kStages) {
      stage_ = 0;
      parity_ ^= 1;
    }
  }

  uint32_t buffers_;
  uint32_t barriers_;
  int stage_ = 0;
  int parity_ = 0;
  int released_ = 0;
};

}  // namespace occvae
