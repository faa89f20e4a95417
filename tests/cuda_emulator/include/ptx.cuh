// Replaces csrc/cuda/ptx.cuh: the same functions on a CPU, after the PTX ISA. An effect that the
// hardware delays happens here as late as allowed, and its targets are NaN until then.
#pragma once

#include <cmath>
#include <cstdint>

#include "../async.h"
#include "../block.h"
#include "../numbers.h"
#include "../tensor_cores.h"

#define OCCVAE_HAS_WGMMA 1

namespace occvae::ptx {

enum class Operand { kFp16, kBf16 };

inline uint32_t shared_address(const void* pointer) { return emulator::shared_address(pointer); }

inline void bar_sync(int barrier, int threads) { emulator::barrier_sync(barrier, threads); }

template <Operand kType>
uint32_t pack_relu(float low, float high) {
  auto convert = [](float x) -> uint32_t {
    if (x <= 0) x = 0.0f;
    if (kType == Operand::kBf16) return emulator::to_bf16(x);
    return emulator::to_fp16(std::isnan(x) ? x : std::fmin(x, 65504.0f));
  };
  return convert(low) | convert(high) << 16;
}

inline uint32_t nan_where_saturated(uint32_t packed) {
  auto check = [](uint32_t half) -> uint32_t {
    const float sum = emulator::from_fp16(emulator::to_fp16(emulator::from_fp16(half) + 16.0f));
    return emulator::to_fp16(sum * 0.0f + emulator::from_fp16(half));
  };
  return check(packed & 0xFFFF) | check(packed >> 16) << 16;
}

inline void stmatrix_x4(uint32_t row, const uint32_t (&matrices)[4]) {
  emulator::store_matrices(row, matrices);
}

template <Operand kType>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::multiply_m16n8k16(kType == Operand::kBf16, d, a, b0, b1);
}

inline void cp_async_16(uint32_t shared, const void* global) {
  emulator::copy_async(shared, global, 16);
}
inline void cp_async_commit() { emulator::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  emulator::wait_copies(kPending);
}

inline void mbarrier_init(uint32_t barrier, int arrivals) {
  emulator::mbarrier_init(barrier, arrivals);
}
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(uint32_t barrier) { emulator::mbarrier_arrive(barrier, 0); }
inline void mbarrier_arrive_expect_tx(uint32_t barrier, int bytes) {
  emulator::mbarrier_arrive(barrier, bytes);
}
inline void mbarrier_wait(uint32_t barrier, int parity) {
  emulator::mbarrier_wait(barrier, parity);
}
inline void cp_async_bulk(uint32_t shared, const void* global, int bytes, uint32_t barrier) {
  emulator::copy_bulk(shared, global, bytes, barrier);
}
inline int cluster_rank() { return static_cast<int>(emulator::block_rank()); }
inline void cluster_sync() { emulator::cluster_sync(); }
inline void mbarrier_arrive_in_block(uint32_t barrier, int rank) {
  emulator::mbarrier_arrive(emulator::map_to_block(barrier, static_cast<unsigned>(rank)), 0);
}
inline void cp_async_bulk_multicast(uint32_t shared, const void* global, int bytes,
                                    uint32_t barrier, int ranks) {
  emulator::copy_bulk_multicast(shared, global, bytes, barrier, static_cast<unsigned>(ranks));
}
inline void fence_proxy_async() { emulator::update_async_view(); }

inline uint64_t wgmma_descriptor(uint32_t address) {
  return (address & 0x3FFFF) >> 4 | uint64_t{1} << 16 | uint64_t{64} << 32 | uint64_t{1} << 62;
}

template <Operand kType>
void wgmma_ss_n128(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  emulator::wgmma({kType == Operand::kBf16, 128, accumulate, a, b, nullptr, d});
}
template <Operand kType>
void wgmma_rs_n256(float (&d)[128], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  emulator::wgmma({kType == Operand::kBf16, 256, accumulate, 0, b, a, d});
}
template <int kSize>
void wgmma_fence(float (&)[kSize]) {
  emulator::wgmma_fence();
}
template <int kCount, int kSize>
void pin_registers(uint32_t (&)[kCount][kSize]) {}  // concerns compilers of GPUs only
inline void wgmma_commit() { emulator::wgmma_commit(); }
template <int kPending, int kSize>
void wgmma_wait(float (&d)[kSize]) {
  emulator::wgmma_wait(kPending, d);
}
template <int kPending>
void wgmma_wait() {
  emulator::wgmma_wait(kPending, nullptr);
}

template <int kRegisters>
void setmaxnreg_inc() {}
template <int kRegisters>
void setmaxnreg_dec() {}

}  // namespace occvae::ptx
