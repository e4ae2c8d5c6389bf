// Gradients of logits, in the place of the tile's products. Compiled once for each instruction set.
#include "contrastive/rows.h"

namespace ssl_fast::contrastive::SSL_FAST_ISA {

namespace {

// Of rows or of columns.
template <typename Real>
struct Softmax {
  const Real *lse, *correction;

  // For one logit, in double: exactly 1 where the logit is the whole sum.
  SSL_SIMD double one(double logit, int64_t i) const {
    return __builtin_exp(logit - lse[i]) * (correction ? correction[i] : 1.0);
  }
};

// Replaces the products of a row by `gradient(which, i, product)`, at the target by `at_target`.
// Returns the sum of gradient times product.
template <typename T, typename Gradient>
SSL_SIMD double replace_row(const Row<T>& row, double at_target, Gradient gradient) {
  const bool has_target = within(row.target, row.columns);
  const double target_dot = has_target ? value_of(row.dots[row.target]) : 0.0;
  Sum<T> dots;
  around(row.columns, row.self, row.target,
         [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
           for_lanes<T>(begin, end, [&](auto which, int64_t i) __attribute__((always_inline)) {
             const auto s = get(which, row.dots + i);
             const auto g = gradient(which, i, s);
             put(which, row.dots + i, g);
             dots.include(which, g, s);
           });
         });
  if (within(row.self, row.columns)) set(row.dots + row.self, 0.0);
  if (has_target) set(row.dots + row.target, at_target);
  return dots.total() + (has_target ? at_target * target_dot : 0.0);
}

template <typename T>
SSL_SIMD double target_logit(const Row<T>& row, RealOf<T> scale) {
  return scale * static_cast<RealOf<T>>(value_of(row.dots[row.target]));
}

template <typename T>
__attribute__((noinline)) void softmax_chunk(const GradientParams& p, int64_t chunk) {
  using Real = RealOf<T>;
  using Lanes = LanesOf<T>;
  const Tile& t = p.tile;
  const Real scale = static_cast<Real>(t.scale);
  const int64_t begin = chunk * kChunk, end = end_of_chunk(t, chunk);
  const Softmax<Real> rows{at<Real>(p.row_lse, 0),
                           p.row_correction ? at<Real>(p.row_correction, 0) : nullptr};
  const bool by_columns = p.column_lse != nullptr;
  Softmax<Real> columns{};
  if (by_columns) {
    columns.lse = at<Real>(p.column_lse, t.first_column);
    if (p.column_correction) columns.correction = at<Real>(p.column_correction, t.first_column);
  }
  const Extremes all = by_columns ? extremes_of_chunk<T>(t, begin, end).all : Extremes{};
  const bool shared = by_columns && all.top - all.bottom < kRange;
  const Real top = static_cast<Real>(all.top);
  Real* factors = shared ? at<Real>(p.factors, chunk * t.columns) : nullptr;
  if (shared)
    for_lanes<Real>(0, t.columns, [&](auto which, int64_t i) __attribute__((always_inline)) {
      const Lanes e = exp(sub(spread(top), get(which, columns.lse + i)));
      put(which, factors + i, columns.correction ? mul(e, get(which, columns.correction + i)) : e);
    });
  double dots = 0.0;
  for (int64_t r = begin; r < end; ++r) {
    const Row<T> row = row_of<T>(t, r);
    const Real lse = rows.lse[row.place];
    const Real correction = rows.correction ? rows.correction[row.place] : Real(1);
    double at_target = -p.at_target;
    if (within(row.target, row.columns) && row.target != row.self) {
      const double logit = target_logit(row, scale);
      at_target += rows.one(logit, row.place);
      if (by_columns) at_target += columns.one(logit, row.target);
    }
    if (shared) {
      const Real factor = static_cast<Real>(__builtin_exp(double(top) - lse) * correction);
      dots += replace_row(row, at_target,
                          [&](auto which, int64_t i, Lanes s) __attribute__((always_inline)) {
                            const Lanes e = exp(sub(mul(s, spread(scale)), spread(top)));
                            return mul(e, add(spread(factor), get(which, factors + i)));
                          });
    } else if (by_columns) {
      dots += replace_row(row, at_target,
                          [&](auto which, int64_t i, Lanes s) __attribute__((always_inline)) {
                            const Lanes logit = mul(s, spread(scale));
                            const Lanes e = exp(sub(logit, get(which, columns.lse + i)));
                            const Lanes by_column =
                                columns.correction ? mul(e, get(which, columns.correction + i)) : e;
                            return fma(exp(sub(logit, spread(lse))), spread(correction), by_column);
                          });
    } else {
      dots +=
          replace_row(row, at_target, [&](auto, int64_t, Lanes s) __attribute__((always_inline)) {
            return mul(exp(sub(mul(s, spread(scale)), spread(lse))), spread(correction));
          });
    }
  }
  p.dots[chunk] = dots;
}

template <typename T>
__attribute__((noinline)) void flash_chunk(const FlashParams& p, int64_t chunk) {
  using Real = RealOf<T>;
  using Lanes = LanesOf<T>;
  const Real scale = static_cast<Real>(p.tile.scale);
  for (int64_t r = chunk * kChunk; r < end_of_chunk(p.tile, chunk); ++r) {
    const Row<T> row = row_of<T>(p.tile, r);
    Real *shift = at<Real>(p.rows.shifts, row.place), *sum = at<Real>(p.rows.sums, row.place);
    const Real own = static_cast<Real>(extremes_of(row, scale).top);
    const Real top = own > *shift ? own : *shift;
    if (top != *shift) {
      const Real kept = static_cast<Real>(__builtin_exp(double(*shift) - top));
      *shift = top;
      *sum *= kept;
      p.dots[row.place] *= kept;
      Real* weighted = at<Real>(p.weighted, row.place * p.dim);
      for_lanes<Real>(0, p.dim, [&](auto which, int64_t i) __attribute__((always_inline)) {
        put(which, weighted + i, mul(get(which, weighted + i), spread(kept)));
      });
    }
    Sum<T> terms;
    p.dots[row.place] +=
        replace_row(row, 0.0, [&](auto which, int64_t, Lanes s) __attribute__((always_inline)) {
          const Lanes e = exp(sub(mul(s, spread(scale)), spread(top)));
          terms.include(which, e);
          return e;
        });
    *sum = static_cast<Real>(*sum + terms.total());
  }
}

// log(1 + e^x) and its derivative, for the logits x of pairs that do not belong together.
template <typename T>
__attribute__((noinline)) void sigmoid_chunk(const SigmoidParams& p, int64_t chunk) {
  using Real = RealOf<T>;
  using Lanes = LanesOf<T>;
  const Tile& t = p.tile;
  const Real scale = static_cast<Real>(t.scale), bias = static_cast<Real>(p.bias);
  double losses = 0.0, gradients = 0.0, dots = 0.0;
  for (int64_t r = chunk * kChunk; r < end_of_chunk(t, chunk); ++r) {
    Row<T> row = row_of<T>(t, r);
    row.target = row.self;  // for a positive, below
    row.self = kNobody;
    double at_target = 0.0;
    if (within(row.target, row.columns)) {
      const double x = -(target_logit(row, scale) + bias);
      const double u = __builtin_exp(-__builtin_fabs(x));
      losses += (x < 0 ? 0.0 : x) + __builtin_log1p(u);
      at_target = -(x < 0 ? u : 1.0) / (1.0 + u);
      gradients += at_target;
    }
    const Lanes zero = spread(Real(0)), one = spread(Real(1));
    Sum<T> loss, gradient;
    dots += replace_row(row, at_target,
                        [&](auto which, int64_t, Lanes s) __attribute__((always_inline)) {
                          const Lanes x = add(mul(s, spread(scale)), spread(bias));
                          const Lanes u = exp(sub(zero, abs(x)));
                          loss.include(which, add(at_least(x, zero), log1p_of_fraction(u)));
                          const Lanes g = div(choose(not_ge(x, zero), u, one), add(u, one));
                          gradient.include(which, g);
                          return g;
                        });
    losses += loss.total();
    gradients += gradient.total();
  }
  p.losses[chunk] = losses;
  p.gradients[chunk] = gradients;
  p.dots[chunk] = dots;
}

}  // namespace

void softmax_gradients(const GradientParams& p, int64_t begin, int64_t end) {
  for (int64_t chunk = begin; chunk < end; ++chunk)
    for_type(p.tile.dtype, [&](auto element) __attribute__((always_inline)) {
      softmax_chunk<decltype(element)>(p, chunk);
    });
}

void flash_rows(const FlashParams& p, int64_t begin, int64_t end) {
  for (int64_t chunk = begin; chunk < end; ++chunk)
    for_type(p.tile.dtype, [&](auto element) __attribute__((always_inline)) {
      flash_chunk<decltype(element)>(p, chunk);
    });
}

void sigmoid_losses(const SigmoidParams& p, int64_t begin, int64_t end) {
  for (int64_t chunk = begin; chunk < end; ++chunk)
    for_type(p.tile.dtype, [&](auto element) __attribute__((always_inline)) {
      sigmoid_chunk<decltype(element)>(p, chunk);
    });
}

void add_scaled(const AddParams& p, int64_t begin, int64_t end) {
  for_lanes<float>(begin, end, [&](auto which, int64_t i) __attribute__((always_inline)) {
    const F32 scaled = mul(get(which, p.part + i), spread(p.factor));
    put(which, p.sum + i, p.first ? scaled : add(get(which, p.sum + i), scaled));
  });
}

}  // namespace ssl_fast::contrastive::SSL_FAST_ISA
