// The border of a group of faces: the edges that the faces do not traverse as often back as forth.
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

// Returns the border of the triangles as closed walks: the vertices of each, in order.
inline std::vector<std::vector<int64_t>> border_walks(const std::vector<Triangle>& triangles) {
  std::vector<Edge> border;
  border.reserve(3 * triangles.size());
  for (const Triangle& triangle : triangles) append_edges(border, triangle);
  cancel(border);
  std::sort(border.begin(), border.end(),
            [](const Edge& a, const Edge& b) { return a.from < b.from; });
  const auto first_from = [&](int64_t v) {
    return std::lower_bound(border.begin(), border.end(), v,
                            [](const Edge& edge, int64_t from) { return edge.from < from; }) -
           border.begin();
  };
  std::vector<size_t> unused(border.size());  // for the first edge of a vertex: the next to walk
  for (size_t e = 0; e < border.size(); ++e) unused[e] = e;
  std::vector<std::vector<int64_t>> walks;
  for (const Edge& start : border) {
    while (start.count > 0) {
      // As many edges lead to a vertex as away from it. A walk therefore ends only at its start.
      walks.emplace_back();
      int64_t v = start.from;
      do {
        walks.back().push_back(v);
        size_t& e = unused[first_from(v)];
        while (border[e].count == 0) ++e;
        --border[e].count;
        v = border[e].to;
      } while (v != start.from);
    }
  }
  return walks;
}

}  // namespace occvae
