// Sparse marching cubes as a sequence of loops and scans, the same on every device. The steps are
// the function objects of marching_cubes_points.h and marching_cubes_rows.h. A `Loops` class runs
// them:
//
//     Loops::kRows                   rows of a brick per work item
//     loops.for_each(n, grain, f)    f(i) for all i < n in any order, at least `grain` per thread
//     loops.inclusive_scan(data, n)
//
// The mesh depends only on the steps, so it is the same bit for bit on every device. The host waits
// for results twice, or four times if the surface reaches the faces of the domain. A batch of
// shapes is marched together, and needs one more wait.
//
// Memory grows with the surface, with two exceptions. Each possible place of a brick takes 5 bytes,
// and there is one place per 512 lattice points of each shape. If a surface reaches the faces of
// the domain, each lattice point of the six faces of each shape takes one byte. The sphere of the
// tests at resolution 2048 (27 M points, 0.45 M bricks, 8 M vertices) takes 0.86 GB: 0.09 for
// places, 0.18 for bricks, 0.11 for float32 values and 0.48 for the mesh. The caller's points and
// values take 0.43 GB more.
#pragma once

#include <torch/csrc/stable/device.h>

#include <algorithm>
#include <tuple>

#include "common.h"
#include "marching_cubes_points.h"
#include "marching_cubes_rows.h"

namespace occvae {

constexpr int64_t kPointGrain = 8192;
constexpr int64_t kBrickGrain = 64;

template <typename T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

struct Mesh {
  Tensor vertices;  // (V, 3) float
  Tensor faces;     // (F, 3) int64
  Tensor edges;     // (V, 4) int32: lower end (3), axis (1); empty unless requested
  Tensor ends;      // (V, 2) double: value - level at both ends; empty unless requested
  Tensor sizes;     // (shapes, 2) int64 on the CPU: numbers of vertices and faces
  MarchCounts counts;
};

template <typename scalar_t, typename Loops>
class March {
 public:
  March(const Loops& loops, const Tensor& points, const Tensor& values, const Tensor& shape_index,
        const Domain& domain, double level)
      : loops_(loops),
        like_(points),
        values_(values),
        size_(values.numel()),
        samples_{
            static_cast<const int32_t*>(points.const_data_ptr()),
            static_cast<const scalar_t*>(values.const_data_ptr()),
            domain.shapes > 1 ? static_cast<const int64_t*>(shape_index.const_data_ptr()) : nullptr,
            level},
        domain_(domain),
        counts_(zeros<MarchCounts>(1)) {}

  Mesh run(bool with_edges) {
    const MarchCounts placed = place_bricks();
    if (placed.outside != 0) return new_mesh(placed, false);
    set_points();
    const Tensor stored = store_values();
    return write(stored, count_rows(), with_edges);
  }

 private:
  template <typename T>
  Tensor zeros(int64_t count) const {
    return torch::stable::new_zeros(like_, {count * static_cast<int64_t>(sizeof(T))},
                                    ScalarType::Byte);
  }

  MarchCounts read_counts() const {
    const Tensor host =
        torch::stable::to(counts_, torch::stable::Device(torch::headeronly::DeviceType::CPU));
    return *static_cast<const MarchCounts*>(host.const_data_ptr());
  }

  template <typename T>
  void report(const T* number, int64_t* count) {
    loops_.for_each(1, 1, Report<T>{number, count});
  }

  MarchCounts* counts() const { return data_of<MarchCounts>(counts_); }

  // Finds the bricks that hold known points, and those that hold caps if the domain needs caps.
  MarchCounts place_bricks() {
    bricks_.per_axis = ceil_div(domain_.resolution + 3, 8) + 1;
    const int64_t places = domain_.shapes * bricks_.places();
    const Tensor marks = zeros<uint8_t>(places);
    before_ = torch::stable::new_empty(like_, {places + 1}, ScalarType::Int);
    bricks_.before = data_of<int32_t>(before_);
    loops_.for_each(
        size_, kPointGrain,
        MarkPlace<scalar_t>{samples_, domain_, bricks_, data_of<uint8_t>(marks), counts()});
    MarchCounts found = number_bricks(marks, places);
    if (found.outside != 0) return found;
    if (found.touched != 0) {
      find_caps(found.touched);
      loops_.for_each(faces_.size(1), kPointGrain,
                      MarkCap{faces_, bricks_, data_of<uint8_t>(marks)});
      found = number_bricks(marks, places);
    }
    allocate_bricks(found.bricks);
    loops_.for_each(places, kPointGrain, PlaceBrick{bricks_});
    return found;
  }

