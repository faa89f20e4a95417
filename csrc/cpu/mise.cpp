// CPU kernels of MISE. Threads share points or words; what depends on the order of their work are
// only bits that are set and never read in the same loop, so results do not depend on threads.
#include "../mise.h"

#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "../common.h"
#include "atomic.h"

namespace occvae {
namespace {

constexpr int64_t kPointGrain = 4096;
constexpr int64_t kSplitGrain = 128;
constexpr int64_t kDirtyChunk = 512;  // words of dirty bits of one work item

// Cells of one word that are split in this round, and the number of points up to and with theirs.
// A row of the tensor that mise_split returns. `word` counts through the words of all shapes.
struct Split {
  int64_t word;
  uint64_t cells;
  int64_t end;
};
static_assert(sizeof(Split) == 3 * sizeof(int64_t));

struct State {
  MiseLayout layout;
  uint64_t* data;

  CellWord* words(int64_t shape) const {
    return reinterpret_cast<CellWord*>(data + shape * layout.size());
  }
  uint64_t* dirty(int64_t shape) const { return data + shape * layout.size() + 4 * layout.words(); }
};

State open_state(const Tensor& state, int64_t resolution, int64_t coarse_resolution) {
  constexpr const char* kOp = "mise";
  check_dtype(state, ScalarType::Long, kOp, "state");
  check_dim(state, 2, kOp, "state");
  const MiseLayout layout = mise_layout(resolution, coarse_resolution);
  STD_TORCH_CHECK(state.size(1) == layout.size() && state.is_contiguous(), kOp,
                  ": state is not of this resolution");
  return {layout, static_cast<uint64_t*>(state.mutable_data_ptr())};
}

bool is_on_lattice(const MiseLayout& layout, const int32_t* point) {
  return std::all_of(point, point + 3, [&](int32_t p) { return p >= 0 && p <= layout.resolution; });
}

// Returns how many points could not be marked because there is no such point or shape.
template <typename scalar_t>
int64_t mark_points(const State& state, int64_t num_shapes, const Tensor& points,
                    const Tensor& shape_index, const Tensor& values, double level) {
  std::atomic<int64_t> outside{0};
  const auto* point = static_cast<const int32_t*>(points.const_data_ptr());
  const auto* shape = static_cast<const int64_t*>(shape_index.const_data_ptr());
  const auto* value = static_cast<const scalar_t*>(values.const_data_ptr());
  torch::stable::parallel_for(0, points.size(0), kPointGrain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      if (shape[i] < 0 || shape[i] >= num_shapes || !is_on_lattice(state.layout, point + 3 * i)) {
        ++outside;
        continue;
      }
      const auto wide = static_cast<double>(value[i]);  // exact whatever the dtype
      mark_point(state.layout, state.words(shape[i]), state.dirty(shape[i]), point + 3 * i,
                 wide >= level, wide <= level, set_bits);
    }
  });
  return outside;
}

// Takes the dirty words [begin, end) of a shape and returns those with cells to split.
std::vector<Split> collect(const State& state, int64_t shape, int64_t begin, int64_t end) {
  CellWord* words = state.words(shape);
  uint64_t* dirty = state.dirty(shape);
  std::vector<Split> found;
  for (int64_t d = begin; d < end; ++d) {
    for (uint64_t rest = dirty[d]; rest != 0; rest &= rest - 1) {
      const int64_t word = 64 * d + lowest_bit(rest);
      const uint64_t cells = cells_to_split(state.layout, words, word);
      if (cells == 0) continue;
      words[word].now = cells;
      found.push_back({shape * state.layout.words() + word, cells, 0});
    }
    dirty[d] = 0;
  }
  return found;
}

