// CUDA kernel of winding_number: one thread per point visits all faces. The threads of a warp read
// the same face at the same time. The sum of solid angles is in csrc/winding_number.h.
//
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

template <typename scalar_t>
struct CountUnusable {
  const scalar_t* __restrict__ vertices;  // [V, 3]
  int64_t num_vertices;
  const int64_t* __restrict__ faces;  // [F, 3]
  unsigned long long* count;

  __device__ void operator()(int64_t i) const {
    if (!is_usable_face(vertices, num_vertices, faces + 3 * i)) atomicAdd(count, 1ull);
  }
};

template <typename scalar_t>
void sum_angles(const Tensor& vertices, const Tensor& faces, const Tensor& points, Tensor& result) {
  const cudaStream_t stream = current_stream(points);
  const auto* positions = static_cast<const scalar_t*>(vertices.const_data_ptr());
  const auto* corners = static_cast<const int64_t*>(faces.const_data_ptr());
  Tensor count = torch::stable::new_zeros(faces, {1}, ScalarType::Long);
  for_each(faces.size(0), stream,
           CountUnusable<scalar_t>{positions, vertices.size(0), corners,
                                   static_cast<unsigned long long*>(count.mutable_data_ptr())});
  int64_t unusable = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(&unusable, count.const_data_ptr(), sizeof(unusable),
                                 cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  check_faces(unusable, kOp);
  for_each(points.size(0), stream,
           SumAngles<scalar_t>{positions, corners, faces.size(0),
                               static_cast<const scalar_t*>(points.const_data_ptr()),
                               static_cast<double*>(result.mutable_data_ptr())});
}

Tensor winding_number(const Tensor& vertices, const Tensor& faces, const Tensor& points) {
  check_mesh_arguments(vertices, faces, points, kOp);
  const torch::stable::accelerator::DeviceGuard guard(points.get_device_index());
  const Tensor v = torch::stable::contiguous(vertices);
  const Tensor f = torch::stable::contiguous(faces);
  const Tensor p = torch::stable::contiguous(points);
  Tensor result = torch::stable::new_empty(points, {points.size(0)}, ScalarType::Double);
  THO_DISPATCH_V2(v.scalar_type(), kOp, AT_WRAP([&] { sum_angles<scalar_t>(v, f, p, result); }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  return result;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CUDA, m) {
  m.impl("winding_number", TORCH_BOX(&occvae::winding_number));
}
