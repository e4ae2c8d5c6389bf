// One formula for a vector of floats and for one double: what the rows of a tile are read and
// written by. For the `_cpu.cpp` files of this folder alone.
#pragma once

#include "common/simd_math.h"

namespace ssl_fast::contrastive::SSL_FAST_ISA {

namespace simd = ssl_fast::SSL_FAST_ISA::simd;
using simd::abs, simd::add, simd::at_least, simd::at_most, simd::div, simd::exp, simd::fma;
using simd::choose, simd::log1p_of_fraction, simd::mul, simd::not_ge, simd::sub;
using simd::F32, simd::Mask;

// What a tile is computed in, by the type of its elements.
template <typename T>
struct Traits {
  using Real = float;
  using Lanes = F32;
  static constexpr int kWidth = simd::kWidth;
};
template <>
struct Traits<double> {
  using Real = double;
  using Lanes = double;
  static constexpr int kWidth = 1;
};
template <typename T>
using RealOf = typename Traits<T>::Real;
template <typename T>
using LanesOf = typename Traits<T>::Lanes;

constexpr float kInfinity = __builtin_inff();

SSL_SIMD F32 spread(float x) { return simd::set1(x); }
SSL_SIMD double spread(double x) { return x; }
SSL_SIMD double add(double a, double b) { return a + b; }
SSL_SIMD double sub(double a, double b) { return a - b; }
SSL_SIMD double mul(double a, double b) { return a * b; }
SSL_SIMD double div(double a, double b) { return a / b; }
SSL_SIMD double fma(double a, double b, double c) { return a * b + c; }
SSL_SIMD double abs(double x) { return __builtin_fabs(x); }
SSL_SIMD double at_least(double x, double bound) { return x < bound ? bound : x; }
SSL_SIMD double at_most(double x, double bound) { return x > bound ? bound : x; }
SSL_SIMD double exp(double x) { return __builtin_exp(x); }
SSL_SIMD double log1p_of_fraction(double x) { return __builtin_log1p(x); }
SSL_SIMD bool not_ge(double a, double b) { return !(a >= b); }
SSL_SIMD double choose(bool m, double yes, double no) { return m ? yes : no; }

template <typename T>
SSL_SIMD double value_of(T x) {
  return to_float(x);
}
SSL_SIMD double value_of(double x) { return x; }
SSL_SIMD void set(float* p, double x) { *p = static_cast<float>(x); }
SSL_SIMD void set(double* p, double x) { *p = x; }
SSL_SIMD void set(BFloat16* p, double x) { *p = from_float<BFloat16>(static_cast<float>(x)); }

// Which lanes are meant: all of the vector `kSlot` of four that are worked on at a time, or the
// first few of the last.
constexpr int kSlots = 4;
template <int kNumber>
struct Full {
  static constexpr int kSlot = kNumber;
};
struct Part {
  static constexpr int kSlot = 0;
  int count;
};

template <int kSlot, typename T>
SSL_SIMD F32 get(Full<kSlot>, const T* p) {
  return simd::load(p);
}
template <int kSlot>
SSL_SIMD double get(Full<kSlot>, const double* p) {
  return *p;
}
// The lanes that are not meant repeat the first: no maximum, no minimum changes.
template <typename T>
SSL_SIMD F32 get(Part part, const T* p) {
  float values[simd::kWidth];
  for (int i = 0; i < simd::kWidth; ++i) values[i] = to_float(p[i < part.count ? i : 0]);
  return simd::load(values);
}
SSL_SIMD double get(Part, const double* p) { return *p; }

template <int kSlot, typename T>
SSL_SIMD void put(Full<kSlot>, T* p, F32 x) {
  simd::store(p, x);
}
template <int kSlot>
SSL_SIMD void put(Full<kSlot>, double* p, double x) {
  *p = x;
}
template <typename T>
SSL_SIMD void put(Part part, T* p, F32 x) {
  float values[simd::kWidth];
  simd::store(values, x);
  for (int i = 0; i < part.count; ++i) p[i] = from_float<T>(values[i]);
}
SSL_SIMD void put(Part, double* p, double x) { *p = x; }

// 0 in the lanes that are not meant.
template <int kSlot, typename Lanes>
SSL_SIMD Lanes meant(Full<kSlot>, Lanes x) {
  return x;
}
SSL_SIMD F32 meant(Part part, F32 x) {
  float places[simd::kWidth];
  for (int i = 0; i < simd::kWidth; ++i) places[i] = static_cast<float>(i);
  return simd::keep_where(not_ge(simd::load(places), spread(static_cast<float>(part.count))), x);
}
SSL_SIMD double meant(Part, double x) { return x; }

// Calls f(lanes meant, i) along begin .. end - 1.
template <typename T, typename Function>
SSL_SIMD void for_lanes(int64_t begin, int64_t end, Function f) {
  constexpr int kWidth = Traits<T>::kWidth;
  int64_t i = begin;
  for (; i + kSlots * kWidth <= end; i += kSlots * kWidth) {
    f(Full<0>{}, i);
    f(Full<1>{}, i + kWidth);
    f(Full<2>{}, i + 2 * kWidth);
    f(Full<3>{}, i + 3 * kWidth);
  }
  for (; i + kWidth <= end; i += kWidth) f(Full<0>{}, i);
  if (i < end) f(Part{static_cast<int>(end - i)}, i);
}

SSL_SIMD double sum_lanes(F32 x) {
  float values[simd::kWidth];
  simd::store(values, x);
  for (int half = simd::kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) values[i] += values[i + half];
  return values[0];
}
SSL_SIMD double sum_lanes(double x) { return x; }
SSL_SIMD double largest(F32 x) {
  float values[simd::kWidth];
  simd::store(values, x);
  for (int i = 1; i < simd::kWidth; ++i) values[0] = values[i] < values[0] ? values[0] : values[i];
  return values[0];
}
SSL_SIMD double largest(double x) { return x; }

// A sum along lanes, four at a time, in a fixed order.
template <typename T>
struct Sum {
  LanesOf<T> slots[kSlots] = {spread(RealOf<T>(0)), spread(RealOf<T>(0)), spread(RealOf<T>(0)),
                              spread(RealOf<T>(0))};
  template <typename Which>
  SSL_SIMD void include(Which which, LanesOf<T> x) {
    slots[Which::kSlot] = add(slots[Which::kSlot], meant(which, x));
  }
  // slots + a * b
  template <typename Which>
  SSL_SIMD void include(Which which, LanesOf<T> a, LanesOf<T> b) {
    slots[Which::kSlot] = fma(meant(which, a), b, slots[Which::kSlot]);
  }
  SSL_SIMD double total() const {
    return sum_lanes(add(add(slots[0], slots[1]), add(slots[2], slots[3])));
  }
};

}  // namespace ssl_fast::contrastive::SSL_FAST_ISA
