// A row of a tile, and a chunk of rows. For the `_cpu.cpp` files of this folder alone.
#pragma once

#include "contrastive/lanes.h"
#include "contrastive/similarity.h"

namespace ssl_fast::contrastive::SSL_FAST_ISA {

// Where the logits of a chunk differ by less than this, one exponential serves a row's sum and a
// column's: with the chunk's maximum as the shift of both, no term is less than e^-64.
constexpr double kRange = 64.0;

template <typename Real>
constexpr Real kLowest = -__FLT_MAX__;
template <>
inline constexpr double kLowest<double> = -__DBL_MAX__;

template <typename T>
SSL_SIMD T* at(void* data, int64_t i) {
  return static_cast<T*>(data) + i;
}
template <typename T>
SSL_SIMD const T* at(const void* data, int64_t i) {
  return static_cast<const T*>(data) + i;
}

template <typename T>
struct Row {
  T* dots;
  int64_t place;         // among all rows
  int64_t columns;       // of the tile
  int64_t self, target;  // columns of the tile, or outside
};

template <typename T>
SSL_SIMD Row<T> row_of(const Tile& t, int64_t row) {
  const int64_t place = t.first_row + row;
  return {at<T>(t.data, row * t.stride), place, t.columns, place + t.self_offset - t.first_column,
          t.targets ? t.targets[place] - t.first_column : kNobody};
}
SSL_SIMD bool within(int64_t place, int64_t columns) { return place >= 0 && place < columns; }

// Calls f(begin, end) for what lies between two places.
template <typename Function>
SSL_SIMD void around(int64_t columns, int64_t a, int64_t b, Function f) {
  int64_t begin = 0;
  const int64_t first = a < b ? a : b, second = a < b ? b : a;
  if (within(first, columns)) {
    f(begin, first);
    begin = first + 1;
  }
  if (within(second, columns) && second >= begin) {
    f(begin, second);
    begin = second + 1;
  }
  f(begin, columns);
}

// Smallest and largest; the smallest is larger where there are none.
struct Extremes {
  double bottom = kInfinity, top = -kInfinity;
};

// Of the logits of a row. A NaN may be missed: the exponentials will have it.
template <typename T>
SSL_SIMD Extremes extremes_of(const Row<T>& row, RealOf<T> scale) {
  using Lanes = LanesOf<T>;
  const Lanes none = spread(RealOf<T>(kInfinity)), minus = spread(RealOf<T>(-1));
  Lanes tops[kSlots], bottoms[kSlots];
  for (int i = 0; i < kSlots; ++i) tops[i] = mul(none, minus), bottoms[i] = none;
  around(row.columns, row.self, row.self,
         [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
           for_lanes<T>(begin, end, [&](auto which, int64_t i) __attribute__((always_inline)) {
             constexpr int kSlot = decltype(which)::kSlot;
             const Lanes s = get(which, row.dots + i);
             tops[kSlot] = at_least(s, tops[kSlot]);
             bottoms[kSlot] = at_most(s, bottoms[kSlot]);
           });
         });
  const Lanes top = at_least(at_least(tops[0], tops[1]), at_least(tops[2], tops[3]));
  const Lanes bottom = at_most(at_most(bottoms[0], bottoms[1]), at_most(bottoms[2], bottoms[3]));
  const double high = largest(top), low = -largest(mul(bottom, minus));
  if (low > high) return {};
  const RealOf<T> a = scale * static_cast<RealOf<T>>(low), b = scale * static_cast<RealOf<T>>(high);
  return a < b ? Extremes{a, b} : Extremes{b, a};
}

struct ChunkExtremes {
  Extremes all;
  Extremes rows[kChunk];
};

template <typename T>
SSL_SIMD ChunkExtremes extremes_of_chunk(const Tile& t, int64_t begin, int64_t end) {
  ChunkExtremes e;
  for (int64_t r = begin; r < end; ++r) {
    const Extremes row = extremes_of(row_of<T>(t, r), static_cast<RealOf<T>>(t.scale));
    e.rows[r - begin] = row;
    e.all.top = e.all.top < row.top ? row.top : e.all.top;
    e.all.bottom = row.bottom < e.all.bottom ? row.bottom : e.all.bottom;
    if (row.top != row.top || row.bottom != row.bottom) e.all.bottom = -kInfinity;  // NaN
  }
  return e;
}

SSL_SIMD int64_t end_of_chunk(const Tile& t, int64_t chunk) {
  const int64_t end = (chunk + 1) * kChunk;
  return end < t.rows ? end : t.rows;
}

// Calls f(a value of the type of the tile's elements).
template <typename Function>
SSL_SIMD void for_type(DType dtype, Function f) {
  switch (dtype) {
    case DType::kFloat64:
      return f(double{});
    case DType::kBFloat16:
      return f(BFloat16{});
    default:
      return f(float{});
  }
}

}  // namespace ssl_fast::contrastive::SSL_FAST_ISA
