// Sorts items by the rows of a grid that they touch; inside_mesh.cpp uses it.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "tiles.h"

namespace occvae {

struct RowRange {
  int32_t first;
  int32_t last;  // less than `first` if there is no row
};

// Row r holds item[start[r]] to item[start[r + 1] - 1].
template <typename Item>
struct RowBuckets {
  std::vector<int64_t> start;
  std::unique_ptr<Item[]> item;
};

// Puts make_item(i) into every row of rows_of(i), in the order of i.
template <typename Item, typename RowsOf, typename MakeItem>
RowBuckets<Item> bucket_by_row(int64_t count, int32_t rows, const RowsOf& rows_of,
                               const MakeItem& make_item) {
  constexpr int64_t kLeastChunk = 4096;
  const int64_t most_chunks = 4 * static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t chunk = std::max(kLeastChunk, ceil_div(count, most_chunks));
  // First counts the items per row of each chunk, then holds the place of the next item.
  std::vector<int64_t> next(ceil_div(count, chunk) * rows);
  for_each_tile(count, chunk, [&](int64_t first, int64_t last) {
    int64_t* counts = next.data() + first / chunk * rows;
    for (int64_t i = first; i < last; ++i) {
      const RowRange range = rows_of(i);
      for (int32_t row = range.first; row <= range.last; ++row) ++counts[row];
    }
  });
  RowBuckets<Item> buckets;
  int64_t total = 0;
  for (int32_t row = 0; row < rows; ++row) {
    buckets.start.push_back(total);
    for (size_t place = row; place < next.size(); place += rows) {
      const int64_t size = next[place];
      next[place] = total;
      total += size;
    }
  }
  buckets.start.push_back(total);
  buckets.item.reset(new Item[total]);
  for_each_tile(count, chunk, [&](int64_t first, int64_t last) {
    int64_t* places = next.data() + first / chunk * rows;
    for (int64_t i = first; i < last; ++i) {
      const RowRange range = rows_of(i);
      for (int32_t row = range.first; row <= range.last; ++row) {
        buckets.item[places[row]++] = make_item(i);
      }
    }
  });
  return buckets;
}

}  // namespace occvae
