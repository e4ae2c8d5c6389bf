// The glue of the sigmoid loss: no normaliser, so losses and gradients in one sweep over the tiles.
#ifndef SSL_FAST_EMULATED

#include <tuple>

#include "contrastive/outputs.h"
#include "contrastive/tiles.h"

namespace ssl_fast::contrastive {

namespace {

using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

double sum_of(const double* values, int64_t count) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += values[i];
  return sum;
}

Five siglip_loss(const Tensor& image_in, const Tensor& text_in, const Tensor& scale,
                 const Tensor& bias, int64_t offset, bool with_gradient) {
  check_features("siglip_loss", image_in, text_in, scale);
  check_features("siglip_loss", image_in, text_in, bias);
  const int64_t products = image_in.numel() * text_in.size(0);
  const Tensor image = operand(image_in, products), text = operand(text_in, products);
  const int64_t rows = image.size(0), columns = text.size(0);
  const double count = static_cast<double>(std::max<int64_t>(rows, 1));
  const Pairs pairs{matrix_of(image), matrix_of(text), value_of(scale), offset};
  Tiles tiles(pairs, false);
  Workspace workspace;
  double *losses = nullptr, *gradients = nullptr, *dots = nullptr;
  void* part = nullptr;
  tiles.want(workspace);
  for (double** sums : {&losses, &gradients, &dots}) workspace.want(sums, tiles.chunks() * 8);
  if (image.scalar_type() == ScalarType::BFloat16)
    workspace.want(&part, tiles.longest_side() * image.size(1) * 2);
  workspace.allocate(image);

  Tensor grad_image = with_gradient ? new_gradient(image, image, columns == 0) : nothing(image);
  Tensor grad_text = with_gradient ? new_gradient(image, text, rows == 0) : nothing(image);
  const Matrix to_image = with_gradient ? matrix_of(grad_image) : Matrix{};
  const Matrix to_text = with_gradient ? matrix_of(grad_text) : Matrix{};
  double loss = 0.0, of_scale = 0.0, of_bias = 0.0;
  tiles.for_places([&](const Place& place) {
    tiles.multiply(place);
    const SigmoidParams p{tiles.tile(place), value_of(bias), losses, gradients, dots};
    for_chunks(p.tile, [&](int64_t begin, int64_t end) { sigmoid_losses_cpu(p, begin, end); });
    const int64_t chunks = chunks_of(place.rows);
    loss += sum_of(losses, chunks);
    of_bias += sum_of(gradients, chunks);
    of_scale += sum_of(dots, chunks);
    if (with_gradient)
      add_feature_gradients(tiles, place, pairs.scale / count, to_image, &to_text, part);
  });
  const Tensor total = new_scalar(image, loss / count);
  if (!with_gradient) return {total, grad_image, grad_text, nothing(image), nothing(image)};
  return {total, grad_image, grad_text, new_scalar(image, of_scale / count),
          new_scalar(image, of_bias / count)};
}

}  // namespace

SSL_FAST_CPU_KERNELS(library) { library.impl("siglip_loss", TORCH_BOX(&siglip_loss)); }

}  // namespace ssl_fast::contrastive

#endif
