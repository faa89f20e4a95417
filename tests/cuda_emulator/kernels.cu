// Small kernels for the tests of the emulator and of csrc/cuda/ptx.cuh. They are CUDA code, so on a
// GPU the same tests run on it. `mistake` omits or spoils one step. Only emulator tests use it.
#include <cuda_runtime.h>

#include <cstdint>
#include <exception>
#include <string>

#include "ptx.cuh"

#define OCCVAE_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace occvae::ptx;

// Writes `in` to `out`, reversed within each block. Mistake: no barrier.
__global__ void reverse(const int* in, int* out, bool mistake) {
  __shared__ int values[256];
  const unsigned t = threadIdx.x;
  values[t] = in[blockIdx.x * 256 + t];
  if (!mistake) __syncthreads();
  out[blockIdx.x * 256 + t] = values[255 - t];
}

// Two warps pass `rounds` values to two other warps through one slot. Mistake: the readers do not
// release the slot, so it may be overwritten too early.
__global__ void hand_over(int rounds, int* out, bool mistake) {
  __shared__ int slot[64];
  constexpr int kFull = 1, kEmpty = 2, kThreads = 128;
  const unsigned lane = threadIdx.x % 64;
  if (threadIdx.x < 64) {
    for (int i = 0; i < rounds; ++i) {
      if (i > 0 && !mistake) bar_sync(kEmpty, kThreads);
      slot[lane] = 64 * i + static_cast<int>(lane);
      bar_sync(kFull, kThreads);
    }
  } else {
    for (int i = 0; i < rounds; ++i) {
      bar_sync(kFull, kThreads);
      out[64 * i + lane] = slot[lane];
      if (i + 1 < rounds && !mistake) bar_sync(kEmpty, kThreads);
    }
  }
}

// Does something that is not allowed, selected by number.
__global__ void misbehave(int what, int* out) {
#if OCCVAE_HAS_WGMMA
  extern __shared__ __align__(1024) uint8_t bytes[];
  const unsigned t = threadIdx.x;
  const uint32_t dynamic = shared_address(bytes);
  constexpr unsigned kFullWarp = 0xFFFFFFFF;
  if (what == 0) out[t] = t % 32 < 16 ? __shfl_sync(kFullWarp, t, 3) : __ballot_sync(kFullWarp, 1);
  if (what == 1 && t < 32) mbarrier_init(dynamic, 1), mbarrier_wait(dynamic, 0);
  if (what == 1) __syncthreads();
  if (what == 2) bytes[1000 + t] = 1;
  if (what == 3) mbarrier_arrive(dynamic);
  if (what == 4) cp_async_16(dynamic + 1024, out);
  if (what == 5 && t % 32 < 31) out[t] = __shfl_xor_sync(kFullWarp, t, 1);
#endif
}

// Stores the three conversions of pair i of values in packed[3 i] to packed[3 i + 2].
__global__ void convert(int pairs, const float* values, uint32_t* packed) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= static_cast<unsigned>(pairs)) return;
  const float low = values[2 * i], high = values[2 * i + 1];
  packed[3 * i] = pack_relu<Operand::kFp16>(low, high);
  packed[3 * i + 1] = pack_relu<Operand::kBf16>(low, high);
  packed[3 * i + 2] = nan_where_saturated(packed[3 * i]);
}

// Returns elements (row, column) and (row, column + 1) of a matrix, packed.
__device__ uint32_t pair_at(const uint16_t* matrix, unsigned columns, unsigned row,
                            unsigned column) {
  const uint16_t* low = matrix + columns * row + column;
  return low[0] | static_cast<uint32_t>(low[1]) << 16;
}

