// Relaxed atomic operations on memory that several threads write, for CPU and CUDA. They order no
// other memory accesses: their results are read only after the parallel loop or kernel has ended.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace occvae {

// Sets `bits` of a word and returns which of them were already set. The plain read comes first
// because most bits are usually set already, and a read is much cheaper than an atomic write.
C10_HOST_DEVICE inline uint64_t set_bits(uint64_t* word, uint64_t bits) {
#ifdef __CUDA_ARCH__
  if ((*static_cast<volatile uint64_t*>(word) & bits) == bits) return bits;
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
  return atomicOr(reinterpret_cast<unsigned long long*>(word), bits) & bits;
#else
  if ((__atomic_load_n(word, __ATOMIC_RELAXED) & bits) == bits) return bits;
  return __atomic_fetch_or(word, bits, __ATOMIC_RELAXED) & bits;
#endif
}

C10_HOST_DEVICE inline void add(int64_t* sum, int64_t count) {
#ifdef __CUDA_ARCH__
  atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(count));
#else
  __atomic_fetch_add(sum, count, __ATOMIC_RELAXED);
#endif
}

// Writes a byte that several threads may write at once. If their values differ, any one of them
// stays.
C10_HOST_DEVICE inline void store(uint8_t* byte, uint8_t value) {
#ifdef __CUDA_ARCH__
  *byte = value;
#else
  __atomic_store_n(byte, value, __ATOMIC_RELAXED);
#endif
}

}  // namespace occvae
