// Run-time choice of the instruction set. One binary serves every x86-64 machine, and ARM uses the
// portable code. Functions for one set carry the attribute OCCVAE_AVX2, OCCVAE_AVX512 or
// OCCVAE_AVX512_BF16. No file is compiled with -march. Lambdas do not inherit the attribute, so
// such functions contain plain loops only.
#pragma once

#include <atomic>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#define OCCVAE_X86 1
#if !defined(__clang__)  // gcc 12 warns about its own _mm512_undefined_ps() (gcc bug 105593)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#define OCCVAE_AVX2 __attribute__((target("avx2,fma,f16c,popcnt")))
#define OCCVAE_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")))
#define OCCVAE_AVX512_BF16 \
  __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")))
#endif

#define OCCVAE_INLINE inline __attribute__((always_inline))
// Put before a loop over the registers of a tile. If the loop is not unrolled, the compiler keeps
// the tile in memory.
#ifdef __clang__
#define OCCVAE_UNROLL _Pragma("unroll")
#else
#define OCCVAE_UNROLL _Pragma("GCC unroll 16")
#endif

namespace occvae {

// The values of the op occvae::_cpu_isa. ISA_NAMES in occvae/ops/_extension.py names them.
enum class Isa : int64_t { kPortable = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

inline Isa detect_isa() {
#ifdef OCCVAE_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("popcnt");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::kAvx512Bf16;
  if (avx2) return avx512 ? Isa::kAvx512 : Isa::kAvx2;
#endif
  return Isa::kPortable;
}

// The set that the kernels use: the best of the machine, unless a test lowered it through
// occvae::_cpu_isa.
inline std::atomic<Isa>& current_isa() {
  static std::atomic<Isa> isa{detect_isa()};
  return isa;
}

}  // namespace occvae
