// The glue of the token ops: checks (a second fence, the first is in ssl_fast/ops/tokens),
// allocation, registration.
#ifndef SSL_FAST_EMULATED

#include <limits>
#include <tuple>

#include "common/large_output.h"
#include "common/stable_torch.h"
#include "tokens/check_ids.h"
#include "tokens/tokens.h"

namespace ssl_fast::tokens {

namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kGrainBytes = 1 << 16;  // of a thread's share, at least

Tensor dense_rows(const Tensor& x, const char* what) {
  STD_TORCH_CHECK(x.dim() == 3 && dtype_of(x) != DType::kUInt8, what);
  return x.size(2) <= 1 || x.stride(2) == 1 ? x : torch::stable::contiguous(x);
}

Rows rows_of(const Tensor& x) {
  return {x.const_data_ptr(), dtype_of(x), x.stride(0), x.stride(1)};
}

Ids ids_of(const Tensor& ids) {
  return {static_cast<const int64_t*>(ids.const_data_ptr()), ids.stride(0), ids.stride(1)};
}

template <typename Function>
void for_rows(int64_t rows, int64_t row_bytes, Function function) {
  torch::stable::parallel_for(0, rows, 1 + kGrainBytes / (row_bytes + 1), function);
}

// [N, rows, dim], uninitialised.
Tensor new_rows(const Tensor& like, int64_t rows, int64_t dim, ScalarType dtype) {
  Tensor out = torch::stable::new_empty(like, {like.size(0), rows, dim}, dtype);
  advise_huge_pages(out.mutable_data_ptr(), out.numel() * static_cast<int64_t>(out.element_size()));
  return out;
}

bool streams(const Tensor& out) {
  return tokens::streams(out.const_data_ptr(), out.size(0) * out.size(1),
                         out.stride(1) * static_cast<int64_t>(out.element_size()));
}

Tensor gather_tokens(const Tensor& x_in, const Tensor& ids) {
  const Tensor x = dense_rows(x_in, "gather_tokens: x must be [N, L, D]");
  check_ids(ids, x.size(0), x.size(1), "gather_tokens");
  GatherParams p;
  p.x = rows_of(x);
  p.ids = ids_of(ids);
  p.count = ids.size(1);
  p.row_bytes = x.size(2) * static_cast<int64_t>(x.element_size());
  Tensor out = new_rows(x, p.count, x.size(2), x.scalar_type());
  p.out = out.mutable_data_ptr();
  p.streams = streams(out);
  if (out.numel() != 0)
    for_rows(x.size(0) * p.count, 2 * p.row_bytes,
             [&](int64_t begin, int64_t end) { gather_rows_cpu(p, begin, end); });
  return out;
}

// out[n, r] = sum over k with ids[n, k] = r - prefix of grad[n, prefix + k].
Tensor sum_tokens(const Tensor& grad, const Tensor& ids, int64_t prefix, int64_t length,
                  ScalarType dtype) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(ids.size(1) <= kMax && length <= kMax, "ssl_fast: 2^31 tokens in a sample");
  const int64_t batch = grad.size(0);
  SumParams p;
  p.grad = rows_of(grad);
  p.ids = ids_of(ids);
  p.count = ids.size(1), p.prefix = prefix, p.length = length, p.dim = grad.size(2);
  Tensor out = new_rows(grad, prefix + length, p.dim, dtype);
  p.dtype = dtype_of(out);
  p.streams = streams(out);
  p.out = out.mutable_data_ptr();
  if (out.numel() == 0) return out;
  Tensor links = torch::stable::new_empty(grad, {batch, length + p.count}, ScalarType::Int);
  p.links = static_cast<int32_t*>(links.mutable_data_ptr());
  for_rows(batch, 16 * (length + p.count),
           [&](int64_t begin, int64_t end) { link_rows_cpu(p, begin, end); });
  for_rows(batch * (prefix + length), p.dim * static_cast<int64_t>(out.element_size()),
           [&](int64_t begin, int64_t end) { sum_rows_cpu(p, begin, end); });
  return out;
}

