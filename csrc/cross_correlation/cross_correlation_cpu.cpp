// Standardisation, its gradient and sums of columns on the CPU. Compiled once for each instruction
// set; the loops along a tile have a length that the compiler knows, and it makes vectors of them.
#include "cross_correlation/cross_correlation.h"

#include "common/simd.h"

namespace ssl_fast::cross_correlation::SSL_FAST_ISA {

namespace {

constexpr int64_t kBlock = 16;  // rows that are added in `Real` before they go to a sum in double

template <typename Real, typename T>
SSL_SIMD Real value(T x) {
  return to_float(x);
}
template <>
SSL_SIMD double value<double, double>(double x) {
  return x;
}
template <typename H, typename Real>
SSL_SIMD H narrow(Real x) {
  return from_float<H>(x);
}
template <>
SSL_SIMD double narrow<double, double>(double x) {
  return x;
}

// Sums along the rows of a tile.
template <typename Real>
struct Sums {
  Real block[kTile] = {};
  double total[kTile] = {};

  SSL_SIMD void flush() {
    for (int64_t j = 0; j < kTile; ++j) {
      total[j] += block[j];
      block[j] = 0;
    }
  }
  // After row n of those from 0 on.
  SSL_SIMD void after(int64_t n) {
    if ((n + 1) % kBlock == 0) flush();
  }
};

// Values of a row of the tile: a whole tile is read where it lies, the last one up to its end.
template <typename Real, typename T>
SSL_SIMD void read(const T* row, int64_t width, Real* to) {
  if (width == kTile) {
    for (int64_t j = 0; j < kTile; ++j) to[j] = value<Real>(row[j]);
    return;
  }
  for (int64_t j = 0; j < kTile; ++j) to[j] = j < width ? value<Real>(row[j]) : Real(0);
}
template <typename Real, typename H>
SSL_SIMD void write(const Real* from, int64_t width, H* row) {
  if (width == kTile) {
    for (int64_t j = 0; j < kTile; ++j) row[j] = narrow<H>(from[j]);
    return;
  }
  for (int64_t j = 0; j < width; ++j) row[j] = narrow<H>(from[j]);
}

template <typename Real, typename T>
struct Tile {
  const Params<Real>& p;
  int64_t first, width;