std::vector<Split> collect_all(const State& state, int64_t num_shapes) {
  const int64_t dirty_words = state.layout.dirty_words();
  const int64_t chunks = ceil_div(dirty_words, kDirtyChunk);
  std::vector<std::vector<Split>> parts(num_shapes * chunks);
  torch::stable::parallel_for(0, num_shapes * chunks, 1, [&](int64_t first, int64_t last) {
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

// Calls visit(split, its words, its block, its shape, the surroundings of the block) for each.
template <typename Visit>
void for_each_split(const State& state, const Split* splits, int64_t count, Visit visit) {
  torch::stable::parallel_for(0, count, kSplitGrain, [&](int64_t first, int64_t last) {
    for (int64_t s = first; s < last; ++s) {
      const int64_t shape = splits[s].word / state.layout.words();
      const Block block = block_of(state.layout, splits[s].word % state.layout.words());
      visit(s, shape, block, surroundings(state.layout, state.words(shape), block));
    }
  });
}

void count_points(const State& state, std::vector<Split>& splits) {
  for_each_split(state, splits.data(), static_cast<int64_t>(splits.size()),
                 [&](int64_t s, int64_t, const Block&, const Surroundings& around) {
                   int64_t count = 0;
                   for (uint64_t rest = splits[s].cells; rest != 0; rest &= rest - 1) {
                     count += count_bits(added_points(around, lowest_bit(rest)));
                   }
                   splits[s].end = count;
                 });
  int64_t end = 0;
  for (Split& split : splits) split.end = end += split.end;
}

void emit_points(const State& state, const Split* splits, int64_t count, int32_t* points,
                 int64_t* shape_index) {
  for_each_split(
      state, splits, count,
      [&](int64_t s, int64_t shape, const Block& block, const Surroundings& around) {
        const int64_t step = int64_t{1} << (state.layout.depth - block.level - 1);
        int64_t out = s == 0 ? 0 : splits[s - 1].end;
        for (uint64_t rest = splits[s].cells; rest != 0; rest &= rest - 1) {
          const int bit = lowest_bit(rest);
          for (uint32_t left = added_points(around, bit); left != 0; left &= left - 1) {
            const int p = lowest_bit(left);
            points[3 * out] = static_cast<int32_t>((2 * block.cell_x(bit) + p / 9) * step);
            points[3 * out + 1] = static_cast<int32_t>((2 * block.cell_y(bit) + p / 3 % 3) * step);
            points[3 * out + 2] = static_cast<int32_t>((2 * block.cell_z(bit) + p % 3) * step);
            shape_index[out++] = shape;
          }
        }
      });
}

// Makes the chosen cells split ones. Their children may have marks already: look at them again.
void commit(const State& state, const Split* splits, int64_t count) {
  const MiseLayout& layout = state.layout;
  torch::stable::parallel_for(0, count, kSplitGrain, [&](int64_t first, int64_t last) {
    for (int64_t s = first; s < last; ++s) {
      const int64_t shape = splits[s].word / layout.words();
      const Block block = block_of(layout, splits[s].word % layout.words());
      CellWord& word = state.words(shape)[block.word];
      word.split |= splits[s].cells;
      word.now = 0;
      if (block.level + 1 == layout.depth) continue;
      for (uint64_t rest = splits[s].cells; rest != 0; rest &= rest - 1) {
        const int bit = lowest_bit(rest);
        const int64_t child =
            layout.word(block.level + 1, (block.cell_x(bit) >> 1) + 1, (block.cell_y(bit) >> 1) + 1,
                        (block.cell_z(bit) >> 1) + 1);
        set_bits(state.dirty(shape) + (child >> 6), uint64_t{1} << (child & 63));
      }
    }
  });
}

void mise_mark(const Tensor& state, const Tensor& points, const Tensor& shape_index,
               const Tensor& values, double level, int64_t resolution, int64_t coarse_resolution) {
  constexpr const char* kOp = "mise_mark";
  const State opened = open_state(state, resolution, coarse_resolution);
  check_dtype(points, ScalarType::Int, kOp, "points");
  check_dtype(shape_index, ScalarType::Long, kOp, "shape_index");
  const int64_t count = values.numel();
  STD_TORCH_CHECK(points.numel() == 3 * count && shape_index.numel() == count, kOp,
                  ": points must be (N, 3), shape_index and values (N,)");
  const Tensor p = torch::stable::contiguous(points);
  const Tensor s = torch::stable::contiguous(shape_index);
  const Tensor v = torch::stable::contiguous(values);
  int64_t outside = 0;
  THO_DISPATCH_V2(v.scalar_type(), kOp, AT_WRAP([&] {
                    outside = mark_points<scalar_t>(opened, state.size(0), p, s, v, level);
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES), ScalarType::Half, ScalarType::BFloat16);
  STD_TORCH_CHECK(outside == 0, kOp, ": ", outside, " points lie outside the lattice or the batch");
}

Tensor mise_split(const Tensor& state, int64_t resolution, int64_t coarse_resolution) {
  const State opened = open_state(state, resolution, coarse_resolution);
  std::vector<Split> splits = collect_all(opened, state.size(0));
  count_points(opened, splits);
  const auto rows = static_cast<int64_t>(splits.size());
  Tensor result = torch::stable::new_empty(state, {rows, 3}, ScalarType::Long);
  std::copy(splits.begin(), splits.end(), static_cast<Split*>(result.mutable_data_ptr()));
  return result;
}

std::tuple<Tensor, Tensor> mise_points(const Tensor& state, const Tensor& splits,
                                       int64_t resolution, int64_t coarse_resolution) {
  constexpr const char* kOp = "mise_points";
  const State opened = open_state(state, resolution, coarse_resolution);
  check_dtype(splits, ScalarType::Long, kOp, "splits");
  STD_TORCH_CHECK(splits.dim() == 2 && splits.size(1) == 3 && splits.is_contiguous(), kOp,
                  ": splits must be (S, 3) as mise_split returns them");
  const auto* rows = static_cast<const Split*>(splits.const_data_ptr());
  const int64_t count = splits.size(0);
  const int64_t total = count == 0 ? 0 : rows[count - 1].end;
  Tensor points = torch::stable::new_empty(state, {total, 3}, ScalarType::Int);
  Tensor shape_index = torch::stable::new_empty(state, {total}, ScalarType::Long);
  emit_points(opened, rows, count, static_cast<int32_t*>(points.mutable_data_ptr()),
              static_cast<int64_t*>(shape_index.mutable_data_ptr()));
  commit(opened, rows, count);
  return {points, shape_index};
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CPU, m) {
  m.impl("mise_mark", TORCH_BOX(&occvae::mise_mark));
  m.impl("mise_split", TORCH_BOX(&occvae::mise_split));
  m.impl("mise_points", TORCH_BOX(&occvae::mise_points));
}
