// Standardisation, its gradient and sums of columns on the CPU. Compiled once for each instruction
// set; the loops along a tile have a length that the compiler knows, and it makes vectors of them.
#include "cross_correlation/cross_correlation.h"

#include "common/simd.h"

namespace ssl_fast::cross_correlation::SSL_FAST_ISA {

namespace {

constexpr int64_t kTile = 64;   // columns that are worked on at a time
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

// A row of the tile: the last tile is read and written up to its end.
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
template <typename Real>
SSL_SIMD void add_to(double* sums, const Real* terms, int64_t width) {
  for (int64_t j = 0; j < width; ++j) sums[j] += terms[j];
}

// Some columns of some rows, `before` of whose chunk came earlier.
template <typename Real, typename T>
struct Tile {
  const Params<Real>& p;
  int64_t begin, end, before;
  int64_t first, width;
  double* sums;  // of the chunk

  SSL_SIMD const T* z(int view, int64_t n) const {
    return static_cast<const T*>(p.z[view]) + n * p.stride[view] + first;
  }
  SSL_SIMD int64_t at(int64_t n) const { return n * p.columns + first; }
  SSL_SIMD double* sum(int which) const { return sums + which * p.columns + first; }
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
  SSL_SIMD void standardise(const Tile<Real, T>& tile, int view, int64_t n, Real* h) const {
    read(tile.z(view, n), tile.width, h);
    for (int64_t j = 0; j < kTile; ++j) h[j] = ((h[j] - mean[j]) - rest[j]) * inverse[j];
  }
};

// The mean of the block and the squares about it, joined to those of the chunk so far (Chan et
// al.).
template <typename Real, typename T>
SSL_SIMD void add_moments(const Tile<Real, T>& tile, int view) {
  const int64_t count = tile.end - tile.begin;
  Real x[kTile], mean[kTile] = {}, rest[kTile] = {}, squares[kTile] = {};
  for (int64_t n = tile.begin; n < tile.end; ++n) {
    read(tile.z(view, n), tile.width, x);
    for (int64_t j = 0; j < kTile; ++j) mean[j] += x[j];
  }
  for (int64_t j = 0; j < kTile; ++j) mean[j] /= static_cast<Real>(count);
  for (int64_t n = tile.begin; n < tile.end; ++n) {
    read(tile.z(view, n), tile.width, x);
    for (int64_t j = 0; j < kTile; ++j) {
      const Real d = x[j] - mean[j];
      rest[j] += d;
      squares[j] += d * d;
    }
  }
  double *means = tile.sum(2 * view), *all = tile.sum(2 * view + 1);
  const double inverse = 1.0 / count, share = double(count) / (tile.before + count);
  for (int64_t j = 0; j < tile.width; ++j) {
    const double lost = rest[j] * inverse;
    const double shift = (mean[j] + lost) - means[j];
    means[j] += shift * share;
    all[j] += (squares[j] - lost * rest[j]) + shift * shift * share * tile.before;
  }
}

template <typename Real, typename T, typename H>
SSL_SIMD void standardise(const Tile<Real, T>& tile) {
  const Params<Real>& p = tile.p;
  Statistics<Real> statistics[2];
  Real h[2][kTile], products[kTile] = {};
  for (int view = 0; view < 2; ++view) statistics[view].load(tile, view);
  for (int64_t n = tile.begin; n < tile.end; ++n) {
    for (int view = 0; view < 2; ++view) {
      statistics[view].standardise(tile, view, n, h[view]);
      write(h[view], tile.width, static_cast<H*>(p.h[view]) + tile.at(n));
    }
    for (int64_t j = 0; j < kTile; ++j) products[j] += h[0][j] * h[1][j];
  }
  add_to(tile.sum(0), products, tile.width);
}

template <typename Real, typename T, typename H>
SSL_SIMD void settle(const Tile<Real, T>& tile) {
  const Params<Real>& p = tile.p;
  Statistics<Real> statistics[2];
  Real own[kTile], h[2][kTile], slope[kTile], squares[2][kTile] = {};
  read(p.diagonal + tile.first, tile.width, own);
  for (int64_t j = 0; j < kTile; ++j)
    own[j] = p.with_diagonal ? own[j] / static_cast<Real>(p.total) : Real(0);
  for (int view = 0; view < 2; ++view) statistics[view].load(tile, view);
  const Real scale = static_cast<Real>(p.scale);
  for (int64_t n = tile.begin; n < tile.end; ++n) {
    for (int view = 0; view < 2; ++view) statistics[view].standardise(tile, view, n, h[view]);
    for (int view = 0; view < 2; ++view) {
      read(static_cast<const H*>(p.products[view]) + tile.at(n), tile.width, slope);
      for (int64_t j = 0; j < kTile; ++j) {
        slope[j] = slope[j] * scale - own[j] * h[1 - view][j];
        squares[view][j] += slope[j] * h[view][j];
      }
      write(slope, tile.width, p.slopes[view] + tile.at(n));
    }
  }
  for (int view = 0; view < 2; ++view) add_to(tile.sum(view), squares[view], tile.width);
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
  for (int64_t n = tile.begin; n < tile.end; ++n) {
    for (int view = 0; view < 2; ++view) statistics[view].standardise(tile, view, n, h[view]);
    for (int view = 0; view < 2; ++view) {
      read(p.slopes[view] + tile.at(n), tile.width, gradient);
      for (int64_t j = 0; j < kTile; ++j) {
        const Real by_h = twice * gradient[j] + own[j] * h[1 - view][j];
        gradient[j] = statistics[view].inverse[j] * (by_h - shrink[view][j] * h[view][j]);
      }
      write(gradient, tile.width, p.gradients[view] + tile.at(n));
    }
  }
}

template <typename Real, typename T, typename H>
SSL_SIMD void run_tile(const Tile<Real, T>& tile) {
  switch (tile.p.step) {
    case Step::kMoments:
      add_moments(tile, 0);
      return add_moments(tile, 1);
    case Step::kStandardise:
      return standardise<Real, T, H>(tile);
    case Step::kSettle:
      return settle<Real, T, H>(tile);
    case Step::kFinish:
      return finish(tile);
  }
}

// Block of rows by block, along each: memory is read as it lies.
template <typename Real, typename T, typename H>
void run_chunks(const Params<Real>& p, int64_t begin, int64_t end) {
  const int64_t size = sums_of(p.step) * p.columns;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t first = chunk * p.chunk;
    const int64_t last = first + p.chunk < p.rows ? first + p.chunk : p.rows;
    double* sums = p.sums + chunk * size;
    for (int64_t i = 0; i < size; ++i) sums[i] = 0.0;
    for (int64_t n = first; n < last; n += kBlock) {
      const int64_t stop = n + kBlock < last ? n + kBlock : last;
      for (int64_t k = 0; k < p.columns; k += kTile) {
        const int64_t width = k + kTile < p.columns ? kTile : p.columns - k;
        run_tile<Real, T, H>({p, n, stop, n - first, k, width, sums});
      }
    }
  }
}

template <typename Real, typename T>
SSL_SIMD double dot_of(const T* a, const T* b, int64_t size) {
  double total = 0.0;
  for (int64_t i = 0; i < size;) {
    Real sums[kTile] = {};
    for (int64_t n = 0; n < kBlock && i + kTile <= size; ++n, i += kTile)
      for (int64_t j = 0; j < kTile; ++j) sums[j] += value<Real>(a[i + j]) * value<Real>(b[i + j]);
    if (i + kTile > size)
      for (int64_t j = 0; i < size; ++i, ++j) sums[j] += value<Real>(a[i]) * value<Real>(b[i]);
    for (Real sum : sums) total += sum;
  }
  return total;
}

template <typename Real, typename T>
SSL_SIMD double square_row_of(T* row, int64_t size, double scale, double* columns) {
  const Real factor = static_cast<Real>(scale);
  double total = 0.0;
  for (int64_t i = 0; i < size; i += kTile) {
    const int64_t width = i + kTile < size ? kTile : size - i;
    Real x[kTile], squares[kTile], sum = 0;
    read(row + i, width, x);
    for (int64_t j = 0; j < kTile; ++j) squares[j] = x[j] * x[j];
    add_to(columns + i, squares, width);
    for (int64_t j = 0; j < kTile; ++j) x[j] *= factor;
    write(x, width, row + i);
    for (int64_t half = kTile / 2; half > 0; half /= 2)
      for (int64_t j = 0; j < half; ++j) squares[j] += squares[j + half];
    sum = squares[0];
    total += sum;
  }
  return total;
}

}  // namespace

