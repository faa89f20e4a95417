// CPU kernels of exact MISE: they run the rules of csrc/mise.h and csrc/mise_points.h on CPU
// threads. Threads share points or words. Within one loop, threads only set bits that the same loop
// never reads, so results do not depend on the number or the order of threads.
#include "../mise.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "../mise_points.h"
#include "loops.h"

namespace occvae {
namespace {

constexpr int64_t kPointGrain = 4096;
constexpr int64_t kSplitGrain = 128;
constexpr int64_t kDirtyChunk = 512;  // dirty words per work item

// A word with cells to split, which are in its `now`. `word` counts through all shapes. `end` is
// the number of points added by the words up to and including this one. The tensor that mise_split
// returns holds these two entries per split word.
struct Split {
  int64_t word;
  int64_t end;
};
static_assert(sizeof(Split) == 2 * sizeof(int64_t));

// Takes the dirty words [begin, end) of a shape and returns those with cells to split.
std::vector<Split> collect(const MiseState& state, int64_t shape, int64_t begin, int64_t end) {
  CellWord* words = state.words(shape);
  uint64_t* dirty = state.dirty(shape);
  std::vector<Split> found;
  for (int64_t d = begin; d < end; ++d) {
    for (uint64_t rest = dirty[d]; rest != 0; rest &= rest - 1) {
      const int64_t word = 64 * d + lowest_bit(rest);
      const uint64_t cells = cells_to_split(state.layout, words, word);
      if (cells == 0) continue;
      words[word].now = cells;
      found.push_back({shape * state.layout.words() + word, 0});
    }
    dirty[d] = 0;
  }
  return found;
}

std::vector<Split> collect_all(const MiseState& state) {
  const int64_t dirty_words = state.layout.dirty_words();
  const int64_t chunks = ceil_div(dirty_words, kDirtyChunk);
  std::vector<std::vector<Split>> parts(state.num_shapes * chunks);
  torch::stable::parallel_for(0, state.num_shapes * chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      const int64_t begin = item % chunks * kDirtyChunk;
      parts[item] =
          collect(state, item / chunks, begin, std::min(begin + kDirtyChunk, dirty_words));
    }
  });
  std::vector<Split> splits;
  for (const auto& part : parts) splits.insert(splits.end(), part.begin(), part.end());
  return splits;
}

struct CountSplit {
  MiseState state;
  Split* splits;

  void operator()(int64_t s) const {
    const int64_t shape = splits[s].word / state.layout.words();
    const Block block = block_of(state.layout, splits[s].word % state.layout.words());
    splits[s].end = count_added(state.layout, state.words(shape), block);
  }
};

struct WriteSplit {
  MiseState state;
  const Split* splits;
  int32_t* points;
  int64_t* shape_index;

  void operator()(int64_t s) const {
    const int64_t shape = splits[s].word / state.layout.words();
    const Block block = block_of(state.layout, splits[s].word % state.layout.words());
    write_added(state.layout, state.words(shape), block, shape, s == 0 ? 0 : splits[s - 1].end,
                points, shape_index);
  }
};

struct CommitSplit {
  MiseState state;
  const Split* splits;

  void operator()(int64_t s) const {
    const int64_t shape = splits[s].word / state.layout.words();
    const Block block = block_of(state.layout, splits[s].word % state.layout.words());
    commit_split(state.layout, state.words(shape), state.dirty(shape), block);
  }
};

Tensor mise_mark(const Tensor& state, const Tensor& points, const Tensor& shape_index,
                 const Tensor& values, double level, int64_t resolution,
                 int64_t coarse_resolution) {
  const MarkArguments arguments(state, points, shape_index, values, resolution, coarse_resolution);
  THO_DISPATCH_V2(arguments.values.scalar_type(), "mise_mark", AT_WRAP([&] {
                    for_each(arguments.values.numel(), kPointGrain,
                             arguments.mark_point<scalar_t>(level));
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES), ScalarType::Half, ScalarType::BFloat16);
  return arguments.problems;
}

std::tuple<Tensor, Tensor> mise_split(const Tensor& state, int64_t resolution,
                                      int64_t coarse_resolution) {
  const MiseState opened = open_state(state, resolution, coarse_resolution);
  std::vector<Split> splits = collect_all(opened);
  const auto count = static_cast<int64_t>(splits.size());
  for_each(count, kSplitGrain, CountSplit{opened, splits.data()});
  int64_t end = 0;
  for (Split& split : splits) split.end = end += split.end;
  Tensor result = torch::stable::new_empty(state, {2 * count}, ScalarType::Long);
  std::copy(splits.begin(), splits.end(), static_cast<Split*>(result.mutable_data_ptr()));
  Tensor added = torch::stable::new_empty(state, {1}, ScalarType::Long);
  *static_cast<int64_t*>(added.mutable_data_ptr()) = end;
  return {result, added};
}

std::tuple<Tensor, Tensor> mise_points(const Tensor& state, const Tensor& splits, int64_t added,
                                       int64_t resolution, int64_t coarse_resolution) {
  constexpr const char* kOp = "mise_points";
  const MiseState opened = open_state(state, resolution, coarse_resolution);
  check_dtype(splits, ScalarType::Long, kOp, "splits");
  const auto* rows = static_cast<const Split*>(splits.const_data_ptr());
  const int64_t count = splits.numel() / 2;
  STD_TORCH_CHECK(splits.is_contiguous() && splits.numel() % 2 == 0 &&
                      added == (count == 0 ? 0 : rows[count - 1].end),
                  kOp, ": splits and added must be as mise_split returns them");
  Tensor points = torch::stable::new_empty(state, {added, 3}, ScalarType::Int);
  Tensor shape_index = torch::stable::new_empty(state, {added}, ScalarType::Long);
  for_each(count, kSplitGrain,
           WriteSplit{opened, rows, static_cast<int32_t*>(points.mutable_data_ptr()),
                      static_cast<int64_t*>(shape_index.mutable_data_ptr())});
  for_each(count, kSplitGrain, CommitSplit{opened, rows});
  return {points, shape_index};
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CPU, m) {
  m.impl("mise_mark", TORCH_BOX(&occvae::mise_mark));
  m.impl("mise_split", TORCH_BOX(&occvae::mise_split));
  m.impl("mise_points", TORCH_BOX(&occvae::mise_points));
}
