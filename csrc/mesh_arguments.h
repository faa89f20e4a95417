// Argument checks that the ops on triangle meshes share, for CPU and CUDA.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include "common.h"

namespace occvae {

inline void check_mesh_arguments(const Tensor& vertices, const Tensor& faces, const Tensor& points,
                                 const char* op) {
  check_same_device(vertices, faces, op);
  check_same_device(vertices, points, op);
  check_dtype(faces, ScalarType::Long, op, "faces");
  check_dtype(points, vertices.scalar_type(), op, "points");
  for (const Tensor* x : {&vertices, &faces, &points}) {
    STD_TORCH_CHECK(x->dim() == 2 && x->size(1) == 3, op,
                    ": vertices, faces and points must be (V, 3), (F, 3) and (N, 3)");
  }
  STD_TORCH_CHECK(faces.size(0) < INT32_MAX, op, ": there must be fewer than 2^31 - 1 faces");
}

constexpr double kGreatestCoordinate = 1e90;

// Returns whether the corners of a face exist, are finite and have magnitudes of at most
// kGreatestCoordinate.
template <typename scalar_t>
C10_HOST_DEVICE bool is_usable_face(const scalar_t* vertices, int64_t num_vertices,
                                    const int64_t* corners) {
  for (int i = 0; i < 3; ++i) {
    if (corners[i] < 0 || corners[i] >= num_vertices) return false;
    for (int axis = 0; axis < 3; ++axis) {
      const scalar_t x = vertices[3 * corners[i] + axis];
      if (!(x <= kGreatestCoordinate && x >= -kGreatestCoordinate)) return false;
    }
  }
  return true;
}

inline void check_faces(int64_t unusable, const char* op) {
  STD_TORCH_CHECK(
      unusable == 0, op, ": ", unusable,
      " faces have indices out of range, or vertices that are not finite or exceed 1e90");
}

}  // namespace occvae
