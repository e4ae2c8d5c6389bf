// The glue of I-JEPA's blocks: checks (a second fence, the first is in ssl_fast/ops/masks),
// allocation, registration.
#include <tuple>

#include "common/stable_torch.h"
#include "masks/multiblock_mask.h"

namespace ssl_fast::masks {

namespace {

void launch(const Tensor& seed, const MultiblockParams& p) {
#ifdef SSL_FAST_EMULATED
  on_cuda(seed, [&](void* stream) { multiblock_mask_cuda(p, stream); });
#else
  if (!seed.is_cpu()) {
#ifdef SSL_FAST_CUDA
    on_cuda(seed, [&](void* stream) { multiblock_mask_cuda(p, stream); });
#endif
    return;
  }
  constexpr int64_t kGrain = 8;  // a sample takes about a microsecond
  torch::stable::parallel_for(
      0, p.count, kGrain, [&](int64_t begin, int64_t end) { multiblock_mask_cpu(p, begin, end); });
#endif
}

std::tuple<Tensor, Tensor> multiblock_mask(const Tensor& seed, const Tensor& sample_ids,
                                           int64_t height, int64_t width, int64_t targets,
                                           int64_t target_height, int64_t target_width,
                                           int64_t contexts, int64_t context_height,
                                           int64_t context_width, int64_t min_keep, bool overlap,
                                           bool exclusive) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                  "multiblock_mask: seed must be one int64");
  STD_TORCH_CHECK(sample_ids.scalar_type() == ScalarType::Long && sample_ids.dim() == 1,
                  "multiblock_mask: sample_ids must be int64 [N]");
  STD_TORCH_CHECK(seed.device() == sample_ids.device(),
                  "multiblock_mask: seed and sample_ids must be on one device");
  MultiblockParams p{};
  p.law = make_multiblock_law({height, width, targets, target_height, target_width, contexts,
                               context_height, context_width, min_keep},
                              overlap, exclusive);
  const char* why_not = refusal(p.law);
  STD_TORCH_CHECK(why_not == nullptr, why_not);
  p.seed = static_cast<const int64_t*>(seed.const_data_ptr());
  p.sample_ids = static_cast<const int64_t*>(sample_ids.const_data_ptr());
  p.id_stride = sample_ids.stride(0);
  p.count = sample_ids.size(0);
  Tensor target_ids = torch::stable::new_empty(
      sample_ids, {p.count, targets, target_height * target_width}, ScalarType::Long);
  Tensor context =
      torch::stable::new_empty(sample_ids, {p.count, contexts, height, width}, ScalarType::Bool);
  p.targets = static_cast<int64_t*>(target_ids.mutable_data_ptr());
  p.contexts = static_cast<uint8_t*>(context.mutable_data_ptr());
  if (p.count != 0) launch(seed, p);
  return {target_ids, context};
}

}  // namespace

SSL_FAST_KERNELS(library) { library.impl("multiblock_mask", TORCH_BOX(&multiblock_mask)); }

}  // namespace ssl_fast::masks
