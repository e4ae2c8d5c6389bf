// The glue of the losses that are softmaxes of similarities: checks (a second fence, the first is
// in ssl_fast/ops/contrastive), allocation, registration.
#ifndef SSL_FAST_EMULATED

#include <numeric>
#include <tuple>

#include "contrastive/outputs.h"
#include "contrastive/softmax.h"

// CPU alone: on a GPU Triton serves.
namespace ssl_fast::contrastive {

namespace {

using Three = std::tuple<Tensor, Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Row i's positive is column (i + shift) modulo count.
std::vector<int64_t> shifted_targets(int64_t count, int64_t shift) {
  std::vector<int64_t> targets(count);
  for (int64_t i = 0; i < count; ++i) targets[i] = (i + shift) % count;
  return targets;
}

std::vector<int64_t> checked_targets(const Tensor& targets, int64_t rows, int64_t columns,
                                     const char* op) {
  STD_TORCH_CHECK(
      targets.scalar_type() == ScalarType::Long && targets.dim() == 1 && targets.size(0) == rows,
      op, ": targets must be int64 [N]");
  std::vector<int64_t> values(rows);
  const int64_t* from = static_cast<const int64_t*>(targets.const_data_ptr());
  for (int64_t i = 0; i < rows; ++i) {
    values[i] = from[i * targets.stride(0)];
    STD_TORCH_CHECK(values[i] >= 0 && values[i] < columns, op, ": targets[", i, "] is ", values[i],
                    "; expected a place among ", columns, " columns");
  }
  return values;
}

Three nt_xent(const Tensor& z_in, const Tensor& scale, bool with_gradient) {
  check_features("nt_xent", z_in, z_in, scale);
  const int64_t count = z_in.size(0);
  STD_TORCH_CHECK(count >= 2 && count % 2 == 0, "nt_xent: z must have an even number of rows");
  const Tensor z = operand(z_in, count * z_in.numel());
  const std::vector<int64_t> targets = shifted_targets(count, count / 2);
  const Matrix features = matrix_of(z);
  const Pairs pairs{features, features, value_of(scale), 0, targets.data(), true};
  Softmax softmax(z, pairs, true, with_gradient);
  softmax.sum();
  // The products that the second half's positives come from lie below the diagonal.
  const int64_t half = count / 2 * (features.dtype == ScalarType::Double ? 8 : 4);
  char* positives = static_cast<char*>(softmax.positives());
  std::copy_n(positives, half, positives + half);
  const Tensor loss = new_scalar(z, softmax.losses(positives, nullptr) / count);
  if (!with_gradient) return {loss, nothing(z), nothing(z)};
  const Tensor grad = new_gradient(z, z);
  const double dots =
      softmax.gradients(2.0, pairs.scale / count, matrix_of(grad), nullptr) / (2.0 * count);
  return {loss, grad, new_scalar(z, dots)};
}

Four info_nce(const Tensor& query_in, const Tensor& keys_in, const Tensor& targets_in,
              const Tensor& scale, bool with_gradient, bool with_keys) {
  check_features("info_nce", query_in, keys_in, scale);
  const int64_t products = query_in.numel() * keys_in.size(0);
  const Tensor query = operand(query_in, products), keys = operand(keys_in, products);
  const int64_t rows = query.size(0), count = std::max<int64_t>(rows, 1);
  const std::vector<int64_t> targets = checked_targets(targets_in, rows, keys.size(0), "info_nce");
  const Pairs pairs{matrix_of(query), matrix_of(keys), value_of(scale), kNobody, targets.data()};
  Softmax softmax(query, pairs, false, with_gradient);
  softmax.sum();
  const Tensor loss = new_scalar(query, softmax.losses(softmax.positives(), nullptr) / count);
  if (!with_gradient) return {loss, nothing(query), nothing(query), nothing(query)};
  const Tensor grad_query = new_gradient(query, query);
  const Tensor grad_keys = with_keys ? new_gradient(query, keys, rows == 0) : nothing(query);
  const Matrix to_keys = with_keys ? matrix_of(grad_keys) : Matrix{};
  const double dots = softmax.gradients(1.0, pairs.scale / count, matrix_of(grad_query),
                                        with_keys ? &to_keys : nullptr);
  return {loss, grad_query, grad_keys, new_scalar(query, dots / count)};
}

Four clip_loss(const Tensor& image_in, const Tensor& text_in, const Tensor& scale,
               bool with_gradient) {
  check_features("clip_loss", image_in, text_in, scale);
  const int64_t count = image_in.size(0);
  STD_TORCH_CHECK(count >= 1 && text_in.size(0) == count, "clip_loss: as many texts as images");
  const int64_t products = image_in.numel() * text_in.size(0);
  const Tensor image = operand(image_in, products), text = operand(text_in, products);
  const std::vector<int64_t> targets = shifted_targets(count, 0);
  const Pairs pairs{matrix_of(image), matrix_of(text), value_of(scale), kNobody, targets.data()};
  Softmax softmax(image, pairs, true, with_gradient);
  softmax.sum();
  const double total = softmax.losses(softmax.positives(), softmax.positives());
  const Tensor loss = new_scalar(image, total / (2.0 * count));
  if (!with_gradient) return {loss, nothing(image), nothing(image), nothing(image)};
  const Tensor grad_image = new_gradient(image, image), grad_text = new_gradient(image, text);
  const Matrix to_text = matrix_of(grad_text);
  const double dots =
      softmax.gradients(2.0, pairs.scale / (2.0 * count), matrix_of(grad_image), &to_text);
  return {loss, grad_image, grad_text, new_scalar(image, dots / (2.0 * count))};
}

Three similarity_logsumexp(const Tensor& rows_in, const Tensor& columns_in,
                           const Tensor& targets_in, const Tensor& scale, int64_t self_offset,
                           bool over_columns) {
  check_features("similarity_logsumexp", rows_in, columns_in, scale);
  const int64_t products = rows_in.numel() * columns_in.size(0);
  const Tensor rows = operand(rows_in, products), columns = operand(columns_in, products);
  const int64_t count = rows.size(0);
  const std::vector<int64_t> targets =
      checked_targets(targets_in, count, columns.size(0), "similarity_logsumexp");
  const Pairs pairs{matrix_of(rows), matrix_of(columns), value_of(scale),
                    self_offset < 0 ? kNobody : self_offset, targets.data()};
  Softmax softmax(rows, pairs, over_columns, false);
  softmax.sum();
  softmax.losses(softmax.positives(), over_columns ? softmax.column_lse() : nullptr);
  return {copy_of(rows, softmax.row_lse(), count),
          copy_of(rows, softmax.column_lse(), over_columns ? columns.size(0) : 0),
          copy_of(rows, softmax.positives(), count)};
}

Three similarity_gradients(const Tensor& rows_in, const Tensor& columns_in,
                           const Tensor& targets_in, const Tensor& scale, const Tensor& row_lse_in,
                           const Tensor& column_lse_in, int64_t self_offset, bool with_columns) {
  check_features("similarity_gradients", rows_in, columns_in, scale);
  const int64_t products = rows_in.numel() * columns_in.size(0);
  const Tensor rows = operand(rows_in, products), columns = operand(columns_in, products);
  const std::vector<int64_t> targets =
      checked_targets(targets_in, rows.size(0), columns.size(0), "similarity_gradients");
  const Tensor row_lse = checked_lse(row_lse_in, rows),
               column_lse = checked_lse(column_lse_in, columns);
  const Pairs pairs{matrix_of(rows), matrix_of(columns), value_of(scale),
                    self_offset < 0 ? kNobody : self_offset, targets.data()};
  Softmax softmax(rows, pairs, true, false);
  softmax.use(row_lse.const_data_ptr(), column_lse.const_data_ptr());
  const Tensor grad_rows = new_gradient(rows, rows, columns.size(0) == 0);
  const Tensor grad_columns =
      with_columns ? new_gradient(rows, columns, rows.size(0) == 0) : nothing(rows);
  const Matrix to_columns = with_columns ? matrix_of(grad_columns) : Matrix{};
  const double dots = softmax.gradients(2.0, pairs.scale, matrix_of(grad_rows),
                                        with_columns ? &to_columns : nullptr);
  return {grad_rows, grad_columns, new_scalar(rows, dots)};
}

}  // namespace

SSL_FAST_CPU_KERNELS(library) {
  library.impl("nt_xent", TORCH_BOX(&nt_xent));
  library.impl("info_nce", TORCH_BOX(&info_nce));
  library.impl("clip_loss", TORCH_BOX(&clip_loss));
  library.impl("similarity_logsumexp", TORCH_BOX(&similarity_logsumexp));
  library.impl("similarity_gradients", TORCH_BOX(&similarity_gradients));
}

}  // namespace ssl_fast::contrastive

#endif
