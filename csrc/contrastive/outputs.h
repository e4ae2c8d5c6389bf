// Checks of arguments and what the ops return. For the `_torch.cpp` files of this folder alone.
#pragma once

#include <cstring>

#include "contrastive/products.h"

namespace ssl_fast::contrastive {

inline void check_features(const char* op, const Tensor& rows, const Tensor& columns,
                           const Tensor& scale) {
  const ScalarType type = rows.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double ||
                      type == ScalarType::Half || type == ScalarType::BFloat16,
                  op, ": features must be float16, bfloat16, float32 or float64");
  STD_TORCH_CHECK(rows.dim() == 2 && columns.dim() == 2 && rows.size(1) == columns.size(1) &&
                      rows.size(1) >= 1 && columns.scalar_type() == type,
                  op, ": features must be [n, D], of one D and type");
  STD_TORCH_CHECK(scale.numel() == 1 && scale.scalar_type() == real_type(type), op,
                  ": scale must be one float32, of float64 features one float64");
}

inline Tensor new_scalar(const Tensor& like, double value) {
  Tensor out = torch::stable::new_empty(like, {}, real_type(like.scalar_type()));
  if (out.scalar_type() == ScalarType::Double)
    *static_cast<double*>(out.mutable_data_ptr()) = value;
  else
    *static_cast<float*>(out.mutable_data_ptr()) = static_cast<float>(value);
  return out;
}

// In place of a gradient that was not asked for.
inline Tensor nothing(const Tensor& like) {
  return torch::stable::new_empty(like, {0}, real_type(like.scalar_type()));
}

// Of `features`; zeros where no tile would write it.
inline Tensor new_gradient(const Tensor& like, const Tensor& features, bool zeros = false) {
  Tensor out = torch::stable::new_empty(like, {features.size(0), features.size(1)},
                                        real_type(like.scalar_type()));
  const int64_t bytes = out.numel() * static_cast<int64_t>(out.element_size());
  advise_huge_pages(out.mutable_data_ptr(), bytes);
  if (zeros && bytes != 0) std::memset(out.mutable_data_ptr(), 0, bytes);
  return out;
}

inline Tensor copy_of(const Tensor& like, const void* values, int64_t count) {
  Tensor out = torch::stable::new_empty(like, {count}, real_type(like.scalar_type()));
  if (count != 0)
    std::memcpy(out.mutable_data_ptr(), values, count * static_cast<int64_t>(out.element_size()));
  return out;
}

inline Tensor checked_lse(const Tensor& lse, const Tensor& features) {
  STD_TORCH_CHECK(lse.dim() == 1 && lse.size(0) == features.size(0) &&
                      lse.scalar_type() == real_type(features.scalar_type()),
                  "similarity_gradients: a logarithm for each row and for each column");
  return torch::stable::contiguous(lse);
}

}  // namespace ssl_fast::contrastive
