// The fence of every op that takes ids: on the CPU a look is cheap.
#pragma once

#include <string>

#include "common/stable_torch.h"

namespace ssl_fast::tokens {

// Raises unless `ids` is int64 [batch, K].
inline void check_id_shape(const Tensor& ids, int64_t batch, const char* op) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(ids.scalar_type() == ScalarType::Long && ids.dim() == 2 && ids.size(0) == batch,
                  op, ": ids must be int64 [N, K]");
}

// The same, with values in 0 .. length - 1.
inline void check_ids(const Tensor& ids, int64_t batch, int64_t length, const char* op) {
  check_id_shape(ids, batch, op);
  const int64_t* data = static_cast<const int64_t*>(ids.const_data_ptr());
  const int64_t count = ids.size(1), stride_n = ids.stride(0), stride_k = ids.stride(1);
  bool inside = true;
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t k = 0; k < count; ++k) {
      const int64_t id = data[n * stride_n + k * stride_k];
      inside = inside && id >= 0 && id < length;
    }
  STD_TORCH_CHECK(inside, op, ": ids out of range");
}

}  // namespace ssl_fast::tokens
