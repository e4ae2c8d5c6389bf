// Token ops over raw pointers: no torch in sight, and no CUDA kernels (Triton has them: nothing
// here does more than move rows and add them). Tokens are [N, L, D] with a dense last dimension.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ssl_fast::tokens {

// `streams` in the parameters: `out` is written past the caches.
constexpr int64_t kCacheLine = 64;
constexpr int64_t kStreamedBytes = 8 << 20;  // what is larger is gone before somebody reads it
inline bool streams(const void* out, int64_t rows, int64_t row_bytes) {
  return rows * row_bytes >= kStreamedBytes && row_bytes % kCacheLine == 0 &&
         reinterpret_cast<uintptr_t>(out) % kCacheLine == 0;
}

struct Rows {  // of [N, L, D], strides in elements
  const void* data;
  DType dtype;
  int64_t stride_n, stride_l;
};

struct Ids {  // of [N, K] int64, strides in elements
  const int64_t* data;
  int64_t stride_n, stride_k;
};

// out[n, k] = x[n, ids[n, k]]
struct GatherParams {
  Rows x;
  Ids ids;
  int64_t count, row_bytes;  // K; of D elements
  void* out;                 // [N, K, D], dtype of x
  bool streams;
};

// out[n, prefix + l] = (ids[n, l] < kept ? x[n, prefix + ids[n, l]] : mask_token) + pos[prefix + l]
// with the first `prefix` rows handed through; an id out of 0 .. kept - 1 stands for the mask
// token.
struct RestoreParams {
  Rows x;  // [N, prefix + kept, D]
  Ids ids;
  int64_t prefix, kept, length, dim;
  const void* mask_token;  // [D]
  const void* pos;         // [prefix + length, D] or null
  DType dtype;             // of mask_token, pos and out: the promotion with x's
  void* out;               // [N, prefix + length, D]
  bool streams;
};

// out[n, k] = x[n, k] + pos[ids[n, k]]
struct PositionParams {
  Rows x;  // [N, K, D]
  Ids ids;
  int64_t count, dim;
  const void* pos;  // [L, D]
  DType dtype;      // of pos and out: the promotion with x's
  void* out;        // [N, K, D]
  bool streams;
};

// out[n, r] = the sum over k, ascending, of grad[n, prefix + k] with ids[n, k] = r - prefix; the
// first `prefix` rows are handed through. Ids out of range belong to no row.
struct SumParams {
  Rows grad;  // [N, prefix + K, D]
  Ids ids;
  int64_t count, prefix, length, dim;  // K; of rows that are summed
  // For each n [length + count]: the first k of a row or -1, then the next k of the same row or -1.
  int32_t* links;
  DType dtype;
  void* out;  // [N, prefix + length, D]
  bool streams;
};

// The gradients of what is added to every sample, over n in fixed groups: pos[i] = sum over n of
// grad[n, i], and mask_token = sum over n and i of those where the mask token stood.
constexpr int64_t kRowsPerUnit = 8;
constexpr int64_t kDimsPerUnit = 512;
struct ParameterParams {
  Rows grad;  // [N, prefix + length, D]
  Ids ids;
  int64_t batch, prefix, kept, length, dim;
  void* pos;         // [prefix + length, D] of grad's dtype, or null
  void* partial;     // [row units, D] float (double of double) or null: what makes up mask_token
  void* mask_token;  // [D] of grad's dtype, or null
};
inline int64_t row_units(const ParameterParams& p) {
  return (p.prefix + p.length + kRowsPerUnit - 1) / kRowsPerUnit;
}
inline int64_t dim_units(const ParameterParams& p) {
  return (p.dim + kDimsPerUnit - 1) / kDimsPerUnit;
}

SSL_FAST_DECLARE_PER_ISA(void gather_rows(const GatherParams& p, int64_t begin, int64_t end))
SSL_FAST_DECLARE_PER_ISA(void restore_rows(const RestoreParams& p, int64_t begin, int64_t end))
SSL_FAST_DECLARE_PER_ISA(void add_positions(const PositionParams& p, int64_t begin, int64_t end))
SSL_FAST_DECLARE_PER_ISA(void link_rows(const SumParams& p, int64_t begin, int64_t end))
SSL_FAST_DECLARE_PER_ISA(void sum_rows(const SumParams& p, int64_t begin, int64_t end))
SSL_FAST_DECLARE_PER_ISA(void sum_parameters(const ParameterParams& p, int64_t begin, int64_t end))
SSL_FAST_DECLARE_PER_ISA(void finish_mask_token(const ParameterParams& p))

// Units begin .. end - 1 on the calling thread: rows of the output, but for link_rows samples and
// for sum_parameters pairs of (row unit, dim unit).
inline void gather_rows_cpu(const GatherParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(gather_rows, p, begin, end);
}
inline void restore_rows_cpu(const RestoreParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(restore_rows, p, begin, end);
}
inline void add_positions_cpu(const PositionParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(add_positions, p, begin, end);
}
inline void link_rows_cpu(const SumParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(link_rows, p, begin, end);
}
inline void sum_rows_cpu(const SumParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(sum_rows, p, begin, end);
}
inline void sum_parameters_cpu(const ParameterParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(sum_parameters, p, begin, end);
}
inline void finish_mask_token_cpu(const ParameterParams& p) {
  SSL_FAST_CALL_BEST_ISA(finish_mask_token, p);
}

}  // namespace ssl_fast::tokens
