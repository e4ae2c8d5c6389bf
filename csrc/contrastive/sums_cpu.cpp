// Sums of exponentials over the rows and columns of a tile. Compiled once for each instruction set.
#include "contrastive/rows.h"

namespace ssl_fast::contrastive::SSL_FAST_ISA {

namespace {

// The sum of e^(logit - shift) over a row, each term also added to its column's sum.
template <typename T>
SSL_SIMD double sum_row(const Row<T>& row, RealOf<T> scale, RealOf<T> shift, RealOf<T>* columns) {
  Sum<T> sum;
  around(row.columns, row.self, row.self,
         [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
           for_lanes<T>(begin, end, [&](auto which, int64_t i) __attribute__((always_inline)) {
             const auto logit = mul(get(which, row.dots + i), spread(scale));
             const auto e = exp(sub(logit, spread(shift)));
             sum.include(which, e);
             if (columns) put(which, columns + i, add(get(which, columns + i), e));
           });
         });
  return sum.total();
}

// Continues a sum. One that is 0 has no terms.
template <typename Real>
SSL_SIMD void merge_row(Real* shift, Real* sum, Real part_shift, double part) {
  if (part == 0.0) return;
  const Real old = *shift, top = part_shift > old ? part_shift : old;
  const double kept = old == top ? 1.0 : __builtin_exp(double(old) - top);
  const double added = part_shift == top ? 1.0 : __builtin_exp(double(part_shift) - top);
  *shift = top;
  *sum = static_cast<Real>(*sum * kept + part * added);
}

template <typename Real>
SSL_SIMD void fill(Real* x, int64_t count, Real value) {
  for_lanes<Real>(0, count, [&](auto which, int64_t i) __attribute__((always_inline)) {
    put(which, x + i, spread(value));
  });
}

// Each column's own maximum as its shift, and the terms once more.
template <typename T>
__attribute__((noinline)) void sum_columns(const Tile& t, int64_t first, int64_t end,
                                           RealOf<T>* shifts, RealOf<T>* sums) {
  const RealOf<T> scale = static_cast<RealOf<T>>(t.scale);
  fill(shifts, t.columns, kLowest<RealOf<T>>);
  for (int pass = 0; pass < 2; ++pass)
    for (int64_t r = first; r < end; ++r) {
      const Row<T> row = row_of<T>(t, r);
      around(row.columns, row.self, row.self,
             [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
               for_lanes<T>(begin, end, [&](auto which, int64_t i) __attribute__((always_inline)) {
                 const auto logit = mul(get(which, row.dots + i), spread(scale));
                 const auto shift = get(which, shifts + i);
                 if (pass == 1)
                   put(which, sums + i, add(get(which, sums + i), exp(sub(logit, shift))));
                 else
                   put(which, shifts + i, at_least(logit, shift));
               });
             });
    }
}

template <typename T>
__attribute__((noinline)) void sum_chunk(const SumParams& p, int64_t chunk) {
  using Real = RealOf<T>;
  const Tile& t = p.tile;
  const Real scale = static_cast<Real>(t.scale);
  const int64_t begin = chunk * kChunk, end = end_of_chunk(t, chunk);
  const ChunkExtremes extremes = extremes_of_chunk<T>(t, begin, end);
  const bool by_columns = p.parts.sums != nullptr;
  const bool shared = by_columns && extremes.all.top - extremes.all.bottom < kRange;
  Real* sums = by_columns ? at<Real>(p.parts.sums, chunk * t.columns) : nullptr;
  if (by_columns) fill(sums, t.columns, Real(0));
  for (int64_t r = begin; r < end; ++r) {
    const Row<T> row = row_of<T>(t, r);
    const double top = shared ? extremes.all.top : extremes.rows[r - begin].top;
    const double sum = sum_row(row, scale, static_cast<Real>(top), shared ? sums : nullptr);
    merge_row(at<Real>(p.rows.shifts, row.place), at<Real>(p.rows.sums, row.place),
              static_cast<Real>(top), sum);
    if (p.positives && within(row.target, row.columns))
      *at<Real>(p.positives, row.place) =
          row.target == row.self ? -Real(kInfinity)
                                 : scale * static_cast<Real>(value_of(row.dots[row.target]));
  }
  if (!by_columns) return;
  Real* shifts = at<Real>(p.parts.shifts, chunk * t.columns);
  if (shared)
    fill(shifts, t.columns, static_cast<Real>(extremes.all.top));
  else
    sum_columns<T>(t, begin, end, shifts, sums);
}

template <typename Real>
SSL_SIMD void merge(const SumParams& p, int64_t begin, int64_t end) {
  const Tile& t = p.tile;
  const int64_t chunks = chunks_of(t.rows);
  const Real *part_shifts = at<Real>(p.parts.shifts, 0), *parts = at<Real>(p.parts.sums, 0);
  Real* shifts = at<Real>(p.columns.shifts, t.first_column);
  Real* sums = at<Real>(p.columns.sums, t.first_column);
  for_lanes<Real>(begin, end, [&](auto which, int64_t i) __attribute__((always_inline)) {
    const auto zero = spread(Real(0)), lowest = spread(kLowest<Real>);
    const auto shift_of = [&](int64_t place) __attribute__((always_inline)) {
      return choose(not_ge(zero, get(which, parts + place)), get(which, part_shifts + place),
                    lowest);
    };
    const auto old = get(which, shifts + i);
    auto top = old;
    for (int64_t k = 0; k < chunks; ++k) top = at_least(shift_of(k * t.columns + i), top);
    auto sum = mul(get(which, sums + i), exp(sub(old, top)));
    for (int64_t k = 0; k < chunks; ++k) {
      const int64_t place = k * t.columns + i;
      sum = fma(get(which, parts + place), exp(sub(shift_of(place), top)), sum);
    }
    put(which, shifts + i, top);
    put(which, sums + i, sum);
  });
}

}  // namespace

void sum_exponentials(const SumParams& p, int64_t begin, int64_t end) {
  for (int64_t chunk = begin; chunk < end; ++chunk)
    for_type(p.tile.dtype, [&](auto element) __attribute__((always_inline)) {
      sum_chunk<decltype(element)>(p, chunk);
    });
}

void merge_columns(const SumParams& p, int64_t begin, int64_t end) {
  if (p.tile.dtype == DType::kFloat64)
    merge<double>(p, begin, end);
  else
    merge<float>(p, begin, end);
}

}  // namespace ssl_fast::contrastive::SSL_FAST_ISA
