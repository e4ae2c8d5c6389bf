// Loops over rows of any float type, in vectors and their rest, for the `_cpu.cpp` files. Included
// with SSL_FAST_ISA defined (see common/simd.h).
#pragma once

#include "common/simd.h"

namespace ssl_fast::SSL_FAST_ISA::lanes {

// The two ways of going along a row that is computed in float, and the one in double.
struct Vector {
  using Value = simd::F32;
  static constexpr int kWidth = simd::kWidth;
  static SSL_SIMD Value zero() { return simd::set1(0.0f); }
  static SSL_SIMD Value set1(float x) { return simd::set1(x); }
  template <typename T>
  static SSL_SIMD Value load(const T* p) {
    return simd::load(p);
  }
  template <typename T>
  static SSL_SIMD void store(T* p, Value x) {
    simd::store(p, x);
  }
  static SSL_SIMD Value add(Value a, Value b) { return simd::add(a, b); }
  static SSL_SIMD Value sub(Value a, Value b) { return simd::sub(a, b); }
  static SSL_SIMD Value mul(Value a, Value b) { return simd::mul(a, b); }
};

// Past the caches: for output that none of them keeps, in rows that begin and end with a cache
// line.
struct Streaming : Vector {
  template <typename T>
  static SSL_SIMD void store(T* p, Value x) {
    simd::stream(p, x);
  }
};

template <typename Float>
struct Scalar {
  using Value = Float;
  static constexpr int kWidth = 1;
  static SSL_SIMD Value zero() { return 0; }
  static SSL_SIMD Value set1(Float x) { return x; }
  template <typename T>
  static SSL_SIMD Value load(const T* p) {
    return to_float(*p);
  }
  static SSL_SIMD Value load(const double* p) { return *p; }
  template <typename T>
  static SSL_SIMD void store(T* p, Value x) {
    *p = from_float<T>(x);
  }
  static SSL_SIMD void store(double* p, Value x) { *p = x; }
  static SSL_SIMD Value add(Value a, Value b) { return a + b; }
  static SSL_SIMD Value sub(Value a, Value b) { return a - b; }
  static SSL_SIMD Value mul(Value a, Value b) { return a * b; }
};

// What a row of these types is computed in: double where one of them is.
template <typename A, typename B>
struct ComputeOf {
  using Type = float;
};
template <typename A>
struct ComputeOf<A, double> {
  using Type = double;
};
template <typename B>
struct ComputeOf<double, B> {
  using Type = double;
};
template <>
struct ComputeOf<double, double> {
  using Type = double;
};

// Calls step(lanes, i) along 0 .. count - 1.
template <typename Compute, typename Vectors = Vector, typename Step>
SSL_SIMD void along(int64_t count, Step step) {
  int64_t i = 0;
  if constexpr (sizeof(Compute) == sizeof(float))
    for (; i + Vectors::kWidth <= count; i += Vectors::kWidth) step(Vectors{}, i);
  for (; i < count; ++i) step(Scalar<Compute>{}, i);
}

// Calls function(T{}) with the type that `dtype` names.
template <typename Function>
SSL_SIMD void with_float_type(DType dtype, Function function) {
  switch (dtype) {
    case DType::kFloat16:
      return function(Half{});
    case DType::kBFloat16:
      return function(BFloat16{});
    case DType::kFloat64:
      return function(double{});
    default:
      return function(float{});
  }
}

}  // namespace ssl_fast::SSL_FAST_ISA::lanes
