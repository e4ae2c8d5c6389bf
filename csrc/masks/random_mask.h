// Random masks over raw pointers: no torch in sight.
//
// The tokens of a sample are put in order by keys, ties by index; the first `kept` are kept. A key
// is a word of Philox, word t % 4 of draw t / 4 for token t; or the caller's noise, in torch's
// order of floats: -0 equals 0, NaN comes last.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"
#include "common/philox.h"

namespace ssl_fast::masks {

constexpr int kMaxTokens = 65536;

struct RandomMaskParams {
  const int64_t* seed;        // one; unused with noise
  const int64_t* sample_ids;  // [count], elements `id_stride` apart; null for 0 .. count - 1
  int64_t id_stride;
  const void* noise;  // [count, length] or null
  DType dtype;        // of the noise
  int64_t count;
  int length, kept;
  int64_t* ids_keep;     // [count, kept]
  int64_t* ids_restore;  // [count, length]
  float* mask;           // [count, length]
};

// Words of memory that a thread needs besides.
inline size_t random_mask_scratch(int length) { return 3 * static_cast<size_t>(length) + 576; }

SSL_FAST_DECLARE_PER_ISA(void random_mask(const RandomMaskParams& params, int64_t begin,
                                          int64_t end, uint64_t* scratch))

// Samples begin .. end - 1 on the calling thread.
inline void random_mask_cpu(const RandomMaskParams& params, int64_t begin, int64_t end,
                            uint64_t* scratch) {
  SSL_FAST_CALL_BEST_ISA(random_mask, params, begin, end, scratch);
}

// Why the kernels do not take these sizes, or null: the second fence behind the checks in Python.
inline const char* refusal(int64_t length, int64_t kept) {
  if (length < 1 || length > kMaxTokens) return "random_mask: length out of range";
  if (kept < 0 || kept > length) return "random_mask: num_kept out of range";
  return nullptr;
}

}  // namespace ssl_fast::masks
