// CPU kernel of winding_number. It builds a tree of the faces (winding_tree.h), then threads
// evaluate the points. The sum of solid angles is in csrc/winding_number.h.
#include "../mesh_arguments.h"
#include "tiles.h"
#include "winding_tree.h"

namespace occvae {
namespace {

constexpr const char* kOp = "winding_number";
constexpr int64_t kPointTile = 16;

template <typename scalar_t>
void sum_angles(const Tensor& vertices, const Tensor& faces, const Tensor& points, double* result) {
  const auto* positions = static_cast<const scalar_t*>(vertices.const_data_ptr());
  const auto* corners = static_cast<const int64_t*>(faces.const_data_ptr());
  const auto* queries = static_cast<const scalar_t*>(points.const_data_ptr());
  int64_t unusable = 0;
  for (int64_t f = 0; f < faces.size(0); ++f) {
    unusable += !is_usable_face(positions, vertices.size(0), corners + 3 * f);
  }
  check_faces(unusable, kOp);
  const WindingTree<scalar_t> tree(positions, vertices.size(0), corners, faces.size(0));
  for_each_tile(points.size(0), kPointTile, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const double p[3] = {queries[3 * i], queries[3 * i + 1], queries[3 * i + 2]};
      result[i] = tree.winding_number(p);
    }
  });
}

Tensor winding_number(const Tensor& vertices, const Tensor& faces, const Tensor& points) {
  check_mesh_arguments(vertices, faces, points, kOp);
  const Tensor v = torch::stable::contiguous(vertices);
  const Tensor f = torch::stable::contiguous(faces);
  const Tensor p = torch::stable::contiguous(points);
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
