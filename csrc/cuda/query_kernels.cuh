// The kernels of query_occupancy and what decides between them: the GPU, and the layout that the
// weights were packed in. No two layouts have the same dtype and sizes.
#pragma once

#include "query_tiles.cuh"

namespace occvae {

// The numbers are those of occvae::_cuda_query_kernel; a GPU with one has those before it too.
enum class QueryKernel : int64_t {
  kFp32 = 1,   // any GPU
  kMma = 2,    // tensor cores of sm_80 and later
  kWgmma = 3,  // those of sm_90a
};

struct QueryDevice {
  int64_t processors;
  int64_t capability;    // 90 for 9.0
  int64_t shared_bytes;  // that a block may have
};

// Packed fp32 weights are [2L, C / 32, C, 32]; see csrc/query_occupancy.h. The limit is where the
// fp32 kernel has fewer than 16 points to a tile.
constexpr int64_t kMostChannels = 1024;

// Packed 16-bit weights are [L, 2 C C / chunk, chunk], in the order in which a kernel reads them:
// chunks are what it brings to shared memory at a time.
constexpr int64_t kMmaChunk = 8192;     // elements: 16 KB
constexpr int64_t kWgmmaChunk = 16384;  // 32 KB

constexpr bool mma_has_width(int64_t channels) { return channels == 128 || channels == 256; }
constexpr bool wgmma_has_width(int64_t channels) { return channels == 256; }

// The kernel for which to pack weights for the current device: fp32 where no other has the width.
QueryKernel choose_query_kernel(Precision precision, int64_t channels);

// Each kernel's launch. Those of 16 bits take packed weights of either type, and for fp16 a place
// for what the warps report to the range guard (see RangeGuard; null for bf16), of as many ints as
// most_reports() says; they return how many they use.
constexpr int64_t kReportsPerBlock = 8;
inline int64_t most_reports(const QueryDevice& device) {
  return device.processors * kReportsPerBlock;
}

int64_t mma_query_bytes();  // of shared memory that a block needs at least
int64_t launch_mma_query(const Query& query, const Tensor& weights, int* reports,
                         const QueryDevice& device, cudaStream_t stream);

bool wgmma_query_loaded();  // whether its code was built for the current device
int64_t wgmma_query_bytes();
int64_t launch_wgmma_query(const Query& query, const Tensor& weights, int* reports,
                           const QueryDevice& device, cudaStream_t stream);

// With a guard that has reports: only logits that are NaN are computed, if a warp reported any.
void launch_fp32_query(const Query& query, const Tensor& weights, const RangeGuard& guard,
                       const QueryDevice& device, cudaStream_t stream);

}  // namespace occvae