// out (16, 8) += a (16, 16) b (8, 16)^T, by one warp.
template <Operand kType>
__global__ void multiply(const uint16_t* a, const uint16_t* b, float* out) {
  const unsigned lane = threadIdx.x, row = lane / 4, column = 2 * (lane % 4);
  uint32_t a_fragment[4];
  for (unsigned i = 0; i < 4; ++i)
    a_fragment[i] = pair_at(a, 16, row + 8 * (i % 2), column + 8 * (i / 2));
  float* corner = out + 8 * row + column;
  float d[4] = {corner[0], corner[1], corner[64], corner[65]};
  mma_m16n8k16<kType>(d, a_fragment, pair_at(b, 16, row, column), pair_at(b, 16, row, column + 8));
  corner[0] = d[0];
  corner[1] = d[1];
  corner[64] = d[2];
  corner[65] = d[3];
}

// Copies four 8 x 8 matrices from `in` to `out` by stmatrix.
__global__ void copy_matrices(const uint16_t* in, uint16_t* out) {
#if OCCVAE_HAS_WGMMA
  __shared__ __align__(16) uint16_t to[256];
  const unsigned lane = threadIdx.x;
  uint32_t matrices[4];
  for (unsigned m = 0; m < 4; ++m) matrices[m] = pair_at(in + 64 * m, 8, lane / 4, 2 * (lane % 4));
  stmatrix_x4(shared_address(&to[8 * lane]), matrices);
  __syncwarp();
  for (unsigned i = lane; i < 256; i += 32) out[i] = to[i];
#endif
}

// Copies 256 floats per stage through two buffers by cp.async. Mistakes: 1, no wait for the data;
// 2, no barrier before a buffer is filled again.
__global__ void stream_copies(int stages, const float* in, float* out, int mistake) {
  __shared__ __align__(16) float buffers[2][256];
  const unsigned t = threadIdx.x;  // one of 64
  auto load = [&](int stage) {
    if (stage < stages)
      cp_async_16(shared_address(&buffers[stage % 2][4 * t]), in + 256 * stage + 4 * t);
    cp_async_commit();
  };
  load(0);
  for (int stage = 0; stage < stages; ++stage) {
    load(stage + 1);
    if (mistake != 1) cp_async_wait<1>();
    __syncthreads();
    for (unsigned i = 0; i < 4; ++i) out[256 * stage + 64 * i + t] = buffers[stage % 2][64 * i + t];
    if (mistake != 2) __syncthreads();
  }
}

// The same by bulk copies of one thread. Mistakes: 1, no wait for the data; 2, no wait for the
// readers.
__global__ void stream_bulk(int stages, const float* in, float* out, int mistake) {
#if OCCVAE_HAS_WGMMA
  __shared__ __align__(16) float buffers[2][256];
  __shared__ uint64_t full[2], empty[2];
  const unsigned t = threadIdx.x;  // one of 96; the last warp copies
  if (t == 0) {
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(shared_address(&full[i]), 1);
      mbarrier_init(shared_address(&empty[i]), 64);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  for (int stage = 0; stage < stages; ++stage) {
    const int slot = stage % 2, turn = stage / 2 % 2;
    if (t < 64) {
      if (mistake != 1) mbarrier_wait(shared_address(&full[slot]), turn);
      for (unsigned i = 0; i < 4; ++i) out[256 * stage + 64 * i + t] = buffers[slot][64 * i + t];
      mbarrier_arrive(shared_address(&empty[slot]));
    } else if (t == 64) {
      if (mistake != 2) mbarrier_wait(shared_address(&empty[slot]), turn ^ 1);
      mbarrier_arrive_expect_tx(shared_address(&full[slot]), 1024);
      cp_async_bulk(shared_address(buffers[slot]), in + 256 * stage, 1024,
                    shared_address(&full[slot]));
    }
  }
#endif
}

// The same in a cluster of two blocks of 128 threads. Each block copies half of a stage to both,
// and writes all stages to its part of `out`. Mistakes: 1, no wait for the data; 2, no wait for the
// readers of the other block; 3, no barrier at the end.
__global__ void stream_to_cluster(int stages, const float* in, float* out, int mistake) {
#if OCCVAE_HAS_WGMMA
  extern __shared__ __align__(1024) uint8_t bytes[];
  const unsigned t = threadIdx.x;
  const int rank = cluster_rank();
  const auto* buffers = reinterpret_cast<const float*>(bytes);
  const uint32_t base = shared_address(bytes), full = base + 2048, empty = full + 16;
  if (t == 0) {
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(full + 8 * i, 1);
      mbarrier_init(empty + 8 * i, mistake == 2 ? 64 : 128);
    }
    mbarrier_init_fence();
  }
  cluster_sync();
  for (int stage = 0; stage < stages; ++stage) {
    const int slot = stage % 2, turn = stage / 2 % 2;
    if (t < 64) {
      if (mistake != 1) mbarrier_wait(full + 8 * slot, turn);
      for (unsigned i = 0; i < 4; ++i) {
        out[256 * (stages * rank + stage) + 64 * i + t] = buffers[256 * slot + 64 * i + t];
      }
      for (int block = 0; block < 2; ++block) {
        if (mistake != 2 || block == rank) mbarrier_arrive_in_block(empty + 8 * slot, block);
      }
    } else if (t == 64) {
      mbarrier_wait(empty + 8 * slot, turn ^ 1);
      mbarrier_arrive_expect_tx(full + 8 * slot, 1024);
      cp_async_bulk_multicast(base + 1024 * slot + 512 * rank, in + 256 * stage + 128 * rank, 512,
                              full + 8 * slot, 3);
    }
  }
  if (mistake != 3) cluster_sync();
#endif
}

