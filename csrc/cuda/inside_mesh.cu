// CUDA kernels of inside_mesh; the rules are in csrc/inside_mesh.h. Counting, a scan and filling
// list the facets of each grid column contiguously. Then one thread answers one point. The host
// must know the number of unusable facets, the box of the facets and the size of the lists, so it
// waits for the device at least twice.
#include <cstring>

#include "../inside_mesh.h"
#include "../mesh_arguments.h"
#include "launch.cuh"

namespace occvae {
namespace {

constexpr const char* kOp = "inside_mesh";

// Maps doubles to integers of the same order, for atomicMin and atomicMax.
__device__ int64_t ordered(double x) {
  int64_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits >= 0 ? bits : bits ^ INT64_MAX;
}

double number_of(int64_t ordered) {
  const int64_t bits = ordered >= 0 ? ordered : ordered ^ INT64_MAX;
  double x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// Values that kernels report to the host.
struct Report {
  long long unusable;
  long long entries;
  long long low[3];  // as ordered() maps them
  long long high[3];
};

struct ClearReport {
  Report* report;

  __device__ void operator()(int64_t) const {
    *report = {0, 0, {INT64_MAX, INT64_MAX, INT64_MAX}, {INT64_MIN, INT64_MIN, INT64_MIN}};
  }
};

Report read_report(const Tensor& report, cudaStream_t stream) {
  Report result;
  STD_CUDA_CHECK(cudaMemcpyAsync(&result, report.const_data_ptr(), sizeof(result),
                                 cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  return result;
}

Tensor empty_bytes(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
}

template <typename scalar_t>
struct LoadFacet {
  const scalar_t* __restrict__ vertices;  // [V, 3]
  int64_t num_vertices;
  const int64_t* __restrict__ faces;  // [F, 3]
  Facet<scalar_t>* __restrict__ facets;
  Report* report;

  __device__ void operator()(int64_t i) const {
    if (!is_usable_face(vertices, num_vertices, faces + 3 * i)) {
      atomicAdd(reinterpret_cast<unsigned long long*>(&report->unusable), 1ull);
      return;
    }
    const Facet<scalar_t> facet = make_facet(vertices, faces + 3 * i);
    facets[i] = facet;
    for (int axis = 0; axis < 3; ++axis) {
      const long long low = ordered(least_of(facet, axis));
      const long long high = ordered(greatest_of(facet, axis));
      // The plain read avoids nearly all atomics, which would be serialized.
      if (low < *const_cast<volatile long long*>(&report->low[axis])) {
        atomicMin(&report->low[axis], low);
      }
      if (high > *const_cast<volatile long long*>(&report->high[axis])) {
        atomicMax(&report->high[axis], high);
      }
    }
  }
};

// Calls visit(column) for every column that the facet may touch.
template <typename scalar_t, typename Visit>
__device__ void for_each_column(const ColumnGrid& grid, const Facet<scalar_t>& facet,
                                const Visit& visit) {
  const int32_t end = last_row(grid, facet);
  for (int32_t row = first_row(grid, facet); row <= end; ++row) {
    const Span span = span_in_row(grid, facet, row);
    for (int32_t c = span.first; c <= span.last; ++c) visit(row * grid.edge + c);
  }
}

template <typename scalar_t>
struct CountEntries {
  ColumnGrid grid;
  const Facet<scalar_t>* __restrict__ facets;
  Report* report;

  __device__ void operator()(int64_t i) const {
    unsigned long long count = 0;
    const Facet<scalar_t>& facet = facets[i];
    const int32_t end = last_row(grid, facet);
    for (int32_t row = first_row(grid, facet); row <= end; ++row) {
      const Span span = span_in_row(grid, facet, row);
      count += span.last - span.first + 1;
    }
    atomicAdd(reinterpret_cast<unsigned long long*>(&report->entries), count);
  }
};

template <typename scalar_t>
struct CountColumns {
  ColumnGrid grid;
  const Facet<scalar_t>* __restrict__ facets;
  int32_t* __restrict__ counts;

  __device__ void operator()(int64_t i) const {
    for_each_column(grid, facets[i], [&](int32_t column) { atomicAdd(counts + column, 1); });
  }
};

// Writes the entries of each column from its end downwards. Afterwards `ends` holds the starts.
template <typename scalar_t>
struct FillColumns {
  ColumnGrid grid;
  const Facet<scalar_t>* __restrict__ facets;
  int32_t* __restrict__ ends;
  int32_t* __restrict__ entries;

  __device__ void operator()(int64_t i) const {
    for_each_column(grid, facets[i], [&](int32_t column) {
      entries[atomicSub(ends + column, 1) - 1] = static_cast<int32_t>(i);
    });
  }
};

template <typename scalar_t>
struct AnswerPoint {
  ColumnGrid grid;
  Box box;
  const Facet<scalar_t>* __restrict__ facets;
  const int32_t* __restrict__ starts;  // [columns + 1]
  const int32_t* __restrict__ entries;
  const scalar_t* __restrict__ points;  // [N, 3]
  bool* __restrict__ inside;            // [N]

  __device__ void operator()(int64_t i) const {
    const scalar_t p[3] = {usable_coordinate(points[3 * i]), usable_coordinate(points[3 * i + 1]),
                           usable_coordinate(points[3 * i + 2])};
    bool odd = false;
    if (is_below(box, p)) {
      const int32_t column = grid.column(p);
      const int32_t end = starts[column + 1];
      for (int32_t k = starts[column]; k < end; ++k) odd ^= ray_crosses(facets[entries[k]], p);
    }
    inside[i] = odd;
  }
};

Box box_of(const Report& report) {
  Box box;
  for (int axis = 0; axis < 3; ++axis) {
    box.low[axis] = number_of(report.low[axis]);
    box.high[axis] = number_of(report.high[axis]);
  }
  return box;
}

// Returns the finest grid whose facet lists are not too long. Sets `entries` to their total length.
template <typename scalar_t>
ColumnGrid choose_grid(const Facet<scalar_t>* facets, int64_t num_facets, int64_t num_points,
                       const Box& box, const Tensor& report, cudaStream_t stream,
                       int64_t& entries) {
  auto* on_device = static_cast<Report*>(report.mutable_data_ptr());
  for (int32_t edge = first_grid_edge(num_facets, num_points);; edge /= 2) {
    const ColumnGrid grid = make_column_grid(box, edge);
    for_each(1, stream, ClearReport{on_device});
    for_each(num_facets, stream, CountEntries<scalar_t>{grid, facets, on_device});
    entries = read_report(report, stream).entries;
    if (!is_grid_too_fine(entries, num_facets, edge)) return grid;
  }
}

template <typename scalar_t>
void answer(const Tensor& vertices, const Tensor& faces, const Tensor& points, Tensor& inside) {
  const cudaStream_t stream = current_stream(points);
  const int64_t num_facets = faces.size(0);
  const auto* positions = static_cast<const scalar_t*>(vertices.const_data_ptr());
  const auto* corners = static_cast<const int64_t*>(faces.const_data_ptr());
  Tensor facet_bytes = empty_bytes(points, num_facets * sizeof(Facet<scalar_t>));
  auto* facets = static_cast<Facet<scalar_t>*>(facet_bytes.mutable_data_ptr());
  Tensor report = empty_bytes(points, sizeof(Report));
  auto* on_device = static_cast<Report*>(report.mutable_data_ptr());
  for_each(1, stream, ClearReport{on_device});
  for_each(num_facets, stream,
           LoadFacet<scalar_t>{positions, vertices.size(0), corners, facets, on_device});
  const Report loaded = read_report(report, stream);
  check_faces(loaded.unusable, kOp);
  const Box box = box_of(loaded);
  int64_t size = 0;
  const ColumnGrid grid =
      choose_grid(facets, num_facets, points.size(0), box, report, stream, size);
  STD_TORCH_CHECK(size <= INT32_MAX, kOp, ": too many faces for 32-bit lists of columns");
  Tensor starts = torch::stable::new_zeros(points, {grid.columns() + 1}, ScalarType::Int);
  Tensor entries = torch::stable::new_empty(points, {size}, ScalarType::Int);
  auto* start = static_cast<int32_t*>(starts.mutable_data_ptr());
  auto* entry = static_cast<int32_t*>(entries.mutable_data_ptr());
  for_each(num_facets, stream, CountColumns<scalar_t>{grid, facets, start});
  inclusive_scan(start, grid.columns() + 1, points, stream);
  for_each(num_facets, stream, FillColumns<scalar_t>{grid, facets, start, entry});
  for_each(points.size(0), stream,
           AnswerPoint<scalar_t>{grid, box, facets, start, entry,
                                 static_cast<const scalar_t*>(points.const_data_ptr()),
                                 static_cast<bool*>(inside.mutable_data_ptr())});
}

Tensor inside_mesh(const Tensor& vertices, const Tensor& faces, const Tensor& points) {
  check_mesh_arguments(vertices, faces, points, kOp);
  const torch::stable::accelerator::DeviceGuard guard(points.get_device_index());
  const Tensor v = torch::stable::contiguous(vertices);
  const Tensor f = torch::stable::contiguous(faces);
  const Tensor p = torch::stable::contiguous(points);
  Tensor inside = torch::stable::new_zeros(points, {points.size(0)}, ScalarType::Bool);
  if (faces.size(0) == 0 || points.size(0) == 0) return inside;
  THO_DISPATCH_V2(v.scalar_type(), kOp, AT_WRAP([&] { answer<scalar_t>(v, f, p, inside); }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  return inside;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CUDA, m) {
  m.impl("inside_mesh", TORCH_BOX(&occvae::inside_mesh));
}
