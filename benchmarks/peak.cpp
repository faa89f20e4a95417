// Independent multiply-adds in registers, nothing else: what a core can do at most. Built and
// called by peak.py. Each function does `rounds` rounds of kChains vector instructions.
#if defined(__x86_64__)
#include <immintrin.h>

#define BARRIER(vector) asm volatile("" : "+v"(vector))  // each must be done, in this register

constexpr int kChains = 12;  // more than latency x units of any core we know

extern "C" int chains() { return kChains; }

extern "C" __attribute__((target("avx2,fma"))) void fma_avx2(long rounds) {
  const __m256 factor = _mm256_set1_ps(0.5f);
  __m256 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = factor;
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      sums[i] = _mm256_fmadd_ps(sums[i], factor, factor);
      BARRIER(sums[i]);
    }
  }
}

extern "C" __attribute__((target("avx512f"))) void fma_avx512(long rounds) {
  const __m512 factor = _mm512_set1_ps(0.5f);
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = factor;
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      sums[i] = _mm512_fmadd_ps(sums[i], factor, factor);
      BARRIER(sums[i]);
    }
  }
}

extern "C" __attribute__((target("avx512f,avx512bf16"))) void dot_avx512_bf16(long rounds) {
  const __m512bh factor = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f));
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_setzero_ps();
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      sums[i] = _mm512_dpbf16_ps(sums[i], factor, factor);
      BARRIER(sums[i]);
    }
  }
}
#endif
