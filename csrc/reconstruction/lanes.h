// One formula for whole vectors and for the elements left over: "lanes" are a vector of floats, one
// float or one double. For `masked_patch_loss_cpu.cpp` alone.
#pragma once

#include "common/simd.h"

namespace ssl_fast::reconstruction::SSL_FAST_ISA {

namespace simd = ssl_fast::SSL_FAST_ISA::simd;
using namespace simd;
using simd::abs, simd::add, simd::mul, simd::sub;  // else the overloads below would hide them

// Which lanes are meant: one of a few vectors that are worked on at a time, or one number.
constexpr int kSlots = 4;
template <int kSlot>
struct Vector {};
template <typename Real>
struct One {};

template <int kSlot, typename T>
SSL_SIMD F32 get(Vector<kSlot>, const T* p) {
  return load(p);
}
template <typename T>
SSL_SIMD float get(One<float>, const T* p) {
  return to_float(*p);
}
template <typename T>
SSL_SIMD double get(One<double>, const T* p) {
  return to_float(*p);
}
SSL_SIMD double get(One<double>, const double* p) { return *p; }

template <typename T>
SSL_SIMD void put(T* p, F32 x) {
  store(p, x);
}
SSL_SIMD void put(float* p, float x) { *p = x; }
SSL_SIMD void put(Half* p, float x) { *p = from_float<Half>(x); }
SSL_SIMD void put(BFloat16* p, float x) { *p = from_float<BFloat16>(x); }
SSL_SIMD void put(double* p, double x) { *p = x; }
SSL_SIMD void put(float* p, double x) { *p = static_cast<float>(x); }
SSL_SIMD void put(Half* p, double x) { *p = from_float<Half>(static_cast<float>(x)); }
SSL_SIMD void put(BFloat16* p, double x) { *p = from_float<BFloat16>(static_cast<float>(x)); }

template <int kSlot>
SSL_SIMD F32 spread(Vector<kSlot>, float x) {
  return set1(x);
}
SSL_SIMD float spread(One<float>, float x) { return x; }
SSL_SIMD double spread(One<double>, double x) { return x; }

SSL_SIMD float add(float a, float b) { return a + b; }
SSL_SIMD float sub(float a, float b) { return a - b; }
SSL_SIMD float mul(float a, float b) { return a * b; }
SSL_SIMD float abs(float x) { return __builtin_fabsf(x); }
SSL_SIMD double add(double a, double b) { return a + b; }
SSL_SIMD double sub(double a, double b) { return a - b; }
SSL_SIMD double mul(double a, double b) { return a * b; }
SSL_SIMD double abs(double x) { return __builtin_fabs(x); }

// `value` with the sign of x; 0 where x is 0 or NaN.
SSL_SIMD F32 with_sign_of(F32 x, F32 value) {
  const F32 zero = set1(0.0f);
  const F32 positive = drop_where(not_ge(x, zero), value);
  const F32 negative = drop_where(not_ge(zero, x), value);
  return sub(positive, negative);
}
SSL_SIMD float with_sign_of(float x, float value) {
  return (x > 0 ? value : 0) - (x < 0 ? value : 0);
}
SSL_SIMD double with_sign_of(double x, double value) {
  return (x > 0 ? value : 0) - (x < 0 ? value : 0);
}

template <typename Real>
constexpr bool kVectors = false;
template <>
inline constexpr bool kVectors<float> = true;

// The sum of all lanes, as a tree of halves.
SSL_SIMD float sum_lanes(F32 x) {
#if defined(SSL_FAST_ISA_AVX512)
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
#elif defined(SSL_FAST_ISA_AVX2)
  const __m256 half = x;
#endif
#if defined(SSL_FAST_ISA_AVX512) || defined(SSL_FAST_ISA_AVX2)
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  return (x[0] + x[2]) + (x[1] + x[3]);
#endif
}

// Calls f(lanes meant, i) along 0 .. n - 1: whole vectors first, then one by one.
template <typename Real, typename Function>
SSL_SIMD void for_lanes(int64_t n, Function f) {
  int64_t i = 0;
  if constexpr (kVectors<Real>) {
    for (; i + kSlots * kWidth <= n; i += kSlots * kWidth) {
      f(Vector<0>{}, i);
      f(Vector<1>{}, i + kWidth);
      f(Vector<2>{}, i + 2 * kWidth);
      f(Vector<3>{}, i + 3 * kWidth);
    }
    for (; i + kWidth <= n; i += kWidth) f(Vector<0>{}, i);
  }
  for (; i < n; ++i) f(One<Real>{}, i);
}

// A sum in a fixed order: lanes for a while, then a tree over them, then in double.
template <typename Real>
class Sum {
 public:
  template <int kSlot>
  SSL_SIMD void add_lanes(Vector<kSlot>, F32 x) {
    lanes_[kSlot] = add(lanes_[kSlot], x);
    if (kSlot == 0) count();
  }
  SSL_SIMD void add_lanes(One<Real>, Real x) {
    rest_ += x;
    count();
  }
  SSL_SIMD double total() {
    flush();
    return total_;
  }

 private:
  static constexpr int kFlushAfter = 64;

  SSL_SIMD void count() {
    if (++added_ == kFlushAfter) flush();
  }
  SSL_SIMD void flush() {
    if constexpr (kVectors<Real>) {
      total_ += sum_lanes(add(add(lanes_[0], lanes_[1]), add(lanes_[2], lanes_[3])));
      for (F32& lanes : lanes_) lanes = set1(0.0f);
    }
    total_ += rest_;
    rest_ = 0;
    added_ = 0;
  }

  F32 lanes_[kSlots] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  Real rest_ = 0;
  double total_ = 0.0;
  int added_ = 0;
};

}  // namespace ssl_fast::reconstruction::SSL_FAST_ISA
