// Counts the facets that the rays of points cross. Points and facets are sorted by the rows of the
// column grid. Each work item is a row with points: its thread lists the facets of the row's
// columns, which then fit the cache, and answers the points of the row. The rules are in
// csrc/inside_mesh.h.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "../inside_mesh.h"
#include "row_buckets.h"

namespace occvae {

// Uninitialized memory. It is filled in parallel, which is faster than clearing it first.
template <typename T>
using Array = std::unique_ptr<T[]>;

// A facet whose crossings are counted with a sign: 1 where the ray leaves through the front, -1
// where it enters through the front. Their sum is the winding number of a closed mesh.
template <typename scalar_t>
struct OrientedFacet : Facet<scalar_t> {
  int32_t direction;
};

template <typename scalar_t>
OrientedFacet<scalar_t> make_oriented_facet(const scalar_t* vertices, const int64_t* corners) {
  double x[3], y[3];
  for (int i = 0; i < 3; ++i) {
    x[i] = usable_coordinate(vertices[3 * corners[i]]);
    y[i] = usable_coordinate(vertices[3 * corners[i] + 1]);
  }
  return {make_facet(vertices, corners), orientation(x[0], y[0], x[1], y[1], x[2], y[2])};
}

template <typename scalar_t>
int32_t count_crossing(const Facet<scalar_t>& facet, const scalar_t (&p)[3]) {
  return ray_crosses(facet, p);
}

template <typename scalar_t>
int32_t count_crossing(const OrientedFacet<scalar_t>& facet, const scalar_t (&p)[3]) {
  return ray_crosses<scalar_t>(facet, p) ? facet.direction : 0;
}

namespace ray_crossings {

constexpr int64_t kFacetTile = 4096;
constexpr int64_t kPointTile = 16384;                // points per work item, all of one row
constexpr int64_t kPointsAtOnce = int64_t{1} << 22;  // bounds the memory for copies of points

template <typename FacetType>
struct Facets {
  Array<FacetType> data;
  int64_t size;
  Box box;
};

inline Box empty_box() {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return {{kInfinity, kInfinity, kInfinity}, {-kInfinity, -kInfinity, -kInfinity}};
}

inline void grow(Box& box, int axis, double low, double high) {
  box.low[axis] = std::min(box.low[axis], low);
  box.high[axis] = std::max(box.high[axis], high);
}

template <typename FacetType, typename MakeFacet>
Facets<FacetType> load_facets(int64_t size, const MakeFacet& make) {
  Facets<FacetType> facets{Array<FacetType>(new FacetType[size]), size, empty_box()};
  std::mutex mutex;
  for_each_tile(size, kFacetTile, [&](int64_t first, int64_t last) {
    Box box = empty_box();
    for (int64_t i = first; i < last; ++i) {
      const FacetType facet = facets.data[i] = make(i);
      for (int axis = 0; axis < 3; ++axis) {
        grow(box, axis, least_of(facet, axis), greatest_of(facet, axis));
      }
    }
    const std::lock_guard<std::mutex> lock(mutex);
    for (int axis = 0; axis < 3; ++axis) grow(facets.box, axis, box.low[axis], box.high[axis]);
  });
  return facets;
}

template <typename FacetType>
ColumnGrid choose_grid(const Facets<FacetType>& facets, int64_t num_points) {
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
template <typename FacetType>
RowBuckets<FacetType> sort_facets(const ColumnGrid& grid, const Facets<FacetType>& facets) {
  const auto rows_of = [&](int64_t i) -> RowRange {
    return {first_row(grid, facets.data[i]), last_row(grid, facets.data[i])};
  };
  return bucket_by_row<FacetType>(facets.size, grid.edge, rows_of,
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
template <typename FacetType>
class RowOfColumns {
 public:
  RowOfColumns(const ColumnGrid& grid, int32_t row, const FacetType* facets, int64_t count)
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

  template <typename scalar_t>
  int32_t count(int32_t column, const scalar_t (&p)[3]) const {
    int32_t sum = 0;
    for (int64_t i = start_[column]; i < start_[column + 1]; ++i) {
      sum += count_crossing(facets_[index_[i]], p);
    }
    return sum;
  }

 private:
  const FacetType* facets_;
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

template <typename FacetType, typename scalar_t, typename Result>
void answer_rows(const ColumnGrid& grid, const RowBuckets<FacetType>& facets,
                 const RowBuckets<Query<scalar_t>>& queries, const Result& set_count) {
  const std::vector<Work> work = share_work(queries);
  for_each_tile(static_cast<int64_t>(work.size()), 1, [&](int64_t item, int64_t) {
    const auto [row, first, last] = work[item];
    const int64_t start = facets.start[row];
    const RowOfColumns<FacetType> columns(grid, row, facets.item.get() + start,
                                          facets.start[row + 1] - start);
    for (int64_t i = first; i < last; ++i) {
      const Query<scalar_t>& query = queries.item[i];
      const int32_t column = grid.index(grid.in_columns(query.point[0], 0));
      set_count(query.index, columns.count(column, query.point));
    }
  });
}

}  // namespace ray_crossings

// Calls set_count(point, count) for each point whose ray may cross a facet, on all threads. Facet i
// is make(i), of type Facet or OrientedFacet.
template <typename FacetType, typename scalar_t, typename MakeFacet, typename Result>
void count_crossings(int64_t num_facets, const MakeFacet& make, const scalar_t* points,
                     int64_t num_points, const Result& set_count) {
  using namespace ray_crossings;
  if (num_facets == 0 || num_points == 0) return;
  const Facets<FacetType> facets = load_facets<FacetType>(num_facets, make);
  const ColumnGrid grid = choose_grid(facets, num_points);
  const auto rows = sort_facets(grid, facets);
  for (int64_t begin = 0; begin < num_points; begin += kPointsAtOnce) {
    const int64_t end = std::min(begin + kPointsAtOnce, num_points);
    answer_rows(grid, rows, sort_points(grid, facets.box, points, begin, end), set_count);
  }
}

}  // namespace occvae
