// Pixels and predictions, widened and brought into the order that the loss runs along. For
// `masked_patch_loss_cpu.cpp` alone.
#pragma once

#include "reconstruction/lanes.h"
#include "reconstruction/masked_patch_loss.h"

namespace ssl_fast::reconstruction::SSL_FAST_ISA {

// Neighbouring patches of one row that are handled as one: all but one only where a patch is not
// looked at as a whole.
struct Rectangle {
  int64_t image, row, column, patches;
};

SSL_SIMD int64_t elements(const Params& p, const Rectangle& r) {
  return p.channels * p.patch * p.patch * r.patches;
}
template <typename T>
SSL_SIMD const T* first_element(const PatchView& view, const Rectangle& r) {
  return static_cast<const T*>(view.data) + r.image * view.image + r.row * view.row +
         r.column * view.column;
}

template <typename Real, typename T>
SSL_SIMD void widen_row(const T* from, int64_t stride, int64_t count, Real* to) {
  if (stride == 1) {
    for_lanes<Real>(count, [&](auto tag, int64_t i)
                               __attribute__((always_inline)) { put(to + i, get(tag, from + i)); });
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = get(One<Real>{}, from + i * stride);
  }
}

// Three rows to one of triples, as far as whole vectors go; returns how many pixels that was.
#if defined(SSL_FAST_ISA_AVX512) || defined(SSL_FAST_ISA_AVX2)

// Vector `kThird` of three: lane i holds element e = kThird * kWidth + i, pixel e / 3 of row e % 3.
#if defined(SSL_FAST_ISA_AVX512)
template <int kThird>
SSL_SIMD F32 triples(F32 a, F32 b, F32 c) {
  constexpr int e = kThird * kWidth;
  const __m512i pixel =
      _mm512_setr_epi32(e / 3, (e + 1) / 3, (e + 2) / 3, (e + 3) / 3, (e + 4) / 3, (e + 5) / 3,
                        (e + 6) / 3, (e + 7) / 3, (e + 8) / 3, (e + 9) / 3, (e + 10) / 3,
                        (e + 11) / 3, (e + 12) / 3, (e + 13) / 3, (e + 14) / 3, (e + 15) / 3);
  constexpr uint64_t kFirst = 0x249249249249;  // every third element, from 0
  constexpr __mmask16 kB = kFirst << 1 >> e & 0xffff, kC = kFirst << 2 >> e & 0xffff;
  const F32 ab = _mm512_mask_permutexvar_ps(_mm512_permutexvar_ps(pixel, a), kB, pixel, b);
  return _mm512_mask_permutexvar_ps(ab, kC, pixel, c);
}
#else
template <int kThird>
SSL_SIMD F32 triples(F32 a, F32 b, F32 c) {
  constexpr int e = kThird * kWidth;
  const __m256i pixel = _mm256_setr_epi32(e / 3, (e + 1) / 3, (e + 2) / 3, (e + 3) / 3, (e + 4) / 3,
                                          (e + 5) / 3, (e + 6) / 3, (e + 7) / 3);
  constexpr uint32_t kFirst = 0x249249;  // every third element, from 0
  constexpr int kB = kFirst << 1 >> e & 0xff, kC = kFirst << 2 >> e & 0xff;
  const F32 ab =
      _mm256_blend_ps(_mm256_permutevar8x32_ps(a, pixel), _mm256_permutevar8x32_ps(b, pixel), kB);
  return _mm256_blend_ps(ab, _mm256_permutevar8x32_ps(c, pixel), kC);
}
#endif

template <typename T>
SSL_SIMD int64_t interleave_vectors(const T* from, int64_t channel, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const F32 a = load(from + i), b = load(from + channel + i), c = load(from + 2 * channel + i);
    store(to + 3 * i, triples<0>(a, b, c));
    store(to + 3 * i + kWidth, triples<1>(a, b, c));
    store(to + 3 * i + 2 * kWidth, triples<2>(a, b, c));
  }
  return i;
}
#else
template <typename T>
SSL_SIMD int64_t interleave_vectors(const T*, int64_t, int64_t, float*) {
  return 0;
}
#endif
template <typename T>
SSL_SIMD int64_t interleave_vectors(const T*, int64_t, int64_t, double*) {
  return 0;
}

// One row of pixels, `count` long, to the order (pixel, channel).
template <typename Real, typename T>
SSL_SIMD void interleave_row(const Params& p, const PatchView& view, const T* from, int64_t count,
                             Real* to) {
  if (view.channel == 1 && view.x == p.channels) return widen_row(from, 1, count * p.channels, to);
  if (p.channels == 1) return widen_row(from, view.x, count, to);
  int64_t i = 0;
  if (p.channels == 3 && view.x == 1) i = interleave_vectors(from, view.channel, count, to);
  for (; i < count; ++i)
    for (int64_t c = 0; c < p.channels; ++c)
      to[i * p.channels + c] = get(One<Real>{}, from + i * view.x + c * view.channel);
}

// The whole rectangle, in the order that the loss runs along.
template <typename Real, typename T>
SSL_SIMD void gather_of(const Params& p, const PatchView& view, const Rectangle& r, Real* to) {
  const T* from = first_element<T>(view, r);
  const int64_t width = p.patch * r.patches;
  if (!p.image_shaped) {
    for (int64_t y = 0; y < p.patch; ++y, to += width * p.channels)
      interleave_row(p, view, from + y * view.y, width, to);
    return;
  }
  for (int64_t c = 0; c < p.channels; ++c)
    for (int64_t y = 0; y < p.patch; ++y, to += width)
      widen_row(from + c * view.channel + y * view.y, view.x, width, to);
}

// float64 is never narrowed: whoever works with floats has no such view.
template <typename Real>
__attribute__((noinline)) void gather(const Params& p, const PatchView& view, const Rectangle& r,
                                      Real* to) {
  switch (view.dtype) {
    case DType::kUInt8:
      return gather_of<Real, uint8_t>(p, view, r, to);
    case DType::kFloat16:
      return gather_of<Real, Half>(p, view, r, to);
    case DType::kBFloat16:
      return gather_of<Real, BFloat16>(p, view, r, to);
    case DType::kFloat32:
      return gather_of<Real, float>(p, view, r, to);
    case DType::kFloat64:
      if constexpr (!kVectors<Real>) gather_of<Real, double>(p, view, r, to);
  }
}

}  // namespace ssl_fast::reconstruction::SSL_FAST_ISA
