// Functions of vectors of floats for the `_cpu.cpp` files: exp, log1p and what they are made of.
// Correct to about one unit in the last place, NaN stays NaN. Included as simd.h is.
#pragma once

#include "common/simd.h"

namespace ssl_fast::SSL_FAST_ISA::simd {

#if defined(SSL_FAST_ISA_AVX512)

// The smaller; a NaN in x stays one.
SSL_SIMD F32 at_most(F32 x, F32 bound) { return _mm512_min_ps(bound, x); }
SSL_SIMD F32 choose(Mask m, F32 yes, F32 no) { return _mm512_mask_blend_ps(m, no, yes); }
SSL_SIMD F32 round_to_integer(F32 x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// x * 2^n for integers n from -152 to 128.
SSL_SIMD F32 scale_by_power(F32 x, F32 n) { return _mm512_scalef_ps(x, n); }
SSL_SIMD F32 fnma(F32 a, F32 b, F32 c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b

#elif defined(SSL_FAST_ISA_AVX2)

SSL_SIMD F32 at_most(F32 x, F32 bound) { return _mm256_min_ps(bound, x); }
SSL_SIMD F32 choose(Mask m, F32 yes, F32 no) { return _mm256_blendv_ps(no, yes, m.lanes); }
SSL_SIMD F32 round_to_integer(F32 x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SSL_SIMD F32 power_of_two(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
// In two halves: 2^-150 is no float.
SSL_SIMD F32 scale_by_power(F32 x, F32 n) {
  const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
  return mul(mul(x, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}
SSL_SIMD F32 fnma(F32 a, F32 b, F32 c) { return _mm256_fnmadd_ps(a, b, c); }

#else

SSL_SIMD F32 at_most(F32 x, F32 bound) {
  const I32 above = x > bound;
  return (F32)(((I32)x & ~above) | ((I32)bound & above));
}
SSL_SIMD F32 choose(Mask m, F32 yes, F32 no) { return (F32)(((I32)yes & m) | ((I32)no & ~m)); }
// The sum has no room for a fraction: |x| below 2^22.
SSL_SIMD F32 round_to_integer(F32 x) {
  const F32 large = set1(12582912.0f);
  return (x + large) - large;
}
SSL_SIMD F32 power_of_two(I32 n) { return (F32)((n + 127) << 23); }
SSL_SIMD F32 scale_by_power(F32 x, F32 n) {
  const I32 whole = __builtin_convertvector(n, I32), half = whole >> 1;
  return x * power_of_two(half) * power_of_two(whole - half);
}
SSL_SIMD F32 fnma(F32 a, F32 b, F32 c) { return c - a * b; }

#endif

// e^x: exactly 1 at 0, exactly 0 at -infinity, infinity from 88.73 on.
SSL_SIMD F32 exp(F32 x) {
  x = at_most(at_least(x, set1(-104.0f)), set1(89.0f));
  // x = n ln 2 + r with |r| <= ln 2 / 2. The first part of ln 2 has few digits: n times it is
  // exact.
  const F32 n = round_to_integer(mul(x, set1(1.44269504f)));
  const F32 r = fnma(n, set1(-2.12194440e-4f), fnma(n, set1(0.693359375f), x));
  // (e^r - 1 - r) / r^2, minimax.
  F32 p = fma(set1(0.00138145965f), r, set1(0.00836871751f));
  p = fma(p, r, set1(0.041668389f));
  p = fma(p, r, set1(0.166665211f));
  p = fma(p, r, set1(0.49999994f));
  p = fma(fma(p, r, set1(1.0f)), r, set1(1.0f));
  return scale_by_power(p, n);
}

// log(1 + x) for x from 0 to 1.
SSL_SIMD F32 log1p_of_fraction(F32 x) {
  // 2 artanh(t) with t = x / (2 + x) <= 1/3, minimax in t^2.
  const F32 t = div(x, add(x, set1(2.0f))), w = mul(t, t);
  F32 p = fma(set1(0.121504694f), w, set1(0.107138284f));
  p = fma(p, w, set1(0.143084422f));
  p = fma(p, w, set1(0.199994385f));
  p = fma(p, w, set1(0.333333373f));
  const F32 twice = add(t, t);
  return fma(mul(twice, w), p, twice);
}

}  // namespace ssl_fast::SSL_FAST_ISA::simd
