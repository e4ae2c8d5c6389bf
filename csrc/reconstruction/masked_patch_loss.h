// Masked patch loss over raw pointers: no torch in sight.
//
// A patch is a rectangle of pixels; its elements stand in the order (row, column, channel) where
// the prediction is tokens, (channel, row, column) where it is an image. The image is read where it
// lies, one patch at a time into a buffer that stays in the first cache.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ssl_fast::reconstruction {

// Where the element (image, patch row, patch column, channel, y, x) stands; strides in elements.
struct PatchView {
  const void* data;
  DType dtype;
  int64_t image, row, column, channel, y, x;
};

struct Params {
  PatchView pred, images;
  const uint8_t* mask;  // [batch, rows, columns]: nonzero where the loss is taken
  int64_t batch, rows, columns, channels, patch;
  const double* mean;     // [channels]: subtracted from a pixel; null: 0
  const double* inverse;  // [channels]: then multiplied with; null: 1
  bool image_shaped;      // the prediction is an image
  bool norm_pix;
  int power;  // 1: |difference|, 2: its square

  // Forward: for each row of patches the sum of its masked elements' losses.
  double* sums;

  // Backward: the gradient of that sum times a factor; contiguous, of the prediction's type. Null
  // in the forward.
  void* grad;
  double factor;
};

// Rectangles of several patches, handled as one, have no more elements than this: the first cache
// holds them.
constexpr int64_t kMerged = 2048;

// Of elements that a thread has room for at a time, in whole cache lines.
SSL_HD int64_t buffer_size(const Params& p) {
  const int64_t patch = p.channels * p.patch * p.patch;
  return ((patch > kMerged ? patch : kMerged) + 15) / 16 * 16;
}
// How many values a thread works with: floats, or doubles where `works_in_double`. They begin at a
// cache line.
SSL_HD int64_t workspace_size(const Params& p) {
  return 2 * buffer_size(p) + 2 * p.channels * p.patch;
}
SSL_HD bool works_in_double(const Params& p) {
  return p.pred.dtype == DType::kFloat64 || p.images.dtype == DType::kFloat64;
}

SSL_FAST_DECLARE_PER_ISA(void masked_patch_loss(const Params& params, int64_t begin, int64_t end,
                                                void* workspace))

// Rows of patches begin .. end - 1, of batch * rows, on the calling thread.
inline void masked_patch_loss_cpu(const Params& params, int64_t begin, int64_t end,
                                  void* workspace) {
  SSL_FAST_CALL_BEST_ISA(masked_patch_loss, params, begin, end, workspace);
}

}  // namespace ssl_fast::reconstruction
