// CPU kernel of inside_mesh. Points and facets are sorted by the rows of the column grid. Each work
// item is a row with points: its thread lists the facets of the row's columns, which then fit the
// cache, and answers the points of the row. The rules are in csrc/inside_mesh.h.
#include "../inside_mesh.h"

#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "row_buckets.h"

namespace occvae {
namespace {

constexpr const char* kOp = "inside_mesh";
constexpr int64_t kFacetTile = 4096;
constexpr int64_t kPointTile = 16384;                // points per work item, all of one row
constexpr int64_t kPointsAtOnce = int64_t{1} << 22;  // bounds the memory for copies of points

// Uninitialized memory. It is filled in parallel, which is faster than clearing it first.
template <typename T>
using Array = std::unique_ptr<T[]>;

template <typename scalar_t>
struct Facets {
  Array<Facet<scalar_t>> data;
  int64_t size;
  Box box;
};

Box empty_box() {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return {{kInfinity, kInfinity, kInfinity}, {-kInfinity, -kInfinity, -kInfinity}};
}

void grow(Box& box, int axis, double low, double high) {
  box.low[axis] = std::min(box.low[axis], low);
  box.high[axis] = std::max(box.high[axis], high);
}

template <typename scalar_t>
Facets<scalar_t> load_facets(const Tensor& vertices, const Tensor& faces) {
  const auto* positions = static_cast<const scalar_t*>(vertices.const_data_ptr());
  const auto* corners = static_cast<const int64_t*>(faces.const_data_ptr());
  const int64_t size = faces.size(0);
  Facets<scalar_t> facets{Array<Facet<scalar_t>>(new Facet<scalar_t>[size]), size, empty_box()};
  int64_t unusable = 0;
  std::mutex mutex;
  for_each_tile(size, kFacetTile, [&](int64_t first, int64_t last) {
    Box box = empty_box();
    int64_t skipped = 0;
    for (int64_t i = first; i < last; ++i) {
      if (!is_usable_face(positions, vertices.size(0), corners + 3 * i)) {
        ++skipped;
        continue;
      }
      const Facet<scalar_t> facet = facets.data[i] = make_facet(positions, corners + 3 * i);
      for (int axis = 0; axis < 3; ++axis) {
        grow(box, axis, least_of(facet, axis), greatest_of(facet, axis));
      }
    }
    const std::lock_guard<std::mutex> lock(mutex);
    unusable += skipped;
    for (int axis = 0; axis < 3; ++axis) grow(facets.box, axis, box.low[axis], box.high[axis]);
  });
  check_faces(unusable, kOp);
  return facets;
}

template <typename scalar_t>
ColumnGrid choose_grid(const Facets<scalar_t>& facets, int64_t num_points) {
  for (int32_t edge = first_grid_edge(facets.size, num_points);; edge /= 2) {
    const ColumnGrid grid = make_column_grid(facets.box, edge);
    std::atomic<int64_t> entries{0};
    for_each_tile(facets.size, kFacetTile, [&](int64_t first, int64_t last) {
      int64_t count = 0;
      for (int64_t i = first; i < last; ++i) {
        count += last_row(grid, facets.data[i]) - first_row(grid, facets.data[i]) + 1;
      }
      entries += count;
    });
    if (!is_grid_too_fine(entries, facets.size, edge)) return grid;
  }
}

// Copies facets into each row that they touch. Rows are read sequentially, and facets themselves
// are scattered in memory.
template <typename scalar_t>
RowBuckets<Facet<scalar_t>> sort_facets(const ColumnGrid& grid, const Facets<scalar_t>& facets) {
  const auto rows_of = [&](int64_t i) -> RowRange {
    return {first_row(grid, facets.data[i]), last_row(grid, facets.data[i])};
  };
  return bucket_by_row<Facet<scalar_t>>(facets.size, grid.edge, rows_of,
                                        [&](int64_t i) { return facets.data[i]; });
}

template <typename scalar_t>
struct Query {
  scalar_t point[3];
  int64_t index;
};

// Makes the queries of points [begin, end), sorted by row.
template <typename scalar_t>
RowBuckets<Query<scalar_t>> sort_points(const ColumnGrid& grid, const Box& box,
                                        const scalar_t* points, int64_t begin, int64_t end) {
  const auto query = [&](int64_t i) -> Query<scalar_t> {
    const scalar_t* p = points + 3 * (begin + i);
    return {{usable_coordinate(p[0]), usable_coordinate(p[1]), usable_coordinate(p[2])}, begin + i};
  };
  const auto rows_of = [&](int64_t i) -> RowRange {
    const auto& p = query(i).point;
    if (!is_below(box, p)) return {0, -1};
    const int32_t row = grid.index(grid.in_columns(p[1], 1));
    return {row, row};
  };
  return bucket_by_row<Query<scalar_t>>(end - begin, grid.edge, rows_of, query);
}

// One row of the grid: the facets of each column, column after column.
template <typename scalar_t>
class RowOfColumns {
 public:
  RowOfColumns(const ColumnGrid& grid, int32_t row, const Facet<scalar_t>* facets, int64_t count)
      : facets_(facets), start_(grid.edge + 1) {
    std::vector<Span> spans(count);
    for (int64_t i = 0; i < count; ++i) {
      spans[i] = span_in_row(grid, facets[i], row);
      for (int32_t c = spans[i].first; c <= spans[i].last; ++c) ++start_[c];
    }
    int64_t end = 0;
    for (int64_t& start : start_) start = end += start;
    index_.reset(new int32_t[end]);
    for (int64_t i = 0; i < count; ++i) {
      for (int32_t c = spans[i].first; c <= spans[i].last; ++c) {
        index_[--start_[c]] = static_cast<int32_t>(i);
      }
    }
  }

