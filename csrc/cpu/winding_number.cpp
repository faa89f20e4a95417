// CPU kernel of winding_number: every face for every point.
#include "../winding_number.h"

#include "../mesh_arguments.h"
#include "tiles.h"

namespace occvae {
namespace {

constexpr const char* kOp = "winding_number";
constexpr int64_t kPointTile = 16;

int64_t count_unusable(const Tensor& faces, int64_t num_vertices) {
  const auto* corners = static_cast<const int64_t*>(faces.const_data_ptr());
  int64_t unusable = 0;
  for (int64_t i = 0; i < faces.size(0); ++i)
    unusable += !are_corners(corners + 3 * i, num_vertices);
  return unusable;
}

template <typename scalar_t>
void sum_angles(const Tensor& vertices, const Tensor& faces, const Tensor& points, double* result) {
  const auto* positions = static_cast<const scalar_t*>(vertices.const_data_ptr());
  const auto* corners = static_cast<const int64_t*>(faces.const_data_ptr());
  const auto* queries = static_cast<const scalar_t*>(points.const_data_ptr());
  const int64_t num_faces = faces.size(0);
  for_each_tile(points.size(0), kPointTile, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const double p[3] = {queries[3 * i], queries[3 * i + 1], queries[3 * i + 2]};
      SolidAngles angles;
      for (int64_t f = 0; f < num_faces; ++f) add_face(angles, positions, corners + 3 * f, p);
      result[i] = angles.total();
    }
  });
}

Tensor winding_number(const Tensor& vertices, const Tensor& faces, const Tensor& points) {
  check_mesh_arguments(vertices, faces, points, kOp);
  const Tensor v = torch::stable::contiguous(vertices);
  const Tensor f = torch::stable::contiguous(faces);
  const Tensor p = torch::stable::contiguous(points);
  check_facets(count_unusable(f, v.size(0)), kOp);
  Tensor result = torch::stable::new_empty(points, {points.size(0)}, ScalarType::Double);
  THO_DISPATCH_V2(v.scalar_type(), kOp, AT_WRAP([&] {
                    sum_angles<scalar_t>(v, f, p, static_cast<double*>(result.mutable_data_ptr()));
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  return result;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CPU, m) {
  m.impl("winding_number", TORCH_BOX(&occvae::winding_number));
}