Tensor gather_tokens_backward(const Tensor& grad_in, const Tensor& ids, int64_t length) {
  const Tensor grad = dense_rows(grad_in, "gather_tokens_backward: grad must be [N, K, D]");
  STD_TORCH_CHECK(length >= 0, "gather_tokens_backward: length must not be negative");
  check_ids(ids, grad.size(0), length, "gather_tokens_backward");
  STD_TORCH_CHECK(ids.size(1) == grad.size(1), "gather_tokens_backward: grad and ids differ in K");
  return sum_tokens(grad, ids, 0, length, grad.scalar_type());
}

// The type of a and b together, where b's parameters have it already.
void check_promotion(const Tensor& x, const Tensor& other, const char* what) {
  const ScalarType a = x.scalar_type(), b = other.scalar_type();
  const bool wider = b == ScalarType::Double || (b == ScalarType::Float && a != ScalarType::Double);
  STD_TORCH_CHECK(dtype_of(other) != DType::kUInt8 && (a == b || wider), what);
}

Tensor restore_tokens(const Tensor& x_in, const Tensor& ids_restore, const Tensor& mask_token_in,
                      std::optional<Tensor> pos_embed, int64_t prefix) {
  const Tensor x = dense_rows(x_in, "restore_tokens: x_kept must be [N, P + K, D]");
  STD_TORCH_CHECK(prefix >= 0 && x.size(1) >= prefix, "restore_tokens: too many prefix tokens");
  // No id can do harm: what is no kept token stands for the mask token.
  check_id_shape(ids_restore, x.size(0), "restore_tokens");
  const int64_t length = ids_restore.size(1);
  STD_TORCH_CHECK(mask_token_in.dim() == 1 && mask_token_in.size(0) == x.size(2),
                  "restore_tokens: mask_token must be [D]");
  check_promotion(x, mask_token_in, "restore_tokens: mask_token must have the promoted dtype");
  const Tensor mask_token = torch::stable::contiguous(mask_token_in);
  RestoreParams p;
  p.pos = nullptr;
  if (pos_embed) {
    pos_embed = torch::stable::contiguous(*pos_embed);
    STD_TORCH_CHECK(pos_embed->dim() == 2 && pos_embed->size(0) == prefix + length &&
                        pos_embed->size(1) == x.size(2) &&
                        pos_embed->scalar_type() == mask_token.scalar_type(),
                    "restore_tokens: pos_embed must be [P + L, D] of mask_token's dtype");
    p.pos = pos_embed->const_data_ptr();
  }
  p.x = rows_of(x);
  p.ids = ids_of(ids_restore);
  p.prefix = prefix, p.kept = x.size(1) - prefix, p.length = length, p.dim = x.size(2);
  p.mask_token = mask_token.const_data_ptr();
  p.dtype = dtype_of(mask_token);
  Tensor out = new_rows(x, prefix + length, p.dim, mask_token.scalar_type());
  p.out = out.mutable_data_ptr();
  p.streams = streams(out);
  if (out.numel() != 0)
    for_rows(x.size(0) * (prefix + length), 2 * p.dim * static_cast<int64_t>(out.element_size()),
             [&](int64_t begin, int64_t end) { restore_rows_cpu(p, begin, end); });
  return out;
}

