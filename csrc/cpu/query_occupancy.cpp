// CPU kernel of query_occupancy: packing of weights, tiles and threads. The decoder is defined in
// csrc/query_occupancy.h, and query_occupancy_tile.h computes one tile.
//
// Points are cut into tiles. Each tile belongs to one shape, and its activations stay in the L2
// cache for widths up to 256. Threads take the next tile from a common counter. A thread that is
// delayed by other work on the machine therefore does not delay the others.
//
// For fp32 and fp16, weights are packed as float32 panels of kPanel output channels, (2L, C /
// kPanel, C, kPanel). For bf16, pairs of input channels lie side by side, (2L, C / kPanel, C / 2,
// kPanel, 2), as the dot products of AVX512-BF16 read them.
#include "query_occupancy.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "query_tiles.h"

namespace occvae {
namespace {

constexpr int64_t kTileRows = 200;  // upper limit; larger tiles are not faster
// Upper limit per tile. Smaller tiles of wide decoders would read the weights from the L3 cache too
// often. Larger tiles would no longer keep x, h and g in the L2 cache.
constexpr int64_t kActivationBytes = 1280 << 10;
constexpr int64_t kTilesPerThread = 4;
constexpr int64_t kMinRowBlocks = 4;  // per tile; with fewer, each weight is used too rarely

QueryKernel choose_kernel([[maybe_unused]] Isa isa, Precision precision) {
#ifdef OCCVAE_X86
  if (isa == Isa::kAvx512Bf16 && precision == Precision::kBf16) return query_kernel_avx512_bf16();
  if (isa >= Isa::kAvx512) return query_kernel_avx512(precision);
  if (isa == Isa::kAvx2) return query_kernel_avx2(precision);
#endif
  return query_kernel_portable(precision);
}

// Entry (out, in) of a layer goes to the panel of `out`: row in / depth, column out % kPanel,
// element in % depth.
template <Precision precision, typename entry_t, int64_t depth>
void pack_layers(const float* weights, int64_t layers, int64_t channels, entry_t* packed) {
  for (int64_t row = 0; row < layers * channels; ++row) {
    const int64_t out = row % kPanel;
    entry_t* panel = packed + (row - out) * channels;
    for (int64_t in = 0; in < channels; ++in) {
      panel[(in / depth * kPanel + out) * depth + in % depth] =
          static_cast<entry_t>(round_to<precision>(weights[row * channels + in]));
    }
  }
}

Tensor pack_query_weights(const Tensor& weights, int64_t precision) {
  check_pack_arguments(weights, precision);
  const Tensor w = torch::stable::contiguous(weights);
  const auto* data = static_cast<const float*>(w.const_data_ptr());
  const int64_t layers = w.size(0), channels = w.size(1), panels = channels / kPanel;
  if (static_cast<Precision>(precision) == Precision::kBf16) {
    Tensor packed = torch::stable::new_empty(w, {layers, panels, channels / 2, kPanel, 2},
                                             ScalarType::BFloat16);
    pack_layers<Precision::kBf16, BFloat16, 2>(data, layers, channels,
                                               static_cast<BFloat16*>(packed.mutable_data_ptr()));
    return packed;
  }
  Tensor packed = torch::stable::new_empty(w, {layers, panels, channels, kPanel});
  auto* out = static_cast<float*>(packed.mutable_data_ptr());
  if (static_cast<Precision>(precision) == Precision::kFp16) {
    pack_layers<Precision::kFp16, float, 1>(data, layers, channels, out);
  } else {
    pack_layers<Precision::kFp32, float, 1>(data, layers, channels, out);
  }
  return packed;
}

void check_packed(const Tensor& weights, const QuerySizes& sizes, Precision precision) {
  const bool pairs = precision == Precision::kBf16;
  const ScalarType dtype = pairs ? ScalarType::BFloat16 : ScalarType::Float;
  STD_TORCH_CHECK(
      weights.scalar_type() == dtype && weights.dim() == (pairs ? 5 : 4) &&
          weights.numel() == sizes.layers * sizes.channels * sizes.channels &&
          weights.is_contiguous(),
      "query_occupancy: weights were not packed for the CPU in this precision; pack them "
      "again with _pack_query_weights");
}

// Returns the rows per tile, a multiple of the kernel's row block.
int64_t choose_tile_rows(int64_t points, int64_t channels, int64_t row_block, int64_t threads) {
  const int64_t fitting = std::min(kTileRows, kActivationBytes / scratch_bytes(1, channels));
  const int64_t most = std::max<int64_t>(fitting / row_block, 1);
  const int64_t fair = ceil_div(ceil_div(points, threads * kTilesPerThread), row_block);
  return row_block * std::min(most, std::max(fair, kMinRowBlocks));
}

// The state of one call of the op that its threads share.
class Query {
 public:
  // `common` holds the fields that are equal for all tiles.
  Query(const QueryTile& common, const void* exact_weights, const std::vector<int64_t>& offsets,
        Precision precision, int64_t threads)
      : common_(common),
        exact_weights_(exact_weights),
        precision_(precision),
        kernel_(choose_kernel(current_isa(), precision)),
        exact_kernel_(choose_kernel(current_isa(), Precision::kFp32)),
        tile_rows_(choose_tile_rows(offsets.back(), common.channels, kernel_.row_block, threads)),
        tiles_(offsets, tile_rows_) {}

