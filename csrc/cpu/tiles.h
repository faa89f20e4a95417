// A parallel loop with dynamic scheduling, for uneven work or cores shared with other programs.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "../common.h"

namespace occvae {

// Calls function(first, last) for the tiles of [0, count). A thread takes the next tile when it has
// finished one.
template <typename Function>
void for_each_tile(int64_t count, int64_t tile, const Function& function) {
  std::atomic<int64_t> next{0};
  const int64_t threads =
      std::min<int64_t>(torch::stable::get_num_threads(), ceil_div(count, tile));
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t first = next.fetch_add(tile); first < count; first = next.fetch_add(tile)) {
      function(first, std::min(first + tile, count));
    }
  });
}

}  // namespace occvae
