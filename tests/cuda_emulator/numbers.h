// Conversions between float and the bits of fp16 and bf16, rounded to nearest even. A NaN becomes
// 0x7FFF, as on the hardware.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulator {

inline uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

inline uint16_t to_bf16(float x) {
  if (std::isnan(x)) return 0x7FFF;
  const uint32_t bits = float_bits(x);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

inline float from_bf16(uint16_t bits) { return float_of(uint32_t{bits} << 16); }

inline uint16_t to_fp16(float x) {
  if (std::isnan(x)) return 0x7FFF;
  const uint32_t sign = float_bits(x) >> 16 & 0x8000;
  const float magnitude = std::fabs(x);
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7C00);
  if (magnitude < 0x1p-14f) {  // a multiple of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(magnitude * 0x1p24f)));
  }
  const uint32_t bits = float_bits(magnitude) - 0x38000000;  // exponent bias 127 becomes 15
  return static_cast<uint16_t>(sign | (bits + 0xFFF + (bits >> 13 & 1)) >> 13);
}

inline float from_fp16(uint16_t bits) {
  const uint32_t exponent = bits >> 10 & 31, mantissa = bits & 0x3FF;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 0) return sign * static_cast<float>(mantissa) * 0x1p-24f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return sign * float_of((exponent + 112) << 23 | mantissa << 13);
}

}  // namespace emulator
