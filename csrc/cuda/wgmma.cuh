// Matrix products of a warpgroup (128 threads) on sm_90a; included by ptx.cuh.
//
// m64 nN k16 computes d (64, N) in float += a (64, 16) b (N, 16)^T. Matrices in shared memory are
// K-major with 128-byte swizzle: rows of 64 elements, in groups of 8 rows. A group has 1024 bytes
// and is aligned to them. 16-byte chunk c of row r of a group is stored at chunk c ^ r. Warp w
// holds rows 16 w to 16 w + 15 of d, and those of a if matrix a is in registers. Matrix a then has
// the layout of mma_m16n8k16, and d consists of N / 8 pieces of 8 columns in that layout.
//
// Products run asynchronously. The registers of a product must not be touched until the
// wgmma_wait() that ends it. wgmma_wait() therefore takes the accumulators as arguments. Otherwise
// the compiler would see no dependence and might read them earlier.
#pragma once

#include <cstdint>

namespace occvae::ptx {

// Returns the descriptor of 16 columns of a matrix. For columns 16 i to 16 i + 15, `address` is the
// beginning of the matrix plus 32 i bytes.
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address) {
  constexpr uint64_t kGroupStride = 1024 >> 4, kSwizzle128 = 1;
  return (address & 0x3FFFF) >> 4 | uint64_t{1} << 16 | kGroupStride << 32 | kSwizzle128 << 62;
}

// Keeps the compiler from moving uses of d across this place.
template <int kSize>
__device__ __forceinline__ void pin_registers(float (&d)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Keeps the compiler from moving uses of matrices a in registers across this place. Products read
// these registers until the wait that ends them, but the compiler sees no use after the last
// product. Without a pin after the wait, it might give the registers to other values before.
template <int kCount, int kSize>
__device__ __forceinline__ void pin_registers(uint32_t (&a)[kCount][kSize]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int j = 0; j < kSize; ++j) asm volatile("" : "+r"(a[i][j])::"memory");
  }
}

// Must separate the threads' own use of d from the first product that uses it.
template <int kSize>
__device__ __forceinline__ void wgmma_fence(float (&d)[kSize]) {
  pin_registers(d);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Ends a group of products.
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits for all groups except the newest kPending. d must not belong to those.
template <int kPending, int kSize>
__device__ __forceinline__ void wgmma_wait(float (&d)[kSize]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
  pin_registers(d);
}

// Waits in the same way, but the accumulators remain in use. Afterwards only the inputs of the
// products may be overwritten.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The registers of d as operands %0, %1, ... of an asm statement.
#define OCCVAE_D8(i)                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define OCCVAE_D64(i)                                                                      \
  OCCVAE_D8(i), OCCVAE_D8(i + 8), OCCVAE_D8(i + 16), OCCVAE_D8(i + 24), OCCVAE_D8(i + 32), \
      OCCVAE_D8(i + 40), OCCVAE_D8(i + 48), OCCVAE_D8(i + 56)
#define OCCVAE_NAMES_64                                                              \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define OCCVAE_NAMES_128                             \
  OCCVAE_NAMES_64                                    \
  ", "                                               \
  "%64, %65, %66, %67, %68, %69, %70, %71, "         \
  "%72, %73, %74, %75, %76, %77, %78, %79, "         \
  "%80, %81, %82, %83, %84, %85, %86, %87, "         \
  "%88, %89, %90, %91, %92, %93, %94, %95, "         \
  "%96, %97, %98, %99, %100, %101, %102, %103, "     \
  "%104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, " \
  "%120, %121, %122, %123, %124, %125, %126, %127"

#define OCCVAE_D128 OCCVAE_D64(0), OCCVAE_D64(64)

// wgmma with n columns. `a`, `b` and `scale` name the operands that follow those of d.
#define OCCVAE_WGMMA(n, type, names, accumulators, a, b, scale, transposes, ...)                 \
  asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, " scale                       \
               ", 0;\n"                                                                          \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" names "}, " a \
               ", " b ", accumulate, 1, 1, " transposes ";\n}"                                   \
               : accumulators                                                                    \
               : __VA_ARGS__, "r"(static_cast<int>(accumulate))                                  \
               : "memory")

// d += a b^T if accumulate, else d = a b^T, with 128 columns and both matrices in shared memory.
template <Operand kType>
__device__ __forceinline__ void wgmma_ss_n128(float (&d)[64], uint64_t a, uint64_t b,
                                              bool accumulate) {
#define OCCVAE_SS(type)                                                                          \
  OCCVAE_WGMMA("128", type, OCCVAE_NAMES_64, OCCVAE_D64(0), "%64", "%65", "%66", "0, 0", "l"(a), \
               "l"(b))
  if constexpr (kType == Operand::kFp16) {
    OCCVAE_SS("f16");
  } else {
    OCCVAE_SS("bf16");
  }
}

// As wgmma_ss_n128, but with 256 columns, and with matrix a in registers.
template <Operand kType>
__device__ __forceinline__ void wgmma_rs_n256(float (&d)[128], const uint32_t (&a)[4], uint64_t b,
                                              bool accumulate) {
#define OCCVAE_RS(type)                                                                        \
  OCCVAE_WGMMA("256", type, OCCVAE_NAMES_128, OCCVAE_D128, "{%128, %129, %130, %131}", "%132", \
               "%133", "0", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
  if constexpr (kType == Operand::kFp16) {
    OCCVAE_RS("f16");
  } else {
    OCCVAE_RS("bf16");
  }
}

#undef OCCVAE_D8
#undef OCCVAE_D64
#undef OCCVAE_D128
#undef OCCVAE_NAMES_64
#undef OCCVAE_NAMES_128
#undef OCCVAE_WGMMA
#undef OCCVAE_SS
#undef OCCVAE_RS

// Takes registers from the pool of the block (inc), or returns them to it (dec).
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace occvae::ptx
