// CUDA kernels of voxel_iou_counts; the rules of comparison are in csrc/voxel_iou.h. A target given
// as numbers is first packed into bits, which costs little compared with reading the prediction.
// One counting kernel then serves every kind of target.
#include <limits>
#include <vector>

#include "../common.h"
#include "../voxel_iou.h"
#include "launch.cuh"

namespace occvae {
namespace {

constexpr int kVoxelsPerThread = 64;                     // per chunk
constexpr int64_t kChunk = kVoxelsPerThread * kThreads;  // voxels per work item of a block
constexpr int kMaxThresholds = 8;                        // per pass

// A thread counts hits in the low 16 bits of a register and intersections in the high 16. The sum
// over a block still fits.
static_assert(kChunk < (1 << 16));

template <typename scalar_t, int kWidth>
struct alignas(sizeof(scalar_t) * kWidth) Pack {
  scalar_t value[kWidth];
};

template <typename scalar_t>
struct Thresholds {
  compare_t<scalar_t> value[kMaxThresholds];
};

// A block counts one chunk of one sample, K thresholds at a time. A thread loads kWidth neighboring
// voxels as one vector, so a warp reads 512 contiguous bytes. It also loads the byte that holds
// their target bits. One byte is enough, because kWidth divides 8 and the index of the first voxel.
// Every hit adds 1 + (inside << 16). Counts are integers, so the order of the atomics does not
// matter.
template <typename scalar_t, int kWidth, int K>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const scalar_t* __restrict__ pred,   // [B, n]
                 const uint8_t* __restrict__ target,  // [B, ceil(n / 8)]
                 int64_t batch, int64_t n, Thresholds<scalar_t> thresholds, int num_thresholds,
                 int64_t row,                             // counts per sample: 2 T
                 unsigned long long* __restrict__ counts  // [B, T, 2], from the first threshold on
    ) {
  constexpr int kStep = kThreads * kWidth;
  const int64_t chunks = ceil_div(n, kChunk);
  for (int64_t item = blockIdx.x; item < batch * chunks; item += gridDim.x) {
    const int64_t b = item / chunks;
    const int64_t begin = item % chunks * kChunk + threadIdx.x * kWidth;
    const scalar_t* sample = pred + b * n;
    const uint8_t* bits = target + b * packed_bytes(n);
    uint32_t sums[K + 1] = {};  // the last entry counts the target
#pragma unroll 4
    for (int step = 0; step < kChunk / kStep; ++step) {
      const int64_t i = begin + step * kStep;
      if (i >= n) continue;  // kWidth divides n, so a vector is inside or outside as a whole
      const auto voxels = *reinterpret_cast<const Pack<scalar_t, kWidth>*>(sample + i);
      const uint32_t byte = static_cast<uint32_t>(bits[i / 8]) << (i % 8);  // voxel i at bit 7
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        const uint32_t inside = (byte >> (7 - j)) & 1u;
        sums[K] += inside;
#pragma unroll
        for (int k = 0; k < K; ++k) {
          if (occupied(voxels.value[j], thresholds.value[k])) sums[k] += 1u + (inside << 16);
        }
      }
    }
    const uint32_t total = block_sum(sums);
    __shared__ uint32_t target_total;
    if (threadIdx.x == K) target_total = total;
    __syncthreads();
    if (threadIdx.x < K && threadIdx.x < num_thresholds) {
      const uint32_t hits = total & 0xFFFFu;
      const uint32_t both = total >> 16;
      unsigned long long* out = counts + b * row + 2 * threadIdx.x;
      atomicAdd(out, static_cast<unsigned long long>(both));
      atomicAdd(out + 1, static_cast<unsigned long long>(hits + target_total - both));
    }
  }
}

// Function object of for_each that writes byte i of the packed rows. Bits past the end of a row are
// zero.
template <typename scalar_t>
struct PackByte {
  const scalar_t* __restrict__ target;  // [B, n]
  uint8_t* __restrict__ packed;         // [B, ceil(n / 8)]
  int64_t n;

  __device__ void operator()(int64_t i) const {
    const int64_t row_bytes = packed_bytes(n);
    const int64_t first = i % row_bytes * 8;
    const scalar_t* voxels = target + i / row_bytes * n + first;
    uint32_t byte = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (first + j < n && target_occupied(voxels[j])) byte |= 0x80u >> j;
    }
    packed[i] = static_cast<uint8_t>(byte);
  }
};

template <typename scalar_t>
void launch_pack(const Tensor& target, int64_t n, Tensor& packed) {
  for_each(packed.numel(), current_stream(target),
           PackByte<scalar_t>{static_cast<const scalar_t*>(target.const_data_ptr()),
                              static_cast<uint8_t*>(packed.mutable_data_ptr()), n});
}

