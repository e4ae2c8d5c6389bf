// The pixels of chosen patches as rows, ready for the patch embedding's product; no torch in sight.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ssl_fast::tokens {

// out[n, k] = (images[n, :, patch ids[n, k]] - mean) * scale, channel by channel, row by row.
struct PatchParams {
  const void* images;  // [N, C, H, W] of any strides, in elements
  DType dtype;
  int64_t stride_n, stride_c, stride_h, stride_w;
  int64_t channels, patch_h, patch_w, patches_per_row;
  const int64_t* ids;  // [N, K]
  int64_t id_stride_n, id_stride_k, count;
  const double* mean;   // [C] or null: pixels as they are
  const double* scale;  // [C], 1 / std
  DType out_dtype;
  void* out;  // [N, K, C * patch_h * patch_w]
};

SSL_FAST_DECLARE_PER_ISA(void gather_patches(const PatchParams& p, int64_t begin, int64_t end))

// Patches begin .. end - 1 of all N * K on the calling thread.
inline void gather_patches_cpu(const PatchParams& p, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(gather_patches, p, begin, end);
}

}  // namespace ssl_fast::tokens
