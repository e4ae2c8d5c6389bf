// The glue of gather_patches: checks (a second fence, the first is in ssl_fast/ops/tokens),
// allocation, registration.
#ifndef SSL_FAST_EMULATED

#include <vector>

#include "common/stable_torch.h"
#include "tokens/check_ids.h"
#include "tokens/patches.h"

namespace ssl_fast::tokens {

namespace {

using torch::headeronly::ScalarType;

// [C] as doubles.
std::vector<double> values_of(const Tensor& tensor, int64_t channels) {
  const DType dtype = dtype_of(tensor);
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == channels &&
                      (dtype == DType::kFloat32 || dtype == DType::kFloat64),
                  "gather_patches: mean and std must be float32 or float64 [C]");
  std::vector<double> values;
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t at = c * tensor.stride(0);
    values.push_back(dtype == DType::kFloat64
                         ? static_cast<const double*>(tensor.const_data_ptr())[at]
                         : static_cast<const float*>(tensor.const_data_ptr())[at]);
  }
  return values;
}

Tensor gather_patches(const Tensor& images, const Tensor& ids, int64_t patch_h, int64_t patch_w,
                      std::optional<Tensor> mean, std::optional<Tensor> std, ScalarType dtype) {
  STD_TORCH_CHECK(images.dim() == 4, "gather_patches: images must be [N, C, H, W]");
  STD_TORCH_CHECK(patch_h >= 1 && patch_w >= 1 && images.size(2) % patch_h == 0 &&
                      images.size(3) % patch_w == 0,
                  "gather_patches: patches must divide height and width");
  STD_TORCH_CHECK(mean.has_value() == std.has_value(), "gather_patches: mean and std, or neither");
  PatchParams p;
  p.images = images.const_data_ptr();
  p.dtype = dtype_of(images);
  p.stride_n = images.stride(0), p.stride_c = images.stride(1);
  p.stride_h = images.stride(2), p.stride_w = images.stride(3);
  p.channels = images.size(1), p.patch_h = patch_h, p.patch_w = patch_w;
  p.patches_per_row = images.size(3) / patch_w;
  check_ids(ids, images.size(0), images.size(2) / patch_h * p.patches_per_row, "gather_patches");
  p.ids = static_cast<const int64_t*>(ids.const_data_ptr());
  p.id_stride_n = ids.stride(0), p.id_stride_k = ids.stride(1);
  p.count = ids.size(1);
  std::vector<double> means, scales;
  p.mean = p.scale = nullptr;
  if (mean) {
    means = values_of(*mean, p.channels);
    scales = values_of(*std, p.channels);
    for (double& scale : scales) scale = 1.0 / scale;
    p.mean = means.data(), p.scale = scales.data();
  }
  const int64_t width = p.channels * patch_h * patch_w;
  Tensor out = torch::stable::new_empty(images, {images.size(0), p.count, width}, dtype);
  p.out_dtype = dtype_of(out);
  p.out = out.mutable_data_ptr();
  STD_TORCH_CHECK(p.out_dtype != DType::kUInt8, "gather_patches: dtype must be floating");
  const int64_t grain = 1 + 16384 / (width + 1);
  if (out.numel() != 0)
    torch::stable::parallel_for(
        0, images.size(0) * p.count, grain,
        [&](int64_t begin, int64_t end) { gather_patches_cpu(p, begin, end); });
  return out;
}

}  // namespace

SSL_FAST_CPU_KERNELS(library) { library.impl("gather_patches", TORCH_BOX(&gather_patches)); }

}  // namespace ssl_fast::tokens

#endif  // SSL_FAST_EMULATED
