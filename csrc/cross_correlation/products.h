// Products of matrices through aten, and sums over their elements. For the glue alone.
#pragma once

#include <array>
#include <vector>

#include "common/stable_torch.h"
#include "cross_correlation/cross_correlation.h"

namespace ssl_fast::cross_correlation {

// a @ b, written to `out` of the right size, any strides.
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // takes the reference that came back
}

inline Tensor transposed(const Tensor& x) { return torch::stable::transpose(x, 0, 1); }

inline Tensor part(const Tensor& x, int64_t dim, int64_t begin, int64_t end) {
  Tensor whole = x;
  return torch::stable::narrow(whole, dim, begin, end - begin);
}

// The sum of a * b over all elements; both contiguous. The same whatever the threads.
template <typename T>
double sum_of_products(const Tensor& a, const Tensor& b) {
  constexpr int64_t kChunk = 1 << 16;
  const T* left = static_cast<const T*>(a.const_data_ptr());
  const T* right = static_cast<const T*>(b.const_data_ptr());
  const int64_t size = a.numel(), chunks = (size + kChunk - 1) / kChunk;
  std::vector<double> sums(chunks);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t first = c * kChunk, count = first + kChunk < size ? kChunk : size - first;
      sums[c] = dot_cpu(left + first, right + first, count);
    }
  });
  double total = 0.0;
  for (double sum : sums) total += sum;
  return total;
}

// to += from; both contiguous.
template <typename T>
void add_to(const Tensor& to, const Tensor& from) {
  T* sums = static_cast<T*>(to.mutable_data_ptr());
  const T* terms = static_cast<const T*>(from.const_data_ptr());
  torch::stable::parallel_for(0, to.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if constexpr (sizeof(T) == 2)
        sums[i] = from_float<T>(to_float(sums[i]) + to_float(terms[i]));
      else
        sums[i] += terms[i];
    }
  });
}

}  // namespace ssl_fast::cross_correlation
