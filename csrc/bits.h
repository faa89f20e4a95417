// Counts and finds the set bits of 64-bit words, on CPU and CUDA.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace occvae {

C10_HOST_DEVICE inline int count_bits(uint64_t word) {
#ifdef __CUDA_ARCH__
  return __popcll(word);
#else
  return __builtin_popcountll(word);
#endif
}

// Returns the index of the lowest set bit. `word` must not be 0.
C10_HOST_DEVICE inline int lowest_bit(uint64_t word) {
#ifdef __CUDA_ARCH__
  return __ffsll(static_cast<long long>(word)) - 1;
#else
  return __builtin_ctzll(word);
#endif
}

}  // namespace occvae
