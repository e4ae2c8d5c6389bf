// Blockwise masks over raw pointers: no torch in sight. The law stands in block_mask_math.h.
#pragma once

#include "common/isa.h"
#include "masks/block_mask_math.h"

namespace ssl_fast::masks {

SSL_FAST_DECLARE_PER_ISA(void block_mask(const BlockMaskParams& params, int64_t begin, int64_t end))

// Samples masks begin .. end - 1 on the calling thread.
inline void block_mask_cpu(const BlockMaskParams& params, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(block_mask, params, begin, end);
}

// Enqueues all masks on a CUDA stream.
void block_mask_cuda(const BlockMaskParams& params, void* stream);

// Why the kernels do not take this law, or null: the second fence behind the checks in Python.
inline const char* refusal(int64_t frames, int64_t height, int64_t width, int64_t num_masked,
                           int64_t min_block, int64_t max_block, int64_t log2_min_aspect,
                           int64_t log2_max_aspect) {
  if (frames < 1 || height < 1 || width < 1 || height > kMaxCells / width ||
      frames > kMaxCells / (height * width))
    return "block masks: grid out of range";
  const int64_t cells = height * width;
  if (num_masked < 0 || num_masked > frames * cells) return "block masks: num_masked out of range";
  if (min_block < 1 || max_block < min_block || max_block > cells)
    return "block masks: min_block or max_block out of range";
  if (log2_min_aspect < -kMaxLog2Aspect || log2_max_aspect > kMaxLog2Aspect ||
      log2_max_aspect < log2_min_aspect)
    return "block masks: aspects out of range";
  return nullptr;
}

inline BlockLaw make_law(int64_t frames, int64_t height, int64_t width, int64_t num_masked,
                         int64_t min_block, int64_t max_block, int64_t log2_min_aspect,
                         int64_t log2_max_aspect, bool exclusive) {
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  return {narrow(frames),          narrow(height),          narrow(width),
          narrow(num_masked),      narrow(min_block),       narrow(max_block),
          narrow(log2_min_aspect), narrow(log2_max_aspect), exclusive ? 1 : 0};
}

inline const char* refusal(int64_t count, int64_t cells, int64_t samples, int64_t low,
                           int64_t high) {
  if (count > 0x7FFFFFFF || samples < 0 || samples > count)
    return "ibot_mask: number of samples out of range";
  if (low < 0 || high < low || high > cells << kSliceBits) return "ibot_mask: share out of range";
  return nullptr;
}

}  // namespace ssl_fast::masks
