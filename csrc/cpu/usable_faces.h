// The check of the faces of a mesh on all threads, for CPU kernels.
#pragma once

#include <atomic>
#include <cstdint>

#include "../mesh_arguments.h"
#include "tiles.h"

namespace occvae {

// Throws unless all faces (num_faces, 3) are usable.
template <typename scalar_t>
void check_usable_faces(const scalar_t* vertices, int64_t num_vertices, const int64_t* faces,
                        int64_t num_faces, const char* op) {
  constexpr int64_t kTile = 4096;
  std::atomic<int64_t> unusable{0};
  for_each_tile(num_faces, kTile, [&](int64_t first, int64_t last) {
    int64_t count = 0;
    for (int64_t f = first; f < last; ++f) {
      count += !is_usable_face(vertices, num_vertices, faces + 3 * f);
    }
    unusable += count;
  });
  check_faces(unusable, op);
}

}  // namespace occvae
