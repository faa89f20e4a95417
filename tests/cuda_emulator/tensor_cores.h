// Matrix instructions of a warp and of a warpgroup. PTX leaves the order of the sums open. Here,
// products are added in float, one after another.
#pragma once

#include <cstdint>
#include <string>

namespace emulator {

void store_matrices(uint32_t row, const uint32_t* matrices);
void multiply_m16n8k16(bool bf16, float* d, const uint32_t* a, uint32_t b0, uint32_t b1);

// A wgmma instruction as issued by one thread.
struct Wgmma {
  bool bf16;
  int columns;
  bool accumulate;
  uint64_t a, b;                // descriptors
  const uint32_t* a_registers;  // four, or null if `a` describes the operand
  float* d;                     // columns / 2 registers
};

void wgmma(const Wgmma& instruction);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending, const float* d);

// For the scheduler.
void begin_wgmma();       // at the start of a block
std::string end_wgmma();  // at the end of a block; returns an error or nothing

}  // namespace emulator
