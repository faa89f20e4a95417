// PTX instructions that C++ has no words for, one function each. Inline PTX appears only in this
// file and in wgmma.cuh, which it includes. For tests on a CPU, tests/cuda_emulator/include/ptx.cuh
// replaces this file with functions of the same meaning.
//
// Shared memory is addressed by 32-bit addresses from shared_address(). Tensor-core operands are
// packed in pairs into 32-bit registers, the element of the lower index in the lower half.
#pragma once

#include <cstdint>

// Whether wgmma and setmaxnreg exist. Code that uses them must not be compiled elsewhere.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define OCCVAE_HAS_WGMMA 1
#else
#define OCCVAE_HAS_WGMMA 0
#endif

namespace occvae::ptx {

enum class Operand { kFp16, kBf16 };

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// A barrier like __syncthreads() among `threads` threads, which are whole warps. Barrier 0 is the
// one of __syncthreads().
__device__ __forceinline__ void bar_sync(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Rounds max(low, 0) and max(high, 0) to nearest even. fp16 saturates at 65504. NaN stays NaN.
template <Operand kType>
__device__ __forceinline__ uint32_t pack_relu(float low, float high) {
  uint32_t packed;
  if constexpr (kType == Operand::kFp16) {
    asm("cvt.rn.satfinite.relu.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  }
  return packed;
}

// Takes two fp16 numbers x >= 0. Replaces 65504, the largest finite number, with NaN and keeps all
// others. It computes 0 (x + 16) + x: for 65504 the sum x + 16 is infinite, and 0 times infinity is
// NaN. For the next smaller number, 65472, the sum is still finite.
__device__ __forceinline__ uint32_t nan_where_saturated(uint32_t packed) {
  constexpr uint32_t kSixteen = 0x4C004C00, kZero = 0;
  uint32_t sum, result;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(packed), "r"(kSixteen));
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(sum), "r"(kZero), "r"(packed));
  return result;
}

// Stores four 8 x 8 matrices of 16-bit elements. Needs sm_90. Lane l gives the address of row l % 8
// of matrix l / 8. From each matrix it holds the pair at row l / 4, columns 2 (l % 4) and the next.
__device__ __forceinline__ void stmatrix_x4(uint32_t row, const uint32_t (&matrices)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(matrices[0]), "r"(matrices[1]), "r"(matrices[2]), "r"(matrices[3])
               : "memory");
}

// d += a b, with a (16 x 16) and b (16 x 8) in 16 bits, d (16 x 8) in float. With g = l / 4 and c =
// 2 (l % 4), lane l holds:
//
//     a at (g, c), (g + 8, c), (g, c + 8), (g + 8, c + 8), and the next column of each
//     b at (c, g), (c + 8, g), and the next row of each
//     d at (g, c), (g, c + 1), (g + 8, c), (g + 8, c + 1)
template <Operand kType>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
#define OCCVAE_MMA(type)                                                              \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (kType == Operand::kFp16) {
    OCCVAE_MMA("f16");
  } else {
    OCCVAE_MMA("bf16");
  }
#undef OCCVAE_MMA
}

// Starts a copy of 16 bytes to shared memory that bypasses L1. The data is there after a
// cp_async_wait of this thread.
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}

// Ends a group of this thread's copies. The group may be empty.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for all groups of this thread except the newest kPending.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Everything below needs sm_90.

// Initializes a barrier of 8 bytes. A phase ends after `arrivals` arrivals and all bytes that they
// announced.
__device__ __forceinline__ void mbarrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialized barriers visible to copies. Threads see them after __syncthreads().
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Announces bytes of bulk copies, then arrives.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Waits for the end of the phase of this parity. The first phase has parity 0. The phase before it,
// of parity 1, counts as ended.
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, int parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!done);
}

// Starts a copy to shared memory that counts its bytes at the barrier when it is complete. The
// addresses and the size must be multiples of 16.
__device__ __forceinline__ void cp_async_bulk(uint32_t shared, const void* global, int bytes,
                                              uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared),
      "l"(global), "r"(bytes), "r"(barrier)
      : "memory");
}

// Blocks of a cluster. Their shared memory has the same addresses.

// Returns the rank of this block in its cluster.
__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// A barrier among all threads of the cluster that have not ended.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// Arrives at the barrier of the block of this rank. Neither this nor mbarrier_wait() orders
// ordinary reads and writes of different blocks. `.release.cluster` and `.acquire.cluster` would,
// but ptxas implements them as a fence of the whole GPU and as a flush of the L1 cache. A block
// that waits for the arrival may overwrite, by bulk copies, what products before the arrival have
// read.
__device__ __forceinline__ void mbarrier_arrive_in_block(uint32_t barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// As cp_async_bulk(), to the blocks of the cluster whose bits are set in `ranks`. Bytes are counted
// at the barrier of each of them. They may arrive before the block announces them.
__device__ __forceinline__ void cp_async_bulk_multicast(uint32_t shared, const void* global,
                                                        int bytes, uint32_t barrier, int ranks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1], %2, [%3], %4;" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier), "h"(static_cast<uint16_t>(ranks))
      : "memory");
}

// Makes this thread's ordinary writes to shared memory visible to wgmma and bulk copies.
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace occvae::ptx

#if OCCVAE_HAS_WGMMA
#include "wgmma.cuh"
#endif