enum WgmmaMistake {
  kNone,
  kNoProxyFence,
  kWrongSwizzle,
  kNoWait,
  kNoFence,
  kOverwritten,
  kShifted
};

#if OCCVAE_HAS_WGMMA
// Writes rows of 64 elements in the layout of wgmma_descriptor().
__device__ void store_swizzled(uint8_t* tile, const uint16_t* matrix, unsigned rows, bool wrong) {
  for (unsigned i = threadIdx.x; i < rows * 64; i += blockDim.x) {
    const unsigned row = i / 64, column = i % 64;
    const unsigned chunk = column / 8 ^ (wrong ? 0 : row % 8);
    reinterpret_cast<uint16_t*>(tile + row * 128 + chunk * 16)[column % 8] = matrix[i];
  }
}
#endif

// out (64, N) = a (64, 64) b (N, 64)^T by one warpgroup. a is in shared memory for N = 128 and in
// registers for N = 256.
template <Operand kType, int kColumns>
__global__ void __launch_bounds__(128)
    multiply_wgmma(const uint16_t* a, const uint16_t* b, float* out, int mistake) {
#if OCCVAE_HAS_WGMMA
  extern __shared__ __align__(1024) uint8_t bytes[];
  const unsigned t = threadIdx.x, lane = t % 32, warp = t / 32;
  uint8_t* b_tile = bytes + 64 * 128;
  store_swizzled(bytes, a, 64, mistake == kWrongSwizzle);
  store_swizzled(b_tile, b, kColumns, false);
  if (mistake != kNoProxyFence) fence_proxy_async();
  __syncthreads();
  [[maybe_unused]] uint32_t a_rows[4][4];
  for (int k = 0; k < 4; ++k) {
    for (int i = 0; i < 4; ++i) {
      const unsigned row = 16 * warp + lane / 4 + 8 * (i % 2);
      a_rows[k][i] = pair_at(a, 64, row, 16 * k + 2 * (lane % 4) + 8 * (i / 2));
    }
  }
  float d[kColumns / 2];
  for (int i = 0; i < kColumns / 2; ++i) d[i] = 0.0f;
  if (mistake != kNoFence) wgmma_fence(d);
  for (int k = 0; k < 4; ++k) {
    const uint64_t b_columns = wgmma_descriptor(shared_address(b_tile) + 32 * k);
    if constexpr (kColumns == 128) {
      const uint32_t a_columns = shared_address(bytes) + 32 * k + (mistake == kShifted ? 128 : 0);
      wgmma_ss_n128<kType>(d, wgmma_descriptor(a_columns), b_columns, k > 0);
    } else {
      wgmma_rs_n256<kType>(d, a_rows[k], b_columns, k > 0);
    }
  }
  wgmma_commit();
  if (mistake == kOverwritten) {
    bytes[t] = 0x7F;
    fence_proxy_async();
    __syncthreads();
  }
  if (mistake == kNoWait) {
    float early[kColumns / 2];
    for (int i = 0; i < kColumns / 2; ++i) early[i] = d[i];
    wgmma_wait<0>(d);
    for (int i = 0; i < kColumns / 2; ++i) d[i] = early[i];
  } else {
    wgmma_wait<0>(d);
  }
  for (int i = 0; i < kColumns / 2; ++i) {
    const unsigned row = 16 * warp + lane / 4 + 8 * (i / 2 % 2);
    out[kColumns * row + 8 * (i / 4) + 2 * (lane % 4) + i % 2] = d[i];
  }
#endif
}

