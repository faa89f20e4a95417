// A tree of faces that gives winding numbers without a visit to every face (Jacobson, Kavan and
// Sorkine-Hornung 2013). Faces are halved in space recursively. Take a point outside the box of a
// group of faces: every surface in the box with the same border has the same solid angle there. A
// fan of triangles over the few border edges therefore replaces the group. This is exact, unlike
// the series expansions (winding_expansion.h) that decide the side of a level.
//
// A second kind of tree holds triangles that fill closed walks along a border.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "../winding_number.h"
#include "mesh_border.h"
#include "winding_expansion.h"

namespace occvae {

constexpr int kUnclear = 2;         // the sign of a winding number that rounding might decide
constexpr double kRounding = 1e-9;  // far more than the rounding errors of a sum

inline int compare(double value, double level) {
  return value >= level ? 1 : value <= -level ? -1 : 0;
}

inline bool is_clear(const WindingEstimate& estimate, int turns, double level) {
  return std::fabs(std::fabs(estimate.value + turns) - level) > estimate.error + kRounding;
}

template <typename scalar_t>
class WindingTree {
 public:
  // Corners at the same position must be the same vertex.
  WindingTree(const scalar_t* vertices, std::vector<Triangle> triangles)
      : vertices_(vertices), triangles_(std::move(triangles)) {
    if (!triangles_.empty()) add_node(0, static_cast<int64_t>(triangles_.size()));
  }

  // A tree of triangles that fill closed walks. Each chord halves a walk, so the triangles are as
  // small as their distance from the walk allows.
  WindingTree(const scalar_t* vertices, std::vector<std::vector<int64_t>> walks)
      : vertices_(vertices) {
    if (!walks.empty()) add_walks(walks.data(), walks.data() + walks.size());
  }

  const std::vector<Triangle>& triangles() const { return triangles_; }

  // Prepares sign() and estimate_around().
  void add_expansions() {
    expansions_.resize(nodes_.size());
    for (size_t n = 0; n < nodes_.size(); ++n) {
      const Range& range = ranges_[n];
      expansions_[n].set(vertices_, triangles_.data() + range.first,
                         triangles_.data() + range.last);
    }
  }

  double winding_number(const double (&p)[3]) const { return sum_angles(p).value; }

  // Compares turns + winding_number() with the level. Estimates decide only if their error is small
  // enough. Returns 1 if the sum is at least `level`, -1 if it is at most -level, otherwise 0.
  // Returns kUnclear if rounding might decide.
  int sign(const double (&p)[3], int turns, double level) const {
    for (const double tolerance : {kCoarse, kFine}) {
      const WindingEstimate estimate = estimate_winding_number(p, tolerance);
      if (is_clear(estimate, turns, level)) return compare(estimate.value + turns, level);
    }
    const WindingEstimate exact = sum_angles(p);
    return is_clear(exact, turns, level) ? compare(exact.value + turns, level) : kUnclear;
  }

  // Estimates the winding number of all points at most `reach` away from p. Returns false where
  // the estimate would be useless.
  bool estimate_around(const double (&p)[3], double reach, WindingEstimate& estimate) const {
    estimate = {};
    SolidAngles angles;
    for (size_t n = 0; n < nodes_.size();) {
      const Node& node = nodes_[n];
      const bool is_added = expansions_[n].try_add(p, reach, kCoarse, estimate);
      if (!is_added) {
        for (int64_t f = node.first; f < node.last && estimate.error < kHopeless; ++f) {
          estimate.error += greatest_change(vertices_, triangles_[f].data(), p, reach);
          add_triangle(angles, triangles_[f].data(), p, estimate);
        }
      }
      if (!(estimate.error < kHopeless)) return false;
      n = is_added ? node.next : n + 1;
    }
    estimate.value += angles.total();
    return true;
  }

 private:
  static constexpr int64_t kLeaf = 16;  // faces per leaf
  static constexpr size_t kSmallFan = 16;
  static constexpr size_t kLeafEdges = 8;  // edges of a walk per leaf
  // Greatest errors of the expansion of one node, in winding numbers.
  static constexpr double kCoarse = 3.5e-3;
  static constexpr double kFine = 5e-4;
  static constexpr double kHopeless = 0.5;  // error of a group of points that rarely decides

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

  WindingEstimate estimate_winding_number(const double (&p)[3], double tolerance) const {
    WindingEstimate estimate;
    SolidAngles angles;
    for (size_t n = 0; n < nodes_.size();) {
      const Node& node = nodes_[n];
      if (expansions_[n].try_add(p, 0, tolerance, estimate)) {
        n = node.next;
      } else if (node.has_fan && node.border.size() <= kSmallFan && is_outside(node, p)) {
        add_fan(angles, node, p, estimate);
        n = node.next;
      } else {
        add_faces(angles, node, p, estimate);
        ++n;
      }
    }
    estimate.value += angles.total();
    return estimate;
  }