  SSL_SIMD const T* z(int view, int64_t n) const {
    return static_cast<const T*>(p.z[view]) + n * p.stride[view] + first;
  }
  SSL_SIMD void statistic(int which, Real* to) const {
    read(p.statistics + which * p.columns + first, width, to);
  }
  // h of a row, from what its columns' statistics are.
  SSL_SIMD void standardised(int view, int64_t n, const Real* mean, const Real* inverse,
                             Real* h) const {
    read(z(view, n), width, h);
    for (int64_t j = 0; j < kTile; ++j) h[j] = (h[j] - mean[j]) * inverse[j];
  }
};

// Mean and variance in two passes.
template <typename Real, typename T>
SSL_SIMD void find_statistics(const Tile<Real, T>& tile, int view, Real* mean, Real* inverse) {
  const Params<Real>& p = tile.p;
  Real x[kTile];
  Sums<Real> sums, squares;
  for (int64_t n = 0; n < p.rows; ++n) {
    read(tile.z(view, n), tile.width, x);
    for (int64_t j = 0; j < kTile; ++j) sums.block[j] += x[j];
    sums.after(n);
  }
  sums.flush();
  for (int64_t j = 0; j < kTile; ++j) mean[j] = static_cast<Real>(sums.total[j] / p.rows);
  for (int64_t n = 0; n < p.rows; ++n) {
    read(tile.z(view, n), tile.width, x);
    for (int64_t j = 0; j < kTile; ++j) squares.block[j] += (x[j] - mean[j]) * (x[j] - mean[j]);
    squares.after(n);
  }
  squares.flush();
  for (int64_t j = 0; j < kTile; ++j)
    inverse[j] = static_cast<Real>(1 / __builtin_sqrt(squares.total[j] / p.rows + p.eps));
  write(mean, tile.width, p.statistics + 2 * view * p.columns + tile.first);
  write(inverse, tile.width, p.statistics + (2 * view + 1) * p.columns + tile.first);
}

template <typename Real, typename T, typename H>
SSL_SIMD void standardise(const Tile<Real, T>& tile) {
  const Params<Real>& p = tile.p;
  Real mean[2][kTile], inverse[2][kTile], h[2][kTile];
  for (int view = 0; view < 2; ++view) find_statistics(tile, view, mean[view], inverse[view]);
  Sums<Real> products;
  for (int64_t n = 0; n < p.rows; ++n) {
    for (int view = 0; view < 2; ++view) {
      tile.standardised(view, n, mean[view], inverse[view], h[view]);
      write(h[view], tile.width, static_cast<H*>(p.h[view]) + n * p.columns + tile.first);
    }
    for (int64_t j = 0; j < kTile; ++j) products.block[j] += h[0][j] * h[1][j];
    products.after(n);
  }
  products.flush();
  for (int64_t j = 0; j < tile.width; ++j)
    p.diagonal[tile.first + j] = static_cast<Real>(products.total[j] / p.rows);
}

template <typename Real, typename T, typename H>
SSL_SIMD void settle(const Tile<Real, T>& tile) {
  const Params<Real>& p = tile.p;
  Real own[kTile], mean[2][kTile], inverse[2][kTile], h[2][kTile], slope[kTile];
  read(p.diagonal + tile.first, tile.width, own);
  for (int64_t j = 0; j < kTile; ++j)
    own[j] = p.with_diagonal ? own[j] / static_cast<Real>(p.rows) : Real(0);
  for (int view = 0; view < 2; ++view) {
    tile.statistic(2 * view, mean[view]);
    tile.statistic(2 * view + 1, inverse[view]);
  }
  const Real scale = static_cast<Real>(p.scale);
  Sums<Real> squares[2];
  for (int64_t n = p.begin; n < p.end; ++n) {
    for (int view = 0; view < 2; ++view)
      tile.standardised(view, n, mean[view], inverse[view], h[view]);
    const int64_t at = (n - p.begin) * p.columns + tile.first;
    for (int view = 0; view < 2; ++view) {
      read(static_cast<const H*>(p.products[view]) + at, tile.width, slope);
      for (int64_t j = 0; j < kTile; ++j) {
        slope[j] = slope[j] * scale - own[j] * h[1 - view][j];
        squares[view].block[j] += slope[j] * h[view][j];
      }
      write(slope, tile.width, p.slopes[view] + at);
      squares[view].after(n - p.begin);
    }
  }
  for (int view = 0; view < 2; ++view) {
    squares[view].flush();
    for (int64_t j = 0; j < tile.width; ++j)
      p.squares[view * p.columns + tile.first + j] = static_cast<Real>(squares[view].total[j]);
  }
}

template <typename Real, typename T>
SSL_SIMD void finish(const Tile<Real, T>& tile) {
  const Params<Real>& p = tile.p;
  Real diagonal[kTile], squares[kTile], mean[2][kTile], inverse[2][kTile], shrink[2][kTile];
  Real own[kTile], h[2][kTile], gradient[kTile];
  read(p.diagonal + tile.first, tile.width, diagonal);
  const Real total = static_cast<Real>(p.total), twice = static_cast<Real>(2 * p.lambda);
  for (int64_t j = 0; j < kTile; ++j) own[j] = 2 * (diagonal[j] - 1) / total;
  for (int view = 0; view < 2; ++view) {
    tile.statistic(2 * view, mean[view]);
    tile.statistic(2 * view + 1, inverse[view]);
    read(p.squares + view * p.columns + tile.first, tile.width, squares);
    // The mean of gradient * h over the batch; that of the gradient is 0, for h has mean 0.
    for (int64_t j = 0; j < kTile; ++j)
      shrink[view][j] = own[j] * diagonal[j] + twice * squares[j] / total;
  }
  for (int64_t n = 0; n < p.rows; ++n) {
    for (int view = 0; view < 2; ++view)
      tile.standardised(view, n, mean[view], inverse[view], h[view]);
    const int64_t at = n * p.columns + tile.first;
    for (int view = 0; view < 2; ++view) {
      read(p.slopes[view] + at, tile.width, gradient);
      for (int64_t j = 0; j < kTile; ++j) {
        const Real by_h = twice * gradient[j] + own[j] * h[1 - view][j];
        gradient[j] = inverse[view][j] * (by_h - shrink[view][j] * h[view][j]);
      }
      write(gradient, tile.width, p.gradients[view] + at);
    }
  }
}

template <typename Real, typename T, typename H>
void run_tiles(const Params<Real>& p, int64_t begin, int64_t end) {
  for (int64_t index = begin; index < end; ++index) {
    const int64_t first = index * kTile;
    const Tile<Real, T> tile{p, first, first + kTile < p.columns ? kTile : p.columns - first};
    if (p.step == Step::kStandardise)
      standardise<Real, T, H>(tile);
    else if (p.step == Step::kSettle)
      settle<Real, T, H>(tile);
    else
      finish(tile);
  }
}

template <typename Real, typename T>
SSL_SIMD double dot_of(const T* a, const T* b, int64_t size) {
  Sums<Real> sums;
  int64_t i = 0;
  for (int64_t n = 0; i + kTile <= size; i += kTile, ++n) {
    for (int64_t j = 0; j < kTile; ++j)
      sums.block[j] += value<Real>(a[i + j]) * value<Real>(b[i + j]);
    sums.after(n);
  }
  for (int64_t j = 0; i < size; ++i, ++j) sums.block[j] += value<Real>(a[i]) * value<Real>(b[i]);
  sums.flush();
  double total = 0.0;
  for (double sum : sums.total) total += sum;
  return total;
}

}  // namespace

void run(const Params<float>& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::kFloat16:
      return run_tiles<float, Half, float>(p, begin, end);
    case DType::kBFloat16:
      return run_tiles<float, BFloat16, BFloat16>(p, begin, end);
    default:
      return run_tiles<float, float, float>(p, begin, end);
  }
}
void run(const Params<double>& p, int64_t begin, int64_t end) {
  run_tiles<double, double, double>(p, begin, end);
}

double dot(const float* a, const float* b, int64_t size) { return dot_of<float>(a, b, size); }
double dot(const double* a, const double* b, int64_t size) { return dot_of<double>(a, b, size); }
double dot(const BFloat16* a, const BFloat16* b, int64_t size) { return dot_of<float>(a, b, size); }

}  // namespace ssl_fast::cross_correlation::SSL_FAST_ISA