  MarchCounts number_bricks(const Tensor& marks, int64_t places) {
    auto* before = data_of<int32_t>(before_);
    loops_.for_each(places, kPointGrain, CountPlace{data_of<uint8_t>(marks), before});
    loops_.inclusive_scan(before + 1, places);
    report(before + places, &counts()->bricks);
    return read_counts();
  }

  void allocate_bricks(int64_t count) {
    brick_memory_ = zeros<Brick>(count + 1);
    for (Tensor& first : first_memory_) first = zeros<int64_t>(count + 1);
    bricks_.count = count;
    bricks_.bricks = data_of<Brick>(brick_memory_);
    bricks_.first_value = data_of<int64_t>(first_memory_[0]);
    bricks_.first_vertex = data_of<int64_t>(first_memory_[1]);
    bricks_.first_triangle = data_of<int64_t>(first_memory_[2]);
  }

  void find_caps(uint64_t touched) {
    faces_ = {domain_.resolution, domain_.shapes, bricks_.width(), touched, nullptr};
    face_memory_ = zeros<uint8_t>(faces_.size(1));
    faces_.sides = data_of<uint8_t>(face_memory_);
    loops_.for_each(size_, kPointGrain, SetFacePoint<scalar_t>{samples_, faces_});
    for (int64_t step = domain_.coarsest_step / 2; step >= 1; step /= 2) {
      loops_.for_each(faces_.size(step), kPointGrain, SpreadFace{faces_, step});
    }
  }

  void set_points() {
    loops_.for_each(size_, kPointGrain, SetPoint<scalar_t>{samples_, bricks_, counts()});
    if (faces_.touched != 0) {
      loops_.for_each(faces_.size(1), kPointGrain, SetCap{faces_, bricks_});
    }
  }

  // Returns the values in the order of bricks and bits. Cap points have a place in this order but
  // no value.
  Tensor store_values() {
    loops_.for_each(bricks_.count, kBrickGrain, NumberValues{bricks_});
    loops_.inclusive_scan(bricks_.first_value + 1, bricks_.count);
    int64_t places = size_;
    if (faces_.touched != 0) {
      report(bricks_.first_value + bricks_.count, &counts()->values);
      places = read_counts().values;
    }
    Tensor stored = torch::stable::new_empty(values_, {places});
    loops_.for_each(
        size_, kPointGrain,
        StoreValue<scalar_t>{samples_, domain_, bricks_, data_of<scalar_t>(stored), counts()});
    return stored;
  }

  MarchCounts count_rows() {
    loops_.for_each(bricks_.count * (8 / Loops::kRows), kBrickGrain,
                    CountRows<Loops::kRows>{bricks_, counts()});
    loops_.for_each(bricks_.count, kBrickGrain, NumberRows{bricks_});
    loops_.inclusive_scan(bricks_.first_vertex + 1, bricks_.count);
    loops_.inclusive_scan(bricks_.first_triangle + 1, bricks_.count);
    report(bricks_.first_vertex + bricks_.count, &counts()->vertices);
    report(bricks_.first_triangle + bricks_.count, &counts()->triangles);
    return read_counts();
  }

  Mesh new_mesh(const MarchCounts& counts, bool with_edges) const {
    const int64_t num_edges = with_edges ? counts.vertices : 0;
    return {torch::stable::new_empty(like_, {counts.vertices, 3}, ScalarType::Float),
            torch::stable::new_empty(like_, {counts.triangles, 3}, ScalarType::Long),
            torch::stable::new_empty(like_, {num_edges, 4}, ScalarType::Int),
            torch::stable::new_empty(like_, {num_edges, 2}, ScalarType::Double),
            sizes_of(counts),
            counts};
  }

