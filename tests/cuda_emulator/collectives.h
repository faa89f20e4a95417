// The device functions of the CUDA language: barriers, warp collectives, atomics, bits, rounding.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "block.h"

inline void __syncthreads() { emulator::barrier_sync(0, 0); }
inline int __syncthreads_or(int predicate) { return emulator::barrier_or(predicate != 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { emulator::yield(); }

namespace emulator {

// The value of one lane, the lane that it reads from, and its result.
template <typename T>
struct LaneValue {
  T value;
  int source;
  T result;
};

template <typename T>
LaneValue<T>* lane_value(void* const* all, int lane) {
  return static_cast<LaneValue<T>*>(all[lane]);
}

template <typename T>
T shuffle(const char* name, unsigned mask, T value, int source) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  LaneValue<T> mine{value, source, value};
  warp_collective(name, mask, &mine, [](void* const* all, unsigned mask) {
    for (int lane = 0; lane < 32; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      LaneValue<T>* to = lane_value<T>(all, lane);
      const auto* from = lane_value<T>(all, to->source);
      if (!from) fail("a shuffle reads lane %d, which is not in the mask %08x", to->source, mask);
      to->result = from->value;
    }
  });
  return mine.result;
}

inline int lane() { return static_cast<int>(thread_number() % kWarpSize); }

inline void check_width(int width) {
  if (width < 1 || width > 32 || (width & (width - 1))) fail("a shuffle of width %d", width);
}

inline unsigned ballot(const char* name, unsigned mask, bool predicate) {
  LaneValue<unsigned> mine{predicate, 0, 0};
  warp_collective(name, mask, &mine, [](void* const* all, unsigned mask) {
    unsigned result = 0;
    for (int lane = 0; lane < 32; ++lane) {
      if (mask >> lane & 1) result |= lane_value<unsigned>(all, lane)->value << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
      if (mask >> lane & 1) lane_value<unsigned>(all, lane)->result = result;
    }
  });
  return mine.result;
}

}  // namespace emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  emulator::check_width(width);
  const int first = emulator::lane() & ~(width - 1);
  return emulator::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)));
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  emulator::check_width(width);
  const int here = emulator::lane(), source = here ^ lanes;
  const bool reads = source <= (here | (width - 1));  // only lower groups can be read
  return emulator::shuffle("__shfl_xor_sync", mask, value, reads ? source : here);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  emulator::check_width(width);
  const int here = emulator::lane(), source = here + static_cast<int>(delta);
  const bool reads = source <= (here | (width - 1));
  return emulator::shuffle("__shfl_down_sync", mask, value, reads ? source : here);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  emulator::check_width(width);
  const int here = emulator::lane(), source = here - static_cast<int>(delta);
  const bool reads = source >= (here & ~(width - 1));
  return emulator::shuffle("__shfl_up_sync", mask, value, reads ? source : here);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return emulator::ballot("__ballot_sync", mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return emulator::ballot("__any_sync", mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return emulator::ballot("__all_sync", mask, predicate != 0) == mask;
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) {
  emulator::warp_collective("__syncwarp", mask, nullptr, [](void* const*, unsigned) {});
}

// Atomics. Fibers switch only where they ask to, so plain code is atomic. A switch at random here
// mixes the order of the threads.

namespace emulator {

template <typename T, typename Function>
T atomic(T* address, Function function) {
  sometimes_yield();
  const T before = *address;
  *address = function(before);
  return before;
}

// Converts an argument as a call of CUDA's overload for T does.
template <typename T>
using same_t = std::type_identity_t<T>;

}  // namespace emulator

template <typename T>
T atomicAdd(T* address, emulator::same_t<T> value) {
  return emulator::atomic(address, [=](T before) { return static_cast<T>(before + value); });
}
template <typename T>
T atomicSub(T* address, emulator::same_t<T> value) {
  return emulator::atomic(address, [=](T before) { return static_cast<T>(before - value); });
}
template <typename T>
T atomicOr(T* address, emulator::same_t<T> value) {
  return emulator::atomic(address, [=](T before) { return before | value; });
}
template <typename T>
T atomicAnd(T* address, emulator::same_t<T> value) {
  return emulator::atomic(address, [=](T before) { return before & value; });
}
template <typename T>
T atomicXor(T* address, emulator::same_t<T> value) {
  return emulator::atomic(address, [=](T before) { return before ^ value; });
}
template <typename T>
T atomicMax(T* address, emulator::same_t<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has atomicMax of integers only");
  return emulator::atomic(address, [=](T before) { return before < value ? value : before; });
}
template <typename T>
T atomicMin(T* address, emulator::same_t<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA has atomicMin of integers only");
  return emulator::atomic(address, [=](T before) { return value < before ? value : before; });
}
template <typename T>
T atomicExch(T* address, emulator::same_t<T> value) {
  return emulator::atomic(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, emulator::same_t<T> expected, emulator::same_t<T> value) {
  return emulator::atomic(address, [=](T before) { return before == expected ? value : before; });
}

// Bits, loads and rounding.

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) {
  return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}

namespace emulator {
template <typename To, typename From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
}  // namespace emulator

inline unsigned __float_as_uint(float x) { return emulator::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return emulator::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bit_cast<float>(x); }
inline float __int_as_float(int x) { return emulator::bit_cast<float>(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
