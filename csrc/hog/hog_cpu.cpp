// HOG on the CPU: loops over blocks. Compiled once for each instruction set (common/isa.h).
#include "hog/hog.h"
#include "hog/hog_stage.h"
#include "hog/hog_strip.h"

namespace ssl_fast::hog::SSL_FAST_ISA {

namespace {

// What one thread works with; about 35 KB, on its stack.
template <typename Staged>
struct Workspace {
  alignas(64) Staged stage[kStageSize];
  alignas(64) float cells[kFastBins * kCellsPitch];  // [bin][cell]
  float cotangents[kMaxTests];
  float gaussian[kMaxWindow];
  float column_weights[kStageColumns + kSlack];
  int64_t weights_start = -1;
};

template <typename Staged>
SSL_SIMD void prepare(const Params& p, Workspace<Staged>& w) {
  for (int k = 0; k < p.nbins / 2; ++k) w.cotangents[k] = static_cast<float>(p.cotangents[k]);
  for (int i = 0; i < p.window; ++i) w.gaussian[i] = static_cast<float>(p.gaussian[i]);
  for (float& sum : w.cells) sum = 0.0f;
}

// The Gaussian's columns from pixel x on; in the order that 16-bit halves are summed in, if asked.
template <typename Staged>
SSL_SIMD void prepare_columns(const Params& p, int64_t x, bool halves, Workspace<Staged>& w) {
  const int64_t start = x % p.window;
  if (w.weights_start == start) return;
  w.weights_start = start;
  for (int64_t i = 0; i < kStageColumns + kSlack; ++i) {
    int64_t from = i;
#if defined(SSL_FAST_HAS_I16)
    if (halves) {
      // Of each block of two halves first the low, then the high four of every eight columns.
      const int64_t high = i / kHalfI16 % 2, part = i % kHalfI16 / 4;
      from = i / (2 * kHalfI16) * (2 * kHalfI16) + 8 * part + 4 * high + i % 4;
    }
#endif
    w.column_weights[i] = w.gaussian[(start + from) % p.window];
  }
}

SSL_SIMD void row_weights(const Params& p, const float* gaussian, int64_t y, float* weights) {
  for (int i = 0; i < kFastCell; ++i) weights[i] = p.window ? gaussian[(y + i) % p.window] : 1.0f;
}

// Divides the bins of a cell by their L2 norm, which is NaN where a bin is, and writes them.
SSL_SIMD void write_cell(const double* bins, int count, double eps, float* to, int64_t stride) {
  double squares = 0.0;
  for (int b = 0; b < count; ++b) squares += bins[b] * bins[b];
  const double norm = __builtin_sqrt(squares);
  const double scale = 1.0 / (norm < eps ? eps : norm);
  for (int b = 0; b < count; ++b) to[b * stride] = static_cast<float>(bins[b] * scale);
}

// Walks along a row of cells in the output: consecutive within a patch, then on to the next patch.
struct OutputRow {
  float* to;
  int64_t left_in_patch, patch_w, to_next_patch;