// A kernel must request dynamic shared memory beyond 48 KB.
template <typename... Parameters, typename... Arguments>
void launch_with_shared(void (*kernel)(Parameters...), unsigned threads, int bytes,
                        Arguments... arguments) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  kernel<<<1, threads, bytes>>>(arguments...);
}

// Runs a launch. Returns an error message or null.
template <typename Function>
const char* guarded(Function function) {
  static std::string message;
  try {
    function();
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
  const cudaError_t error = cudaDeviceSynchronize();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

OCCVAE_EXPORT const char* run_reverse(int blocks, const int* in, int* out, int mistake) {
  return guarded([=] { reverse<<<blocks, 256>>>(in, out, mistake); });
}

OCCVAE_EXPORT const char* run_hand_over(int rounds, int* out, int mistake) {
  return guarded([=] { hand_over<<<1, 128>>>(rounds, out, mistake); });
}

OCCVAE_EXPORT const char* run_misbehave(int what, int* out) {
  return guarded([=] { misbehave<<<1, 64, 1000>>>(what, out); });
}

OCCVAE_EXPORT const char* run_convert(int pairs, const float* values, uint32_t* packed) {
  return guarded([=] { convert<<<(pairs + 63) / 64, 64>>>(pairs, values, packed); });
}

OCCVAE_EXPORT const char* run_multiply(int bf16, const uint16_t* a, const uint16_t* b, float* out) {
  auto* kernel = bf16 ? multiply<Operand::kBf16> : multiply<Operand::kFp16>;
  return guarded([=] { kernel<<<1, 32>>>(a, b, out); });
}

OCCVAE_EXPORT const char* run_copy_matrices(const uint16_t* in, uint16_t* out) {
  return guarded([=] { copy_matrices<<<1, 32>>>(in, out); });
}

OCCVAE_EXPORT const char* run_stream_copies(int stages, const float* in, float* out, int mistake) {
  return guarded([=] { stream_copies<<<1, 64>>>(stages, in, out, mistake); });
}

OCCVAE_EXPORT const char* run_stream_bulk(int stages, const float* in, float* out, int mistake) {
  return guarded([=] { stream_bulk<<<1, 96>>>(stages, in, out, mistake); });
}

OCCVAE_EXPORT const char* run_stream_to_cluster(int stages, const float* in, float* out,
                                                int mistake) {
  return guarded([=] {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {2, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(2);
    config.blockDim = dim3(128);
    config.dynamicSmemBytes = 2048 + 32;
    config.attrs = &attribute;
    config.numAttrs = 1;
    cudaLaunchKernelEx(&config, stream_to_cluster, stages, in, out, mistake);
  });
}

OCCVAE_EXPORT const char* run_wgmma(int bf16, int columns, const uint16_t* a, const uint16_t* b,
                                    float* out, int mistake) {
  auto* narrow = bf16 ? multiply_wgmma<Operand::kBf16, 128> : multiply_wgmma<Operand::kFp16, 128>;
  auto* wide = bf16 ? multiply_wgmma<Operand::kBf16, 256> : multiply_wgmma<Operand::kFp16, 256>;
  return guarded([=] {
    launch_with_shared(columns == 128 ? narrow : wide, 128, (64 + columns) * 128, a, b, out,
                       mistake);
  });
}
