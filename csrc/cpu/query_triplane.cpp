// CPU kernel of query_triplane: tiles and threads. The decoder is defined in csrc/query_triplane.h,
// and query_triplane_tile.h computes one tile.
#include "query_triplane.h"

#include <algorithm>
#include <atomic>
#include <vector>

namespace occvae {
namespace {

constexpr int64_t kTileRows = 112;  // upper limit per tile
// Upper limit of the activations per tile, so that they and a panel of weights stay in the L1
// cache.
constexpr int64_t kActivationBytes = 24 << 10;

TriplaneKernel choose_kernel([[maybe_unused]] Isa isa, Precision precision) {
#ifdef OCCVAE_X86
  if (isa == Isa::kAvx512Bf16 && precision == Precision::kBf16) {
    return triplane_kernel_avx512_bf16();
  }
  if (isa >= Isa::kAvx512) return triplane_kernel_avx512(precision);
  if (isa == Isa::kAvx2) return triplane_kernel_avx2(precision);
#endif
  return triplane_kernel_portable(precision);
}

// Returns the rows per tile, a multiple of the kernel's row block.
int64_t choose_tile_rows(int64_t channels, int64_t row_block, Precision precision) {
  const int64_t size = precision == Precision::kBf16 ? 2 : 4;
  const int64_t fitting = kActivationBytes / (size * row_stride(channels, size));
  return row_block * std::max<int64_t>(std::min(kTileRows, fitting) / row_block, 1);
}

// fp16 weights (..., C / 2, kPanel, 2) as float32 panels (..., C, kPanel). Their products are those
// of fp32.
std::vector<float> unpack_halves(const Tensor& weights) {
  const auto* pairs = static_cast<const Half*>(weights.const_data_ptr());
  std::vector<float> panels(weights.numel());
  for (int64_t i = 0; i < weights.numel(); ++i) {
    const int64_t pair = i / (2 * kPanel), out = i / 2 % kPanel;
    panels[(2 * pair + i % 2) * kPanel + out] = static_cast<float>(pairs[i]);
  }
  return panels;
}

// The state of one call of the op that its threads share.
class TriplaneQuery {
 public:
  // `common` and `exact` hold the fields that are equal for all tiles, `exact` those of fp32.
  TriplaneQuery(const TriplaneTile& common, const TriplaneTile& exact,
                const std::vector<int64_t>& offsets, Precision precision)
      : common_(common),
        exact_(exact),
        precision_(precision),
        kernel_(choose_kernel(current_isa(), precision)),
        exact_kernel_(choose_kernel(current_isa(), Precision::kFp32)),
        tile_rows_(choose_tile_rows(common.channels, kernel_.row_block, precision)),
        tiles_(offsets, tile_rows_) {}

  int64_t tiles() const { return tiles_.count(); }

  // Takes tiles until none are left. Any number of threads may call this at once.
  void work() {
    int64_t tile = next_.fetch_add(1, std::memory_order_relaxed);
    if (tile >= tiles()) return;
    const auto scratch = allocate_aligned(triplane_scratch_bytes(tile_rows_, common_.channels));
    std::vector<uint8_t> out_of_range(tile_rows_);
    for (; tile < tiles(); tile = next_.fetch_add(1, std::memory_order_relaxed)) {
      const auto place = tiles_.locate(tile);
      const size_t size = precision_ == Precision::kFp32 ? sizeof(float) : sizeof(uint16_t);
      TriplaneTile part = at(common_, place, size);
      part.scratch = scratch.get();
      part.out_of_range = out_of_range.data();
      kernel_.run(part);
      if (precision_ != Precision::kFp16) continue;
      TriplaneTile exact = at(exact_, place, sizeof(float));
      exact.scratch = part.scratch;
      exact.out_of_range = part.out_of_range;
      repeat_exactly(exact, exact_kernel_.run);
    }
  }

 private:
  static TriplaneTile at(TriplaneTile tile, const ShapeTiles::Place& place, size_t size) {
    const int64_t features = 3 * tile.nodes * tile.nodes * tile.channels;
    tile.points += 3 * place.first;
    tile.count = place.count;
    tile.planes = static_cast<const std::byte*>(tile.planes) + place.shape * features * size;
    tile.logits += place.first;
    return tile;
  }

  const TriplaneTile common_, exact_;
  const Precision precision_;
  const TriplaneKernel kernel_;
  const TriplaneKernel exact_kernel_;  // has the same row_block as the fp16 kernel
  const int64_t tile_rows_;
  const ShapeTiles tiles_;
  std::atomic<int64_t> next_{0};
};

Tensor query_triplane(const Tensor& points, const Tensor& offsets, const Tensor& planes,
                      const Tensor& weights, const Tensor& exact_planes,
                      const Tensor& exact_weights, const Tensor& biases, const Tensor& head) {
  const TriplaneSizes sizes = check_triplane_arguments(points, offsets, planes, weights,
                                                       exact_planes, exact_weights, biases, head);
  const Precision precision = plane_precision(planes);
  const std::vector<int64_t> rows = read_offsets(offsets, sizes.points, "query_triplane");
  Tensor logits = torch::stable::new_empty(points, {sizes.points});
  auto* out = static_cast<float*>(logits.mutable_data_ptr());
  std::fill(out + rows.back(), out + sizes.points, 0.0f);

  const Tensor p = torch::stable::contiguous(points), b = torch::stable::contiguous(biases);
  const Tensor h = torch::stable::contiguous(head);
  TriplaneTile exact{};
  exact.points = static_cast<const float*>(p.const_data_ptr());
  exact.planes = exact_planes.const_data_ptr();
  exact.weights = exact_weights.const_data_ptr();
  exact.biases = static_cast<const float*>(b.const_data_ptr());
  exact.head = static_cast<const float*>(h.const_data_ptr());
  exact.nodes = sizes.nodes;
  exact.channels = sizes.channels;
  exact.layers = sizes.layers;
  exact.logits = out;
  TriplaneTile common = exact;
  std::vector<float> halves;
  if (precision == Precision::kFp16) halves = unpack_halves(weights);
  common.planes = planes.const_data_ptr();
  common.weights = precision == Precision::kFp16 ? halves.data() : weights.const_data_ptr();
  TriplaneQuery query(common, exact, rows, precision);
  const int64_t threads = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, std::min(threads, query.tiles()), 1,
                              [&](int64_t, int64_t) { query.work(); });
  return logits;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CPU, m) {
  m.impl("query_triplane", TORCH_BOX(&occvae::query_triplane));
}
