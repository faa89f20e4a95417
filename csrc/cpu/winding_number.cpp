// CPU kernels of winding_number and winding_sign. They build a tree of the faces (winding_tree.h),
// then threads evaluate the points. The sum of solid angles is in csrc/winding_number.h.
//
// winding_sign closes a mesh that has few border edges with caps: triangles that have the same
// border as the mesh. The winding number of the closed mesh is an integer, the sum of the crossings
// of a ray (ray_crossings.h). The winding number of the mesh is this integer plus the number of the
// caps.
#include <numeric>

#include "mesh_border.h"
#include "point_order.h"
#include "ray_crossings.h"
#include "tiles.h"
#include "usable_faces.h"
#include "winding_tree.h"

namespace occvae {
namespace {

constexpr int64_t kPointTile = 16;
constexpr int64_t kBlock = 512;  // points that may get one sign together, a power of 8

template <typename scalar_t>
struct Mesh {
  const scalar_t* vertices;
  int64_t num_vertices;
  std::vector<Triangle> triangles;  // corners at the same position are the same vertex
};

template <typename scalar_t>
Mesh<scalar_t> load_mesh(const Tensor& vertices, const Tensor& faces, const char* op) {
  const auto* positions = static_cast<const scalar_t*>(vertices.const_data_ptr());
  const auto* corners = static_cast<const int64_t*>(faces.const_data_ptr());
  const int64_t num_vertices = vertices.size(0), num_faces = faces.size(0);
  check_usable_faces(positions, num_vertices, corners, num_faces, op);
  return {positions, num_vertices, merge_corners(positions, num_vertices, corners, num_faces)};
}

template <typename scalar_t>
void sum_angles(const Tensor& vertices, const Tensor& faces, const Tensor& points, double* result) {
  Mesh<scalar_t> mesh = load_mesh<scalar_t>(vertices, faces, "winding_number");
  const WindingTree<scalar_t> tree(mesh.vertices, std::move(mesh.triangles));
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

// The points (N, 3) of a call, their integer parts of the winding number, and the signs to find.
template <typename scalar_t>
struct Queries {
  const scalar_t* points;
  std::vector<int32_t> turns;
  int8_t* signs;
};

// Returns whether the estimate decides the signs of all points, and sets them if so.
template <typename scalar_t>
bool set_clear_signs(const WindingEstimate& estimate, const Queries<scalar_t>& queries,
                     const int64_t* first, const int64_t* last, double level) {
  for (const int64_t* i = first; i < last; ++i) {
    if (!is_clear(estimate, queries.turns[*i], level)) return false;
    queries.signs[*i] = static_cast<int8_t>(compare(estimate.value + queries.turns[*i], level));
  }
  return true;
}

// Sets the signs of points that are close to each other: of all of them at once if they are far
// enough from the triangles of the tree, otherwise of smaller groups.
template <typename scalar_t>
void set_signs(const WindingTree<scalar_t>& tree, const Queries<scalar_t>& queries,
               const int64_t* first, const int64_t* last, double level) {
  if (last - first == 1) {
    const scalar_t* x = queries.points + 3 * *first;
    const double p[3] = {x[0], x[1], x[2]};
    queries.signs[*first] = static_cast<int8_t>(tree.sign(p, queries.turns[*first], level));
    return;
  }
  const Ball ball = enclose(queries.points, first, last);
  WindingEstimate estimate;
  if (tree.estimate_around(ball.center, ball.radius, estimate) &&
      set_clear_signs(estimate, queries, first, last, level)) {
    return;
  }
  const int64_t step = ceil_div(last - first, 8);
  for (; first < last; first += step) {
    set_signs(tree, queries, first, std::min(first + step, last), level);
  }
}

// Sets the signs of the points in `order`, whose neighbors should be close to each other.
template <typename scalar_t>
void set_all_signs(WindingTree<scalar_t>& tree, const Queries<scalar_t>& queries,
                   const std::vector<int64_t>& order, double level) {
  tree.add_expansions();
  for_each_tile(static_cast<int64_t>(order.size()), kBlock, [&](int64_t first, int64_t last) {
    set_signs(tree, queries, order.data() + first, order.data() + last, level);
  });
}

// Returns the winding numbers of the mesh after the reversed caps have closed it.
template <typename scalar_t>
std::vector<int32_t> count_turns(const Mesh<scalar_t>& mesh, const std::vector<Triangle>& caps,
                                 const scalar_t* points, int64_t num_points) {
  const auto num_faces = static_cast<int64_t>(mesh.triangles.size());
  const auto make = [&](int64_t i) {
    if (i < num_faces) return make_oriented_facet(mesh.vertices, mesh.triangles[i].data());
    const auto [a, b, c] = caps[i - num_faces];
    return make_oriented_facet(mesh.vertices, Triangle{a, c, b}.data());
  };
  std::vector<int32_t> turns(num_points);
  count_crossings<OrientedFacet<scalar_t>>(num_faces + static_cast<int64_t>(caps.size()), make,
                                           points, num_points,
                                           [&](int64_t i, int32_t count) { turns[i] = count; });
  return turns;
}

// Sets the signs of points by the turns of the closed mesh and the winding numbers of the caps.
// Returns the points that are unclear, in order.
template <typename scalar_t>
std::vector<int64_t> set_signs_by_caps(const Mesh<scalar_t>& mesh, WindingTree<scalar_t> caps,
                                       const scalar_t* points, std::vector<int64_t> order,
                                       double level, int8_t* signs) {
  const auto num_points = static_cast<int64_t>(order.size());
  const Queries<scalar_t> queries{points, count_turns(mesh, caps.triangles(), points, num_points),
                                  signs};
  set_all_signs(caps, queries, order, level);
  const auto is_clear = [&](int64_t i) { return signs[i] != kUnclear; };
  order.erase(std::remove_if(order.begin(), order.end(), is_clear), order.end());
  return order;
}

// Sets the signs of the points in `order` by the winding numbers of the mesh itself.
template <typename scalar_t>
void set_signs_by_faces(Mesh<scalar_t> mesh, const scalar_t* points, int64_t num_points,
                        const std::vector<int64_t>& order, double level, int8_t* signs) {
  WindingTree<scalar_t> tree(mesh.vertices, std::move(mesh.triangles));
  const Queries<scalar_t> queries{points, std::vector<int32_t>(num_points), signs};
  set_all_signs(tree, queries, order, level);
  for_each_tile(static_cast<int64_t>(order.size()), kPointTile, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      int8_t& sign = signs[order[k]];
      if (sign != kUnclear) continue;
      const scalar_t* x = points + 3 * order[k];
      sign = static_cast<int8_t>(compare(tree.winding_number({x[0], x[1], x[2]}), level));
    }
  });
}

template <typename scalar_t>
void find_signs(const Tensor& vertices, const Tensor& faces, const Tensor& points, double level,
                int8_t* signs) {
  Mesh<scalar_t> mesh = load_mesh<scalar_t>(vertices, faces, "winding_sign");
  WindingTree<scalar_t> caps(mesh.vertices, border_walks(mesh.triangles));
  const auto* queries = static_cast<const scalar_t*>(points.const_data_ptr());
  const int64_t num_points = points.size(0);
  std::vector<int64_t> order = morton_order(queries, num_points);
  if (2 * caps.triangles().size() <= mesh.triangles.size()) {
    order = set_signs_by_caps(mesh, std::move(caps), queries, std::move(order), level, signs);
  }
  if (order.empty()) return;
  set_signs_by_faces(std::move(mesh), queries, num_points, order, level, signs);
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
