// The border of a group of faces, and fans of triangles that have the same border.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

namespace occvae {

using Triangle = std::array<int64_t, 3>;  // vertices, counter-clockwise seen from the front

// An edge that faces traverse from `from` to `to` `count` times more often than back.
struct Edge {
  int64_t from;
  int64_t to;
  int count;
};

// Returns the first vertex at the position of each vertex. Without this, seams between duplicate
// vertices would count as borders. Positions are compared by their bits, because unused vertices
// may be NaN and NaN has no order.
template <typename scalar_t>
std::vector<int64_t> merge_vertices(const scalar_t* vertices, int64_t count) {
  using Position = std::array<uint64_t, 3>;
  std::vector<std::pair<Position, int64_t>> order(count);
  for (int64_t v = 0; v < count; ++v) {
    for (int axis = 0; axis < 3; ++axis) {
      const double x = vertices[3 * v + axis] + 0.0;  // turns -0 into 0
      std::memcpy(&order[v].first[axis], &x, sizeof(x));
    }
    order[v].second = v;
  }
  std::sort(order.begin(), order.end());
  std::vector<int64_t> merged(count);
  for (int64_t i = 0; i < count; ++i) {
    const bool is_repeated = i > 0 && order[i].first == order[i - 1].first;
    merged[order[i].second] = is_repeated ? merged[order[i - 1].second] : order[i].second;
  }
  return merged;
}

// Returns the faces (num_faces, 3) with the same vertex for all corners at the same position.
template <typename scalar_t>
std::vector<Triangle> merge_corners(const scalar_t* vertices, int64_t num_vertices,
                                    const int64_t* faces, int64_t num_faces) {
  const std::vector<int64_t> merged = merge_vertices(vertices, num_vertices);
  std::vector<Triangle> triangles(num_faces);
  for (int64_t f = 0; f < num_faces; ++f) {
    for (int i = 0; i < 3; ++i) triangles[f][i] = merged[faces[3 * f + i]];
  }
  return triangles;
}

inline void append_edges(std::vector<Edge>& edges, const Triangle& triangle) {
  for (int i = 0; i < 3; ++i) edges.push_back({triangle[i], triangle[(i + 1) % 3], 1});
}

// Adds up edges between the same two vertices, and removes those that cancel.
//
inline void cancel(std::vector<Edge>& edges) {
  for (Edge& edge : edges) {
    if (edge.from > edge.to) edge = {edge.to, edge.from, -edge.count};
  }
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) {
    return std::tie(a.from, a.to) < std::tie(b.from, b.to);
  });
  size_t kept = 0;
  for (size_t i = 0; i < edges.size();) {
    Edge sum = edges[i++];
    for (; i < edges.size() && edges[i].from == sum.from && edges[i].to == sum.to; ++i) {
      sum.count += edges[i].count;
    }
    if (sum.from == sum.to || sum.count == 0) continue;
    if (sum.count < 0) sum = {sum.to, sum.from, -sum.count};
    edges[kept++] = sum;
  }
  edges.resize(kept);
}

// Sets of vertices that edges connect.
class ConnectedVertices {
 public:
  explicit ConnectedVertices(int64_t num_vertices) : parent_(num_vertices) {
    for (int64_t v = 0; v < num_vertices; ++v) parent_[v] = v;
  }

  // Returns the same vertex for all vertices of a set.
  int64_t find(int64_t v) {
    while (parent_[v] != v) v = parent_[v] = parent_[parent_[v]];
    return v;
  }

  void connect(int64_t a, int64_t b) { parent_[find(a)] = find(b); }

 private:
  std::vector<int64_t> parent_;
};

// Returns triangles that have the same border as the given ones. Each connected part of the border
// gets a fan around one of its vertices. Without a border there are no triangles.
inline std::vector<Triangle> fans_over_border(const std::vector<Triangle>& triangles,
                                              int64_t num_vertices) {
  std::vector<Edge> border;
  border.reserve(3 * triangles.size());
  for (const Triangle& triangle : triangles) append_edges(border, triangle);
  cancel(border);
  ConnectedVertices parts(num_vertices);
  for (const Edge& edge : border) parts.connect(edge.from, edge.to);
  std::vector<Triangle> fans;
  for (const Edge& edge : border) {
    const int64_t apex = parts.find(edge.from);
    if (apex == edge.from || apex == edge.to) continue;
    fans.insert(fans.end(), edge.count, {apex, edge.from, edge.to});
  }
  return fans;
}

}  // namespace occvae
