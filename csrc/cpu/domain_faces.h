// The faces of the domain where the inside reaches them: every point of theirs needs a sign, known
// or not, because the cap over it is as fine as the lattice. Only faces that are touched are kept.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <vector>

namespace occvae {

class DomainFaces {
 public:
  DomainFaces(int64_t resolution, int64_t step) : resolution_(resolution), step_(step) {}

  // points (N, 3); inside(i) is the side of point i.
  template <typename Inside>
  void fill(const int32_t* points, int64_t count, Inside inside) {
    std::atomic<int> touched{0};
    torch::stable::parallel_for(0, count, 8192, [&](int64_t first, int64_t last) {
      int found = 0;
      for (int64_t i = first; i < last; ++i) {
        if (is_on_a_face(points + 3 * i) && inside(i)) found |= faces_of(points + 3 * i);
      }
      touched |= found;
    });
    if (touched == 0) return;
    for (int f = 0; f < 6; ++f) {
      if ((touched >> f) & 1) faces_[f].assign((resolution_ + 1) * (resolution_ + 1), kUnknown);
    }
    for (int64_t i = 0; i < count; ++i) {
      if (is_on_a_face(points + 3 * i)) set(points + 3 * i, inside(i));
    }
    for (auto& face : faces_) spread(face);
  }

  // Calls visit(point, inside) for every corner of the cells between the domain and its border that
  // have a corner inside. Some are visited many times, from several threads.
  template <typename Visit>
  void for_each_cap_point(Visit visit) const {
    for (int f = 0; f < 6; ++f) {
      if (faces_[f].empty()) continue;
      torch::stable::parallel_for(0, resolution_ + 1, 16, [&](int64_t first, int64_t last) {
        for (int64_t u = first; u < last; ++u) {
          for (int64_t v = 0; v <= resolution_; ++v) {
            if (faces_[f][u * (resolution_ + 1) + v] == kInside) visit_around(f, u, v, visit);
          }
        }
      });
    }
  }

 private:
  enum : uint8_t { kUnknown, kOutside, kInside };

  bool is_on_a_face(const int32_t* p) const {
    return p[0] == 0 || p[1] == 0 || p[2] == 0 || p[0] == resolution_ || p[1] == resolution_ ||
           p[2] == resolution_;
  }

  // Face 2 axis + (0 for the lower, 1 for the upper one) has the two other axes in cyclic order.
  // Returns a bit for each face that the point is on.
  int faces_of(const int32_t* p) const {
    int faces = 0;
    for (int f = 0; f < 6; ++f) faces |= (p[f / 2] == (f % 2) * resolution_ ? 1 : 0) << f;
    return faces;
  }

  void set(const int32_t* p, bool inside) {
    const int faces = faces_of(p);
    for (int f = 0; f < 6; ++f) {
      if (!((faces >> f) & 1) || faces_[f].empty()) continue;
      const int64_t place = p[(f / 2 + 1) % 3] * (resolution_ + 1) + p[(f / 2 + 2) % 3];
      faces_[f][place] = inside ? kInside : kOutside;
    }
  }

  // From level to level an unknown point copies the next coarser one below it. Both are in the
  // closed cube of one leaf, down to that leaf's own corners, and in a leaf that was not split all
  // known points have one side.
  void spread(std::vector<uint8_t>& face) const {
    if (face.empty()) return;
    for (int64_t step = step_ / 2; step >= 1; step /= 2) {
      const int64_t coarser = ~(2 * step - 1);
      for (int64_t u = 0; u <= resolution_; u += step) {
        for (int64_t v = 0; v <= resolution_; v += step) {
          uint8_t& here = face[u * (resolution_ + 1) + v];
          if (here == kUnknown) here = face[(u & coarser) * (resolution_ + 1) + (v & coarser)];
        }
      }
    }
  }

  template <typename Visit>
  void visit_around(int f, int64_t u, int64_t v, Visit& visit) const {
    const int axis = f / 2;
    const int64_t side = (f % 2) * resolution_;
    for (int64_t du = -1; du <= 1; ++du) {
      for (int64_t dv = -1; dv <= 1; ++dv) {
        const int64_t a = u + du, b = v + dv;
        const bool within = a >= 0 && a <= resolution_ && b >= 0 && b <= resolution_;
        for (int64_t d = -1; d <= 1; ++d) {
          const bool on_face = d == 0 && within;
          const bool in_domain = within && (f % 2 == 0 ? d > 0 : d < 0);
          if (in_domain) continue;
          int64_t point[3];
          point[axis] = side + d;
          point[(axis + 1) % 3] = a;
          point[(axis + 2) % 3] = b;
          visit(point, on_face && faces_[f][a * (resolution_ + 1) + b] == kInside);
        }
      }
    }
  }

  int64_t resolution_;
  int64_t step_;
  std::vector<uint8_t> faces_[6];
};

}  // namespace occvae
