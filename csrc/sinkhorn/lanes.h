// One text for vectors of floats and for single doubles. For `sinkhorn_cpu.cpp` alone.
#pragma once

#include "common/simd_exp.h"

namespace ssl_fast::sinkhorn::SSL_FAST_ISA {

namespace simd = ssl_fast::SSL_FAST_ISA::simd;

template <typename Real>
struct Lanes;

template <>
struct Lanes<float> {
  using Type = simd::F32;
  static constexpr int kWidth = simd::kWidth;
  static SSL_SIMD Type set(float x) { return simd::set1(x); }
  template <typename T>
  static SSL_SIMD Type load(const T* p) {
    return simd::load(p);
  }
  static SSL_SIMD void store(float* p, Type x) { simd::store(p, x); }
  static SSL_SIMD Type add(Type a, Type b) { return simd::add(a, b); }
  static SSL_SIMD Type sub(Type a, Type b) { return simd::sub(a, b); }
  static SSL_SIMD Type mul(Type a, Type b) { return simd::mul(a, b); }
  static SSL_SIMD Type fma(Type a, Type b, Type c) { return simd::fma(a, b, c); }
  static SSL_SIMD Type max(Type x, Type bound) { return simd::at_least(x, bound); }
  static SSL_SIMD Type exp(Type x) { return simd::exp(x); }
};

template <>
struct Lanes<double> {
  using Type = double;
  static constexpr int kWidth = 1;
  static SSL_SIMD double set(double x) { return x; }
  template <typename T>
  static SSL_SIMD double load(const T* p) {
    return to_float(*p);
  }
  static SSL_SIMD double load(const double* p) { return *p; }
  static SSL_SIMD void store(double* p, double x) { *p = x; }
  static SSL_SIMD double add(double a, double b) { return a + b; }
  static SSL_SIMD double sub(double a, double b) { return a - b; }
  static SSL_SIMD double mul(double a, double b) { return a * b; }
  static SSL_SIMD double fma(double a, double b, double c) { return a * b + c; }
  static SSL_SIMD double max(double x, double bound) { return x < bound ? bound : x; }
  static SSL_SIMD double exp(double x) { return __builtin_exp(x); }
};

// Lanes of one vector, summed in double and in order.
template <typename Real>
SSL_SIMD double sum_of(typename Lanes<Real>::Type x) {
  Real lanes[Lanes<Real>::kWidth];
  Lanes<Real>::store(lanes, x);
  double sum = 0.0;
  for (Real lane : lanes) sum += lane;
  return sum;
}
template <typename Real>
SSL_SIMD Real max_of(typename Lanes<Real>::Type x) {
  Real lanes[Lanes<Real>::kWidth];
  Lanes<Real>::store(lanes, x);
  Real most = lanes[0];
  for (Real lane : lanes) most = lane > most ? lane : most;
  return most;
}

template <typename T>
SSL_SIMD T minus_infinity() {
  return -__builtin_inff();
}
template <>
SSL_SIMD Half minus_infinity<Half>() {
  return {0xfc00};
}
template <>
SSL_SIMD BFloat16 minus_infinity<BFloat16>() {
  return {0xff80};
}
template <>
SSL_SIMD double minus_infinity<double>() {
  return -__builtin_inf();
}

// The scores from column k on; -inf behind the last.
template <typename Real, typename T>
SSL_SIMD typename Lanes<Real>::Type load_scores(const T* row, int64_t k, int64_t columns) {
  constexpr int kWidth = Lanes<Real>::kWidth;
  if (k + kWidth <= columns) return Lanes<Real>::load(row + k);
  T values[kWidth];
  for (int i = 0; i < kWidth; ++i) values[i] = k + i < columns ? row[k + i] : minus_infinity<T>();
  return Lanes<Real>::load(values);
}

}  // namespace ssl_fast::sinkhorn::SSL_FAST_ISA
