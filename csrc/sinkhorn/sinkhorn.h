// Sinkhorn's sweeps over raw pointers: no torch in sight.
//
// Scores S [rows, columns] stand for E[n][k] = exp((S[n][k] - M[k] - mu[n]) / epsilon), with M[k]
// the largest score of a column and mu[n] the largest S[n][k] - M[k] of a row: each row and each
// column has a 1. Both shifts are scalings of rows and columns, which change nothing in the result.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ssl_fast::sinkhorn {

enum class Sweep {
  kColumns,  // largest score of each column, sums of exp((S - M) / epsilon)
  kSums,     // rows to sum 1 under the weights, then sums of E over them
  kAssign    // rows to sum 1 under the weights, written
};

// `Real` is float, or double for scores in float64.
template <typename Real>
struct Params {
  Sweep sweep;
  const void* scores;  // rows are contiguous
  DType dtype;
  int64_t rows, columns, stride;  // stride: elements from row to row
  Real inverse_epsilon;
  int64_t chunk;  // rows of a chunk

  const Real* maxima;   // [padded], zeros behind the columns
  const Real* weights;  // the same

  // kColumns and kSums, for each chunk: [chunks, padded]. kColumns alone has largest scores.
  double* sums;
  Real* largest;
  Real* out;  // kAssign: [rows, columns], contiguous
};

// Arrays along the columns end in whole vectors of any instruction set.
SSL_HD int64_t padded(int64_t columns) { return (columns + 15) / 16 * 16; }
// Rows whose terms are added up in `Real` before they go to a sum in double.
constexpr int64_t kBlock = 16;
// How many values a thread works with; they begin at a cache line.
SSL_HD int64_t workspace_size(int64_t columns) { return 5 * padded(columns); }

SSL_FAST_DECLARE_PER_ISA(void sweep(const Params<float>& params, int64_t begin, int64_t end,
                                    float* workspace);
                         void sweep(const Params<double>& params, int64_t begin, int64_t end,
                                    double* workspace))

// Chunks begin .. end - 1, on the calling thread.
template <typename Real>
void sweep_cpu(const Params<Real>& params, int64_t begin, int64_t end, Real* workspace) {
  SSL_FAST_CALL_BEST_ISA(sweep, params, begin, end, workspace);
}

}  // namespace ssl_fast::sinkhorn