  SSL_SIMD void advance(int64_t cells) {
    left_in_patch -= cells;
    to += cells;
    if (left_in_patch != 0) return;
    to += to_next_patch;
    left_in_patch = patch_w;
  }
};
SSL_SIMD OutputRow output_row(const Params& p, const Plan& plan, const Block& block, int64_t row) {
  float* to = static_cast<float*>(p.out) + output_offset(p, plan, block, row, block.column);
  return {to, p.patch_w - block.column % p.patch_w, p.patch_w,
          p.channels * p.nbins * bin_stride(p) - p.patch_w};
}

// Normalises the sums of the vector path, [bin][cell], in place.
SSL_SIMD void normalise(const Params& p, int64_t count, float* cells) {
  const F32 eps = set1(static_cast<float>(p.eps)), one = set1(1.0f);
  for (int64_t c = 0; c < count; c += kWidth) {
    F32 sums[kFastBins], squares = set1(0.0f);
#pragma GCC unroll 9
    for (int b = 0; b < kFastBins; ++b) {
      sums[b] = load(cells + b * kCellsPitch + c);
      squares = fma(sums[b], sums[b], squares);
    }
    const F32 scale = div(one, at_least(sqrt(squares), eps));
#pragma GCC unroll 9
    for (int b = 0; b < kFastBins; ++b) store(cells + b * kCellsPitch + c, mul(sums[b], scale));
  }
}

// One row of cells of the vector path to the output.
SSL_SIMD void write_row(const Params& p, const Plan& plan, const Block& block, int64_t row,
                        const float* cells) {
  const int64_t stride = bin_stride(p);
  OutputRow out = output_row(p, plan, block, row);
  for (int64_t c = 0; c < block.columns;) {
    const int64_t run = least(out.left_in_patch, block.columns - c);
    for (int b = 0; b < kFastBins; ++b) {
      const float* from = cells + b * kCellsPitch + c;
      float* to = out.to + b * stride;
      if (run == 2)  // patches of sixteen pixels
        __builtin_memcpy(to, from, 2 * sizeof(float));
      else
        widen_row(from, 1, run, to);
    }
    out.advance(run);
    c += run;
  }
}

// One row of cells of the general path: `histogram` is [cell][bin].
SSL_SIMD void write_histogram(const Params& p, const Plan& plan, const Block& block, int64_t row,
                              const double* histogram) {
  OutputRow out = output_row(p, plan, block, row);
  for (int64_t c = 0; c < block.columns; ++c, out.advance(1))
    write_cell(histogram + c * p.nbins, p.nbins, p.eps, out.to, bin_stride(p));
}

SSL_SIMD void write_zeros(const Params& p, const Plan& plan, const Block& block) {
  for (int64_t r = 0; r < block.rows; ++r)
    for (int64_t c = 0; c < block.columns; ++c)
      for (int b = 0; b < p.nbins; ++b) {
        const int64_t at = output_offset(p, plan, block, block.row + r, block.column + c);
        if (p.dtype == DType::kFloat64)
          static_cast<double*>(p.out)[at + b * bin_stride(p)] = 0.0;
        else
          static_cast<float*>(p.out)[at + b * bin_stride(p)] = 0.0f;
      }
}

template <bool kWeighted>
SSL_SIMD void sum_cells(const Params& p, const Block& block, Workspace<float>& w, int64_t pitch,
                        int64_t cells_pitch) {
  if (kWeighted) prepare_columns(p, block.column * kFastCell, false, w);
  float weights[kFastCell];
  for (int64_t r = 0; r < block.rows; ++r) {
    row_weights(p, w.gaussian, (block.row + r) * kFastCell, weights);
    const float* row = w.stage + (1 + r * kFastCell) * pitch + kMargin;
    for (int64_t x = 0; x < block.columns * kFastCell; x += kStrip)
      strip_f32<kWeighted>(row + x, pitch, weights, w.column_weights + x, w.cotangents,
                           w.cells + (r * cells_pitch + x / kFastCell));
  }
}

#if defined(SSL_FAST_HAS_I16)
template <bool kWeighted>
SSL_SIMD void sum_cells(const Params& p, const Block& block, Workspace<int16_t>& w, int64_t pitch,
                        int64_t cells_pitch) {
  if (kWeighted) prepare_columns(p, block.column * kFastCell, true, w);
  float weights[2][kFastCell];
  Half16 waiting = {};
  for (int64_t r = 0; r < block.rows; ++r) {
    row_weights(p, w.gaussian, (block.row + r) * kFastCell, weights[r & 1]);
    const int16_t* row = w.stage + (1 + r * kFastCell) * pitch + kMargin;
    const auto half_at = [&](int64_t x) {
      const int64_t in_block = x % (2 * kHalfI16);
      return Half16{row + x, weights[r & 1], w.column_weights + (x - in_block) + in_block / 2,
                    w.cells + r * cells_pitch + x / kFastCell};
    };
    const int64_t width = block.columns * kFastCell;
    int64_t x = 0;
    for (; x + kHalfI16 < width; x += 2 * kHalfI16)
      strip_i16<kWeighted, true>(half_at(x), half_at(x + kHalfI16), pitch);
    if (x >= width) continue;
    // The half left over at a row's end goes with that of the next row, the last by itself.
    const Half16 half = half_at(x);
    if (waiting.pixels)
      strip_i16<kWeighted, false>(waiting, half, pitch), waiting = {};
    else if (r + 1 < block.rows)
      waiting = half;
    else
      strip_i16<kWeighted, false>(half, half, pitch);
  }
}
#endif

template <typename Pixel, typename Staged>
SSL_SIMD void fast_block(const Params& p, const Plan& plan, const Block& block, const Block& next,
                         Workspace<Staged>& w) {
  const int64_t pitch = kMargin + plan.columns * kFastCell + kSlack;
  stage_rows(p, plane_of<Pixel>(p, block), block.row * kFastCell, block.column * kFastCell,
             block.rows * kFastCell, block.columns * kFastCell, w.stage, pitch);
  prefetch_block<Pixel>(p, next);
  const int64_t cells_pitch = cover(block.columns, 2) * 2;
  if (p.window)
    sum_cells<true>(p, block, w, pitch, cells_pitch);
  else
    sum_cells<false>(p, block, w, pitch, cells_pitch);
  normalise(p, block.rows * cells_pitch, w.cells);
  for (int64_t r = 0; r < block.rows; ++r)
    write_row(p, plan, block, block.row + r, w.cells + r * cells_pitch);
}

// Any cell size and number of bins: pixels are binned by vectors and summed one by one, in float64
// because a cell may be large.
template <typename Pixel>
SSL_SIMD void general_block(const Params& p, const Plan& plan, const Block& block,
                            Workspace<float>& w, double* histogram) {
  constexpr int64_t kSegment = kStageColumns;
  constexpr int64_t kPitch = kMargin + kSegment + kSlack;
  float magnitudes[kSegment + kSlack], bins[kSegment + kSlack];
  for (int64_t i = 0; i < block.columns * p.nbins; ++i) histogram[i] = 0.0;
  const int64_t x_begin = block.column * p.cell, x_end = x_begin + block.columns * p.cell;
  for (int64_t y = block.row * p.cell; y < (block.row + 1) * p.cell; ++y) {
    const float row_weight = p.window ? w.gaussian[y % p.window] : 1.0f;
    for (int64_t x = x_begin; x < x_end; x += kSegment) {
      const int64_t count = least(kSegment, x_end - x);
      stage_rows(p, plane_of<Pixel>(p, block), y, x, 1, count, w.stage, kPitch);
      row_f32(w.stage + kPitch + kMargin, kPitch, count, p.nbins, w.cotangents, magnitudes, bins);
      for (int64_t i = 0; i < count; ++i) {
        const float weight = p.window ? row_weight * w.gaussian[(x + i) % p.window] : 1.0f;
        const int64_t cell = (x - x_begin + i) / p.cell;
        histogram[cell * p.nbins + static_cast<int>(bins[i])] += weight * magnitudes[i];
      }
    }
  }
  write_histogram(p, plan, block, block.row, histogram);
}

template <typename Pixel, typename Staged>
void run_fast(const Params& p, const Plan& plan, int64_t begin, int64_t end) {
  Workspace<Staged> w;
  prepare(p, w);
  Block next = block_at(p, plan, begin);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Block block = next;
    next = block_at(p, plan, unit + 1 < end ? unit + 1 : unit);
    if (block.wanted)
      fast_block<Pixel>(p, plan, block, next, w);
    else
      write_zeros(p, plan, block);
  }
}

template <typename Pixel>
void run_general(const Params& p, const Plan& plan, int64_t begin, int64_t end) {
  Workspace<float> w;
  double histogram[kMaxHistogram];
  prepare(p, w);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Block block = block_at(p, plan, unit);
    if (block.wanted)
      general_block<Pixel>(p, plan, block, w, histogram);
    else
      write_zeros(p, plan, block);
  }
}