void run(const Params<float>& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::kFloat16:
      return run_chunks<float, Half, float>(p, begin, end);
    case DType::kBFloat16:
      if (p.narrow) return run_chunks<float, BFloat16, BFloat16>(p, begin, end);
      return run_chunks<float, BFloat16, float>(p, begin, end);
    default:
      return run_chunks<float, float, float>(p, begin, end);
  }
}
void run(const Params<double>& p, int64_t begin, int64_t end) {
  run_chunks<double, double, double>(p, begin, end);
}

double dot(const float* a, const float* b, int64_t size) { return dot_of<float>(a, b, size); }
double dot(const double* a, const double* b, int64_t size) { return dot_of<double>(a, b, size); }
double dot(const BFloat16* a, const BFloat16* b, int64_t size) { return dot_of<float>(a, b, size); }

double square_row(float* row, int64_t size, double scale, double* columns) {
  return square_row_of<float>(row, size, scale, columns);
}
double square_row(double* row, int64_t size, double scale, double* columns) {
  return square_row_of<double>(row, size, scale, columns);
}
double square_row(BFloat16* row, int64_t size, double scale, double* columns) {
  return square_row_of<float>(row, size, scale, columns);
}

}  // namespace ssl_fast::cross_correlation::SSL_FAST_ISA
