// The glue of random masks: checks (a second fence, the first is in ssl_fast/ops/masks),
// allocation, registration.
#include <optional>
#include <tuple>
#include <vector>

#include "common/stable_torch.h"
#include "masks/random_mask.h"

// On a GPU Triton sorts.
#ifndef SSL_FAST_EMULATED

namespace ssl_fast::masks {

namespace {

using torch::headeronly::ScalarType;
using Outputs = std::tuple<Tensor, Tensor, Tensor>;

Outputs run(RandomMaskParams& p, const Tensor& like) {
  const int64_t length = p.length;
  Tensor ids_keep = torch::stable::new_empty(like, {p.count, p.kept}, ScalarType::Long);
  Tensor ids_restore = torch::stable::new_empty(like, {p.count, length}, ScalarType::Long);
  Tensor mask = torch::stable::new_empty(like, {p.count, length}, ScalarType::Float);
  p.ids_keep = static_cast<int64_t*>(ids_keep.mutable_data_ptr());
  p.ids_restore = static_cast<int64_t*>(ids_restore.mutable_data_ptr());
  p.mask = static_cast<float*>(mask.mutable_data_ptr());
  const int64_t grain = 1 + 4096 / length;  // some ten microseconds
  torch::stable::parallel_for(0, p.count, grain, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(random_mask_scratch(p.length));
    random_mask_cpu(p, begin, end, scratch.data());
  });
  return {ids_keep, ids_restore, mask};
}

RandomMaskParams make_params(int64_t count, int64_t length, int64_t kept) {
  const char* why_not = refusal(length, kept);
  STD_TORCH_CHECK(why_not == nullptr, why_not);
  RandomMaskParams p{};
  p.count = count;
  p.length = static_cast<int>(length);
  p.kept = static_cast<int>(kept);
  return p;
}

Outputs random_mask(const Tensor& seed, std::optional<Tensor> sample_ids, int64_t num_samples,
                    int64_t length, int64_t num_kept) {
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                  "random_mask: seed must be one int64");
  STD_TORCH_CHECK(num_samples >= 0, "random_mask: num_samples out of range");
  RandomMaskParams p = make_params(num_samples, length, num_kept);
  p.seed = static_cast<const int64_t*>(seed.const_data_ptr());
  if (sample_ids) {
    STD_TORCH_CHECK(sample_ids->scalar_type() == ScalarType::Long && sample_ids->dim() == 1 &&
                        sample_ids->size(0) == num_samples,
                    "random_mask: sample_ids must be int64 [N]");
    p.sample_ids = static_cast<const int64_t*>(sample_ids->const_data_ptr());
    p.id_stride = sample_ids->stride(0);
  }
  return run(p, seed);
}

Outputs random_mask_from_noise(const Tensor& noise, int64_t num_kept) {
  STD_TORCH_CHECK(noise.dim() == 2 && noise.scalar_type() != ScalarType::Byte,
                  "random_mask_from_noise: noise must be floating point [N, L]");
  const Tensor packed = torch::stable::contiguous(noise);
  RandomMaskParams p = make_params(noise.size(0), noise.size(1), num_kept);
  p.noise = packed.const_data_ptr();
  p.dtype = dtype_of(packed);
  return run(p, packed);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssl_fast, CPU, library) {
  library.impl("random_mask", TORCH_BOX(&random_mask));
  library.impl("random_mask_from_noise", TORCH_BOX(&random_mask_from_noise));
}

}  // namespace ssl_fast::masks

#endif
