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
};

// What standardises the columns of a tile. A mean is the sum of two numbers: rounded to one, it
// would leave a mean in h, which the gradient of columns without a spread would show.
template <typename Real>
struct Statistics {
  Real mean[kTile], rest[kTile], inverse[kTile];

  template <typename T>
  SSL_SIMD void load(const Tile<Real, T>& tile, int view) {
    const Real* from = tile.p.statistics + 3 * view * tile.p.columns + tile.first;
    read(from, tile.width, mean);
    read(from + tile.p.columns, tile.width, rest);
    read(from + 2 * tile.p.columns, tile.width, inverse);
  }
  template <typename T>
  SSL_SIMD void store(const Tile<Real, T>& tile, int view) const {
    Real* to = tile.p.statistics + 3 * view * tile.p.columns + tile.first;
    write(mean, tile.width, to);
    write(rest, tile.width, to + tile.p.columns);
    write(inverse, tile.width, to + 2 * tile.p.columns);
  }
  template <typename T>
  SSL_SIMD void standardise(const Tile<Real, T>& tile, int view, int64_t n, Real* h) const {
    read(tile.z(view, n), tile.width, h);
    for (int64_t j = 0; j < kTile; ++j) h[j] = ((h[j] - mean[j]) - rest[j]) * inverse[j];
  }
};

// Mean and variance in two passes, the second of which finds what the mean lost to rounding.
template <typename Real, typename T>
SSL_SIMD void find(const Tile<Real, T>& tile, int view, Statistics<Real>& found) {
  const Params<Real>& p = tile.p;
  Real x[kTile];
  Sums<Real> sums, rests, squares;
  for (int64_t n = 0; n < p.rows; ++n) {
    read(tile.z(view, n), tile.width, x);
    for (int64_t j = 0; j < kTile; ++j) sums.block[j] += x[j];
    sums.after(n);
  }
  sums.flush();
  for (int64_t j = 0; j < kTile; ++j) found.mean[j] = static_cast<Real>(sums.total[j] / p.rows);
  for (int64_t n = 0; n < p.rows; ++n) {
    read(tile.z(view, n), tile.width, x);
    for (int64_t j = 0; j < kTile; ++j) {
      x[j] -= found.mean[j];
      rests.block[j] += x[j];
      squares.block[j] += x[j] * x[j];
    }
    rests.after(n);
    squares.after(n);
  }
  rests.flush();
  squares.flush();
  for (int64_t j = 0; j < kTile; ++j) {
    const double rest = rests.total[j] / p.rows, square = squares.total[j] / p.rows - rest * rest;
    const double variance = square > 0.0 ? square : 0.0 * square;  // NaN stays
    found.rest[j] = static_cast<Real>(rest);
    found.inverse[j] = static_cast<Real>(1 / __builtin_sqrt(variance + p.eps));
  }
  found.store(tile, view);
}

template <typename Real, typename T, typename H>
SSL_SIMD void standardise(const Tile<Real, T>& tile) {
  const Params<Real>& p = tile.p;
  Statistics<Real> statistics[2];
  Real h[2][kTile];
  for (int view = 0; view < 2; ++view) find(tile, view, statistics[view]);
  Sums<Real> products;
  for (int64_t n = 0; n < p.rows; ++n) {
    for (int view = 0; view < 2; ++view) {
      statistics[view].standardise(tile, view, n, h[view]);
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
  Statistics<Real> statistics[2];
  Real own[kTile], h[2][kTile], slope[kTile];
  read(p.diagonal + tile.first, tile.width, own);
  for (int64_t j = 0; j < kTile; ++j)
    own[j] = p.with_diagonal ? own[j] / static_cast<Real>(p.rows) : Real(0);
  for (int view = 0; view < 2; ++view) statistics[view].load(tile, view);
  const Real scale = static_cast<Real>(p.scale);
  Sums<Real> squares[2];
  for (int64_t n = p.begin; n < p.end; ++n) {
    for (int view = 0; view < 2; ++view) statistics[view].standardise(tile, view, n, h[view]);
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
  Statistics<Real> statistics[2];
  Real diagonal[kTile], squares[kTile], shrink[2][kTile], own[kTile], h[2][kTile], gradient[kTile];
  read(p.diagonal + tile.first, tile.width, diagonal);
  const Real total = static_cast<Real>(p.total), twice = static_cast<Real>(2 * p.lambda);
  for (int64_t j = 0; j < kTile; ++j) own[j] = 2 * (diagonal[j] - 1) / total;
  for (int view = 0; view < 2; ++view) {
    statistics[view].load(tile, view);
    read(p.squares + view * p.columns + tile.first, tile.width, squares);
    // The mean of gradient * h over the batch; that of the gradient is 0, for h has mean 0.
    for (int64_t j = 0; j < kTile; ++j)
      shrink[view][j] = own[j] * diagonal[j] + twice * squares[j] / total;
  }
  for (int64_t n = 0; n < p.rows; ++n) {
    for (int view = 0; view < 2; ++view) statistics[view].standardise(tile, view, n, h[view]);
    const int64_t at = n * p.columns + tile.first;
    for (int view = 0; view < 2; ++view) {
      read(p.slopes[view] + at, tile.width, gradient);
      for (int64_t j = 0; j < kTile; ++j) {
        const Real by_h = twice * gradient[j] + own[j] * h[1 - view][j];
        gradient[j] = statistics[view].inverse[j] * (by_h - shrink[view][j] * h[view][j]);
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
      if (p.narrow) return run_tiles<float, BFloat16, BFloat16>(p, begin, end);
      return run_tiles<float, BFloat16, float>(p, begin, end);
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
