// The exponential of vectors of floats, for the `_cpu.cpp` files; see simd.h.
//
// exp(x) = 2^n exp(r) with n = x / ln 2 rounded and |r| <= ln 2 / 2, where a polynomial (Cephes'
// expf) does. Within 2 units in the last place everywhere, subnormal results included; 0 for -inf
// and below -104, inf above 88.73, NaN for NaN.
#pragma once

#include "common/simd.h"

namespace ssl_fast::SSL_FAST_ISA::simd {

// Outside these bounds all results are equal: 0 and inf.
constexpr float kExpLow = -104.0f, kExpHigh = 89.0f;
constexpr float kLog2E = 1.44269504088896341f;
// ln 2 = high + low; n * high is exact, for |n| < 2^13.
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// exp(r) of the rest that n leaves of x.
SSL_SIMD F32 exp_of_rest(F32 x, F32 n) {
  const F32 high = fma(n, set1(-kLn2High), x);
  const F32 r = fma(n, set1(-kLn2Low), high);
  F32 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  return add(fma(p, mul(r, r), r), set1(1.0f));
}

#if defined(SSL_FAST_ISA_AVX512)

SSL_SIMD F32 exp(F32 x) {
  // The bound stands first: so a NaN in x is returned.
  x = _mm512_min_ps(set1(kExpHigh), _mm512_max_ps(set1(kExpLow), x));
  const F32 n = _mm512_roundscale_ps(mul(x, set1(kLog2E)), _MM_FROUND_TO_NEAREST_INT);
  return _mm512_scalef_ps(exp_of_rest(x, n), n);
}

#elif defined(SSL_FAST_ISA_AVX2)

SSL_SIMD F32 power_of_two(__m256i n) {  // -126 <= n <= 127
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
SSL_SIMD F32 exp(F32 x) {
  x = _mm256_min_ps(set1(kExpHigh), _mm256_max_ps(set1(kExpLow), x));
  const F32 n =
      _mm256_round_ps(mul(x, set1(kLog2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // In two steps, of which the first is exact: the result may be subnormal, or inf.
  const __m256i all = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(all, 1);
  const F32 first = mul(exp_of_rest(x, n), power_of_two(half));
  return mul(first, power_of_two(_mm256_sub_epi32(all, half)));
}

#else

SSL_SIMD F32 exp(F32 x) {
  const I32 low = x < set1(kExpLow);  // a NaN is neither low nor high
  const I32 high = x > set1(kExpHigh);
  x = (F32)(((I32)x & ~low & ~high) | ((I32)set1(kExpLow) & low) | ((I32)set1(kExpHigh) & high));
  const F32 shift = set1(12582912.0f);  // 1.5 * 2^23: what is added to it is rounded
  const F32 shifted = x * kLog2E + shift;
  const F32 n = shifted - shift;
  const I32 all = (I32)shifted - (I32)shift, half = all >> 1;
  const F32 first = exp_of_rest(x, n) * (F32)((half + 127) << 23);
  return first * (F32)((all - half + 127) << 23);
}

#endif

}  // namespace ssl_fast::SSL_FAST_ISA::simd
