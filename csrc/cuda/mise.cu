// CUDA kernels of exact MISE: they run the rules of csrc/mise.h and csrc/mise_points.h. Each kernel
// visits all words of all shapes, and most words return at once. Reading a bit or a count per 64
// cells costs little compared with evaluating their points. There are no compacted lists whose
// lengths the host would have to wait for. Results are in the order of words, as on the CPU.
#include <tuple>

#include "../mise.h"
#include "../mise_points.h"
#include "launch.cuh"

namespace occvae {
namespace {

using torch::stable::accelerator::DeviceGuard;

// A word of the states of all shapes. `ends` has one entry per word.
struct Word {
  int64_t shape;
  int64_t index;  // within the shape
};

__device__ Word word_of(const MiseState& state, int64_t i) {
  if (state.num_shapes == 1) return {0, i};  // avoids divisions
  const int64_t words = state.layout.words();
  return {i / words, i % words};
}

// Sets ends[i] to whether word i has cells to split, and writes these cells to its `now`.
struct Choose {
  MiseState state;
  int64_t* ends;

  __device__ void operator()(int64_t i) const {
    const Word word = word_of(state, i);
    uint64_t cells = 0;
    if ((state.dirty(word.shape)[word.index >> 6] >> (word.index & 63)) & 1) {
      CellWord* words = state.words(word.shape);
      cells = cells_to_split(state.layout, words, word.index);
      if (cells != 0) words[word.index].now = cells;
    }
    ends[i] = cells != 0;
  }
};

// Sets ends[i] to the number of points that word i adds. Clears the dirty bits, which Choose has
// read.
struct Count {
  MiseState state;
  int64_t* ends;

  __device__ void operator()(int64_t i) const {
    const Word word = word_of(state, i);
    if ((word.index & 63) == 0) state.dirty(word.shape)[word.index >> 6] = 0;
    if (ends[i] == 0) return;
    const Block block = block_of(state.layout, word.index);
    ends[i] = count_added(state.layout, state.words(word.shape), block);
  }
};

// After the scan, a word has splits if its count is not 0: every split cell adds at least its
// center.
__device__ bool has_splits(const int64_t* ends, int64_t i) {
  return ends[i] != (i == 0 ? 0 : ends[i - 1]);
}

struct Write {
  MiseState state;
  const int64_t* ends;
  int32_t* points;
  int64_t* shape_index;

  __device__ void operator()(int64_t i) const {
    if (!has_splits(ends, i)) return;
    const Word word = word_of(state, i);
    const Block block = block_of(state.layout, word.index);
    write_added(state.layout, state.words(word.shape), block, word.shape, i == 0 ? 0 : ends[i - 1],
                points, shape_index);
  }
};

struct Commit {
  MiseState state;
  const int64_t* ends;

  __device__ void operator()(int64_t i) const {
    if (!has_splits(ends, i)) return;
    const Word word = word_of(state, i);
    commit_split(state.layout, state.words(word.shape), state.dirty(word.shape),
                 block_of(state.layout, word.index));
  }
};

Tensor mise_mark(const Tensor& state, const Tensor& points, const Tensor& shape_index,
                 const Tensor& values, double level, int64_t resolution,
                 int64_t coarse_resolution) {
  const DeviceGuard guard(state.get_device_index());
  const MarkArguments arguments(state, points, shape_index, values, resolution, coarse_resolution);
  THO_DISPATCH_V2(arguments.values.scalar_type(), "mise_mark", AT_WRAP([&] {
                    for_each(arguments.values.numel(), current_stream(state),
                             arguments.mark_point<scalar_t>(level));
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES), ScalarType::Half, ScalarType::BFloat16);
  return arguments.problems;
}

std::tuple<Tensor, Tensor> mise_split(const Tensor& state, int64_t resolution,
                                      int64_t coarse_resolution) {
  const DeviceGuard guard(state.get_device_index());
  const MiseState opened = open_state(state, resolution, coarse_resolution);
  const int64_t words = opened.num_shapes * opened.layout.words();
  if (words == 0)
    return {torch::stable::new_empty(state, {0}), torch::stable::new_zeros(state, {1})};
  const cudaStream_t stream = current_stream(state);
  Tensor splits = torch::stable::new_empty(state, {words}, ScalarType::Long);
  auto* ends = static_cast<int64_t*>(splits.mutable_data_ptr());
  for_each(words, stream, Choose{opened, ends});
  for_each(words, stream, Count{opened, ends});
  inclusive_scan(ends, words, state, stream);
  return {splits, torch::stable::clone(torch::stable::narrow(splits, 0, words - 1, 1))};
}

std::tuple<Tensor, Tensor> mise_points(const Tensor& state, const Tensor& splits, int64_t added,
                                       int64_t resolution, int64_t coarse_resolution) {
  constexpr const char* kOp = "mise_points";
  const DeviceGuard guard(state.get_device_index());
  const MiseState opened = open_state(state, resolution, coarse_resolution);
  check_same_device(state, splits, kOp);
  check_dtype(splits, ScalarType::Long, kOp, "splits");
  const int64_t words = opened.num_shapes * opened.layout.words();
  STD_TORCH_CHECK(splits.is_contiguous() && splits.numel() == words && added >= 0, kOp,
                  ": splits and added must be as mise_split returns them");
  const cudaStream_t stream = current_stream(state);
  const auto* ends = static_cast<const int64_t*>(splits.const_data_ptr());
  Tensor points = torch::stable::new_empty(state, {added, 3}, ScalarType::Int);
  Tensor shape_index = torch::stable::new_empty(state, {added}, ScalarType::Long);
  for_each(words, stream,
           Write{opened, ends, static_cast<int32_t*>(points.mutable_data_ptr()),
                 static_cast<int64_t*>(shape_index.mutable_data_ptr())});
  for_each(words, stream, Commit{opened, ends});
  return {points, shape_index};
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CUDA, m) {
  m.impl("mise_mark", TORCH_BOX(&occvae::mise_mark));
  m.impl("mise_split", TORCH_BOX(&occvae::mise_split));
  m.impl("mise_points", TORCH_BOX(&occvae::mise_points));
}
