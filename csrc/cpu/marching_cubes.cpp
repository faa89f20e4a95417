// CPU kernel of sparse marching cubes, one shape. Two passes over bricks: the first marks crossed
// edges and counts, the second writes vertices and triangles at the places that the counts give.
// The order of the result is that of bricks, whatever the order of points or the number of threads.
#include "../marching_cubes.h"

#include <tuple>

#include "brick_grid.h"

namespace occvae {
namespace {

constexpr CubeTable kTable = cube_table();

struct Mesh {
  Tensor vertices;  // (V, 3) float
  Tensor faces;     // (F, 3) int64
  Tensor edges;     // (V, 4) int32: lower end and axis; empty unless asked for
  Tensor ends;      // (V, 2) double: heights of both ends; empty unless asked for
};

struct Domain {
  int64_t resolution;
  double lower;
  double upper;

  // As lattice_to_world of the Python package, in the same order of operations.
  float to_world(double coordinate) const {
    const double unit = coordinate / static_cast<double>(resolution) - 0.5;
    return static_cast<float>((upper - lower) * unit + (lower + upper) / 2);
  }
};

// Whether cells of the first brick may have corners on both sides. Bricks that hold one point of
// the coarse lattice and no surface are many, and done with here.
bool has_both_sides(const Brick* const (&around)[8]) {
  bool inside = false, outside = false;
  for (const Brick* brick : around) {
    inside |= brick->has_inside;
    outside |= brick->has_outside;
  }
  return inside && outside;
}

// Marks the edges of a brick and counts its vertices, triangles and incomplete cells.
int64_t count_brick(const BrickGrid& grid, Brick& brick) {
  const Brick* around[8];
  grid.neighbours(brick, around);
  if (!has_both_sides(around)) return 0;
  uint64_t known[8];
  uint64_t inside[8];
  int64_t incomplete = 0;
  // first_vertex and first_triangle are counts, for now.
  for (int x = 0; x < 8; ++x) {
    corner_bits(around, &Brick::known, x, known);
    corner_bits(around, &Brick::inside, x, inside);
    brick.first_vertex += mark_edges(brick, known, inside, x);
    const ActiveCells cells = active_cells(known, inside);
    incomplete += count_bits(cells.incomplete);
    for (uint64_t rest = cells.complete; rest != 0; rest &= rest - 1) {
      brick.first_triangle += kTable.triangles[cube_case(inside, lowest_bit(rest))];
    }
  }
  int before = 0;
  for (int axis = 0; axis < 3; ++axis) {
    for (int x = 0; x < 8; ++x) {
      brick.vertices_before[axis][x] = static_cast<uint16_t>(before);
      before += count_bits(brick.edges[axis][x]);
    }
  }
  return incomplete;
}

int64_t count_bricks(BrickGrid& grid) {
  std::atomic<int64_t> incomplete{0};
  torch::stable::parallel_for(0, grid.size(), kBrickGrain, [&](int64_t first, int64_t last) {
    int64_t found = 0;
    for (int64_t i = first; i < last; ++i) found += count_brick(grid, grid[i]);
    incomplete += found;
  });
  return incomplete;
}

// Turns the counts into the numbers before each brick; returns the totals.
std::pair<int64_t, int64_t> number_bricks(BrickGrid& grid) {
  int64_t vertices = 0;
  int64_t triangles = 0;
  for (int64_t i = 0; i < grid.size(); ++i) {
    vertices += std::exchange(grid[i].first_vertex, vertices);
    triangles += std::exchange(grid[i].first_triangle, triangles);
  }
  return {vertices, triangles};
}

struct VertexWriter {
  const BrickGrid& grid;
  Domain domain;
  float* vertices;
  int32_t* edges;
  double* ends;

  void write(const Brick* const (&around)[8], int axis, int x, int bit, int64_t out) const {
    const Brick& brick = *around[0];
    const int local[3] = {x, bit >> 3, bit & 7};
    const int64_t point[3] = {8 * int64_t{brick.x} + local[0] - 1,
                              8 * int64_t{brick.y} + local[1] - 1,
                              8 * int64_t{brick.z} + local[2] - 1};
    double heights[2] = {0, 0};
    double fraction = 0;
    if (point[axis] < 0) {  // caps lie next to the domain
      fraction = 1 - kMinEdgeFraction;
    } else if (point[axis] == domain.resolution) {
      fraction = kMinEdgeFraction;
    } else {
      heights[0] = grid.height(brick, x, bit);
      heights[1] = other_end(around, axis, local);
      fraction = edge_fraction(heights[0], heights[1]);
    }
    for (int i = 0; i < 3; ++i) {
      const auto low = static_cast<double>(point[i]);
      vertices[3 * out + i] = domain.to_world(i == axis ? low + fraction : low);
    }
    if (edges == nullptr) return;
    for (int i = 0; i < 3; ++i) edges[4 * out + i] = static_cast<int32_t>(point[i]);
    edges[4 * out + 3] = axis;
    std::copy(heights, heights + 2, ends + 2 * out);
  }

