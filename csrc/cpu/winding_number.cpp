// CPU kernels of winding_number and winding_sign. They build a tree of the faces (winding_tree.h),
// then threads evaluate the points. The sum of solid angles is in csrc/winding_number.h.
#include "../mesh_arguments.h"
#include "point_order.h"
#include "tiles.h"
#include "winding_tree.h"

namespace occvae {
namespace {

constexpr int64_t kPointTile = 16;
constexpr int64_t kBlock = 512;  // points that may get one sign together, a power of 8

template <typename scalar_t>
WindingTree<scalar_t> make_tree(const Tensor& vertices, const Tensor& faces, const char* op) {
  const auto* positions = static_cast<const scalar_t*>(vertices.const_data_ptr());
  const auto* corners = static_cast<const int64_t*>(faces.const_data_ptr());
  int64_t unusable = 0;
  for (int64_t f = 0; f < faces.size(0); ++f) {
    unusable += !is_usable_face(positions, vertices.size(0), corners + 3 * f);
  }
  check_faces(unusable, op);
  return WindingTree<scalar_t>(positions, vertices.size(0), corners, faces.size(0));
}

template <typename scalar_t>
void sum_angles(const Tensor& vertices, const Tensor& faces, const Tensor& points, double* result) {
  const WindingTree<scalar_t> tree = make_tree<scalar_t>(vertices, faces, "winding_number");
  const auto* queries = static_cast<const scalar_t*>(points.const_data_ptr());
  for_each_tile(points.size(0), kPointTile, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const double p[3] = {queries[3 * i], queries[3 * i + 1], queries[3 * i + 2]};
      result[i] = tree.winding_number(p);
    }
  });
}

// Points in a ball around `center`.
struct Ball {
  double center[3];
  double radius;
};

template <typename scalar_t>
Ball enclose(const scalar_t* points, const int64_t* first, const int64_t* last) {
  Ball ball;
  double square = 0;
  for (int axis = 0; axis < 3; ++axis) {
    double low = points[3 * *first + axis], high = low;
    for (const int64_t* i = first; i < last; ++i) {
      low = std::min<double>(low, points[3 * *i + axis]);
      high = std::max<double>(high, points[3 * *i + axis]);
      square += 0 * points[3 * *i + axis];  // NaN if a point is not finite, so nothing is decided
    }
    ball.center[axis] = low + 0.5 * (high - low);
    square += 0.25 * (high - low) * (high - low);
  }
  ball.radius = std::sqrt(square);
  return ball;
}

// Sets the signs of points that are close to each other: of all of them at once if they are far
// enough from the surface, otherwise of smaller groups.
template <typename scalar_t>
void set_signs(const WindingTree<scalar_t>& tree, const scalar_t* points, const int64_t* first,
               const int64_t* last, double level, int8_t* result) {
  if (last - first == 1) {
    const scalar_t* x = points + 3 * *first;
    const double p[3] = {x[0], x[1], x[2]};
    result[*first] = static_cast<int8_t>(tree.sign(p, level));
    return;
  }
  const Ball ball = enclose(points, first, last);
  int sign = 0;
  if (tree.find_common_sign(ball.center, ball.radius, level, sign)) {
    for (const int64_t* i = first; i < last; ++i) result[*i] = static_cast<int8_t>(sign);
    return;
  }
  const int64_t step = ceil_div(last - first, 8);
  for (; first < last; first += step) {
    set_signs(tree, points, first, std::min(first + step, last), level, result);
  }
}

template <typename scalar_t>
void find_signs(const Tensor& vertices, const Tensor& faces, const Tensor& points, double level,
                int8_t* result) {
  WindingTree<scalar_t> tree = make_tree<scalar_t>(vertices, faces, "winding_sign");
  tree.add_expansions();
  const auto* queries = static_cast<const scalar_t*>(points.const_data_ptr());
  const std::vector<int64_t> order = morton_order(queries, points.size(0));
  for_each_tile(points.size(0), kBlock, [&](int64_t first, int64_t last) {
    set_signs(tree, queries, order.data() + first, order.data() + last, level, result);
  });
}

Tensor winding_number(const Tensor& vertices, const Tensor& faces, const Tensor& points) {
  check_mesh_arguments(vertices, faces, points, "winding_number");
  const Tensor v = torch::stable::contiguous(vertices);
  const Tensor f = torch::stable::contiguous(faces);
  const Tensor p = torch::stable::contiguous(points);
  Tensor result = torch::stable::new_empty(points, {points.size(0)}, ScalarType::Double);
  auto* numbers = static_cast<double*>(result.mutable_data_ptr());
  THO_DISPATCH_V2(v.scalar_type(), "winding_number",
                  AT_WRAP([&] { sum_angles<scalar_t>(v, f, p, numbers); }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  return result;
}

Tensor winding_sign(const Tensor& vertices, const Tensor& faces, const Tensor& points,
                    double level) {
  check_mesh_arguments(vertices, faces, points, "winding_sign");
  const Tensor v = torch::stable::contiguous(vertices);
  const Tensor f = torch::stable::contiguous(faces);
  const Tensor p = torch::stable::contiguous(points);
  Tensor result = torch::stable::new_empty(points, {points.size(0)}, ScalarType::Char);
  auto* signs = static_cast<int8_t*>(result.mutable_data_ptr());
  THO_DISPATCH_V2(v.scalar_type(), "winding_sign",
                  AT_WRAP([&] { find_signs<scalar_t>(v, f, p, level, signs); }),
                  AT_EXPAND(AT_FLOATING_TYPES));
  return result;
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CPU, m) {
  m.impl("winding_number", TORCH_BOX(&occvae::winding_number));
  m.impl("winding_sign", TORCH_BOX(&occvae::winding_sign));
}
