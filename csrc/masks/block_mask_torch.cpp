// The glue of blockwise masks: checks (a second fence, the first is in ssl_fast/ops/masks),
// allocation, registration.
#include <vector>

#include "common/stable_torch.h"
#include "masks/ibot_counts.h"

namespace ssl_fast::masks {

namespace {

using torch::headeronly::ScalarType;

void launch(const Tensor& seed, BlockMaskParams p) {
#ifdef SSL_FAST_EMULATED
  on_cuda(seed, [&](void* stream) { block_mask_cuda(p, stream); });
#else
  if (!seed.is_cpu()) {
#ifdef SSL_FAST_CUDA
    on_cuda(seed, [&](void* stream) { block_mask_cuda(p, stream); });
#endif
    return;
  }
  std::vector<int> counts;
  if (p.rule.stream == kIbotMaskStream) {
    counts = ibot_counts(p);
    p.counts = counts.data();
  }
  constexpr int64_t kGrain = 8;  // a mask takes about a microsecond
  torch::stable::parallel_for(0, p.count, kGrain,
                              [&](int64_t begin, int64_t end) { block_mask_cpu(p, begin, end); });
#endif
}

BlockMaskParams make_params(const Tensor& seed, const Tensor& sample_ids, const BlockLaw& law,
                            const BlockRule& rule) {
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                  "block masks: seed must be one int64");
  STD_TORCH_CHECK(sample_ids.scalar_type() == ScalarType::Long && sample_ids.dim() == 1,
                  "block masks: sample_ids must be int64 [N]");
  STD_TORCH_CHECK(seed.device() == sample_ids.device(),
                  "block masks: seed and sample_ids must be on one device");
  BlockMaskParams p{};
  p.law = law;
  p.rule = rule;
  p.seed = static_cast<const int64_t*>(seed.const_data_ptr());
  p.sample_ids = static_cast<const int64_t*>(sample_ids.const_data_ptr());
  p.id_stride = sample_ids.stride(0);
  p.count = sample_ids.size(0);
  return p;
}

Tensor run(const Tensor& seed, const Tensor& sample_ids, BlockMaskParams p,
           const std::vector<int64_t>& shape) {
  Tensor out = torch::stable::new_empty(sample_ids, shape, ScalarType::Bool);
  p.out = static_cast<uint8_t*>(out.mutable_data_ptr());
  if (p.count != 0) launch(seed, p);
  return out;
}

BlockLaw checked_law(int64_t frames, int64_t height, int64_t width, int64_t num_masked,
                     int64_t min_block, int64_t max_block, int64_t log2_min_aspect,
                     int64_t log2_max_aspect, bool exclusive) {
  const char* why_not = refusal(frames, height, width, num_masked, min_block, max_block,
                                log2_min_aspect, log2_max_aspect);
  STD_TORCH_CHECK(why_not == nullptr, why_not);
  return make_law(frames, height, width, num_masked, min_block, max_block, log2_min_aspect,
                  log2_max_aspect, exclusive);
}

Tensor block_mask(const Tensor& seed, const Tensor& sample_ids, int64_t height, int64_t width,
                  int64_t num_masked, int64_t min_block, int64_t max_block, int64_t log2_min_aspect,
                  int64_t log2_max_aspect, bool exclusive) {
  const BlockLaw law = checked_law(1, height, width, num_masked, min_block, max_block,
                                   log2_min_aspect, log2_max_aspect, exclusive);
  const BlockMaskParams p = make_params(seed, sample_ids, law, kBlockRule);
  return run(seed, sample_ids, p, {p.count, height, width});
}

Tensor cube_mask(const Tensor& seed, const Tensor& sample_ids, int64_t frames, int64_t height,
                 int64_t width, int64_t num_masked, int64_t min_block, int64_t max_block,
                 int64_t log2_min_aspect, int64_t log2_max_aspect) {
  const BlockLaw law = checked_law(frames, height, width, num_masked, min_block, max_block,
                                   log2_min_aspect, log2_max_aspect, false);
  const BlockMaskParams p = make_params(seed, sample_ids, law, kCubeRule);
  return run(seed, sample_ids, p, {p.count, frames, height, width});
}

Tensor ibot_mask(const Tensor& seed, const Tensor& sample_ids, int64_t height, int64_t width,
                 int64_t num_samples_masked, int64_t low, int64_t high, int64_t min_block,
                 int64_t max_block, int64_t log2_min_aspect, int64_t log2_max_aspect) {
  const BlockLaw law = checked_law(1, height, width, 0, min_block, max_block, log2_min_aspect,
                                   log2_max_aspect, false);
  BlockMaskParams p = make_params(seed, sample_ids, law, kIbotRule);
  const char* why_not = refusal(p.count, height * width, num_samples_masked, low, high);
  STD_TORCH_CHECK(why_not == nullptr, why_not);
  p.slices = {static_cast<int>(num_samples_masked), low, high};
  return run(seed, sample_ids, p, {p.count, height, width});
}

}  // namespace

SSL_FAST_KERNELS(library) {
  library.impl("block_mask", TORCH_BOX(&block_mask));
  library.impl("cube_mask", TORCH_BOX(&cube_mask));
  library.impl("ibot_mask", TORCH_BOX(&ibot_mask));
}

}  // namespace ssl_fast::masks
