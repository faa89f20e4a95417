// Bits of 64-bit words, on either device.
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

// Index of the lowest set bit of a word that is not 0.
C10_HOST_DEVICE inline int lowest_bit(uint64_t word) {
#ifdef __CUDA_ARCH__
  return __ffsll(static_cast<long long>(word)) - 1;
#else
  return __builtin_ctzll(word);
#endif
}

}  // namespace occvae
