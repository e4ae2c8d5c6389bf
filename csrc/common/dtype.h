// The element types that images and tokens come in, as plain bits: kernels include no torch header.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace ssl_fast {

enum class DType : int { kUInt8, kFloat16, kBFloat16, kFloat32, kFloat64 };

// Bit patterns of the two 16-bit formats. Distinct types, so that overloads tell them apart.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

namespace detail {

SSL_HD float float_from_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

SSL_HD uint32_t bits_from_float(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

}  // namespace detail

// Every value of the narrower types is a float, so these conversions are exact.
SSL_HD float to_float(uint8_t value) { return static_cast<float>(value); }
SSL_HD float to_float(float value) { return value; }
SSL_HD float to_float(BFloat16 value) {
  return detail::float_from_bits(static_cast<uint32_t>(value.bits) << 16);
}
SSL_HD float to_float(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t rest = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  if (rest >= 0x0f800000u) return detail::float_from_bits(sign | rest | 0x7f800000u);  // inf, NaN
  // Multiplying by 2^112 moves the exponent's bias from 15 to 127, subnormals included.
  return detail::float_from_bits(
      sign | detail::bits_from_float(detail::float_from_bits(rest) * 5.192296858534828e33f));
}

}  // namespace ssl_fast
