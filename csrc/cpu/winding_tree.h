// A tree of faces that gives winding numbers without a visit to every face (Jacobson, Kavan and
// Sorkine-Hornung 2013). Faces are halved in space recursively. Take a point outside the box of a
// group of faces: every surface in the box with the same border has the same solid angle there. A
// fan of triangles over the few border edges therefore replaces the group. This is exact, unlike
// the series expansions (winding_expansion.h) that decide the side of a level.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "../winding_number.h"
#include "winding_expansion.h"

namespace occvae {

template <typename scalar_t>
class WindingTree {
 public:
  WindingTree(const scalar_t* vertices, int64_t num_vertices, const int64_t* faces,
              int64_t num_faces)
      : vertices_(vertices), triangles_(num_faces) {
    const std::vector<int64_t> merged = merge_vertices(num_vertices);
    for (int64_t f = 0; f < num_faces; ++f) {
      for (int i = 0; i < 3; ++i) triangles_[f][i] = merged[faces[3 * f + i]];
    }
    if (num_faces > 0) add_node(0, num_faces);
  }

  // Prepares sign().
  void add_expansions() {
    expansions_.resize(nodes_.size());
    for (size_t n = 0; n < nodes_.size(); ++n) {
      const Range& range = ranges_[n];
      expansions_[n].set(vertices_, triangles_.data() + range.first,
                         triangles_.data() + range.last);
    }
  }

  double winding_number(const double (&p)[3]) const {
    SolidAngles angles;
    for (size_t n = 0; n < nodes_.size();) {
      const Node& node = nodes_[n];
      if (node.has_fan && is_outside(node, p)) {
        add_fan(angles, node, p);
        n = node.next;
      } else {
        add_faces(angles, node, p);
        ++n;
      }
    }
    return angles.total();
  }

  // Returns 1 if the winding number is at least `level`, -1 if it is at most -level, otherwise 0.
  // The answer is that of winding_number(): estimates decide only if their error is small enough.
  int sign(const double (&p)[3], double level) const {
    for (const double tolerance : {kCoarse, kFine}) {
      const WindingEstimate estimate = estimate_winding_number(p, tolerance);
      if (std::fabs(std::fabs(estimate.value) - level) > estimate.error + kRounding) {
        return compare(estimate.value, level);
      }
    }
    return compare(winding_number(p), level);
  }

  // Whether all points at most `reach` away from p have the same sign(), which it then returns in
  // `sign`. May fail to find out.
  bool find_common_sign(const double (&p)[3], double reach, double level, int& sign) const {
    WindingEstimate estimate;
    for (size_t n = 0; n < nodes_.size();) {
      const Node& node = nodes_[n];
      if (expansions_[n].try_add(p, reach, kCoarse, estimate)) {
        if (!(estimate.error < kHopeless)) return false;
        n = node.next;
      } else if (node.last > node.first) {
        return false;
      } else {
        ++n;
      }
    }
    sign = compare(estimate.value, level);
    return std::fabs(std::fabs(estimate.value) - level) > estimate.error + kRounding;
  }

 private:
  static constexpr int64_t kLeaf = 16;  // faces per leaf
  static constexpr size_t kSmallFan = 16;
  // Greatest errors of the expansion of one node, in winding numbers.
  static constexpr double kCoarse = 3.5e-3;
  static constexpr double kFine = 5e-4;
  static constexpr double kHopeless = 0.5;   // error of a group of points that rarely decides
  static constexpr double kRounding = 1e-9;  // far more than the rounding errors of a sum

  // An edge that the faces of a group traverse from `from` to `to` `count` times more often than
  // back.
  struct Edge {
    int64_t from;
    int64_t to;
    int count;
  };

  // Nodes are stored in depth-first order, each before its children.
  struct Node {
    double low[3];
    double high[3];
    int64_t first = 0;  // first face of a leaf
    int64_t last = 0;
    size_t next = 0;  // the next node after this one and all below it
    bool has_fan = false;
    int64_t apex = 0;
    std::vector<Edge> border;
  };

  struct Range {
    int64_t first;
    int64_t last;
  };

  static int compare(double value, double level) {
    return value >= level ? 1 : value <= -level ? -1 : 0;
  }

  WindingEstimate estimate_winding_number(const double (&p)[3], double tolerance) const {
    WindingEstimate estimate;
    SolidAngles angles;
    for (size_t n = 0; n < nodes_.size();) {
      const Node& node = nodes_[n];
      if (expansions_[n].try_add(p, 0, tolerance, estimate)) {
        n = node.next;
      } else if (node.has_fan && node.border.size() <= kSmallFan && is_outside(node, p)) {
        add_fan(angles, node, p);
        n = node.next;
      } else {
        add_faces(angles, node, p);
        ++n;
      }
    }
    estimate.value += angles.total();
    return estimate;
  }