// float64 has no vector path: it is there for tests and for who asks for it.
void run_double(const Params& p, const Plan& plan, int64_t begin, int64_t end) {
  double histogram[kMaxBins];
  double* out = static_cast<double*>(p.out);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Block block = block_at(p, plan, unit);
    if (!block.wanted) {
      write_zeros(p, plan, block);
      continue;
    }
    const double* plane = plane_of<double>(p, block);
    for (int64_t c = block.column; c < block.column + block.columns; ++c) {
      cell_histogram(p, plane, block.row, c, histogram);
      const int64_t at = output_offset(p, plan, block, block.row, c);
      for (int b = 0; b < p.nbins; ++b) out[at + b * bin_stride(p)] = histogram[b];
    }
  }
}

template <typename Pixel, typename Staged>
void run_pixels(const Params& p, const Plan& plan, int64_t begin, int64_t end) {
  if (plan.fast)
    run_fast<Pixel, Staged>(p, plan, begin, end);
  else
    run_general<Pixel>(p, plan, begin, end);
}

}  // namespace

void run(const Params& p, int64_t begin, int64_t end) {
  const Plan plan = make_plan(p);
#if defined(SSL_FAST_HAS_I16)
  using StagedByte = int16_t;
#else
  using StagedByte = float;
#endif
  switch (p.dtype) {
    case DType::kUInt8:
      return run_pixels<uint8_t, StagedByte>(p, plan, begin, end);
    case DType::kFloat16:
      return run_pixels<Half, float>(p, plan, begin, end);
    case DType::kBFloat16:
      return run_pixels<BFloat16, float>(p, plan, begin, end);
    case DType::kFloat32:
      return run_pixels<float, float>(p, plan, begin, end);
    case DType::kFloat64:
      return run_double(p, plan, begin, end);
  }
}

}  // namespace ssl_fast::hog::SSL_FAST_ISA
