// What is done with a tile of similarities, over raw pointers: no torch in sight.
//
// A tile holds inner products of some rows' features with some columns', of the type that the
// product came in: float32, bfloat16 or float64. Everything else is float ("real" below), or double
// for float64. A logit is scale * product. A tile's rows are worked on in chunks of a fixed number,
// so that no sum depends on the number of threads.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ssl_fast::contrastive {

constexpr int64_t kChunk = 32;  // rows
constexpr int64_t kNobody = INT64_MIN / 2;

SSL_HD int64_t chunks_of(int64_t rows) { return (rows + kChunk - 1) / kChunk; }

struct Tile {
  void* data;
  DType dtype;
  int64_t rows, columns;
  int64_t stride;  // from row to row, in elements
  int64_t first_row, first_column;
  double scale;
  // Row i and column i + self_offset are the same sample, which is left out. kNobody for none.
  int64_t self_offset;
  const int64_t* targets;  // for each row of all, the column of its positive
};

// Sums of exponentials, each kept with a shift: the sum of e^logit is sum * e^shift.
struct Sums {
  void *shifts, *sums;  // real
};

struct SumParams {
  Tile tile;
  Sums rows;        // of all rows, continued
  void* positives;  // of all rows: the logits of the targets in this tile. Null: not wanted
  Sums parts;       // [chunks, columns of the tile]: sums over a chunk's rows. Null: not wanted
  Sums columns;     // of all columns, continued by `merge_columns`
};

struct GradientParams {
  Tile tile;
  // Logarithms of the sums over rows and over columns, and what a softmax is multiplied with to
  // make up for their rounding (null: nothing). Without the columns' the softmax is over rows only.
  const void *row_lse, *row_correction, *column_lse, *column_correction;
  double at_target;  // subtracted where the positive is
  void* factors;     // [chunks, columns of the tile], real, to work with
  double* dots;      // [chunks]: sums of gradient times inner product
};

// One sweep over columns with a running maximum, as in FlashAttention.
struct FlashParams {
  Tile tile;
  Sums rows;
  double* dots;    // of all rows: sums of e^(logit - shift) times inner product, continued
  void* weighted;  // [rows of all, dim], real: sums of e^(logit - shift) times features; rescaled
  int64_t dim;
};

// Where the tile's self_offset points stands a positive pair.
struct SigmoidParams {
  Tile tile;
  double bias;        // added to every logit
  double* losses;     // [chunks]
  double* gradients;  // [chunks]: sums of the gradient
  double* dots;       // [chunks]: of the gradient times inner product
};

// sum += factor * part
struct AddParams {
  const BFloat16* part;
  float* sum;
  float factor;
  bool first;  // sum = factor * part
};

SSL_FAST_DECLARE_PER_ISA(void sum_exponentials(const SumParams& p, int64_t begin, int64_t end);
                         void merge_columns(const SumParams& p, int64_t begin, int64_t end);
                         void softmax_gradients(const GradientParams& p, int64_t begin,
                                                int64_t end);
                         void flash_rows(const FlashParams& p, int64_t begin, int64_t end);
                         void sigmoid_losses(const SigmoidParams& p, int64_t begin, int64_t end);
                         void add_scaled(const AddParams& p, int64_t begin, int64_t end))

// Chunks begin .. end - 1: continues the rows' sums, makes parts of the columns'.
inline void sum_exponentials_cpu(const SumParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(sum_exponentials, p, begin, end);
}
// Columns begin .. end - 1 of the tile: the parts of all chunks, in order, into the columns' sums.
inline void merge_columns_cpu(const SumParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(merge_columns, p, begin, end);
}
// Chunks begin .. end - 1: each product is replaced by the gradient of its logit.
inline void softmax_gradients_cpu(const GradientParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(softmax_gradients, p, begin, end);
}
// Chunks begin .. end - 1: each product is replaced by e^(logit - the row's shift).
inline void flash_rows_cpu(const FlashParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(flash_rows, p, begin, end);
}
// Chunks begin .. end - 1: losses, and each product is replaced by the gradient of its logit.
inline void sigmoid_losses_cpu(const SigmoidParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(sigmoid_losses, p, begin, end);
}
// Elements begin .. end - 1.
inline void add_scaled_cpu(const AddParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(add_scaled, p, begin, end);
}

}  // namespace ssl_fast::contrastive
