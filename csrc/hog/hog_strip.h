// The vector arithmetic of the CPU kernel: gradients, bins and sums of a strip of staged pixels.
// For `hog_cpu.cpp` alone, once for each instruction set. The scalar form stands in hog_math.h.
#pragma once

#include "common/simd.h"
#include "common/simd_i16.h"
#include "hog/hog_plan.h"

namespace ssl_fast::hog::SSL_FAST_ISA {

using namespace ssl_fast::SSL_FAST_ISA::simd;

// Cells of a block at most, with room for whole vectors: the stride between bins of the sums.
constexpr int kCellsPitch = 2 * (kStageSize / (kFastCell * kFastCell));
constexpr int kFastTests = kFastBins / 2;
constexpr int kStrip = kWidth > kFastCell ? kWidth : kFastCell;

// Adds magnitudes to the bins' sums, given the masks of the tests that a pixel failed (each
// contains the one before) and of the mirrored pixels; times `weight`, if weighted.
template <bool kWeighted>
SSL_SIMD void add_to_bins(F32 magnitude, const Mask (&failed)[kFastTests], Mask mirrored,
                          F32 weight, F32 (&sums)[kFastBins]) {
  const auto accumulate = [&](int bin, Mask mask, F32 x) {
    sums[bin] = kWeighted ? fma_where(mask, x, weight, sums[bin]) : add_where(mask, sums[bin], x);
  };
  // Zeroing the values once for each side is cheaper than splitting every mask.
  const F32 turned = keep_where(mirrored, magnitude);
  const F32 straight = drop_where(mirrored, magnitude);
#pragma GCC unroll 8
  for (int c = 0; c < kFastTests; ++c) {
    const Mask here = c ? first_not_second(failed[c], failed[c - 1]) : failed[0];
    accumulate(c, here, straight);
    accumulate(kFastBins - 1 - c, here, turned);
  }
  // Nine is odd: the middle bin is its own mirror image.
  accumulate(kFastTests, invert(failed[kFastTests - 1]), magnitude);
}

// Three staged rows of one vector's width, as the Sobel operator wants them.
struct Window3 {
  F32 left, centre, right;
};
SSL_SIMD Window3 load_window(const float* centre) {
  return {load(centre - 1), load(centre), load(centre + 1)};
}
SSL_SIMD F32 gradient_x(const Window3& top, const Window3& middle, const Window3& bottom) {
  const F32 outer = add(sub(top.left, top.right), sub(bottom.left, bottom.right));
  return fma(set1(2.0f), sub(middle.left, middle.right), outer);
}
SSL_SIMD F32 gradient_y(const Window3& top, const Window3& bottom) {
  const F32 outer = add(sub(top.left, bottom.left), sub(top.right, bottom.right));
  return fma(set1(2.0f), sub(top.centre, bottom.centre), outer);
}

// One strip of kStrip columns, eight rows: nine sums for each of its cells. `pixels` is the strip's
// first pixel; bin b of its first cell goes to cells[b * kCellsPitch].
template <bool kWeighted>
SSL_SIMD void strip_f32(const float* pixels, int64_t pitch, const float* row_weights,
                        const float* column_weights, const float* cotangents, float* cells) {
  F32 sums[kFastBins];
  for (int b = 0; b < kFastBins; ++b) sums[b] = set1(0.0f);
  F32 cotangent[kFastTests];
  for (int k = 0; k < kFastTests; ++k) cotangent[k] = set1(cotangents[k]);
  for (int v = 0; v < kStrip; v += kWidth) {
    const float* p = pixels + v;
    Window3 top = load_window(p - pitch), middle = load_window(p);
#pragma GCC unroll 8
    for (int y = 0; y < kFastCell; ++y) {
      const Window3 bottom = load_window(p + (y + 1) * pitch);
      const F32 gx = gradient_x(top, middle, bottom), gy = gradient_y(top, bottom);
      F32 magnitude = sqrt(fma(gx, gx, mul(gy, gy)));
      if (kWeighted) magnitude = mul(magnitude, load(column_weights + v));
      const F32 ax = abs(gx), ay = nudge_up_if_opposite(abs(gy), gx, gy);
      Mask failed[kFastTests];
#pragma GCC unroll 8
      for (int k = 0; k < kFastTests; ++k) failed[k] = not_ge(mul(ax, cotangent[k]), ay);
      add_to_bins<kWeighted>(magnitude, failed, opposite_signs(gx, gy), set1(row_weights[y]), sums);
      top = middle;
      middle = bottom;
    }
  }
  sum_lanes_by_8(sums, cells, kCellsPitch);
}

#if defined(SSL_FAST_HAS_I16)

// cot(k * 20 degrees) as fractions so close that p * |gx| >= q * |gy| decides as the true one for
// all gradients of 8-bit images, |g| <= 1020 (an exhaustive test checks it). No tie is possible.
struct Fraction {
  int16_t p, q;
};
constexpr Fraction kCotangents[kFastTests] = {
    {10347, 3766}, {2399, 2013}, {18817, 32592}, {2239, 12698}};

// Half a strip: kHalfI16 columns, eight rows.
struct Half16 {
  const int16_t* pixels;
  const float* row_weights;
  const float* column_weights;  // of pair_low's columns; those of pair_high are kHalfI16 further on
  float* cells;
};

struct Window16 {
  I16 left, centre, right;
};
// kAdjacent: half b is the continuation of half a, so that one load brings both.
template <bool kAdjacent>
SSL_SIMD I16 load_both(const Half16& a, const Half16& b, int64_t offset) {
  return kAdjacent ? load_whole(a.pixels + offset)
                   : join(load_half(a.pixels + offset), load_half(b.pixels + offset));
}
template <bool kAdjacent>
SSL_SIMD Window16 load_window(const Half16& a, const Half16& b, int64_t offset) {
  return {load_both<kAdjacent>(a, b, offset - 1), load_both<kAdjacent>(a, b, offset),
          load_both<kAdjacent>(a, b, offset + 1)};
}

// Weights stand in blocks of two halves, in the order of pair_low and pair_high.
template <bool kAdjacent>
SSL_SIMD F32 column_weights(const Half16& a, const Half16& b, int offset) {
  return kAdjacent ? load(a.column_weights + offset)
                   : join(a.column_weights + offset, b.column_weights + offset);
}

// What strip_f32 does, for two halves of 8-bit pixels at once and exactly until the square root.
template <bool kWeighted, bool kAdjacent>
SSL_SIMD void strip_i16(const Half16& a, const Half16& b, int64_t pitch) {
  F32 sums[kFastBins];
  for (int i = 0; i < kFastBins; ++i) sums[i] = set1(0.0f);
  Window16 top = load_window<kAdjacent>(a, b, -pitch), middle = load_window<kAdjacent>(a, b, 0);
  I16 slope_top = sub16(top.left, top.right), slope = sub16(middle.left, middle.right);
#pragma GCC unroll 8
  for (int y = 0; y < kFastCell; ++y) {
    const Window16 bottom = load_window<kAdjacent>(a, b, (y + 1) * pitch);
    const I16 slope_bottom = sub16(bottom.left, bottom.right);
    const I16 gx = add16(add16(slope_top, slope_bottom), add16(slope, slope));
    const I16 drop = sub16(top.centre, bottom.centre);
    const I16 gy = add16(add16(sub16(top.left, bottom.left), sub16(top.right, bottom.right)),
                         add16(drop, drop));
    const I16 ax = abs16(gx), ay = abs16(gy), differ = sign_difference(gx, gy);
    const F32 row_weight =
        kAdjacent ? set1(a.row_weights[y]) : set_halves(a.row_weights[y], b.row_weights[y]);
#pragma GCC unroll 2
    for (int high = 0; high < 2; ++high) {
      const I16 pairs = high ? pair_high(ax, ay) : pair_low(ax, ay);
      F32 magnitude = sqrt(to_f32(dot_pairs(pairs, pairs)));
      if (kWeighted) magnitude = mul(magnitude, column_weights<kAdjacent>(a, b, high * kHalfI16));
      Mask failed[kFastTests];
#pragma GCC unroll 8
      for (int k = 0; k < kFastTests; ++k)
        failed[k] = negative32(dot_pairs(pairs, set_pair(kCotangents[k].p, -kCotangents[k].q)));
      const I16 signs = high ? pair_high(differ, differ) : pair_low(differ, differ);
      add_to_bins<kWeighted>(magnitude, failed, negative32(signs), row_weight, sums);
    }
    top = middle;
    middle = bottom;
    slope_top = slope;
    slope = slope_bottom;
  }
  sum_parts(sums, a.cells, b.cells, kCellsPitch);
}

#endif

// The general case: magnitude and bin of `count` pixels of one row, to be summed one by one.
SSL_SIMD void row_f32(const float* pixels, int64_t pitch, int64_t count, int nbins,
                      const float* cotangents, float* magnitudes, float* bins) {
  const F32 last = set1(static_cast<float>(nbins - 1)), one = set1(1.0f);
  for (int64_t x = 0; x < count; x += kWidth) {
    const Window3 top = load_window(pixels + x - pitch), middle = load_window(pixels + x);
    const Window3 bottom = load_window(pixels + x + pitch);
    const F32 gx = gradient_x(top, middle, bottom), gy = gradient_y(top, bottom);
    store(magnitudes + x, sqrt(fma(gx, gx, mul(gy, gy))));
    const F32 ax = abs(gx), ay = nudge_up_if_opposite(abs(gy), gx, gy);
    F32 passed = set1(0.0f);
    for (int k = 0; k < nbins / 2; ++k)
      passed = add_where(ge(mul(ax, set1(cotangents[k])), ay), passed, one);
    const F32 turned = sub(sub(last, passed), passed);
    store(bins + x, add_where(opposite_signs(gx, gy), passed, turned));
  }
}

}  // namespace ssl_fast::hog::SSL_FAST_ISA
