// What stands around the products of the Barlow Twins loss, over raw pointers: no torch in sight.
//
// h = (z - mean) / sqrt(variance + eps), by column, for both views; C = h0^T h1 / N. Everything
// runs along columns, so that each is summed in one order whatever the threads.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ssl_fast::cross_correlation {

enum class Step {
  kStandardise,  // statistics of all rows, h, the diagonal of C
  kSettle,       // products to the slopes of the off-diagonal sum, for the rows from `begin` on
  kFinish        // these to gradients
};

// Columns that are worked on at a time.
constexpr int64_t kTile = 64;

// `Real` is float, or double for float64.
template <typename Real>
struct Params {
  Step step;
  const void* z[2];  // [rows, columns], columns contiguous
  DType dtype;
  int64_t stride[2];  // from row to row
  int64_t rows, columns;
  int64_t begin, end;  // of the rows that products, slopes and gradients are of
  double eps;

  Real* statistics;  // [4, columns]: mean and 1 / deviation of the first view, of the second
  Real* diagonal;    // [columns]: of C
  void* h[2];        // [rows, columns]: bfloat16 where z is, else Real

  // kSettle: slopes = products * scale, less, where the products have the diagonal of C in them,
  // its part. Column by column, their sums with h: the sums of the squares of C, its diagonal left
  // out, along its rows and along its columns.
  const void* products[2];  // [end - begin, columns], as h
  double scale;
  bool with_diagonal;
  Real* slopes[2];  // [end - begin, columns]; may be `products`
  Real* squares;    // [2, columns]

  // kFinish: z, slopes and gradients have the rows 0 .. rows - 1 alone; `total` is how many there
  // are in the batch.
  double total, lambda;
  Real* gradients[2];  // [rows, columns]; may be `slopes`
};

// Columns tile * kTile .. of the tiles begin .. end - 1, on the calling thread; sums of products of
// neighbouring elements.
SSL_FAST_DECLARE_PER_ISA(void run(const Params<float>& params, int64_t begin, int64_t end);
                         void run(const Params<double>& params, int64_t begin, int64_t end);
                         double dot(const float* a, const float* b, int64_t size);
                         double dot(const double* a, const double* b, int64_t size);
                         double dot(const BFloat16* a, const BFloat16* b, int64_t size))

template <typename Real>
void run_cpu(const Params<Real>& params, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(run, params, begin, end);
}
template <typename T>
double dot_cpu(const T* a, const T* b, int64_t size) {
  SSL_FAST_CALL_BEST_ISA(dot, a, b, size);
}

}  // namespace ssl_fast::cross_correlation
