// Checks of a triangle mesh and of points around it, as the ops on meshes take them.
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
  STD_TORCH_CHECK(faces.size(0) < INT32_MAX, op, ": too many faces");
}

C10_HOST_DEVICE inline bool are_corners(const int64_t* corners, int64_t num_vertices) {
  bool valid = true;
  for (int i = 0; i < 3; ++i) valid &= (corners[i] >= 0) & (corners[i] < num_vertices);
  return valid;
}

inline void check_facets(int64_t unusable, const char* op) {
  STD_TORCH_CHECK(unusable == 0, op, ": ", unusable,
                  " faces have indices out of range or vertices that are not finite");
}

}  // namespace occvae
