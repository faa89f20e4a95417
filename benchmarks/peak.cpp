// Measures the peak arithmetic rate of a core: independent multiply-adds in registers and nothing
// else. peak.py builds and calls it. It is written in assembly because compilers may move the sums
// to memory.
#if defined(__x86_64__)

constexpr int kChains = 12;  // registers 0 to 11; more than latency x units of any known core

// Applies `instruction` to every chain, with register 12 as both factors.
#define EACH_CHAIN(instruction, kind)                                                        \
  asm volatile(".irp n,0,1,2,3,4,5,6,7,8,9,10,11\n\t" instruction " %%" kind "12,%%" kind    \
               "12,%%" kind "\\n\n\t.endr" ::                                                \
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                     "xmm9", "xmm10", "xmm11", "xmm12")

// Zeroes the registers first, because arbitrary contents may be slow to compute with.
//
#define PEAK(name, instruction, kind)                                \
  extern "C" void name(long rounds) {                                \
    asm volatile("vpxor %%xmm12,%%xmm12,%%xmm12" ::: "xmm12");       \
    EACH_CHAIN("vxorps", "ymm");                                     \
    for (long i = 0; i < rounds; ++i) EACH_CHAIN(instruction, kind); \
    asm volatile("vzeroupper");                                      \
  }

// Reads `bytes` bytes, a multiple of 512, `rounds` times: the bandwidth of the cache that holds
// them.
extern "C" void read_avx512(const char* data, long bytes, long rounds) {
  for (long i = 0; i < rounds; ++i) {
    for (const char* p = data; p < data + bytes; p += 512) {
      asm volatile(".irp n,0,1,2,3,4,5,6,7\n\tvmovups \\n*64(%0),%%zmm\\n\n\t.endr" ::"r"(p)
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "memory");
    }
  }
  asm volatile("vzeroupper");
}

extern "C" int chains() { return kChains; }

PEAK(fma_avx2, "vfmadd231ps", "ymm")
PEAK(fma_avx512, "vfmadd231ps", "zmm")
PEAK(dot_avx512_bf16, "vdpbf16ps", "zmm")

#endif
