// Vectors of 16-bit integers for exact arithmetic on 8-bit images; only with AVX2 and AVX-512.
//
// A vector is made of two halves that may come from different places. `pair_low` and `pair_high`
// interleave two vectors to pairs (a, b), one pair to a 32-bit lane: 128-bit part j then holds
// elements 8j .. 8j+3 (low) and 8j+4 .. 8j+7 (high). So each part belongs to eight neighbours.
#pragma once

#include "common/simd.h"

#if defined(SSL_FAST_ISA_AVX512) || defined(SSL_FAST_ISA_AVX2)
#define SSL_FAST_HAS_I16 1

namespace ssl_fast::SSL_FAST_ISA::simd {

#if defined(SSL_FAST_ISA_AVX512)

constexpr int kHalfI16 = 16;
using I16 = __m512i;
using HalfI16 = __m256i;

SSL_SIMD I16 load_whole(const int16_t* p) { return _mm512_loadu_si512(p); }
SSL_SIMD HalfI16 load_half(const int16_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
SSL_SIMD I16 join(HalfI16 a, HalfI16 b) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}
SSL_SIMD I16 widen(const uint8_t* p) {
  return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)p));
}
SSL_SIMD HalfI16 widen_half(const uint8_t* p) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p));
}
SSL_SIMD void store(int16_t* p, I16 x) { _mm512_storeu_si512(p, x); }
SSL_SIMD void store(int16_t* p, HalfI16 x) { _mm256_storeu_si256((__m256i*)p, x); }
SSL_SIMD I16 add16(I16 a, I16 b) { return _mm512_add_epi16(a, b); }
SSL_SIMD I16 sub16(I16 a, I16 b) { return _mm512_sub_epi16(a, b); }
SSL_SIMD I16 abs16(I16 x) { return _mm512_abs_epi16(x); }
// a ^ b where a is not zero, else 0: its sign bit says that the signs differ.
SSL_SIMD I16 sign_difference(I16 a, I16 b) {
  return _mm512_maskz_mov_epi16(_mm512_test_epi16_mask(a, a), _mm512_xor_si512(a, b));
}
SSL_SIMD I16 pair_low(I16 a, I16 b) { return _mm512_unpacklo_epi16(a, b); }
SSL_SIMD I16 pair_high(I16 a, I16 b) { return _mm512_unpackhi_epi16(a, b); }
SSL_SIMD I16 set_pair(int16_t a, int16_t b) {
  return _mm512_set1_epi32((uint16_t)a | (uint32_t)(uint16_t)b << 16);
}
SSL_SIMD I16 dot_pairs(I16 a, I16 b) { return _mm512_madd_epi16(a, b); }
SSL_SIMD F32 to_f32(I16 x) { return _mm512_cvtepi32_ps(x); }
SSL_SIMD Mask negative32(I16 x) { return _mm512_cmplt_epi32_mask(x, _mm512_setzero_si512()); }
// Eight floats of each half, in the order of pair_low and pair_high.
SSL_SIMD F32 join(const float* a, const float* b) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
}
SSL_SIMD F32 set_halves(float a, float b) {
  return _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(a), _mm512_set1_ps(b));
}
// Sums of the four lanes of each 128-bit part of `kCount` vectors; parts of vector i to
// out[i * stride ...], those of the first half at out_a, of the second at out_b.
template <int kCount>
SSL_SIMD void sum_parts(const F32 (&x)[kCount], float* out_a, float* out_b, int stride) {
  const F32 zero = _mm512_setzero_ps();
  const __m512i transpose = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i += 4) {
    const F32 sums = _mm512_permutexvar_ps(
        transpose, sum_parts(x[i], i + 1 < kCount ? x[i + 1] : zero,
                             i + 2 < kCount ? x[i + 2] : zero, i + 3 < kCount ? x[i + 3] : zero));
    store_pairs(_mm512_castps512_ps256(sums), kCount - i, out_a + i * stride, stride);
    store_pairs(_mm512_extractf32x8_ps(sums, 1), kCount - i, out_b + i * stride, stride);
  }
}

#else

constexpr int kHalfI16 = 8;
using I16 = __m256i;
using HalfI16 = __m128i;

SSL_SIMD I16 load_whole(const int16_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
SSL_SIMD HalfI16 load_half(const int16_t* p) { return _mm_loadu_si128((const __m128i*)p); }
SSL_SIMD I16 join(HalfI16 a, HalfI16 b) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
}
SSL_SIMD I16 widen(const uint8_t* p) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p));
}
SSL_SIMD HalfI16 widen_half(const uint8_t* p) {
  return _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i*)p));
}
SSL_SIMD void store(int16_t* p, I16 x) { _mm256_storeu_si256((__m256i*)p, x); }
SSL_SIMD void store(int16_t* p, HalfI16 x) { _mm_storeu_si128((__m128i*)p, x); }
SSL_SIMD I16 add16(I16 a, I16 b) { return _mm256_add_epi16(a, b); }
SSL_SIMD I16 sub16(I16 a, I16 b) { return _mm256_sub_epi16(a, b); }
SSL_SIMD I16 abs16(I16 x) { return _mm256_abs_epi16(x); }
SSL_SIMD I16 sign_difference(I16 a, I16 b) {
  const __m256i zero = _mm256_cmpeq_epi16(a, _mm256_setzero_si256());
  return _mm256_andnot_si256(zero, _mm256_xor_si256(a, b));
}
SSL_SIMD I16 pair_low(I16 a, I16 b) { return _mm256_unpacklo_epi16(a, b); }
SSL_SIMD I16 pair_high(I16 a, I16 b) { return _mm256_unpackhi_epi16(a, b); }
SSL_SIMD I16 set_pair(int16_t a, int16_t b) {
  return _mm256_set1_epi32((uint16_t)a | (uint32_t)(uint16_t)b << 16);
}
SSL_SIMD I16 dot_pairs(I16 a, I16 b) { return _mm256_madd_epi16(a, b); }
SSL_SIMD F32 to_f32(I16 x) { return _mm256_cvtepi32_ps(x); }
SSL_SIMD Mask negative32(I16 x) { return {_mm256_castsi256_ps(_mm256_srai_epi32(x, 31))}; }
SSL_SIMD F32 join(const float* a, const float* b) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
}
SSL_SIMD F32 set_halves(float a, float b) {
  return _mm256_blend_ps(_mm256_set1_ps(a), _mm256_set1_ps(b), 0xf0);
}
template <int kCount>
SSL_SIMD void sum_parts(const F32 (&x)[kCount], float* out_a, float* out_b, int stride) {
  const F32 zero = _mm256_setzero_ps();
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i += 4) {
    const F32 sums = sum_parts(x[i], i + 1 < kCount ? x[i + 1] : zero,
                               i + 2 < kCount ? x[i + 2] : zero, i + 3 < kCount ? x[i + 3] : zero);
    store_singles(_mm256_castps256_ps128(sums), kCount - i, out_a + i * stride, stride);
    store_singles(_mm256_extractf128_ps(sums, 1), kCount - i, out_b + i * stride, stride);
  }
}

#endif

}  // namespace ssl_fast::SSL_FAST_ISA::simd
#endif
