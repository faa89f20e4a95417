// _pack_query_weights on CUDA: the layouts that the kernels of query_occupancy read.
// query_kernels.cuh chooses between them.
#include "query_kernels.cuh"

namespace occvae {
namespace {

// The source of a packed element, in weights [2L, C out, C in].
struct Place {
  int64_t layer;
  int64_t out;
  int64_t in;
};

// The layout of packed fp32 weights, [2L, C / 32, C in, 32 out]: panels of 32 outputs.
struct PanelLayout {
  int64_t channels;

  __host__ __device__ Place operator()(int64_t i) const {
    const int64_t panel = i / (channels * kPanel);
    const int64_t panels = channels / kPanel;
    return {panel / panels, panel % panels * kPanel + i % kPanel, i / kPanel % channels};
  }
};

// The order in which both 16-bit kernels read a block: half of the outputs of its first layer, then
// the inputs of its second layer that these outputs feed, then the same for the other half.
struct HalfLayout {
  int64_t channels;

  // A block has four pieces of `outs` by `ins`, starting at `first`. Returns the piece that holds
  // packed element i, and the number of the element in it.
  struct Piece {
    Place first;
    int64_t outs;
    int64_t ins;
    int64_t element;
  };
  __host__ __device__ Piece piece(int64_t i) const {
    const int64_t half = channels / 2;
    const int64_t number = i / (channels * half);
    const int64_t layer = number / 4 * 2 + number % 2;
    const int64_t offset = number / 2 % 2 * half;
    if (number % 2 == 0) return {{layer, offset, 0}, half, channels, i % (channels * half)};
    return {{layer, 0, offset}, channels, half, i % (channels * half)};
  }
  // Returns the source of an output column and an input column of a piece.
  __host__ __device__ static Place place(const Piece& piece, int64_t out, int64_t in) {
    const Place& first = piece.first;
    return {first.layer, first.out + channel_of_column(out), first.in + channel_of_column(in)};
  }
};

// The layout of the mma kernel. A piece consists of tiles of 16 outputs by 16 inputs. A tile holds
// two operands B of mma.m16n8k16, 8 elements per lane in the order of the lanes. A piece stores all
// its outputs for 16 inputs, then for the next 16.
struct MmaLayout : HalfLayout {
  __host__ __device__ Place operator()(int64_t i) const {
    const Piece p = piece(i);
    const int64_t element = p.element % 8;
    const int64_t lane = p.element / 8 % 32;
    const int64_t tile = p.element / 256;
    const int64_t tiles = p.outs / 16;
    const int64_t out = tile % tiles * 16 + element / 4 * 8 + lane / 4;
    const int64_t in = tile / tiles * 16 + element / 2 % 2 * 8 + lane % 4 * 2 + element % 2;
    return place(p, out, in);
  }
};

// Rows of 64 inputs of one output, 128 bytes. The eight 16-byte vectors of a row are permuted by
// the row's number. This is the 128-byte swizzle that wgmma reads without bank conflicts.
struct WgmmaLayout : HalfLayout {
  __host__ __device__ Place operator()(int64_t i) const {
    const Piece p = piece(i);
    const int64_t row = p.element / 64;
    const int64_t out = row % p.outs;
    const int64_t vector = p.element / 8 % 8 ^ out % 8;
    const int64_t in = row / p.outs * 64 + vector * 8 + p.element % 8;
    return place(p, out, in);
  }
};

// Function object of for_each that fills element i.
template <typename scalar_t, typename Layout>
struct PackElement {
  const float* __restrict__ weights;  // [2L, C, C]
  scalar_t* __restrict__ packed;
  Layout layout;
  int64_t channels;

  __device__ void operator()(int64_t i) const {
    const Place from = layout(i);
    packed[i] =
        static_cast<scalar_t>(weights[(from.layer * channels + from.out) * channels + from.in]);
  }
};

template <typename scalar_t, typename Layout>
void pack(const Tensor& weights, Tensor& packed, const Layout& layout) {
  for_each(weights.numel(), current_stream(weights),
           PackElement<scalar_t, Layout>{static_cast<const float*>(weights.const_data_ptr()),
                                         static_cast<scalar_t*>(packed.mutable_data_ptr()), layout,
                                         weights.size(1)});
}

template <typename Layout>
Tensor pack_16_bits(const Tensor& weights, Precision precision, int64_t chunk) {
  const int64_t channels = weights.size(1);
  const bool half = precision == Precision::kFp16;
  const ScalarType dtype = half ? ScalarType::Half : ScalarType::BFloat16;
  const std::vector<int64_t> sizes = {weights.size(0) / 2, 2 * channels * channels / chunk, chunk};
  Tensor packed = torch::stable::new_empty(weights, sizes, dtype);
  const Layout layout{{channels}};
  half ? pack<Half>(weights, packed, layout) : pack<BFloat16>(weights, packed, layout);
  return packed;
}

Tensor pack_panels(const Tensor& weights) {
  const int64_t channels = weights.size(1);
  STD_TORCH_CHECK(channels <= kMostChannels, "_pack_query_weights: on CUDA at most ", kMostChannels,
                  " channels, got ", channels);
  Tensor packed =
      torch::stable::new_empty(weights, {weights.size(0), channels / kPanel, channels, kPanel});
  pack<float>(weights, packed, PanelLayout{channels});
  return packed;
}

Tensor pack_query_weights(const Tensor& weights, int64_t precision) {
  check_pack_arguments(weights, precision);
  const torch::stable::accelerator::DeviceGuard guard(weights.get_device_index());
  const Tensor w = torch::stable::contiguous(weights);
  const auto wanted = static_cast<Precision>(precision);
  switch (choose_query_kernel(wanted, w.size(1))) {
    case QueryKernel::kWgmma:
      return pack_16_bits<WgmmaLayout>(w, wanted, kWgmmaChunk);
    case QueryKernel::kMma:
      return pack_16_bits<MmaLayout>(w, wanted, kMmaChunk);
    default:
      return pack_panels(w);
  }
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CUDA, m) {
  m.impl("_pack_query_weights", TORCH_BOX(&occvae::pack_query_weights));
}
