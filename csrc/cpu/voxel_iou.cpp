// CPU kernel of voxel_iou_counts. Threads share the chunks of all samples. The target of a chunk is
// packed into 64-bit words on the stack: voxel j of a block of 64 is bit j. The prediction is then
// read once, and each block is compared with every threshold while it is in registers. The rules of
// comparison are in csrc/voxel_iou.h.
#include "../voxel_iou.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "../common.h"
#include "isa.h"

namespace occvae {
namespace {

constexpr int64_t kBlock = 64;            // voxels per word
constexpr int64_t kChunk = 512 * kBlock;  // voxels per work item, whose words take 4 KB
constexpr int64_t kGrain = 4;             // work items per thread, at least

// Adds the counts of `blocks` blocks to counts[2 k] (intersection) and counts[2 k + 1] (union).
template <typename scalar_t>
using CountFn = void (*)(const scalar_t* pred, const uint64_t* words, int64_t blocks,
                         const compare_t<scalar_t>* thresholds, int64_t num_thresholds,
                         int64_t* counts);

template <typename scalar_t>
void count_portable(const scalar_t* pred, const uint64_t* words, int64_t blocks,
                    const compare_t<scalar_t>* thresholds, int64_t num_thresholds,
                    int64_t* counts) {
  for (int64_t b = 0; b < blocks; ++b) {
    compare_t<scalar_t> value[kBlock];  // 32-bit lanes only, so compilers vectorize this
    int32_t inside[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) {
      value[j] = static_cast<compare_t<scalar_t>>(pred[b * kBlock + j]);
      inside[j] = static_cast<int32_t>((words[b] >> j) & 1);
    }
    for (int64_t k = 0; k < num_thresholds; ++k) {
      int32_t both = 0;
      int32_t either = 0;
      for (int64_t j = 0; j < kBlock; ++j) {
        const int32_t hit = value[j] >= thresholds[k] ? 1 : 0;
        both += hit & inside[j];
        either += hit | inside[j];
      }
      counts[2 * k] += both;
      counts[2 * k + 1] += either;
    }
  }
}

#ifdef OCCVAE_X86

// 64 values in registers as floats. at_least() puts the comparison of voxel j at bit j. The ordered
// comparison is false for NaN.
struct Block512 {
  __m512 value[4];
};

OCCVAE_AVX512 inline __m512 load16(const float* p) { return _mm512_loadu_ps(p); }
OCCVAE_AVX512 inline __m512 load16(const Half* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
OCCVAE_AVX512 inline __m512 load16(const BFloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

template <typename scalar_t>
OCCVAE_AVX512 inline Block512 load_block512(const scalar_t* p) {
  return {{load16(p), load16(p + 16), load16(p + 32), load16(p + 48)}};
}

OCCVAE_AVX512 inline uint64_t at_least(const Block512& block, float threshold) {
  const __m512 t = _mm512_set1_ps(threshold);
  uint64_t mask = 0;
  for (int i = 0; i < 4; ++i) {
    mask |= static_cast<uint64_t>(_mm512_cmp_ps_mask(block.value[i], t, _CMP_GE_OQ)) << (16 * i);
  }
  return mask;
}

template <typename scalar_t>
OCCVAE_AVX512 void count_avx512(const scalar_t* pred, const uint64_t* words, int64_t blocks,
                                const float* thresholds, int64_t num_thresholds, int64_t* counts) {
  for (int64_t b = 0; b < blocks; ++b) {
    const Block512 block = load_block512(pred + b * kBlock);
    const uint64_t inside = words[b];
    for (int64_t k = 0; k < num_thresholds; ++k) {
      const uint64_t hits = at_least(block, thresholds[k]);
      counts[2 * k] += _mm_popcnt_u64(hits & inside);
      counts[2 * k + 1] += _mm_popcnt_u64(hits | inside);
    }
  }
}

template <typename scalar_t>
OCCVAE_AVX512 void pack_avx512(const scalar_t* target, int64_t blocks, uint64_t* words) {
  for (int64_t b = 0; b < blocks; ++b) {
    words[b] = at_least(load_block512(target + b * kBlock), 0.5f);
  }
}

OCCVAE_AVX512 void pack_avx512(const uint8_t* target, int64_t blocks, uint64_t* words) {
  for (int64_t b = 0; b < blocks; ++b) {
    const __m512i bytes = _mm512_loadu_si512(target + b * kBlock);
    words[b] = _mm512_test_epi8_mask(bytes, bytes);
  }
}

struct Block256 {
  __m256 value[8];
};

OCCVAE_AVX2 inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
OCCVAE_AVX2 inline __m256 load8(const Half* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
OCCVAE_AVX2 inline __m256 load8(const BFloat16* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

template <typename scalar_t>
OCCVAE_AVX2 inline Block256 load_block256(const scalar_t* p) {
  return {{load8(p), load8(p + 8), load8(p + 16), load8(p + 24), load8(p + 32), load8(p + 40),
           load8(p + 48), load8(p + 56)}};
}

OCCVAE_AVX2 inline uint64_t at_least(const Block256& block, float threshold) {
  const __m256 t = _mm256_set1_ps(threshold);
  uint64_t mask = 0;
  for (int i = 0; i < 8; ++i) {
    const __m256 hits = _mm256_cmp_ps(block.value[i], t, _CMP_GE_OQ);
    mask |= static_cast<uint64_t>(_mm256_movemask_ps(hits)) << (8 * i);
  }
  return mask;
}

template <typename scalar_t>
OCCVAE_AVX2 void count_avx2(const scalar_t* pred, const uint64_t* words, int64_t blocks,
                            const float* thresholds, int64_t num_thresholds, int64_t* counts) {
  for (int64_t b = 0; b < blocks; ++b) {
    const Block256 block = load_block256(pred + b * kBlock);
    const uint64_t inside = words[b];
    for (int64_t k = 0; k < num_thresholds; ++k) {
      const uint64_t hits = at_least(block, thresholds[k]);
      counts[2 * k] += _mm_popcnt_u64(hits & inside);
      counts[2 * k + 1] += _mm_popcnt_u64(hits | inside);
    }
  }
}

template <typename scalar_t>
OCCVAE_AVX2 void pack_avx2(const scalar_t* target, int64_t blocks, uint64_t* words) {
  for (int64_t b = 0; b < blocks; ++b) {
    words[b] = at_least(load_block256(target + b * kBlock), 0.5f);
  }
}

OCCVAE_AVX2 void pack_avx2(const uint8_t* target, int64_t blocks, uint64_t* words) {
  for (int64_t b = 0; b < blocks; ++b) {
    uint64_t empty = 0;
    for (int half = 0; half < 2; ++half) {
      const auto* p = reinterpret_cast<const __m256i*>(target + b * kBlock + 32 * half);
      const __m256i zeros = _mm256_cmpeq_epi8(_mm256_loadu_si256(p), _mm256_setzero_si256());
      const auto mask = static_cast<uint32_t>(_mm256_movemask_epi8(zeros));
      empty |= static_cast<uint64_t>(mask) << (32 * half);
    }
    words[b] = ~empty;
  }
}

#endif  // OCCVAE_X86

template <typename scalar_t>
CountFn<scalar_t> choose_count([[maybe_unused]] Isa isa) {
#ifdef OCCVAE_X86
  if constexpr (!std::is_same_v<scalar_t, double>) {
    if (isa >= Isa::kAvx512) return count_avx512<scalar_t>;
    if (isa == Isa::kAvx2) return count_avx2<scalar_t>;
  }
#endif
  return count_portable<scalar_t>;
}

// Packs the whole blocks if there is a vector path. Returns the number of voxels packed.
template <typename scalar_t>
int64_t pack_blocks([[maybe_unused]] const scalar_t* target, [[maybe_unused]] int64_t voxels,
                    [[maybe_unused]] uint64_t* words, [[maybe_unused]] Isa isa) {
#ifdef OCCVAE_X86
  if constexpr (!std::is_same_v<scalar_t, double>) {
    const int64_t blocks = voxels / kBlock;
    if (isa >= Isa::kAvx512) {
      pack_avx512(target, blocks, words);
      return blocks * kBlock;
    }
    if (isa == Isa::kAvx2) {
      pack_avx2(target, blocks, words);
      return blocks * kBlock;
    }
  }
#endif
  return 0;
}

// Packs voxels [begin, begin + voxels) of sample b of a target (B, n). Unused bits are zero.
using PackFn = void (*)(const void* target, int64_t b, int64_t n, int64_t begin, int64_t voxels,
                        uint64_t* words, Isa isa);

template <typename scalar_t>
void pack_numbers(const void* target, int64_t b, int64_t n, int64_t begin, int64_t voxels,
                  uint64_t* words, Isa isa) {
  const scalar_t* first = static_cast<const scalar_t*>(target) + b * n + begin;
  const int64_t done = pack_blocks(first, voxels, words, isa);
  std::fill(words + done / kBlock, words + ceil_div(voxels, kBlock), 0);
  for (int64_t i = done; i < voxels; ++i) {
    words[i / kBlock] |= static_cast<uint64_t>(target_occupied(first[i])) << (i % kBlock);
  }
}

void pack_bits(const void* target, int64_t b, int64_t n, int64_t begin, int64_t voxels,
               uint64_t* words, Isa) {
  const uint8_t* first = static_cast<const uint8_t*>(target) + b * packed_bytes(n) + begin / 8;
  words[voxels / kBlock] = 0;  // the caller's buffer has one spare word
  std::memcpy(words, first, packed_bytes(voxels));
  for (int64_t i = 0; i < ceil_div(voxels, kBlock); ++i) {  // reverse the bits of each byte
    uint64_t w = words[i];
    w = ((w >> 1) & 0x5555555555555555) | ((w & 0x5555555555555555) << 1);
    w = ((w >> 2) & 0x3333333333333333) | ((w & 0x3333333333333333) << 2);
    words[i] = ((w >> 4) & 0x0F0F0F0F0F0F0F0F) | ((w & 0x0F0F0F0F0F0F0F0F) << 4);
  }
  words[voxels / kBlock] &= (uint64_t{1} << (voxels % kBlock)) - 1;  // clears padding bits
}

PackFn choose_pack(const Tensor& target, bool packed) {
  PackFn pack = packed ? pack_bits : pack_numbers<uint8_t>;
  if (target.scalar_type() != ScalarType::Bool && target.scalar_type() != ScalarType::Byte) {
    THO_DISPATCH_V2(target.scalar_type(), "voxel_iou_counts",
                    AT_WRAP([&] { pack = pack_numbers<scalar_t>; }), AT_EXPAND(AT_FLOATING_TYPES),
                    ScalarType::Half, ScalarType::BFloat16);
  }
  return pack;
}

// Counts one chunk. A partial last block is copied and padded with NaN.
template <typename scalar_t>
void count_chunk(CountFn<scalar_t> count, const scalar_t* pred, const uint64_t* words,
                 int64_t voxels, const std::vector<compare_t<scalar_t>>& thresholds,
                 int64_t* counts) {
  const int64_t full = voxels / kBlock;
  count(pred, words, full, thresholds.data(), thresholds.size(), counts);
  if (voxels % kBlock == 0) return;
  scalar_t block[kBlock];
  std::fill(block, block + kBlock, std::numeric_limits<scalar_t>::quiet_NaN());
  std::copy(pred + full * kBlock, pred + voxels, block);
  count(block, words + full, 1, thresholds.data(), thresholds.size(), counts);
}

template <typename scalar_t>
void count_batch(const Tensor& pred, const Tensor& target, const std::vector<double>& levels,
                 bool packed, Tensor& counts) {
  const int64_t batch = pred.size(0);
  const int64_t n = voxels_per_sample(pred);
  const int64_t width = 2 * static_cast<int64_t>(levels.size());
  const int64_t chunks = ceil_div(n, kChunk);
  const Isa isa = current_isa();
  const CountFn<scalar_t> count = choose_count<scalar_t>(isa);
  const PackFn pack = choose_pack(target, packed);
  const auto* pred_data = static_cast<const scalar_t*>(pred.const_data_ptr());
  const void* target_data = target.const_data_ptr();
  std::vector<compare_t<scalar_t>> thresholds;
  for (double level : levels) thresholds.push_back(round_threshold<scalar_t>(level));

  std::vector<int64_t> partial(batch * chunks * width, 0);
  torch::stable::parallel_for(0, batch * chunks, kGrain, [&](int64_t first, int64_t last) {
    uint64_t words[kChunk / kBlock + 1];
    for (int64_t item = first; item < last; ++item) {
      const int64_t b = item / chunks;
      const int64_t begin = item % chunks * kChunk;
      const int64_t voxels = std::min(kChunk, n - begin);
      pack(target_data, b, n, begin, voxels, words, isa);
      count_chunk(count, pred_data + b * n + begin, words, voxels, thresholds,
                  partial.data() + item * width);
    }
  });

  auto* out = static_cast<int64_t*>(counts.mutable_data_ptr());
  for (int64_t item = 0; item < batch * chunks; ++item) {
    for (int64_t k = 0; k < width; ++k) out[item / chunks * width + k] += partial[item * width + k];
  }
}

Tensor voxel_iou_counts(const Tensor& pred, const Tensor& target, std::vector<double> thresholds,
                        bool packed) {
  check_iou_arguments(pred, target, packed);
  const Tensor p = torch::stable::contiguous(pred);
  const Tensor t = torch::stable::contiguous(target);
  const auto num_thresholds = static_cast<int64_t>(thresholds.size());
  Tensor counts =
      torch::stable::new_zeros(pred, {pred.size(0), num_thresholds, 2}, ScalarType::Long);
  if (pred.numel() == 0 || num_thresholds == 0) return counts;
  THO_DISPATCH_V2(p.scalar_type(), "voxel_iou_counts",
                  AT_WRAP([&] { count_batch<scalar_t>(p, t, thresholds, packed, counts); }),
                  AT_EXPAND(AT_FLOATING_TYPES), ScalarType::Half, ScalarType::BFloat16);
  return counts;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CPU, m) {
  m.impl("voxel_iou_counts", TORCH_BOX(&occvae::voxel_iou_counts));
}