  // Returns the numbers of vertices and faces of each shape.
  Tensor sizes_of(const MarchCounts& counts) const {
    Tensor sizes = torch::stable::empty({domain_.shapes, 2}, ScalarType::Long);
    auto* out = data_of<int64_t>(sizes);
    out[0] = counts.vertices;
    out[1] = counts.triangles;
    if (domain_.shapes == 1) return sizes;
    std::fill(out, out + 2 * domain_.shapes, 0);
    if (counts.vertices == 0) return sizes;
    const Tensor before = zeros<int64_t>(2 * (domain_.shapes + 1));
    loops_.for_each(domain_.shapes + 1, 1, CountShapes{bricks_, data_of<int64_t>(before)});
    const Tensor host =
        torch::stable::to(before, torch::stable::Device(torch::headeronly::DeviceType::CPU));
    const auto* first = static_cast<const int64_t*>(host.const_data_ptr());
    for (int64_t i = 0; i < 2 * domain_.shapes; ++i) out[i] = first[i + 2] - first[i];
    return sizes;
  }

  Mesh write(const Tensor& stored, const MarchCounts& counts, bool with_edges) {
    Mesh mesh = new_mesh(counts, with_edges);
    loops_.for_each(
        bricks_.count * (8 / Loops::kRows), kBrickGrain,
        WriteRows<scalar_t, Loops::kRows>{
            samples_, domain_, bricks_, data_of<scalar_t>(stored), data_of<float>(mesh.vertices),
            data_of<int64_t>(mesh.faces), with_edges ? data_of<int32_t>(mesh.edges) : nullptr,
            data_of<double>(mesh.ends)});
    return mesh;
  }

  Loops loops_;
  Tensor like_;
  Tensor values_;
  int64_t size_;
  Samples<scalar_t> samples_;
  Domain domain_;
  Tensor counts_;
  Tensor before_, brick_memory_, face_memory_, first_memory_[3];
  Bricks bricks_{};
  DomainFaces faces_{};
};

template <typename scalar_t, typename Loops>
Mesh march(const Loops& loops, const Tensor& points, const Tensor& values,
           const Tensor& shape_index, const Domain& domain, double level, bool with_edges) {
  return March<scalar_t, Loops>(loops, points, values, shape_index, domain, level).run(with_edges);
}

// The op itself. `loops` runs on the device of the arguments.
template <typename Loops>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> marching_cubes_with(
    const Loops& loops, const Tensor& points, const Tensor& values, const Tensor& shape_index,
    int64_t num_shapes, int64_t resolution, int64_t coarse_resolution, double level, double lower,
    double upper, bool with_edges) {
  constexpr const char* kOp = "marching_cubes";
  check_dtype(points, ScalarType::Int, kOp, "points");
  check_same_device(points, values, kOp);
  STD_TORCH_CHECK(points.numel() == 3 * values.numel(), kOp,
                  ": points must be (N, 3) and values (N,)");
  check_dtype(shape_index, ScalarType::Long, kOp, "shape_index");
  check_same_device(points, shape_index, kOp);
  STD_TORCH_CHECK(num_shapes >= 1, kOp, ": num_shapes must be at least 1");
  STD_TORCH_CHECK(num_shapes == 1 || shape_index.numel() == values.numel(), kOp,
                  ": shape_index must be (N,) for several shapes");
  STD_TORCH_CHECK(coarse_resolution >= 1 && resolution % coarse_resolution == 0, kOp,
                  ": resolution must be a multiple of coarse_resolution");
  const Tensor p = torch::stable::contiguous(points);
  const Tensor v = torch::stable::contiguous(values);
  const Tensor s = torch::stable::contiguous(shape_index);
  const Domain domain{num_shapes, resolution, resolution / coarse_resolution, lower, upper};
  Mesh mesh;
  THO_DISPATCH_V2(v.scalar_type(), kOp, AT_WRAP([&] {
                    mesh = march<scalar_t>(loops, p, v, s, domain, level, with_edges);
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES), ScalarType::Half, ScalarType::BFloat16);
  Tensor problems = torch::stable::empty({4}, ScalarType::Long);  // on the CPU, like the counts
  auto* out = data_of<int64_t>(problems);
  out[0] = mesh.counts.missing;
  out[1] = mesh.counts.repeated;
  out[2] = mesh.counts.nan;
  out[3] = mesh.counts.outside;
  return {mesh.vertices, mesh.faces, mesh.edges, mesh.ends, mesh.sizes, problems};
}

}  // namespace occvae