std::tuple<Tensor, Tensor> sum_parameters(const Tensor& grad, const Tensor& ids, int64_t prefix,
                                          int64_t kept, bool mask_token, bool pos) {
  ParameterParams p;
  p.grad = rows_of(grad);
  p.ids = ids_of(ids);
  p.batch = grad.size(0), p.prefix = prefix, p.kept = kept, p.length = ids.size(1);
  p.dim = grad.size(2);
  const bool wide = p.grad.dtype == DType::kFloat64;
  Tensor token_sum = torch::stable::new_empty(grad, {mask_token ? p.dim : 0});
  Tensor pos_sum = torch::stable::new_empty(grad, {pos ? grad.size(1) : 0, pos ? p.dim : 0});
  Tensor partial = torch::stable::new_empty(grad, {mask_token ? row_units(p) : 0, p.dim},
                                            wide ? ScalarType::Double : ScalarType::Float);
  p.pos = pos ? pos_sum.mutable_data_ptr() : nullptr;
  p.partial = mask_token ? partial.mutable_data_ptr() : nullptr;
  p.mask_token = token_sum.mutable_data_ptr();
  if ((mask_token || pos) && p.dim != 0) {
    const int64_t bytes = p.batch * kRowsPerUnit * kDimsPerUnit * 2;
    for_rows(row_units(p) * dim_units(p), bytes,
             [&](int64_t begin, int64_t end) { sum_parameters_cpu(p, begin, end); });
    if (mask_token) finish_mask_token_cpu(p);
  }
  return {token_sum, pos_sum};
}

std::tuple<Tensor, Tensor, Tensor> restore_tokens_backward(const Tensor& grad_in,
                                                           const Tensor& ids_restore,
                                                           int64_t prefix, int64_t kept,
                                                           ScalarType x_dtype, bool needs_x,
                                                           bool needs_mask_token, bool needs_pos) {
  const Tensor grad = dense_rows(grad_in, "restore_tokens_backward: grad must be [N, P + L, D]");
  STD_TORCH_CHECK(prefix >= 0 && kept >= 0, "restore_tokens_backward: sizes must not be negative");
  const int64_t length = grad.size(1) - prefix;
  check_id_shape(ids_restore, grad.size(0), "restore_tokens_backward");
  STD_TORCH_CHECK(ids_restore.size(1) == length, "restore_tokens_backward: L differs");
  Tensor x_sum = needs_x ? sum_tokens(grad, ids_restore, prefix, kept, x_dtype)
                         : torch::stable::new_empty(grad, {0, 0, 0}, x_dtype);
  auto [token_sum, pos_sum] =
      sum_parameters(grad, ids_restore, prefix, kept, needs_mask_token, needs_pos);
  return {x_sum, token_sum, pos_sum};
}

Tensor add_positions(const Tensor& tokens_in, const Tensor& pos_in, const Tensor& ids) {
  const Tensor tokens = dense_rows(tokens_in, "add_positions: tokens must be [N, K, D]");
  STD_TORCH_CHECK(pos_in.dim() == 2 && pos_in.size(1) == tokens.size(2),
                  "add_positions: pos_embed must be [L, D]");
  check_promotion(tokens, pos_in, "add_positions: pos_embed must have the promoted dtype");
  check_ids(ids, tokens.size(0), pos_in.size(0), "add_positions");
  STD_TORCH_CHECK(ids.size(1) == tokens.size(1), "add_positions: tokens and ids differ in K");
  const Tensor pos = torch::stable::contiguous(pos_in);
  PositionParams p;
  p.x = rows_of(tokens);
  p.ids = ids_of(ids);
  p.count = tokens.size(1), p.dim = tokens.size(2);
  p.pos = pos.const_data_ptr();
  p.dtype = dtype_of(pos);
  Tensor out = new_rows(tokens, p.count, p.dim, pos.scalar_type());
  p.out = out.mutable_data_ptr();
  p.streams = streams(out);
  if (out.numel() != 0)
    for_rows(tokens.size(0) * p.count, 3 * p.dim * static_cast<int64_t>(out.element_size()),
             [&](int64_t begin, int64_t end) { add_positions_cpu(p, begin, end); });
  return out;
}

}  // namespace

SSL_FAST_CPU_KERNELS(library) {
  library.impl("gather_tokens", TORCH_BOX(&gather_tokens));
  library.impl("gather_tokens_backward", TORCH_BOX(&gather_tokens_backward));
  library.impl("restore_tokens", TORCH_BOX(&restore_tokens));
  library.impl("restore_tokens_backward", TORCH_BOX(&restore_tokens_backward));
  library.impl("add_positions", TORCH_BOX(&add_positions));
}

}  // namespace ssl_fast::tokens

#endif  // SSL_FAST_EMULATED