Tensor pack_target(const Tensor& target, int64_t n) {
  Tensor packed =
      torch::stable::new_empty(target, {target.size(0), packed_bytes(n)}, ScalarType::Byte);
  if (target.scalar_type() == ScalarType::Bool || target.scalar_type() == ScalarType::Byte) {
    launch_pack<uint8_t>(target, n, packed);
  } else {
    THO_DISPATCH_V2(target.scalar_type(), "voxel_iou_counts",
                    AT_WRAP([&] { launch_pack<scalar_t>(target, n, packed); }),
                    AT_EXPAND(AT_FLOATING_TYPES), ScalarType::Half, ScalarType::BFloat16);
  }
  return packed;
}

template <typename scalar_t, int kWidth, int K>
void launch_count(const Tensor& pred, const Tensor& target, const std::vector<double>& levels,
                  size_t first, Tensor& counts) {
  const int64_t batch = pred.size(0);
  const int64_t n = voxels_per_sample(pred);
  const int num_thresholds = static_cast<int>(std::min<size_t>(levels.size() - first, K));
  Thresholds<scalar_t> thresholds;
  for (int k = 0; k < kMaxThresholds; ++k) {
    thresholds.value[k] =
        k < num_thresholds ? round_threshold<scalar_t>(levels[first + k]) : compare_t<scalar_t>{};
  }
  auto* out = static_cast<unsigned long long*>(counts.mutable_data_ptr()) + 2 * first;
  launch(count_kernel<scalar_t, kWidth, K>, grid_size(batch * ceil_div(n, kChunk), 1), kThreads, 0,
         current_stream(pred), static_cast<const scalar_t*>(pred.const_data_ptr()),
         static_cast<const uint8_t*>(target.const_data_ptr()), batch, n, thresholds, num_thresholds,
         2 * static_cast<int64_t>(levels.size()), out);
}

// Counts exactly as many thresholds as there are, because comparisons take longer than memory.
template <typename scalar_t, int K = kMaxThresholds>
void launch_vectors(const Tensor& pred, const Tensor& target, const std::vector<double>& levels,
                    size_t first, Tensor& counts) {
  constexpr int kVector = 16 / sizeof(scalar_t);
  if constexpr (K > 1) {
    if (levels.size() - first < K) {
      launch_vectors<scalar_t, K - 1>(pred, target, levels, first, counts);
      return;
    }
  }
  launch_count<scalar_t, kVector, K>(pred, target, levels, first, counts);
}

// Loads vectors of 16 bytes if every sample starts at a multiple of 16 bytes, else single voxels.
template <typename scalar_t>
void launch(const Tensor& pred, const Tensor& target, const std::vector<double>& levels,
            Tensor& counts) {
  constexpr int kVector = 16 / sizeof(scalar_t);
  const auto address = reinterpret_cast<uintptr_t>(pred.const_data_ptr());
  const bool aligned = address % 16 == 0 && voxels_per_sample(pred) % kVector == 0;
  for (size_t first = 0; first < levels.size(); first += kMaxThresholds) {
    if (aligned) {
      launch_vectors<scalar_t>(pred, target, levels, first, counts);
    } else if (levels.size() - first == 1) {
      launch_count<scalar_t, 1, 1>(pred, target, levels, first, counts);
    } else {
      launch_count<scalar_t, 1, kMaxThresholds>(pred, target, levels, first, counts);
    }
  }
}

Tensor voxel_iou_counts(const Tensor& pred, const Tensor& target, std::vector<double> thresholds,
                        bool packed) {
  check_iou_arguments(pred, target, packed);
  const torch::stable::accelerator::DeviceGuard guard(pred.get_device_index());
  const Tensor p = torch::stable::contiguous(pred);
  Tensor t = torch::stable::contiguous(target);
  const auto num_thresholds = static_cast<int64_t>(thresholds.size());
  Tensor counts =
      torch::stable::new_zeros(pred, {pred.size(0), num_thresholds, 2}, ScalarType::Long);
  if (pred.numel() == 0 || num_thresholds == 0) return counts;
  if (!packed) t = pack_target(t, voxels_per_sample(p));
  THO_DISPATCH_V2(p.scalar_type(), "voxel_iou_counts",
                  AT_WRAP([&] { launch<scalar_t>(p, t, thresholds, counts); }),
                  AT_EXPAND(AT_FLOATING_TYPES), ScalarType::Half, ScalarType::BFloat16);
  return counts;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CUDA, m) {
  m.impl("voxel_iou_counts", TORCH_BOX(&occvae::voxel_iou_counts));
}
