// CPU kernel of inside_mesh: a point is inside if its ray crosses an odd number of facets. The
// crossings are counted in ray_crossings.h.
#include "ray_crossings.h"
#include "usable_faces.h"

namespace occvae {
namespace {

constexpr const char* kOp = "inside_mesh";

template <typename scalar_t>
void answer(const Tensor& vertices, const Tensor& faces, const Tensor& points, bool* inside) {
  const auto* positions = static_cast<const scalar_t*>(vertices.const_data_ptr());
  const auto* corners = static_cast<const int64_t*>(faces.const_data_ptr());
  check_usable_faces(positions, vertices.size(0), corners, faces.size(0), kOp);
  count_crossings<Facet<scalar_t>>(
      faces.size(0), [&](int64_t i) { return make_facet(positions, corners + 3 * i); },
      static_cast<const scalar_t*>(points.const_data_ptr()), points.size(0),
      [&](int64_t i, int32_t crossings) { inside[i] = crossings % 2 != 0; });
}

Tensor inside_mesh(const Tensor& vertices, const Tensor& faces, const Tensor& points) {
  check_mesh_arguments(vertices, faces, points, kOp);
  const Tensor v = torch::stable::contiguous(vertices);
  const Tensor f = torch::stable::contiguous(faces);
  const Tensor p = torch::stable::contiguous(points);
  Tensor inside = torch::stable::new_zeros(points, {points.size(0)}, ScalarType::Bool);
  THO_DISPATCH_V2(v.scalar_type(), kOp, AT_WRAP([&] {
                    answer<scalar_t>(v, f, p, static_cast<bool*>(inside.mutable_data_ptr()));
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  return inside;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CPU, m) {
  m.impl("inside_mesh", TORCH_BOX(&occvae::inside_mesh));
}
