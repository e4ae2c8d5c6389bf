// The glue of blockwise masks: checks (a second fence, the first is in ssl_fast/ops/masks),
// allocation, registration.
#include "common/stable_torch.h"
#include "masks/block_mask.h"

namespace ssl_fast::masks {

namespace {

void launch(const Tensor& seed, const BlockMaskParams& p) {
#ifdef SSL_FAST_EMULATED
  on_cuda(seed, [&](void* stream) { block_mask_cuda(p, stream); });
#else
  if (!seed.is_cpu()) {
#ifdef SSL_FAST_CUDA
    on_cuda(seed, [&](void* stream) { block_mask_cuda(p, stream); });
#endif
    return;
  }
  constexpr int64_t kGrain = 8;  // a mask takes about a microsecond
  torch::stable::parallel_for(0, p.count, kGrain,
                              [&](int64_t begin, int64_t end) { block_mask_cpu(p, begin, end); });
#endif
}

Tensor block_mask(const Tensor& seed, const Tensor& sample_ids, int64_t height, int64_t width,
                  int64_t num_masked, int64_t min_block, int64_t max_block, int64_t log2_min_aspect,
                  int64_t log2_max_aspect, bool exclusive) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                  "block_mask: seed must be one int64");
  STD_TORCH_CHECK(sample_ids.scalar_type() == ScalarType::Long && sample_ids.dim() == 1,
                  "block_mask: sample_ids must be int64 [N]");
  STD_TORCH_CHECK(seed.device() == sample_ids.device(),
                  "block_mask: seed and sample_ids must be on one device");
  const char* why_not =
      refusal(height, width, num_masked, min_block, max_block, log2_min_aspect, log2_max_aspect);
  STD_TORCH_CHECK(why_not == nullptr, why_not);
  BlockMaskParams p;
  p.law = make_law(height, width, num_masked, min_block, max_block, log2_min_aspect,
                   log2_max_aspect, exclusive);
  p.seed = static_cast<const int64_t*>(seed.const_data_ptr());
  p.sample_ids = static_cast<const int64_t*>(sample_ids.const_data_ptr());
  p.id_stride = sample_ids.stride(0);
  p.count = sample_ids.size(0);
  Tensor out = torch::stable::new_empty(sample_ids, {p.count, height, width}, ScalarType::Bool);
  p.out = static_cast<uint8_t*>(out.mutable_data_ptr());
  if (p.count != 0) launch(seed, p);
  return out;
}

}  // namespace

SSL_FAST_KERNELS(library) { library.impl("block_mask", TORCH_BOX(&block_mask)); }

}  // namespace ssl_fast::masks
