// CUDA kernel of winding_number: a thread for each point, which goes through all faces. The threads
// of a warp read the same face at the same time.
#include "../mesh_arguments.h"
#include "../winding_number.h"
#include "launch.cuh"

namespace occvae {
namespace {

constexpr const char* kOp = "winding_number";

template <typename scalar_t>
struct SumAngles {
  const scalar_t* __restrict__ vertices;  // [V, 3]
  const int64_t* __restrict__ faces;      // [F, 3]
  int64_t num_faces;
  const scalar_t* __restrict__ points;  // [N, 3]
  double* __restrict__ result;          // [N]

  __device__ void operator()(int64_t i) const {
    const double p[3] = {points[3 * i], points[3 * i + 1], points[3 * i + 2]};
    SolidAngles angles;
    for (int64_t f = 0; f < num_faces; ++f) add_face(angles, vertices, faces + 3 * f, p);
    result[i] = angles.total();
  }
};

// Function object of for_each over faces.
struct CountUnusable {
  const int64_t* __restrict__ faces;  // [F, 3]
  int64_t num_vertices;
  unsigned long long* count;

  __device__ void operator()(int64_t i) const {
    if (!are_corners(faces + 3 * i, num_vertices)) atomicAdd(count, 1ull);
  }
};

void check_indices(const Tensor& faces, int64_t num_vertices, cudaStream_t stream) {
  Tensor count = torch::stable::new_zeros(faces, {1}, ScalarType::Long);
  for_each(faces.size(0), stream,
           CountUnusable{static_cast<const int64_t*>(faces.const_data_ptr()), num_vertices,
                         static_cast<unsigned long long*>(count.mutable_data_ptr())});
  int64_t unusable = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(&unusable, count.const_data_ptr(), sizeof(unusable),
                                 cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  check_facets(unusable, kOp);
}

Tensor winding_number(const Tensor& vertices, const Tensor& faces, const Tensor& points) {
  check_mesh_arguments(vertices, faces, points, kOp);
  const torch::stable::accelerator::DeviceGuard guard(points.get_device_index());
  const Tensor v = torch::stable::contiguous(vertices);
  const Tensor f = torch::stable::contiguous(faces);
  const Tensor p = torch::stable::contiguous(points);
  const cudaStream_t stream = current_stream(points);
  check_indices(f, v.size(0), stream);
  Tensor result = torch::stable::new_empty(points, {points.size(0)}, ScalarType::Double);
  THO_DISPATCH_V2(
      v.scalar_type(), kOp, AT_WRAP([&] {
        for_each(p.size(0), stream,
                 SumAngles<scalar_t>{static_cast<const scalar_t*>(v.const_data_ptr()),
                                     static_cast<const int64_t*>(f.const_data_ptr()), f.size(0),
                                     static_cast<const scalar_t*>(p.const_data_ptr()),
                                     static_cast<double*>(result.mutable_data_ptr())});
      }),
      AT_EXPAND(AT_FLOATING_TYPES));
  return result;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CUDA, m) {
  m.impl("winding_number", TORCH_BOX(&occvae::winding_number));
}
