// CPU kernel of sparse marching cubes: runs the sequence of csrc/marching_cubes.h on CPU threads. A
// work item is a whole brick, because the rows of a brick share neighbors.
#include "../marching_cubes.h"

#include "loops.h"

namespace occvae {
namespace {

struct CpuLoops {
  static constexpr int kRows = 8;

  template <typename Function>
  void for_each(int64_t n, int64_t grain, const Function& function) const {
    occvae::for_each(n, grain, function);
  }

  template <typename T>
  void inclusive_scan(T* data, int64_t n) const {
    occvae::inclusive_scan(data, n);
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> marching_cubes(
    const Tensor& points, const Tensor& values, const Tensor& shape_index, int64_t num_shapes,
    int64_t resolution, int64_t coarse_resolution, double level, double lower, double upper,
    bool with_edges) {
  return marching_cubes_with(CpuLoops{}, points, values, shape_index, num_shapes, resolution,
                             coarse_resolution, level, lower, upper, with_edges);
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CPU, m) {
  m.impl("marching_cubes", TORCH_BOX(&occvae::marching_cubes));
}
