// Launch helpers of all CUDA ops: current stream, launches, grid-stride for_each, scans, block-wide
// sums. Kernels must be launched through launch(), and everything that is not C++ (inline PTX) must
// be in ptx.cuh. This lets the tests compile the same sources for a CPU (tests/cuda_emulator).
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <cub/device/device_scan.cuh>
#include <utility>

#include "../common.h"

// Declares `name` as the dynamic shared memory of a kernel: bytes aligned to 1024.
#define OCCVAE_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) uint8_t name[]

namespace occvae {

constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xFFFFFFFFu;

// Returns the current stream of PyTorch. Call it under a DeviceGuard of the same device.
inline cudaStream_t current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Returns the number of blocks for `items` work items, `per_block` per block. Kernels loop with a
// grid stride, so the cap limits the grid and not the work. The cap is many times what a GPU runs
// at once.
inline unsigned grid_size(int64_t items, int64_t per_block = kThreads) {
  return static_cast<unsigned>(std::clamp<int64_t>(ceil_div(items, per_block), 1, 1 << 20));
}

template <typename... Parameters>
void allow_shared_memory(void (*kernel)(Parameters...), size_t bytes) {
  constexpr size_t kAlwaysAllowed = 48 * 1024;
  if (bytes <= kAlwaysAllowed) return;
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(bytes)));
}

// Runs kernel<<<grid, threads, shared_bytes, stream>>>(arguments...) and checks for errors.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), unsigned grid, unsigned threads, size_t shared_bytes,
            cudaStream_t stream, Arguments&&... arguments) {
  allow_shared_memory(kernel, shared_bytes);
  kernel<<<grid, threads, shared_bytes, stream>>>(std::forward<Arguments>(arguments)...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// As launch(), but `cluster` consecutive blocks run at the same time and reach each other's shared
// memory (sm_90). `grid` must be a multiple of `cluster`.
template <typename... Parameters, typename... Arguments>
void launch_clusters(void (*kernel)(Parameters...), unsigned cluster, unsigned grid,
                     unsigned threads, size_t shared_bytes, cudaStream_t stream,
                     Arguments&&... arguments) {
  allow_shared_memory(kernel, shared_bytes);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

template <typename Function>
__global__ void __launch_bounds__(kThreads) for_each_kernel(int64_t n, Function function) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    function(i);
  }
}

// Calls function(i) for every i < n, one thread per item. `function` is a __device__ lambda or a
// function object.
template <typename Function>
void for_each(int64_t n, cudaStream_t stream, const Function& function) {
  if (n == 0) return;
  launch(for_each_kernel<Function>, grid_size(n), kThreads, 0, stream, n, function);
}

// Sets data[i] to data[0] + ... + data[i]. Scratch memory is allocated on the device of `like`,
// which may be any tensor there.
template <typename T>
void inclusive_scan(T* data, int64_t n, const Tensor& like, cudaStream_t stream) {
  size_t bytes = 0;
  STD_CUDA_CHECK(cub::DeviceScan::InclusiveSum(nullptr, bytes, data, data, n, stream));
  Tensor scratch = torch::stable::new_empty(like, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  STD_CUDA_CHECK(
      cub::DeviceScan::InclusiveSum(scratch.mutable_data_ptr(), bytes, data, data, n, stream));
}

// Sums values[k] over a block of kThreads threads. Thread k < K returns sum k, the others return 0.
// All threads of the block must call it. Its last step is a barrier, so it may be called again at
// once.
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
