// Staging: the block's rows with their halo, reflected at the border and widened, where the strips
// read them with plain loads. For `hog_cpu.cpp` alone.
#pragma once

#include "common/simd.h"
#include "common/simd_i16.h"
#include "hog/hog_plan.h"

namespace ssl_fast::hog::SSL_FAST_ISA {

using namespace ssl_fast::SSL_FAST_ISA::simd;

// `count` pixels, `stride` apart. Reads nothing beyond the last one.
template <typename Pixel>
SSL_SIMD void widen_row(const Pixel* from, int64_t stride, int64_t count, float* to) {
  int64_t i = 0;
  if (stride == 1)
    for (; i + kWidth <= count; i += kWidth) store(to + i, load(from + i));
  for (; i < count; ++i) to[i] = to_float(from[i * stride]);
}
SSL_SIMD void widen_row(const uint8_t* from, int64_t stride, int64_t count, int16_t* to) {
  int64_t i = 0;
#if defined(SSL_FAST_HAS_I16)
  if (stride == 1) {
    for (; i + 2 * kHalfI16 <= count; i += 2 * kHalfI16) store(to + i, widen(from + i));
    for (; i + kHalfI16 <= count; i += kHalfI16) store(to + i, widen_half(from + i));
  }
#endif
  for (; i < count; ++i) to[i] = from[i * stride];
}

// Rows y - 1 .. y + rows and columns x - 1 .. x + columns of one plane. Pixel (y, x) goes to
// stage[pitch + kMargin]; what a strip reads beyond the last column and its halo is zero.
template <typename Pixel, typename Staged>
SSL_SIMD void stage_rows(const Params& p, const Pixel* plane, int64_t y, int64_t x, int64_t rows,
                         int64_t columns, Staged* stage, int64_t pitch) {
  for (int64_t r = -1; r <= rows; ++r) {
    const Pixel* row = plane + reflect(y + r, p.height) * p.stride_h;
    Staged* to = stage + (r + 1) * pitch + kMargin;
    widen_row(row + x * p.stride_w, p.stride_w, columns, to);
    widen_row(row + reflect(x - 1, p.width) * p.stride_w, 1, 1, to - 1);
    widen_row(row + reflect(x + columns, p.width) * p.stride_w, 1, 1, to + columns);
    for (int64_t i = columns + 1; i <= cover(columns, kWidth) * kWidth; ++i) to[i] = 0;
  }
}

template <typename Pixel>
SSL_SIMD const Pixel* plane_of(const Params& p, const Block& block) {
  return static_cast<const Pixel*>(p.images) + block.image * p.stride_b +
         block.channel * p.stride_c;
}

// Asks for the pixels of a block that is to be staged soon. A block's rows are too short a run for
// the processor to foresee the next block's.
template <typename Pixel>
SSL_SIMD void prefetch_block(const Params& p, const Block& block) {
  if (!block.wanted || p.stride_w != 1) return;
  constexpr int64_t kLine = 64 / sizeof(Pixel);
  const Pixel* plane = plane_of<Pixel>(p, block) + block.column * p.cell;
  for (int64_t y = block.row * p.cell; y < (block.row + block.rows) * p.cell; ++y)
    for (int64_t x = 0; x < block.columns * p.cell; x += kLine)
      __builtin_prefetch(plane + y * p.stride_h + x, 0, 2);
}

}  // namespace ssl_fast::hog::SSL_FAST_ISA