  WindingEstimate sum_angles(const double (&p)[3]) const {
    WindingEstimate sum;
    SolidAngles angles;
    for (size_t n = 0; n < nodes_.size();) {
      const Node& node = nodes_[n];
      if (node.has_fan && is_outside(node, p)) {
        add_fan(angles, node, p, sum);
        n = node.next;
      } else {
        add_faces(angles, node, p, sum);
        ++n;
      }
    }
    sum.value = angles.total();
    return sum;
  }

  void add_fan(SolidAngles& angles, const Node& node, const double (&p)[3],
               WindingEstimate& sum) const {
    for (const Edge& edge : node.border) {
      const int64_t triangle[3] = {node.apex, edge.from, edge.to};
      for (int k = 0; k < edge.count; ++k) add_triangle(angles, triangle, p, sum);
    }
  }

  void add_faces(SolidAngles& angles, const Node& node, const double (&p)[3],
                 WindingEstimate& sum) const {
    for (int64_t f = node.first; f < node.last; ++f) {
      add_triangle(angles, triangles_[f].data(), p, sum);
    }
  }

  void add_triangle(SolidAngles& angles, const int64_t* corners, const double (&p)[3],
                    WindingEstimate& sum) const {
    const bool is_certain = add_face(angles, vertices_, corners, p);
    if (!is_certain) sum.error = std::numeric_limits<double>::infinity();
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
      for (int64_t f = first; f < last; ++f) append_edges(border, triangles_[f]);
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

  using Walk = std::vector<int64_t>;

  // Adds the node of walks [first, last), which are halved in space, and the nodes below it.
  void add_walks(Walk* first, Walk* last) {
    if (last - first == 1) {
      add_chord(*first, 0, first->size() - 1);
      return;
    }
    const size_t n = nodes_.size();
    const auto start = static_cast<int64_t>(triangles_.size());
    nodes_.emplace_back();
    ranges_.emplace_back();
    int axis = 0;
    double longest = -1;
    for (int i = 0; i < 3; ++i) {
      const auto [low, high] = std::minmax_element(
          first, last, [&](const Walk& a, const Walk& b) { return place(a, i) < place(b, i); });
      const double extent = place(*high, i) - place(*low, i);
      if (extent > longest) {
        longest = extent;
        axis = i;
      }
    }
    Walk* middle = first + (last - first) / 2;
    std::nth_element(first, middle, last,
                     [&](const Walk& a, const Walk& b) { return place(a, axis) < place(b, axis); });
    add_walks(first, middle);
    add_walks(middle, last);
    nodes_[n].next = nodes_.size();
    ranges_[n] = {start, static_cast<int64_t>(triangles_.size())};
  }

  double place(const Walk& walk, int axis) const { return vertices_[3 * walk[0] + axis]; }

  // Adds the node of the triangles between the walk from vertex i to vertex k and the chord back.
  void add_chord(const Walk& walk, size_t i, size_t k) {
    const size_t n = nodes_.size();
    const auto start = static_cast<int64_t>(triangles_.size());
    nodes_.emplace_back();
    ranges_.emplace_back();
    if (k - i <= kLeafEdges) {
      fill(walk, i, k);
      nodes_[n].first = start;
      nodes_[n].last = static_cast<int64_t>(triangles_.size());
    } else {
      const size_t j = i + (k - i) / 2;
      triangles_.push_back({walk[i], walk[j], walk[k]});
      nodes_[n].first = start;
      nodes_[n].last = start + 1;
      add_chord(walk, i, j);
      add_chord(walk, j, k);
    }
    nodes_[n].next = nodes_.size();
    ranges_[n] = {start, static_cast<int64_t>(triangles_.size())};
  }

  void fill(const Walk& walk, size_t i, size_t k) {
    if (k - i < 2) return;
    const size_t j = i + (k - i) / 2;
    triangles_.push_back({walk[i], walk[j], walk[k]});
    fill(walk, i, j);
    fill(walk, j, k);
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
    const auto place = [&](const Triangle& t) {
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

  static bool is_outside(const Node& node, const double (&p)[3]) {
    bool outside = false;
    for (int axis = 0; axis < 3; ++axis) {
      outside |= (p[axis] < node.low[axis]) | (p[axis] > node.high[axis]);
    }
    return outside;
  }

  const scalar_t* vertices_;
  std::vector<Triangle> triangles_;  // grouped by node
  std::vector<Node> nodes_;
  std::vector<Range> ranges_;  // faces of each node and the nodes below it
  std::vector<WindingExpansion> expansions_;
};

}  // namespace occvae
