// HOG's glue: checks (a second fence, the first is in ssl_fast/ops/hog), allocation, registration.
#include <cmath>

#include "common/stable_torch.h"
#include "hog/hog.h"

namespace ssl_fast::hog {

namespace {

struct Options {
  int64_t nbins, cell, window;
  double eps;
};

void fill_tables(Params& p) {
  const double pi = std::acos(-1.0);
  for (int k = 1; k <= p.nbins / 2; ++k) {
    const double angle = k * pi / p.nbins;
    // The two that are rational must be exact, or ties would fall on the wrong side.
    const double exact = 2 * k == p.nbins ? 0.0 : 1.0;
    const bool rational = 2 * k == p.nbins || 4 * k == p.nbins;
    p.cotangents[k - 1] = rational ? exact : std::cos(angle) / std::sin(angle);
  }
  double total = 0.0;
  for (int i = 0; i < p.window; ++i) {
    const double z = (i - 0.5 * (p.window - 1)) / (p.window / 2);
    total += p.gaussian[i] = std::exp(-0.5 * z * z);
  }
  for (int i = 0; i < p.window; ++i) p.gaussian[i] /= total;
}

Params make_params(const Tensor& images, const Options& options) {
  STD_TORCH_CHECK(images.dim() == 4, "hog: images must be [B, C, H, W]");
  STD_TORCH_CHECK(options.nbins >= 1 && options.nbins <= kMaxBins, "hog: nbins out of range");
  STD_TORCH_CHECK(options.window >= 0 && options.window != 1 && options.window <= kMaxWindow,
                  "hog: gaussian_window out of range");
  STD_TORCH_CHECK(
      options.cell >= 1 && images.size(2) % options.cell == 0 && images.size(3) % options.cell == 0,
      "hog: cell_size must divide height and width");
  STD_TORCH_CHECK(images.size(2) >= 2 && images.size(3) >= 2, "hog: images too small");
  Params p;
  p.images = images.const_data_ptr();
  p.dtype = dtype_of(images);
  p.batch = images.size(0), p.channels = images.size(1);
  p.height = images.size(2), p.width = images.size(3);
  p.stride_b = images.stride(0), p.stride_c = images.stride(1);
  p.stride_h = images.stride(2), p.stride_w = images.stride(3);
  p.nbins = static_cast<int>(options.nbins);
  p.cell = static_cast<int>(options.cell);
  p.window = static_cast<int>(options.window);
  p.eps = options.eps;
  p.ids = nullptr;
  p.mask = nullptr;
  fill_tables(p);
  return p;
}

Tensor new_output(const Tensor& images, const std::vector<int64_t>& sizes) {
  using torch::headeronly::ScalarType;
  const bool wide = images.scalar_type() == ScalarType::Double;
  return torch::stable::new_empty(images, sizes, wide ? ScalarType::Double : ScalarType::Float);
}

void launch(const Tensor& images, Params& p) {
#ifdef SSL_FAST_EMULATED
  on_cuda(images, [&](void* stream) { hog_cuda(p, stream); });
#else
  if (!images.is_cpu()) {
#ifdef SSL_FAST_CUDA
    on_cuda(images, [&](void* stream) { hog_cuda(p, stream); });
#endif
    return;
  }
  const Plan plan = make_plan(p);
  const int64_t pixels = plan.band * plan.columns * p.cell * p.cell;
  const int64_t grain = 1 + 16384 / (pixels + 1);
  torch::stable::parallel_for(0, plan.units, grain,
                              [&](int64_t begin, int64_t end) { hog_cpu(p, begin, end); });
#endif
}

Tensor hog(const Tensor& images, int64_t nbins, int64_t cell_size, int64_t gaussian_window,
           double eps) {
  Params p = make_params(images, {nbins, cell_size, gaussian_window, eps});
  p.slots = 1;
  p.patch_h = p.height / p.cell;
  p.patch_w = p.width / p.cell;
  Tensor out = new_output(images, {p.batch, p.channels, p.nbins, p.patch_h, p.patch_w});
  p.out = out.mutable_data_ptr();
  if (out.numel() != 0) launch(images, p);
  return out;
}

Tensor hog_tokens(const Tensor& images, int64_t patch_size, int64_t nbins, int64_t cell_size,
                  int64_t gaussian_window, double eps, std::optional<Tensor> mask,
                  std::optional<Tensor> ids) {
  using torch::headeronly::ScalarType;
  Params p = make_params(images, {nbins, cell_size, gaussian_window, eps});
  STD_TORCH_CHECK(patch_size >= 1 && patch_size % p.cell == 0 && p.height % patch_size == 0 &&
                      p.width % patch_size == 0,
                  "hog_tokens: patch_size must be a multiple of cell_size and divide the image");
  STD_TORCH_CHECK(!(mask && ids), "hog_tokens: mask or ids, not both");
  p.patch_h = p.patch_w = patch_size / p.cell;
  p.slots = (p.height / patch_size) * (p.width / patch_size);
  if (mask) {
    mask = torch::stable::contiguous(*mask);
    STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool && mask->dim() == 2 &&
                        mask->size(0) == p.batch && mask->size(1) == p.slots,
                    "hog_tokens: mask must be bool [B, L]");
    p.mask = static_cast<const uint8_t*>(mask->const_data_ptr());
  }
  if (ids) {
    ids = torch::stable::contiguous(*ids);
    STD_TORCH_CHECK(
        ids->scalar_type() == ScalarType::Long && ids->dim() == 2 && ids->size(0) == p.batch,
        "hog_tokens: ids must be int64 [B, K]");
    p.slots = ids->size(1);
    p.ids = static_cast<const int64_t*>(ids->const_data_ptr());
#ifdef SSL_FAST_EMULATED
    const bool on_gpu = true;
#else
    const bool on_gpu = !images.is_cpu();
#endif
    // On a GPU a look would be a synchronisation: there such a token becomes NaN.
    const int64_t patches = (p.height / patch_size) * (p.width / patch_size);
    for (int64_t i = 0; !on_gpu && i < ids->numel(); ++i)
      STD_TORCH_CHECK(p.ids[i] >= 0 && p.ids[i] < patches, "hog_tokens: ids out of range");
  }
  const int64_t width = p.channels * p.nbins * p.patch_h * p.patch_w;
  Tensor out = new_output(images, {p.batch, p.slots, width});
  p.out = out.mutable_data_ptr();
  if (out.numel() != 0) launch(images, p);
  return out;
}

}  // namespace

SSL_FAST_KERNELS(library) {
  library.impl("hog", TORCH_BOX(&hog));
  library.impl("hog_tokens", TORCH_BOX(&hog_tokens));
}

}  // namespace ssl_fast::hog
