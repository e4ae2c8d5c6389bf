// Vectors of floats for the `_cpu.cpp` files: one set of names, an implementation for each
// instruction set. Included with SSL_FAST_ISA defined as the name of the set (see isa.h) and one of
// SSL_FAST_ISA_AVX512, SSL_FAST_ISA_AVX2 or neither.
#pragma once

#include <cstdint>

#if defined(SSL_FAST_ISA_AVX512) || defined(SSL_FAST_ISA_AVX2)
#include <immintrin.h>
#endif

#include "common/dtype.h"

#define SSL_SIMD inline __attribute__((always_inline))

namespace ssl_fast::SSL_FAST_ISA::simd {

#if defined(SSL_FAST_ISA_AVX512)

constexpr int kWidth = 16;
using F32 = __m512;
using Mask = __mmask16;

SSL_SIMD F32 set1(float x) { return _mm512_set1_ps(x); }
SSL_SIMD F32 load(const float* p) { return _mm512_loadu_ps(p); }
SSL_SIMD F32 load(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
SSL_SIMD F32 load(const Half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
SSL_SIMD F32 load(const BFloat16* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
SSL_SIMD void store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
SSL_SIMD void store(Half* p, F32 x) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
SSL_SIMD __m256i rounded(F32 x) {  // to bfloat16, as from_float
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i high = _mm512_mask_mov_epi32(sum, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q),
                                             _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(high, 16));
}
SSL_SIMD void store(BFloat16* p, F32 x) { _mm256_storeu_si256((__m256i*)p, rounded(x)); }
// Past the caches, to a multiple of the vector's size in memory; fence() before another thread
// looks.
SSL_SIMD void stream(float* p, F32 x) { _mm512_stream_ps(p, x); }
SSL_SIMD void stream(Half* p, F32 x) {
  _mm256_stream_si256((__m256i*)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
SSL_SIMD void stream(BFloat16* p, F32 x) { _mm256_stream_si256((__m256i*)p, rounded(x)); }
SSL_SIMD void fence() { _mm_sfence(); }
SSL_SIMD F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
SSL_SIMD F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
SSL_SIMD F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
SSL_SIMD F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
SSL_SIMD F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
SSL_SIMD F32 sqrt(F32 x) { return _mm512_sqrt_ps(x); }
// The larger; a NaN in x stays one.
SSL_SIMD F32 at_least(F32 x, F32 bound) { return _mm512_max_ps(bound, x); }
SSL_SIMD F32 abs(F32 x) { return _mm512_abs_ps(x); }
SSL_SIMD Mask ge(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
SSL_SIMD Mask not_ge(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_NGE_UQ); }
SSL_SIMD Mask invert(Mask m) { return _knot_mask16(m); }
SSL_SIMD Mask first_not_second(Mask a, Mask b) { return _kandn_mask16(b, a); }
SSL_SIMD F32 keep_where(Mask m, F32 x) { return _mm512_maskz_mov_ps(m, x); }
SSL_SIMD F32 drop_where(Mask m, F32 x) { return _mm512_mask_mov_ps(x, m, _mm512_setzero_ps()); }
SSL_SIMD F32 add_where(Mask m, F32 sum, F32 x) { return _mm512_mask_add_ps(sum, m, sum, x); }
SSL_SIMD F32 fma_where(Mask m, F32 a, F32 b, F32 sum) {
  return _mm512_mask3_fmadd_ps(a, b, sum, m);
}
// Where the signs of a and b differ and a is not zero.
SSL_SIMD Mask opposite_signs(F32 a, F32 b) {
  const Mask differ =
      _mm512_movepi32_mask(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  return _mm512_mask_cmp_ps_mask(differ, a, _mm512_setzero_ps(), _CMP_NEQ_UQ);
}
// The next larger float where the signs of a and b differ: x >= 0, not NaN.
SSL_SIMD F32 nudge_up_if_opposite(F32 x, F32 a, F32 b) {
  const __m512i differ =
      _mm512_srli_epi32(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_castps_si512(b)), 31);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), differ));
}

#elif defined(SSL_FAST_ISA_AVX2)

constexpr int kWidth = 8;
using F32 = __m256;
struct Mask {
  __m256 lanes;  // all ones or all zeros
};

SSL_SIMD F32 set1(float x) { return _mm256_set1_ps(x); }
SSL_SIMD F32 load(const float* p) { return _mm256_loadu_ps(p); }
SSL_SIMD F32 load(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
SSL_SIMD F32 load(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
SSL_SIMD F32 load(const BFloat16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
SSL_SIMD void store(float* p, F32 x) { _mm256_storeu_ps(p, x); }
SSL_SIMD void store(Half* p, F32 x) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
SSL_SIMD __m128i rounded(F32 x) {  // to bfloat16, as from_float
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i all = _mm256_blendv_epi8(sum, _mm256_set1_epi32(0x7fc00000), nan);
  const __m256i high = _mm256_srli_epi32(all, 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}
SSL_SIMD void store(BFloat16* p, F32 x) { _mm_storeu_si128((__m128i*)p, rounded(x)); }
// Past the caches, to a multiple of the vector's size in memory; fence() before another thread
// looks.
SSL_SIMD void stream(float* p, F32 x) { _mm256_stream_ps(p, x); }
SSL_SIMD void stream(Half* p, F32 x) {
  _mm_stream_si128((__m128i*)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
SSL_SIMD void stream(BFloat16* p, F32 x) { _mm_stream_si128((__m128i*)p, rounded(x)); }
SSL_SIMD void fence() { _mm_sfence(); }
SSL_SIMD F32 add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
SSL_SIMD F32 sub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
SSL_SIMD F32 mul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
SSL_SIMD F32 div(F32 a, F32 b) { return _mm256_div_ps(a, b); }
SSL_SIMD F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
SSL_SIMD F32 sqrt(F32 x) { return _mm256_sqrt_ps(x); }
SSL_SIMD F32 at_least(F32 x, F32 bound) { return _mm256_max_ps(bound, x); }
SSL_SIMD F32 abs(F32 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
SSL_SIMD Mask ge(F32 a, F32 b) { return {_mm256_cmp_ps(a, b, _CMP_GE_OQ)}; }
SSL_SIMD Mask not_ge(F32 a, F32 b) { return {_mm256_cmp_ps(a, b, _CMP_NGE_UQ)}; }
SSL_SIMD Mask invert(Mask m) {
  return {_mm256_xor_ps(m.lanes, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))};
}
SSL_SIMD F32 keep_where(Mask m, F32 x) { return _mm256_and_ps(m.lanes, x); }
SSL_SIMD F32 drop_where(Mask m, F32 x) { return _mm256_andnot_ps(m.lanes, x); }
SSL_SIMD Mask first_not_second(Mask a, Mask b) { return {_mm256_andnot_ps(b.lanes, a.lanes)}; }
SSL_SIMD F32 add_where(Mask m, F32 sum, F32 x) {
  return _mm256_add_ps(sum, _mm256_and_ps(m.lanes, x));
}
SSL_SIMD F32 fma_where(Mask m, F32 a, F32 b, F32 sum) {
  return _mm256_fmadd_ps(_mm256_and_ps(m.lanes, a), b, sum);
}
SSL_SIMD Mask opposite_signs(F32 a, F32 b) {
  const __m256i differ = _mm256_srai_epi32(_mm256_castps_si256(_mm256_xor_ps(a, b)), 31);
  const __m256 nonzero = _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ);
  return {_mm256_and_ps(_mm256_castsi256_ps(differ), nonzero)};
}
SSL_SIMD F32 nudge_up_if_opposite(F32 x, F32 a, F32 b) {
  const __m256i differ = _mm256_srli_epi32(_mm256_castps_si256(_mm256_xor_ps(a, b)), 31);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), differ));
}

#else  // any processor: the compiler's own vectors, four lanes

constexpr int kWidth = 4;
typedef float F32 __attribute__((vector_size(16)));
typedef int32_t I32 __attribute__((vector_size(16)));
using Mask = I32;  // all ones or all zeros

SSL_SIMD F32 set1(float x) { return F32{x, x, x, x}; }
template <typename T>
SSL_SIMD F32 load(const T* p) {
  return F32{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
SSL_SIMD void store(float* p, F32 x) { __builtin_memcpy(p, &x, sizeof x); }
template <typename T>
SSL_SIMD void store(T* p, F32 x) {
  for (int i = 0; i < kWidth; ++i) p[i] = from_float<T>(x[i]);
}
template <typename T>
SSL_SIMD void stream(T* p, F32 x) {
  store(p, x);
}
SSL_SIMD void fence() {}
SSL_SIMD F32 add(F32 a, F32 b) { return a + b; }
SSL_SIMD F32 sub(F32 a, F32 b) { return a - b; }
SSL_SIMD F32 mul(F32 a, F32 b) { return a * b; }
SSL_SIMD F32 div(F32 a, F32 b) { return a / b; }
SSL_SIMD F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }
SSL_SIMD F32 sqrt(F32 x) {
  return F32{__builtin_sqrtf(x[0]), __builtin_sqrtf(x[1]), __builtin_sqrtf(x[2]),
             __builtin_sqrtf(x[3])};
}
SSL_SIMD F32 at_least(F32 x, F32 bound) {
  const I32 below = x < bound;
  return (F32)(((I32)x & ~below) | ((I32)bound & below));
}
SSL_SIMD F32 abs(F32 x) { return (F32)((I32)x & 0x7fffffff); }
SSL_SIMD Mask ge(F32 a, F32 b) { return a >= b; }
SSL_SIMD Mask not_ge(F32 a, F32 b) { return ~(a >= b); }
SSL_SIMD Mask invert(Mask m) { return ~m; }
SSL_SIMD F32 keep_where(Mask m, F32 x) { return (F32)((I32)x & m); }
SSL_SIMD F32 drop_where(Mask m, F32 x) { return (F32)((I32)x & ~m); }
SSL_SIMD Mask first_not_second(Mask a, Mask b) { return a & ~b; }
SSL_SIMD F32 add_where(Mask m, F32 sum, F32 x) { return sum + (F32)((I32)x & m); }
SSL_SIMD F32 fma_where(Mask m, F32 a, F32 b, F32 sum) { return sum + (F32)((I32)a & m) * b; }
SSL_SIMD Mask opposite_signs(F32 a, F32 b) { return (((I32)a ^ (I32)b) >> 31) & (a != set1(0.0f)); }
SSL_SIMD F32 nudge_up_if_opposite(F32 x, F32 a, F32 b) {
  return (F32)((I32)x - (((I32)a ^ (I32)b) >> 31));
}

#endif

// Sums of groups of eight neighbouring lanes, for `kCount` vectors at once. Group g of vector i
// goes to out[i * stride + g]. A set whose vectors have fewer lanes sums all it has: it meets a
// group in several vectors, which the caller has added.
template <int kCount>
SSL_SIMD void sum_lanes_by_8(const F32 (&x)[kCount], float* out, int stride);

#if defined(SSL_FAST_ISA_AVX512)

// Four vectors to one: lane i of each 128-bit part holds that part's sum of vector i.
SSL_SIMD F32 sum_parts(F32 a, F32 b, F32 c, F32 d) {
  const F32 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const F32 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d x = _mm512_castps_pd(ab), y = _mm512_castps_pd(cd);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}
// Lanes 2i and 2i + 1 to out[i * stride] and the place behind it.
SSL_SIMD void store_pairs(__m256 pairs, int count, float* out, int stride) {
  const __m128 low = _mm256_castps256_ps128(pairs), high = _mm256_extractf128_ps(pairs, 1);
  _mm_storel_pi((__m64*)out, low);
  if (count > 1) _mm_storeh_pi((__m64*)(out + stride), low);
  if (count > 2) _mm_storel_pi((__m64*)(out + 2 * stride), high);
  if (count > 3) _mm_storeh_pi((__m64*)(out + 3 * stride), high);
}
template <int kCount>
SSL_SIMD void sum_lanes_by_8(const F32 (&x)[kCount], float* out, int stride) {
  const F32 zero = _mm512_setzero_ps();
  const __m256i transpose = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i += 4) {
    const F32 parts = sum_parts(x[i], i + 1 < kCount ? x[i + 1] : zero,
                                i + 2 < kCount ? x[i + 2] : zero, i + 3 < kCount ? x[i + 3] : zero);
    const F32 even = _mm512_shuffle_f32x4(parts, parts, 0x88);
    const F32 odd = _mm512_shuffle_f32x4(parts, parts, 0xdd);
    const __m256 sums = _mm512_castps512_ps256(_mm512_add_ps(even, odd));
    store_pairs(_mm256_permutevar8x32_ps(sums, transpose), kCount - i, out + i * stride, stride);
  }
}

#elif defined(SSL_FAST_ISA_AVX2)

// Four vectors to one: lane i of each 128-bit part holds that part's sum of vector i.
SSL_SIMD F32 sum_parts(F32 a, F32 b, F32 c, F32 d) {
  return _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
}
SSL_SIMD void store_singles(__m128 x, int count, float* out, int stride) {
  _mm_store_ss(out, x);
  if (count > 1) _mm_store_ss(out + stride, _mm_movehdup_ps(x));
  if (count > 2) _mm_store_ss(out + 2 * stride, _mm_unpackhi_ps(x, x));
  if (count > 3) _mm_store_ss(out + 3 * stride, _mm_shuffle_ps(x, x, 3));
}
template <int kCount>
SSL_SIMD void sum_lanes_by_8(const F32 (&x)[kCount], float* out, int stride) {
  const F32 zero = _mm256_setzero_ps();
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i += 4) {
    const F32 abcd = sum_parts(x[i], i + 1 < kCount ? x[i + 1] : zero,
                               i + 2 < kCount ? x[i + 2] : zero, i + 3 < kCount ? x[i + 3] : zero);
    const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
    store_singles(sums, kCount - i, out + i * stride, stride);
  }
}

#else

template <int kCount>
SSL_SIMD void sum_lanes_by_8(const F32 (&x)[kCount], float* out, int stride) {
  for (int i = 0; i < kCount; ++i) out[i * stride] = (x[i][0] + x[i][1]) + (x[i][2] + x[i][3]);
}

#endif

}  // namespace ssl_fast::SSL_FAST_ISA::simd
