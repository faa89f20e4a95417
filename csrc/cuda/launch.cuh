// Launch helpers for every CUDA op: current stream, grid-stride for_each, block-wide sums.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>

#include "../common.h"

namespace occvae {

constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xFFFFFFFFu;

// The stream PyTorch works on; call it under a DeviceGuard of the same device.
inline cudaStream_t current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Blocks for `items` work items, `per_block` to a block. Kernels loop with a grid stride, so the
// cap (many times what any GPU holds at once) bounds the grid and not the work.
inline unsigned grid_size(int64_t items, int64_t per_block = kThreads) {
  return static_cast<unsigned>(std::clamp<int64_t>(ceil_div(items, per_block), 1, 1 << 20));
}

template <typename Function>
__global__ void __launch_bounds__(kThreads) for_each_kernel(int64_t n, Function function) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    function(i);
  }
}

// function(i) for every i < n, one thread each. `function` is a __device__ lambda or functor.
template <typename Function>
void for_each(int64_t n, cudaStream_t stream, const Function& function) {
  if (n == 0) return;
  for_each_kernel<<<grid_size(n), kThreads, 0, stream>>>(n, function);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Sums values[k] over a block of kThreads threads: thread k < K returns sum k, others return 0.
// All threads must call it; it may be called again at once.
template <int K, typename T>
__device__ T block_sum(const T (&values)[K]) {
  static_assert(K <= kThreads);
  __shared__ T partial[kThreads / kWarp][K];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    T sum = values[k];
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(kFullWarp, sum, offset);
    }
    if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp][k] = sum;
  }
  __syncthreads();
  T total = 0;
  if (threadIdx.x < K) {
    for (int warp = 0; warp < kThreads / kWarp; ++warp) total += partial[warp][threadIdx.x];
  }
  __syncthreads();
  return total;
}

}  // namespace occvae
