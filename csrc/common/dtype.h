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
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t rest = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  if (rest >= 0x0f800000u) return detail::float_from_bits(sign | rest | 0x7f800000u);  // inf, NaN
  // Multiplying by 2^112 moves the exponent's bias from 15 to 127, subnormals included.
  return detail::float_from_bits(
      sign | detail::bits_from_float(detail::float_from_bits(rest) * 5.192296858534828e33f));
#endif
}

// Rounded to the nearest, ties to even, as torch rounds.
template <typename T>
SSL_HD T from_float(float value);
template <>
SSL_HD float from_float<float>(float value) {
  return value;
}
template <>
SSL_HD BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = detail::bits_from_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fc0};  // NaN
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
template <>
SSL_HD Half from_float<Half>(float value) {
  const uint32_t bits = detail::bits_from_float(value), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = bits >> 16 & 0x8000u;
  uint32_t rest = 0;
  if (magnitude > 0x7f800000u) {
    rest = 0x7e00;                        // NaN
  } else if (magnitude >= 0x477ff000u) {  // rounds to 2^16
    rest = 0x7c00;                        // inf
  } else if (magnitude >= 0x38800000u) {  // 2^-14, the least normal number
    rest = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13;
  } else {  // the addition rounds to multiples of 2^-24
    rest = detail::bits_from_float(detail::float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  }
  return {static_cast<uint16_t>(sign | rest)};
}

}  // namespace ssl_fast