  bool is_crossed_oddly(int32_t column, const scalar_t (&p)[3]) const {
    bool odd = false;
    for (int64_t i = start_[column]; i < start_[column + 1]; ++i) {
      odd ^= ray_crosses(facets_[index_[i]], p);
    }
    return odd;
  }

 private:
  const Facet<scalar_t>* facets_;
  std::vector<int64_t> start_;
  Array<int32_t> index_;
};

struct Work {
  int32_t row;
  int64_t first;  // first query of the row
  int64_t last;
};

template <typename Item>
std::vector<Work> share_work(const RowBuckets<Item>& queries) {
  std::vector<Work> work;
  for (size_t row = 0; row + 1 < queries.start.size(); ++row) {
    const int64_t end = queries.start[row + 1];
    for (int64_t first = queries.start[row]; first < end; first += kPointTile) {
      work.push_back({static_cast<int32_t>(row), first, std::min(first + kPointTile, end)});
    }
  }
  return work;
}

template <typename scalar_t>
void answer_rows(const ColumnGrid& grid, const RowBuckets<Facet<scalar_t>>& facets,
                 const RowBuckets<Query<scalar_t>>& queries, bool* inside) {
  const std::vector<Work> work = share_work(queries);
  for_each_tile(static_cast<int64_t>(work.size()), 1, [&](int64_t item, int64_t) {
    const auto [row, first, last] = work[item];
    const int64_t start = facets.start[row];
    const RowOfColumns<scalar_t> columns(grid, row, facets.item.get() + start,
                                         facets.start[row + 1] - start);
    for (int64_t i = first; i < last; ++i) {
      const Query<scalar_t>& query = queries.item[i];
      const int32_t column = grid.index(grid.in_columns(query.point[0], 0));
      inside[query.index] = columns.is_crossed_oddly(column, query.point);
    }
  });
}

template <typename scalar_t>
void answer(const Facets<scalar_t>& facets, const Tensor& points, bool* inside) {
  const ColumnGrid grid = choose_grid(facets, points.size(0));
  const auto rows = sort_facets(grid, facets);
  const auto* positions = static_cast<const scalar_t*>(points.const_data_ptr());
  for (int64_t begin = 0; begin < points.size(0); begin += kPointsAtOnce) {
    const int64_t end = std::min(begin + kPointsAtOnce, points.size(0));
    answer_rows(grid, rows, sort_points(grid, facets.box, positions, begin, end), inside);
  }
}

Tensor inside_mesh(const Tensor& vertices, const Tensor& faces, const Tensor& points) {
  check_mesh_arguments(vertices, faces, points, kOp);
  const Tensor v = torch::stable::contiguous(vertices);
  const Tensor f = torch::stable::contiguous(faces);
  const Tensor p = torch::stable::contiguous(points);
  Tensor inside = torch::stable::new_zeros(points, {points.size(0)}, ScalarType::Bool);
  if (faces.size(0) == 0 || points.size(0) == 0) return inside;
  THO_DISPATCH_V2(v.scalar_type(), kOp, AT_WRAP([&] {
                    answer(load_facets<scalar_t>(v, f), p,
                           static_cast<bool*>(inside.mutable_data_ptr()));
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  return inside;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CPU, m) {
  m.impl("inside_mesh", TORCH_BOX(&occvae::inside_mesh));
}
