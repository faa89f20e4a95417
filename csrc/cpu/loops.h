// CPU loops and scans for the algorithms that CPU and CUDA share. cuda/launch.cuh has the CUDA
// versions.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "isa.h"

#ifdef __GNUC__
#define OCCVAE_FLATTEN __attribute__((flatten))  // inlines every call in the function
#else
#define OCCVAE_FLATTEN
#endif

namespace occvae {

template <typename Function>
OCCVAE_FLATTEN void run_portable(int64_t first, int64_t last, const Function function) {
  for (int64_t i = first; i < last; ++i) function(i);
}

#ifdef OCCVAE_X86
// Compiled with popcnt, which not every x86-64 machine has. Without it, counting bits is a function
// call.
template <typename Function>
OCCVAE_FLATTEN __attribute__((target("popcnt"))) void run_popcnt(int64_t first, int64_t last,
                                                                 const Function function) {
  for (int64_t i = first; i < last; ++i) function(i);
}
#endif

// Calls function(i) for every i < n, on all threads. Each thread takes at least `grain` items.
template <typename Function>
void for_each(int64_t n, int64_t grain, const Function& function) {
  auto* run = &run_portable<Function>;
#ifdef OCCVAE_X86
  if (current_isa().load() >= Isa::kAvx2) run = &run_popcnt<Function>;
#endif
  torch::stable::parallel_for(0, n, grain,
                              [&](int64_t first, int64_t last) { run(first, last, function); });
}

// Sets data[i] to data[0] + ... + data[i].
template <typename T>
void inclusive_scan(T* data, int64_t n) {
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) data[i] = sum += data[i];
}

}  // namespace occvae
