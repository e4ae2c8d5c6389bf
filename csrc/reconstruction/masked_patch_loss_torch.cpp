// The glue of the masked patch loss: checks (a second fence, the first is in
// ssl_fast/ops/reconstruction), allocation, the second stage of the sum, registration.
#include <memory>
#include <tuple>
#include <vector>

#include "common/large_output.h"
#include "common/stable_torch.h"
#include "reconstruction/masked_patch_loss.h"

// CPU alone: on a GPU Triton serves.
#ifndef SSL_FAST_EMULATED

namespace ssl_fast::reconstruction {

namespace {

using torch::headeronly::ScalarType;

PatchView image_view(const Tensor& x, int64_t patch) {
  return {x.const_data_ptr(),  dtype_of(x), x.stride(0), patch * x.stride(2),
          patch * x.stride(3), x.stride(1), x.stride(2), x.stride(3)};
}

// Of tokens [N, L, patch * patch * channels].
PatchView token_view(const Tensor& x, int64_t columns, int64_t channels, int64_t patch) {
  const int64_t step = x.stride(2);
  return {x.const_data_ptr(),      dtype_of(x),    x.stride(0),
          columns * x.stride(1),   x.stride(1),    step,
          patch * channels * step, channels * step};
}

std::vector<double> values_of(const Tensor& x) {
  const Tensor packed = torch::stable::contiguous(x);
  std::vector<double> values(packed.numel());
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = dtype_of(packed) == DType::kFloat64
                    ? static_cast<const double*>(packed.const_data_ptr())[i]
                    : static_cast<const float*>(packed.const_data_ptr())[i];
  return values;
}

struct Options {
  int64_t patch;
  bool norm_pix;
  int64_t power;
};

// A call, and what its pointers point to.
struct Call {
  Params params;
  Tensor mask;
  std::vector<double> mean, inverse;
  int64_t count;   // masked patches
  int64_t masked;  // elements of the prediction that the loss is taken of

  Call(const Tensor& pred, const Tensor& images, const Tensor& masks, const Options& options,
       const std::optional<Tensor>& means, const std::optional<Tensor>& stds)
      : mask(torch::stable::contiguous(masks)) {
    check(pred, images, options, means, stds);
    Params& p = params;
    p.patch = options.patch;
    p.batch = images.size(0), p.channels = images.size(1);
    p.rows = images.size(2) / p.patch, p.columns = images.size(3) / p.patch;
    p.image_shaped = pred.dim() == 4;
    p.images = image_view(images, p.patch);
    p.pred = p.image_shaped ? image_view(pred, p.patch)
                            : token_view(pred, p.columns, p.channels, p.patch);
    p.norm_pix = options.norm_pix;
    p.power = static_cast<int>(options.power);
    if (means) mean = values_of(*means);
    if (stds) inverse = values_of(*stds);
    for (double& value : inverse) value = 1.0 / value;
    p.mean = means ? mean.data() : nullptr;
    p.inverse = stds ? inverse.data() : nullptr;
    p.mask = static_cast<const uint8_t*>(mask.const_data_ptr());
    count = 0;
    for (int64_t i = 0; i < mask.numel(); ++i) count += p.mask[i] != 0;
    masked = count * p.channels * p.patch * p.patch;
    p.sums = nullptr, p.grad = nullptr, p.factor = 0.0;
  }

