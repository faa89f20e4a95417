// Replaces CUB: a scan on the host. As in CUB, a call without scratch memory returns its size.
#pragma once

#include <cuda_runtime.h>

namespace cub {

struct DeviceScan {
  template <typename In, typename Out, typename Count>
  static cudaError_t InclusiveSum(void* scratch, size_t& bytes, In in, Out out, Count n,
                                  cudaStream_t) {
    if (!scratch) {
      bytes = 1;
      return cudaSuccess;
    }
    auto sum = *out - *out;
    for (Count i = 0; i < n; ++i) out[i] = sum += in[i];
    return cudaSuccess;
  }
};

}  // namespace cub