  int64_t tiles() const { return tiles_.count(); }

  // Takes tiles until none are left. Any number of threads may call this at once.
  void work() {
    int64_t tile = next_.fetch_add(1, std::memory_order_relaxed);
    if (tile >= tiles()) return;
    const AlignedBytes scratch = allocate_aligned(scratch_bytes(tile_rows_, common_.channels));
    std::vector<uint8_t> out_of_range(tile_rows_);
    for (; tile < tiles(); tile = next_.fetch_add(1, std::memory_order_relaxed)) {
      QueryTile part = locate(tile);
      part.scratch = scratch.get();
      part.out_of_range = out_of_range.data();
      kernel_.run(part);
      if (precision_ != Precision::kFp16) continue;
      part.weights = exact_weights_;
      repeat_exactly(part, exact_kernel_.run);
    }
  }

 private:
  QueryTile locate(int64_t tile) const {
    const auto [shape, first, count] = tiles_.locate(tile);
    QueryTile part = common_;
    part.points += 3 * first;
    part.count = count;
    part.affines += shape * 2 * (common_.layers + 1) * common_.channels;
    part.logits += first;
    return part;
  }

  const QueryTile common_;
  const void* const exact_weights_;
  const Precision precision_;
  const QueryKernel kernel_;
  const QueryKernel exact_kernel_;  // has the same row_block as the fp16 kernel
  const int64_t tile_rows_;
  const ShapeTiles tiles_;
  std::atomic<int64_t> next_{0};
};

Tensor query_occupancy(const Tensor& points, const Tensor& offsets, const Tensor& input,
                       const Tensor& weights, const Tensor& exact_weights, const Tensor& affines,
                       const Tensor& head, int64_t precision) {
  const QuerySizes sizes = check_query_arguments(points, offsets, input, weights, exact_weights,
                                                 affines, head, precision);
  check_packed(weights, sizes, static_cast<Precision>(precision));
  check_packed(exact_weights, sizes, Precision::kFp32);
  const std::vector<int64_t> rows = read_offsets(offsets, sizes.points, "query_occupancy");
  Tensor logits = torch::stable::new_empty(points, {sizes.points});
  auto* out = static_cast<float*>(logits.mutable_data_ptr());
  std::fill(out + rows.back(), out + sizes.points, 0.0f);

  const Tensor p = torch::stable::contiguous(points), in = torch::stable::contiguous(input);
  const Tensor a = torch::stable::contiguous(affines), h = torch::stable::contiguous(head);
  QueryTile common{};
  common.points = static_cast<const float*>(p.const_data_ptr());
  common.input = static_cast<const float*>(in.const_data_ptr());
  common.weights = weights.const_data_ptr();
  common.affines = static_cast<const float*>(a.const_data_ptr());
  common.head = static_cast<const float*>(h.const_data_ptr());
  common.channels = sizes.channels;
  common.layers = sizes.layers;
  common.logits = out;
  const int64_t threads = torch::stable::get_num_threads();
  Query query(common, exact_weights.const_data_ptr(), rows, static_cast<Precision>(precision),
              threads);
  torch::stable::parallel_for(0, std::min(threads, query.tiles()), 1,
                              [&](int64_t, int64_t) { query.work(); });
  return logits;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CPU, m) {
  m.impl("_pack_query_weights", TORCH_BOX(&occvae::pack_query_weights));
  m.impl("query_occupancy", TORCH_BOX(&occvae::query_occupancy));
}
