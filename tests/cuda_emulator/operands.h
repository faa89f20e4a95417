// Converts pairs of 16-bit operands to floats. fp16 uses a table.
#pragma once

#include <cstdint>
#include <vector>

#include "numbers.h"

namespace emulator {

inline float operand(bool bf16, uint16_t bits) {
  static const std::vector<float> fp16 = [] {
    std::vector<float> values(1 << 16);
    for (uint32_t i = 0; i < values.size(); ++i) values[i] = from_fp16(static_cast<uint16_t>(i));
    return values;
  }();
  return bf16 ? from_bf16(bits) : fp16[bits];
}

inline void unpack(bool bf16, uint32_t pair, float* values) {
  values[0] = operand(bf16, static_cast<uint16_t>(pair & 0xFFFF));
  values[1] = operand(bf16, static_cast<uint16_t>(pair >> 16));
}

}  // namespace emulator
