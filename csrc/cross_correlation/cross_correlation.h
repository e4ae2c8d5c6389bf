// What stands around the products of the Barlow Twins loss, over raw pointers: no torch in sight.
//
// h = (z - mean) / sqrt(variance + eps), by column, for both views; C = h0^T h1 / N. Rows are taken
// in chunks, of which each has its own sums of columns, so that every sum has one order whatever
// the threads.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ssl_fast::cross_correlation {

enum class Step {
  kMoments,      // of each view's columns, of each chunk: mean, sum of squares about it
  kStandardise,  // h, and the sums of h0 * h1
  kSettle,       // products to the slopes of the off-diagonal sum, and the sums of slope * h
  kFinish        // these to gradients
};

// Sums that a chunk has for each column.
SSL_HD int sums_of(Step step) {
  return step == Step::kMoments       ? 4
         : step == Step::kStandardise ? 1
         : step == Step::kSettle      ? 2
                                      : 0;
}

// `Real` is float, or double for float64.
template <typename Real>
struct Params {
  Step step;
  const void* z[2];  // [rows, columns], columns contiguous
  DType dtype;
  int64_t stride[2];  // from row to row
  int64_t rows, columns;
  int64_t chunk;  // rows of a chunk

  double* sums;  // [chunks, sums_of(step), columns]

  // [6, columns]: mean, what it lost to rounding, 1 / deviation of the first view, of the second.
  const Real* statistics;
  const Real* diagonal;  // [columns]: of C
  void* h[2];            // [rows, columns]
  bool narrow;           // h and products are bfloat16, not Real; where z is bfloat16

  // kSettle: slopes = products * scale, less the diagonal's part where products have it, `total`
  // times what C has there.
  const void* products[2];  // [rows, columns]
  double scale;
  bool with_diagonal;
  Real* slopes[2];  // [rows, columns]; may be `products`

  // kFinish: `total` rows are in the batch; squares [2, columns] are the sums of the squares of C,
  // its diagonal left out, along its rows and along its columns.
  double total, lambda;
  const Real* squares;
  Real* gradients[2];  // [rows, columns]; may be `slopes`
};

// Chunks begin .. end - 1, on the calling thread; the sum of products of neighbouring elements;
// the same of the squares of a row, which goes to the sums of columns as well and is scaled.
SSL_FAST_DECLARE_PER_ISA(void run(const Params<float>& params, int64_t begin, int64_t end);
                         void run(const Params<double>& params, int64_t begin, int64_t end);
                         double dot(const float* a, const float* b, int64_t size);
                         double dot(const double* a, const double* b, int64_t size);
                         double dot(const BFloat16* a, const BFloat16* b, int64_t size);
                         double square_row(float* row, int64_t size, double scale, double* columns);
                         double square_row(double* row, int64_t size, double scale,
                                           double* columns);
                         double square_row(BFloat16* row, int64_t size, double scale,
                                           double* columns))

template <typename Real>
void run_cpu(const Params<Real>& params, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(run, params, begin, end);
}
template <typename T>
double dot_cpu(const T* a, const T* b, int64_t size) {
  SSL_FAST_CALL_BEST_ISA(dot, a, b, size);
}
template <typename T>
double square_row_cpu(T* row, int64_t size, double scale, double* columns) {
  SSL_FAST_CALL_BEST_ISA(square_row, row, size, scale, columns);
}

}  // namespace ssl_fast::cross_correlation
