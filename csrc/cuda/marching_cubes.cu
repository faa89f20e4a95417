// CUDA kernel of sparse marching cubes: runs the sequence of csrc/marching_cubes.h on the GPU. A
// work item is one row of a brick, because a GPU needs many items.
#include "../marching_cubes.h"
#include "launch.cuh"

namespace occvae {
namespace {

struct CudaLoops {
  static constexpr int kRows = 1;

  const Tensor& like;
  cudaStream_t stream;

  template <typename Function>
  void for_each(int64_t n, int64_t /*grain*/, const Function& function) const {
    occvae::for_each(n, stream, function);
  }

  template <typename T>
  void inclusive_scan(T* data, int64_t n) const {
    if (n > 0) occvae::inclusive_scan(data, n, like, stream);
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> marching_cubes(
    const Tensor& points, const Tensor& values, const Tensor& shape_index, int64_t num_shapes,
    int64_t resolution, int64_t coarse_resolution, double level, double lower, double upper,
    bool with_edges) {
  const torch::stable::accelerator::DeviceGuard guard(points.get_device_index());
  return marching_cubes_with(CudaLoops{points, current_stream(points)}, points, values, shape_index,
                             num_shapes, resolution, coarse_resolution, level, lower, upper,
                             with_edges);
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CUDA, m) {
  m.impl("marching_cubes", TORCH_BOX(&occvae::marching_cubes));
}
