// Points with values on the padded lattice, in bricks that are allocated where points are.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "../common.h"
#include "../marching_cubes.h"
#include "../atomic.h"
#include "domain_faces.h"

namespace occvae {

constexpr int64_t kPointGrain = 8192;
constexpr int64_t kBrickGrain = 64;

class BrickGrid {
 public:
  explicit BrickGrid(int64_t resolution)
      : per_axis_(ceil_div(resolution + 3, 8) + 1),
        index_(per_axis_ * per_axis_ * per_axis_, kAbsent) {}

  // Points (N, 3) with their heights above the surface, and the caps' points, which need none.
  // Returns how many points occur twice.
  template <typename Height>
  int64_t fill(const int32_t* points, int64_t count, Height height, const DomainFaces& faces) {
    allocate(points, count, faces);
    std::atomic<int64_t> repeated{0};
    torch::stable::parallel_for(0, count, kPointGrain, [&](int64_t first, int64_t last) {
      int64_t known_before = 0;
      for (int64_t i = first; i < last; ++i) {
        if (set_point(padded(points + 3 * i), height(i) >= 0)) ++known_before;
      }
      repeated += known_before;
    });
    faces.for_each_cap_point([&](const int64_t (&point)[3], bool inside) {
      set_point({point[0] + 1, point[1] + 1, point[2] + 1}, inside);
    });
    heights_.reset(new double[number_values()]);
    torch::stable::parallel_for(0, count, kPointGrain, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Place p = padded(points + 3 * i);
        const Brick& brick = bricks_[index_[index_of(p)]];
        heights_[value_index(brick, p.x & 7, point_bit(p.y & 7, p.z & 7))] = height(i);
      }
    });
    return repeated;
  }

  int64_t size() const { return static_cast<int64_t>(bricks_.size()); }
  Brick& operator[](int64_t i) { return bricks_[i]; }

  // The brick and those after it on the three axes, in the order of a cell's corners.
  void neighbours(const Brick& brick, const Brick* (&result)[8]) const {
    const int64_t n = per_axis_;
    for (int i = 0; i < 8; ++i) {
      const int64_t x = brick.x + (i >> 2), y = brick.y + ((i >> 1) & 1), z = brick.z + (i & 1);
      const int32_t id = index_[(x * n + y) * n + z];
      result[i] = id == kAbsent ? &empty_ : &bricks_[id];
    }
  }

  double height(const Brick& brick, int x, int bit) const {
    return heights_[value_index(brick, x, bit)];
  }

  // Lattice points with coordinates from 0; `inside` is set where the point is known.
  bool is_known(int64_t x, int64_t y, int64_t z, bool& inside) const {
    const Place p{x + 1, y + 1, z + 1};
    const int32_t id = index_[index_of(p)];
    if (id == kAbsent) return false;
    const int bit = point_bit(p.y & 7, p.z & 7);
    inside = (bricks_[id].inside[p.x & 7] >> bit) & 1;
    return (bricks_[id].known[p.x & 7] >> bit) & 1;
  }

 private:
  static constexpr int32_t kAbsent = -1;

  struct Place {
    int64_t x, y, z;
  };

  static Place padded(const int32_t* p) { return {p[0] + 1, p[1] + 1, p[2] + 1}; }

  int64_t index_of(const Place& p) const {
    return ((p.x >> 3) * per_axis_ + (p.y >> 3)) * per_axis_ + (p.z >> 3);
  }

  void allocate(const int32_t* points, int64_t count, const DomainFaces& faces) {
    const auto want = [&](const Place& p) {
      __atomic_store_n(&index_[index_of(p)], 0, __ATOMIC_RELAXED);
    };
    torch::stable::parallel_for(0, count, kPointGrain, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) want(padded(points + 3 * i));
    });
    faces.for_each_cap_point(
        [&](const int64_t (&point)[3], bool) { want({point[0] + 1, point[1] + 1, point[2] + 1}); });
    int32_t total = 0;
    for (int32_t& id : index_) {
      if (id != kAbsent) id = total++;
    }
    bricks_.resize(total);
    const int64_t n = per_axis_;
    torch::stable::parallel_for(0, n, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first * n * n; i < last * n * n; ++i) {
        if (index_[i] == kAbsent) continue;
        Brick& brick = bricks_[index_[i]];
        brick.x = static_cast<int32_t>(i / (n * n));
        brick.y = static_cast<int32_t>(i / n % n);
        brick.z = static_cast<int32_t>(i % n);
      }
    });
  }

  // Returns whether the point was known before.
  bool set_point(const Place& p, bool inside) {
    Brick& brick = bricks_[index_[index_of(p)]];
    const uint64_t bit = uint64_t{1} << point_bit(p.y & 7, p.z & 7);
    if (inside) set_bits(&brick.inside[p.x & 7], bit);
    return set_bits(&brick.known[p.x & 7], bit) != 0;
  }

  int64_t number_values() {
    int64_t total = 0;
    for (Brick& brick : bricks_) {
      brick.first_value = total;
      int before = 0;
      for (int x = 0; x < 8; ++x) {
        brick.values_before[x] = static_cast<uint16_t>(before);
        before += count_bits(brick.known[x]);
        brick.has_inside |= (brick.known[x] & brick.inside[x]) != 0;
        brick.has_outside |= (brick.known[x] & ~brick.inside[x]) != 0;
      }
      total += before;
    }
    return total;
  }

  int64_t per_axis_;  // one more than there are points for: the brick after the last
  std::vector<int32_t> index_;
  std::vector<Brick> bricks_;
  std::unique_ptr<double[]> heights_;
  Brick empty_{};
};

}  // namespace occvae