  void add_fan(SolidAngles& angles, const Node& node, const double (&p)[3]) const {
    for (const Edge& edge : node.border) {
      const int64_t triangle[3] = {node.apex, edge.from, edge.to};
      for (int k = 0; k < edge.count; ++k) add_face(angles, vertices_, triangle, p);
    }
  }

  void add_faces(SolidAngles& angles, const Node& node, const double (&p)[3]) const {
    for (int64_t f = node.first; f < node.last; ++f) {
      add_face(angles, vertices_, triangles_[f].data(), p);
    }
  }

  using Position = std::array<uint64_t, 3>;

  // Positions are compared by their bits, because unused vertices may be NaN and NaN has no order.
  Position position(int64_t v) const {
    Position result;
    for (int axis = 0; axis < 3; ++axis) {
      const double x = vertices_[3 * v + axis] + 0.0;  // turns -0 into 0
      std::memcpy(&result[axis], &x, sizeof(x));
    }
    return result;
  }

  // Returns the first vertex at the position of each vertex. Without this, seams between duplicate
  // vertices would count as borders.
  std::vector<int64_t> merge_vertices(int64_t count) const {
    std::vector<std::pair<Position, int64_t>> order(count);
    for (int64_t v = 0; v < count; ++v) order[v] = {position(v), v};
    std::sort(order.begin(), order.end());
    std::vector<int64_t> merged(count);
    for (int64_t i = 0; i < count; ++i) {
      const bool is_repeated = i > 0 && order[i].first == order[i - 1].first;
      merged[order[i].second] = is_repeated ? merged[order[i - 1].second] : order[i].second;
    }
    return merged;
  }

  // Adds the node of faces [first, last) and the nodes below it. Returns its border.
  std::vector<Edge> add_node(int64_t first, int64_t last) {
    const size_t n = nodes_.size();
    nodes_.emplace_back();
    ranges_.push_back({first, last});
    set_box(nodes_[n], first, last);
    std::vector<Edge> border;
    if (last - first <= kLeaf) {
      nodes_[n].first = first;
      nodes_[n].last = last;
      for (int64_t f = first; f < last; ++f) {
        for (int i = 0; i < 3; ++i) {
          border.push_back({triangles_[f][i], triangles_[f][(i + 1) % 3], 1});
        }
      }
    } else {
      const int64_t middle = split(nodes_[n], first, last);
      border = add_node(first, middle);
      const std::vector<Edge> other = add_node(middle, last);
      border.insert(border.end(), other.begin(), other.end());
    }
    cancel(border);
    Node& node = nodes_[n];
    node.next = nodes_.size();
    node.has_fan = 2 * static_cast<int64_t>(border.size()) <= last - first;
    if (node.has_fan && !border.empty()) {
      node.apex = border[0].from;
      node.border = border;
    }
    return border;
  }

  void set_box(Node& node, int64_t first, int64_t last) const {
    std::fill_n(node.low, 3, std::numeric_limits<double>::infinity());
    std::fill_n(node.high, 3, -std::numeric_limits<double>::infinity());
    for (int64_t f = first; f < last; ++f) {
      for (const int64_t v : triangles_[f]) {
        for (int axis = 0; axis < 3; ++axis) {
          node.low[axis] = std::min<double>(node.low[axis], vertices_[3 * v + axis]);
          node.high[axis] = std::max<double>(node.high[axis], vertices_[3 * v + axis]);
        }
      }
    }
  }

  // Reorders the faces by position along the longest axis of the box. Returns the middle.
  int64_t split(const Node& node, int64_t first, int64_t last) {
    int axis = 0;
    for (int i = 1; i < 3; ++i) {
      if (node.high[i] - node.low[i] > node.high[axis] - node.low[axis]) axis = i;
    }
    const auto place = [&](const std::array<int64_t, 3>& t) {
      double sum = 0;
      for (const int64_t v : t) sum += vertices_[3 * v + axis];
      return sum;
    };
    const int64_t middle = first + (last - first) / 2;
    std::nth_element(triangles_.begin() + first, triangles_.begin() + middle,
                     triangles_.begin() + last,
                     [&](const auto& a, const auto& b) { return place(a) < place(b); });
    return middle;
  }

  // Adds up edges between the same two vertices, and removes those that cancel.
  //
  static void cancel(std::vector<Edge>& edges) {
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

  static bool is_outside(const Node& node, const double (&p)[3]) {
    bool outside = false;
    for (int axis = 0; axis < 3; ++axis) {
      outside |= (p[axis] < node.low[axis]) | (p[axis] > node.high[axis]);
    }
    return outside;
  }

  const scalar_t* vertices_;
  std::vector<std::array<int64_t, 3>> triangles_;  // grouped by node
  std::vector<Node> nodes_;
  std::vector<Range> ranges_;  // faces of each node and the nodes below it
  std::vector<WindingExpansion> expansions_;
};

}  // namespace occvae
