// An order of points in which neighbors in the order are close to each other in space.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace occvae {

// Moves bit i of x < 2^21 to bit 3 i.
inline uint64_t spread_bits(uint64_t x) {
  x = (x | x << 32) & 0x1f00000000ffff;
  x = (x | x << 16) & 0x1f0000ff0000ff;
  x = (x | x << 8) & 0x100f00f00f00f00f;
  x = (x | x << 4) & 0x10c30c30c30c30c3;
  return (x | x << 2) & 0x1249249249249249;
}

// Returns the numbers of the points (count, 3) along a Morton curve. Points that are not finite
// come last.
template <typename scalar_t>
std::vector<int64_t> morton_order(const scalar_t* points, int64_t count) {
  constexpr double kSteps = (1 << 21) - 1;
  double low[3], scale = 0;
  for (int axis = 0; axis < 3; ++axis) {
    low[axis] = std::numeric_limits<double>::infinity();
    double high = -low[axis];
    for (int64_t i = 0; i < count; ++i) {
      const double x = points[3 * i + axis];
      if (!std::isfinite(x)) continue;
      low[axis] = std::min(low[axis], x);
      high = std::max(high, x);
    }
    scale = std::max(scale, high - low[axis]);
  }
  scale = scale > 0 ? kSteps / scale : 0;
  std::vector<std::pair<uint64_t, int64_t>> codes(count);
  for (int64_t i = 0; i < count; ++i) {
    uint64_t code = 0;
    for (int axis = 0; axis < 3; ++axis) {
      const double step = (points[3 * i + axis] - low[axis]) * scale;
      const bool usable = step >= 0 && step <= kSteps;
      code |= usable ? spread_bits(static_cast<uint64_t>(step)) << axis : ~uint64_t{0};
    }
    codes[i] = {code, i};
  }
  std::sort(codes.begin(), codes.end());
  std::vector<int64_t> order(count);
  for (int64_t i = 0; i < count; ++i) order[i] = codes[i].second;
  return order;
}

}  // namespace occvae
