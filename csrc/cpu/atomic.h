// Setting bits of words that several threads share.
#pragma once

#include <cstdint>

namespace occvae {

// Sets bits of a word and returns which of them were set before. Reading first is much cheaper
// where they mostly are. Nothing is published by it: readers wait for the end of the parallel loop.
inline uint64_t set_bits(uint64_t* word, uint64_t bits) {
  if ((__atomic_load_n(word, __ATOMIC_RELAXED) & bits) == bits) return bits;
  return __atomic_fetch_or(word, bits, __ATOMIC_RELAXED) & bits;
}

}  // namespace occvae