  double other_end(const Brick* const (&around)[8], int axis, const int (&local)[3]) const {
    int end[3] = {local[0], local[1], local[2]};
    const int neighbour = ++end[axis] == 8 ? 4 >> axis : 0;
    end[axis] &= 7;
    return grid.height(*around[neighbour], end[0], point_bit(end[1], end[2]));
  }
};

void write_vertices(const Brick* const (&around)[8], const VertexWriter& writer) {
  const Brick& brick = *around[0];
  int64_t out = brick.first_vertex;
  for (int axis = 0; axis < 3; ++axis) {
    for (int x = 0; x < 8; ++x) {
      for (uint64_t rest = brick.edges[axis][x]; rest != 0; rest &= rest - 1) {
        writer.write(around, axis, x, lowest_bit(rest), out++);
      }
    }
  }
}

// The vertex on an edge of the cell at word x and bit y, z of the brick around[0].
int64_t vertex_of(const Brick* const (&around)[8], int x, int bit, int edge) {
  const int corner = kTable.edge_corner[edge];
  const int px = x + (corner >> 2);
  const int py = (bit >> 3) + ((corner >> 1) & 1);
  const int pz = (bit & 7) + (corner & 1);
  const Brick& owner = *around[(px >> 3) * 4 + (py >> 3) * 2 + (pz >> 3)];
  return vertex_index(owner, edge / 4, px & 7, point_bit(py & 7, pz & 7));
}

void write_triangles(const Brick* const (&around)[8], int64_t* faces) {
  int64_t* out = faces + 3 * around[0]->first_triangle;
  uint64_t known[8];
  uint64_t inside[8];
  for (int x = 0; x < 8; ++x) {
    corner_bits(around, &Brick::known, x, known);
    corner_bits(around, &Brick::inside, x, inside);
    for (uint64_t rest = active_cells(known, inside).complete; rest != 0; rest &= rest - 1) {
      const int bit = lowest_bit(rest);
      const int shape = cube_case(inside, bit);
      for (int i = 0; i < 3 * kTable.triangles[shape]; ++i) {
        *out++ = vertex_of(around, x, bit, kTable.edges[shape][i]);
      }
    }
  }
}

Mesh write_mesh(BrickGrid& grid, const Domain& domain, const Tensor& like, bool with_edges) {
  const auto [num_vertices, num_triangles] = number_bricks(grid);
  const int64_t num_edges = with_edges ? num_vertices : 0;
  Mesh mesh{torch::stable::new_empty(like, {num_vertices, 3}, ScalarType::Float),
            torch::stable::new_empty(like, {num_triangles, 3}, ScalarType::Long),
            torch::stable::new_empty(like, {num_edges, 4}, ScalarType::Int),
            torch::stable::new_empty(like, {num_edges, 2}, ScalarType::Double)};
  auto* edges = static_cast<int32_t*>(mesh.edges.mutable_data_ptr());
  const VertexWriter writer{grid, domain, static_cast<float*>(mesh.vertices.mutable_data_ptr()),
                            with_edges ? edges : nullptr,
                            static_cast<double*>(mesh.ends.mutable_data_ptr())};
  auto* faces = static_cast<int64_t*>(mesh.faces.mutable_data_ptr());
  torch::stable::parallel_for(0, grid.size(), kBrickGrain, [&](int64_t first, int64_t last) {
    const Brick* around[8];
    for (int64_t i = first; i < last; ++i) {
      grid.neighbours(grid[i], around);
      if (!has_both_sides(around)) continue;
      write_vertices(around, writer);
      write_triangles(around, faces);
    }
  });
  return mesh;
}

// A crossed edge of a coarser lattice of which only the ends are known: MISE knows its middle.
int64_t count_missing_middles(const BrickGrid& grid, const int32_t* points, int64_t count,
                              int64_t resolution, int64_t coarsest_step) {
  std::atomic<int64_t> missing{0};
  torch::stable::parallel_for(0, count, kPointGrain, [&](int64_t first, int64_t last) {
    int64_t found = 0;
    for (int64_t i = first; i < last; ++i) {
      const int64_t p[3] = {points[3 * i], points[3 * i + 1], points[3 * i + 2]};
      const int64_t common = p[0] | p[1] | p[2];
      if (common & 1) continue;
      bool here = false, there = false, middle = false;
      grid.is_known(p[0], p[1], p[2], here);
      for (int64_t step = 2; step <= coarsest_step && common % step == 0; step *= 2) {
        for (int axis = 0; axis < 3; ++axis) {
          if (p[axis] == resolution) continue;
          const auto known = [&](int64_t d, bool& inside) {
            return grid.is_known(p[0] + (axis == 0) * d, p[1] + (axis == 1) * d,
                                 p[2] + (axis == 2) * d, inside);
          };
          if (known(step, there) && there != here && !known(step / 2, middle)) ++found;
        }
      }
    }
    missing += found;
  });
  return missing;
}

bool are_on_lattice(const int32_t* points, int64_t count, int64_t resolution) {
  std::atomic<bool> valid{true};
  torch::stable::parallel_for(0, 3 * count, 3 * kPointGrain, [&](int64_t first, int64_t last) {
    const auto within = [&](int32_t p) { return p >= 0 && p <= resolution; };
    if (!std::all_of(points + first, points + last, within)) valid = false;
  });
  return valid;
}

// problems[0]: ends of crossed edges that are unknown; problems[1]: points that occur twice.
template <typename scalar_t>
Mesh march(const Tensor& points, const Tensor& values, const Domain& domain, int64_t step,
           double level, bool with_edges, int64_t* problems) {
  const auto* point = static_cast<const int32_t*>(points.const_data_ptr());
  const auto* value = static_cast<const scalar_t*>(values.const_data_ptr());
  // The sign of a difference of doubles is exact, whatever the dtype of the values.
  const auto height = [=](int64_t i) { return static_cast<double>(value[i]) - level; };
  const int64_t count = values.numel();
  DomainFaces faces(domain.resolution, step);
  faces.fill(point, count, [&](int64_t i) { return height(i) >= 0; });
  BrickGrid grid(domain.resolution);
  problems[1] = grid.fill(point, count, height, faces);
  problems[0] =
      count_bricks(grid) + count_missing_middles(grid, point, count, domain.resolution, step);
  return write_mesh(grid, domain, points, with_edges);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> marching_cubes(
    const Tensor& points, const Tensor& values, int64_t resolution, int64_t coarse_resolution,
    double level, double lower, double upper, bool with_edges) {
  constexpr const char* kOp = "marching_cubes";
  check_dtype(points, ScalarType::Int, kOp, "points");
  STD_TORCH_CHECK(points.numel() == 3 * values.numel(), kOp,
                  ": points must be (N, 3) and values (N,)");
  STD_TORCH_CHECK(coarse_resolution >= 1 && resolution % coarse_resolution == 0, kOp,
                  ": resolution must be a multiple of coarse_resolution");
  const Tensor p = torch::stable::contiguous(points);
  const Tensor v = torch::stable::contiguous(values);
  STD_TORCH_CHECK(
      are_on_lattice(static_cast<const int32_t*>(p.const_data_ptr()), v.numel(), resolution), kOp,
      ": points lie outside the lattice");
  Tensor problems = torch::stable::new_zeros(points, {2}, ScalarType::Long);
  auto* counts = static_cast<int64_t*>(problems.mutable_data_ptr());
  const Domain domain{resolution, lower, upper};
  const int64_t step = resolution / coarse_resolution;
  Mesh mesh;
  THO_DISPATCH_V2(v.scalar_type(), kOp, AT_WRAP([&] {
                    mesh = march<scalar_t>(p, v, domain, step, level, with_edges, counts);
                  }),
                  AT_EXPAND(AT_FLOATING_TYPES), ScalarType::Half, ScalarType::BFloat16);
  return {mesh.vertices, mesh.faces, mesh.edges, mesh.ends, problems};
}

}  // namespace
}  // namespace occvae

STABLE_TORCH_LIBRARY_IMPL(occvae, CPU, m) {
  m.impl("marching_cubes", TORCH_BOX(&occvae::marching_cubes));
}