  void check(const Tensor& pred, const Tensor& images, const Options& options,
             const std::optional<Tensor>& means, const std::optional<Tensor>& stds) const {
    STD_TORCH_CHECK(images.dim() == 4 && options.patch >= 1 &&
                        images.size(2) % options.patch == 0 && images.size(3) % options.patch == 0,
                    "masked_patch_loss: images must be [N, C, H, W] of whole patches");
    STD_TORCH_CHECK(options.power == 1 || options.power == 2, "masked_patch_loss: p is 1 or 2");
    STD_TORCH_CHECK(dtype_of(pred) != DType::kUInt8, "masked_patch_loss: pred must be floats");
    const int64_t batch = images.size(0), channels = images.size(1);
    const int64_t patches = images.size(2) / options.patch * (images.size(3) / options.patch);
    const bool tokens = pred.dim() == 3 && pred.size(0) == batch && pred.size(1) == patches &&
                        pred.size(2) == options.patch * options.patch * channels;
    const bool image = pred.dim() == 4 && pred.size(0) == batch && pred.size(1) == channels &&
                       pred.size(2) == images.size(2) && pred.size(3) == images.size(3);
    STD_TORCH_CHECK(tokens || image, "masked_patch_loss: pred must be tokens or an image");
    STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Bool && mask.dim() == 2 &&
                        mask.size(0) == batch && mask.size(1) == patches,
                    "masked_patch_loss: mask must be bool [N, L]");
    for (const auto* values : {&means, &stds}) {
      if (!*values) continue;
      const ScalarType type = (*values)->scalar_type();
      STD_TORCH_CHECK((*values)->dim() == 1 && (*values)->size(0) == channels &&
                          (type == ScalarType::Float || type == ScalarType::Double),
                      "masked_patch_loss: mean and std must be float32 or float64 [C]");
    }
  }
};

void run(const Params& p) {
  const int64_t elements = p.columns * p.channels * p.patch * p.patch;
  const int64_t grain = 1 + 16384 / (elements + 1);
  torch::stable::parallel_for(0, p.batch * p.rows, grain, [&](int64_t begin, int64_t end) {
    const size_t size = works_in_double(p) ? sizeof(double) : sizeof(float);
    constexpr size_t kLine = 64;
    const std::unique_ptr<char[]> memory(new char[size * workspace_size(p) + kLine]);
    const uintptr_t start = (reinterpret_cast<uintptr_t>(memory.get()) + kLine - 1) / kLine * kLine;
    masked_patch_loss_cpu(p, begin, end, reinterpret_cast<void*>(start));
  });
}

double first_value(const Tensor& x) {
  return dtype_of(x) == DType::kFloat64 ? *static_cast<const double*>(x.const_data_ptr())
                                        : *static_cast<const float*>(x.const_data_ptr());
}

Tensor scalar(const Tensor& like, double value, bool wide) {
  Tensor out = torch::stable::new_empty(like, {}, wide ? ScalarType::Double : ScalarType::Float);
  if (wide)
    *static_cast<double*>(out.mutable_data_ptr()) = value;
  else
    *static_cast<float*>(out.mutable_data_ptr()) = static_cast<float>(value);
  return out;
}

// The loss and the number of masked patches.
std::tuple<Tensor, Tensor> masked_patch_loss(const Tensor& pred, const Tensor& images,
                                             const Tensor& mask, int64_t patch_size, bool norm_pix,
                                             int64_t power, std::optional<Tensor> mean,
                                             std::optional<Tensor> std) {
  Call call(pred, images, mask, {patch_size, norm_pix, power}, mean, std);
  Params& p = call.params;
  // One sum for each row of patches, then these in order: the same whatever the threads.
  std::vector<double> sums(p.batch * p.rows);
  p.sums = sums.data();
  if (call.masked != 0) run(p);
  double total = 0.0;
  for (double sum : sums) total += sum;
  if (call.masked != 0) total /= static_cast<double>(call.masked);
  const bool wide = works_in_double(p);
  return {scalar(pred, total, wide), scalar(pred, static_cast<double>(call.count), wide)};
}

// The count is for GPUs: here the mask is counted in any case.
Tensor masked_patch_loss_backward(const Tensor& grad, const Tensor& /*count*/, const Tensor& pred,
                                  const Tensor& images, const Tensor& mask, int64_t patch_size,
                                  bool norm_pix, int64_t power, std::optional<Tensor> mean,
                                  std::optional<Tensor> std) {
  Call call(pred, images, mask, {patch_size, norm_pix, power}, mean, std);
  STD_TORCH_CHECK(
      grad.dim() == 0 && (dtype_of(grad) == DType::kFloat64 || dtype_of(grad) == DType::kFloat32),
      "masked_patch_loss_backward: grad must be one float32 or float64");
  Params& p = call.params;
  Tensor out = torch::stable::new_empty(pred, pred.sizes());
  p.grad = out.mutable_data_ptr();
  advise_huge_pages(p.grad, out.numel() * static_cast<int64_t>(out.element_size()));
  if (call.masked != 0) p.factor = first_value(grad) / static_cast<double>(call.masked);
  if (out.numel() != 0) run(p);
  return out;
}

}  // namespace

SSL_FAST_CPU_KERNELS(library) {
  library.impl("masked_patch_loss", TORCH_BOX(&masked_patch_loss));
  library.impl("masked_patch_loss_backward", TORCH_BOX(&masked_patch_loss_backward));
}

}  // namespace ssl_fast::reconstruction

#endif
