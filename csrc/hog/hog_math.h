// Histogram of oriented gradients: the arithmetic of one pixel, shared by the CPU and CUDA kernels.
//
// A pixel's gradient (gx, gy) falls into bin floor(angle / pi * nbins) mod nbins of
// angle = atan2(gx, gy). No kernel calls atan2: turned to gx >= 0 the angle lies in [0, pi], and it
// is at least k * pi / nbins exactly when gx * cot(k * pi / nbins) >= gy. Angles beyond pi / 2
// mirror those before it (cot is odd about pi / 2), so half the tests, on |gx| and |gy|, do:
// with c the number of tests passed, the bin is c, or nbins - 1 - c on the mirrored side. There a
// tie belongs to the lower count (the test is strict), for intervals are closed below.
//
// One product, rounded once, is compared: no addition that a compiler could fuse it with, and for
// every pair of integer gradients of 8-bit images the outcome is that of float64's atan2.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace ssl_fast::hog {

constexpr int kMaxBins = 180;
constexpr int kMaxTests = kMaxBins / 2;
constexpr int kMaxWindow = 512;

// From where to where. Sizes in pixels, strides in elements.
struct Geometry {
  const void* images;  // [batch, channels, height, width]
  DType dtype;
  int64_t batch, channels, height, width;
  int64_t stride_b, stride_c, stride_h, stride_w;

  int nbins;
  int cell;    // side of a cell
  int window;  // side of the Gaussian tile, 0: unweighted
  double eps;  // least L2 norm that a cell is divided by

  // Output [batch, slots, channels, nbins, patch_h, patch_w], patches counted in cells. The plain
  // layout is one patch as large as the image.
  int64_t slots, patch_h, patch_w;
  const int64_t* ids;   // [batch, slots]: the patch that a slot holds; null: slot i is patch i
  const uint8_t* mask;  // [batch, slots]: patches that are wanted, the others zero; null: all
  void* out;
};

struct Params : Geometry {
  double cotangents[kMaxTests];  // of k * pi / nbins, k = 1 .. nbins / 2
  double gaussian[kMaxWindow];   // one axis of the tile, which is its outer product; sums to 1
};

// Reflection at the border without repeating it: -1 -> 1, n -> n - 2.
SSL_HD int64_t reflect(int64_t i, int64_t n) {
  if (i < 0) return -i;
  return i < n ? i : 2 * n - 2 - i;
}

// Sobel gradient from the 3x3 neighbourhood, rows top, middle, bottom. Differences of opposite
// pixels come first, so that equal columns (rows) give exactly 0.
template <typename T>
struct Gradient {
  T x, y;
};
template <typename T>
SSL_HD Gradient<T> sobel(const T (&top)[3], const T (&middle)[3], const T (&bottom)[3]) {
  const T x = (top[0] - top[2]) + (bottom[0] - bottom[2]) + T(2) * (middle[0] - middle[2]);
  const T y = (top[0] - bottom[0]) + (top[2] - bottom[2]) + T(2) * (top[1] - bottom[1]);
  return {x, y};
}

// The next larger number, of one that is not negative: x > y is x >= next_up(y).
SSL_HD float next_up(float x) {
  return ssl_fast::detail::float_from_bits(ssl_fast::detail::bits_from_float(x) + 1);
}
SSL_HD double next_up(double x) {
  int64_t bits;
  __builtin_memcpy(&bits, &x, sizeof x);
  ++bits;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// The bin of a gradient; `cotangents` has nbins / 2 entries.
template <typename T>
SSL_HD int bin_of(Gradient<T> g, int nbins, const T* cotangents) {
  const T ax = g.x < T(0) ? -g.x : g.x;
  const T ay = g.y < T(0) ? -g.y : g.y;
  const bool mirrored = g.x != T(0) && (g.x < T(0)) != (g.y < T(0));
  const T limit = mirrored ? next_up(ay) : ay;
  int passed = 0;
  for (int k = 0; k < nbins / 2; ++k) passed += ax * cotangents[k] >= limit;
  return mirrored ? nbins - 1 - passed : passed;
}

SSL_HD double to_double(double x) { return x; }
template <typename Pixel>
SSL_HD double to_double(Pixel x) {
  return to_float(x);
}

// The normalised histogram of one cell, pixel by pixel: the whole of HOG in one place. float64 runs
// this on every device; the other types have kernels that do the same to many cells at once.
template <typename Pixel>
SSL_HD void cell_histogram(const Params& p, const Pixel* plane, int64_t row, int64_t column,
                           double* histogram) {
  for (int b = 0; b < p.nbins; ++b) histogram[b] = 0.0;
  for (int64_t y = row * p.cell; y < (row + 1) * p.cell; ++y) {
    for (int64_t x = column * p.cell; x < (column + 1) * p.cell; ++x) {
      double rows[3][3];
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
          rows[i][j] = to_double(plane[reflect(y + i - 1, p.height) * p.stride_h +
                                       reflect(x + j - 1, p.width) * p.stride_w]);
      const Gradient<double> g = sobel(rows[0], rows[1], rows[2]);
      const double weight = p.window ? p.gaussian[y % p.window] * p.gaussian[x % p.window] : 1.0;
      histogram[bin_of(g, p.nbins, p.cotangents)] += weight * __builtin_sqrt(g.x * g.x + g.y * g.y);
    }
  }
  double squares = 0.0;
  for (int b = 0; b < p.nbins; ++b) squares += histogram[b] * histogram[b];
  const double norm = __builtin_sqrt(squares);
  for (int b = 0; b < p.nbins; ++b) histogram[b] /= norm < p.eps ? p.eps : norm;
}

// Patches along the width of the image.
SSL_HD int64_t patches_per_row(const Geometry& p) { return p.width / (p.cell * p.patch_w); }

// Where cell (row, column) of `slot` stands in the output, at bin 0. Bins are `bin_stride` apart.
SSL_HD int64_t bin_stride(const Geometry& p) { return p.patch_h * p.patch_w; }
SSL_HD int64_t cell_offset(const Geometry& p, int64_t image, int64_t slot, int64_t channel,
                           int64_t row, int64_t column) {
  const int64_t plane = (image * p.slots + slot) * p.channels + channel;
  return (plane * p.nbins * p.patch_h + row) * p.patch_w + column;
}

}  // namespace ssl_fast::hog
