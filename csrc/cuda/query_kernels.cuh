// The CUDA kernels of query_occupancy and the choice between them. The GPU and the layout of the
// packed weights decide. No two layouts have the same dtype and sizes, so the tensor tells its
// kernel.
#pragma once

#include "query_tiles.cuh"

namespace occvae {

// The values of the op occvae::_cuda_query_kernel. A GPU that runs a kernel also runs those before
// it. Kernels after kWgmma are its variants, to be compared on a GPU. They read the weights that
// were packed for kWgmma, and run only if the op has raised its limit.
enum class QueryKernel : int64_t {
  kFp32 = 1,        // every GPU
  kMma = 2,         // tensor cores of sm_80 and later
  kWgmma = 3,       // tensor cores of sm_90a
  kWgmmaDeep = 4,   // five buffers of weights instead of four
  kWgmmaPairs = 5,  // two blocks share their copies of weights
};

struct QueryDevice {
  int64_t processors;
  int64_t capability;    // 90 for 9.0
  int64_t shared_bytes;  // limit per block
};

// Packed fp32 weights are [2L, C / 32, C, 32], see csrc/query_occupancy.h. With more channels than
// this, a tile of the fp32 kernel would have fewer than 16 points.
constexpr int64_t kMostChannels = 1024;

// Packed 16-bit weights are [L, 2 C C / chunk, chunk], in the order in which a kernel reads them. A
// kernel copies one chunk at a time to shared memory.
constexpr int64_t kMmaChunk = 8192;     // elements: 16 KB
constexpr int64_t kWgmmaChunk = 16384;  // 32 KB

constexpr int kColumnTile = 16;  // columns of an operand of the tensor cores

// Returns the channel that both 16-bit kernels compute in a column, for outputs and inputs of every
// layer. Of 16 columns, a lane of an accumulator holds 2 q, 2 q + 1, 8 + 2 q and 9 + 2 q. These are
// the channels 4 q to 4 q + 3.
__host__ __device__ constexpr int64_t channel_of_column(int64_t column) {
  const int64_t place = column % kColumnTile;
  return column - place + place % 8 / 2 * 4 + place / 8 * 2 + place % 2;
}

constexpr bool mma_has_width(int64_t channels) { return channels == 128 || channels == 256; }
constexpr bool wgmma_has_width(int64_t channels) { return channels == 256; }

// Returns the kernel to pack weights for on the current device: fp32 if no other supports the
// width.
QueryKernel choose_query_kernel(Precision precision, int64_t channels);

// The launch functions of the kernels. The two 16-bit kernels take packed weights of either type.
// `reports` holds most_reports() ints for the range guard (see RangeGuard) with fp16. It is null
// for bf16. The functions return the number of reports that they use.
constexpr int64_t kReportsPerBlock = 8;
inline int64_t most_reports(const QueryDevice& device) {
  return device.processors * kReportsPerBlock;
}

int64_t mma_query_bytes();  // minimum shared memory per block
int64_t launch_mma_query(const Query& query, const Tensor& weights, int* reports,
                         const QueryDevice& device, cudaStream_t stream);

bool wgmma_query_loaded();    // whether its code was built for the current device
int64_t wgmma_query_bytes();  // largest of its variants
int64_t launch_wgmma_query(const Query& query, const Tensor& weights, int* reports,
                           QueryKernel variant, const QueryDevice& device, cudaStream_t stream);

// Computes all logits if the guard has no reports. Otherwise it recomputes only the logits that are
// NaN, and does nothing if no warp reported one.
void launch_fp32_query(const Query& query, const Tensor& weights, const RangeGuard& guard,
                       const QueryDevice& device, cudaStream_t stream);

}  // namespace occvae
