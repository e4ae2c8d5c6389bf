// Matrix products through the BLAS that torch has, and memory for them. For the `_torch.cpp` files
// of this folder alone.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <vector>

#include "common/large_output.h"
#include "common/stable_torch.h"
#include "contrastive/similarity.h"

namespace ssl_fast::contrastive {

using torch::headeronly::ScalarType;

struct Matrix {
  void* data;
  ScalarType dtype;
  int64_t rows, columns, row_stride, column_stride;

  int64_t element_size() const {
    return dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2;
  }
  Matrix transposed() const { return {data, dtype, columns, rows, column_stride, row_stride}; }
  Matrix slice(int64_t first, int64_t count) const {
    char* at = static_cast<char*>(data) + first * row_stride * element_size();
    return {at, dtype, count, columns, row_stride, column_stride};
  }
  // A view that knows nothing of autograd: also where inputs ask for gradients.
  Tensor view() const {
    return torch::stable::from_blob(data, {rows, columns}, {row_stride, column_stride},
                                    torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                    dtype);
  }
};

inline Matrix matrix_of(const Tensor& x) {
  return {const_cast<void*>(x.const_data_ptr()),
          x.scalar_type(),
          x.size(0),
          x.size(1),
          x.stride(0),
          x.stride(1)};
}
inline Matrix dense(void* data, ScalarType dtype, int64_t rows, int64_t columns) {
  return {data, dtype, rows, columns, columns, 1};
}

// What sums, losses and gradients are kept in.
inline ScalarType real_type(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
inline DType kernel_type(ScalarType dtype) {
  return dtype == ScalarType::Double     ? DType::kFloat64
         : dtype == ScalarType::BFloat16 ? DType::kBFloat16
                                         : DType::kFloat32;
}

// Features as they are multiplied: neighbours side by side, and not in float16, whose products are
// slow and overflow. Few of bfloat16 are widened too (`products` is how many the op takes): a call
// for products of bfloat16 takes longer than the little work in float32.
inline Tensor operand(const Tensor& x, int64_t products) {
  constexpr int64_t kFew = 1 << 20;
  const ScalarType type = x.scalar_type();
  if (type == ScalarType::Half || (type == ScalarType::BFloat16 && products < kFew))
    return torch::stable::to(x, ScalarType::Float);
  const bool in_rows = x.stride(1) == 1 && x.stride(0) >= x.size(1);
  return in_rows || x.size(0) <= 1 ? x : torch::stable::contiguous(x);
}

inline double value_of(const Tensor& scalar) {
  return scalar.scalar_type() == ScalarType::Double
             ? *static_cast<const double*>(scalar.const_data_ptr())
             : *static_cast<const float*>(scalar.const_data_ptr());
}

// out = a b
inline void multiply(const Matrix& a, const Matrix& b, const Matrix& out) {
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_mm_out(out.view().get(), a.view().get(), b.view().get()));
}

// Pieces of one allocation, so that a small call makes few.
class Workspace {
 public:
  template <typename T>
  void want(T** pointer, int64_t bytes) {
    wanted_.push_back({reinterpret_cast<void**>(pointer), total_});
    total_ += (bytes + 63) / 64 * 64;
  }
  void allocate(const Tensor& like) {
    memory_ = torch::stable::new_empty(like, {total_}, ScalarType::Byte);
    char* base = static_cast<char*>(memory_.mutable_data_ptr());
    advise_huge_pages(base, total_);
    for (const auto& [pointer, offset] : wanted_) *pointer = base + offset;
  }

 private:
  std::vector<std::pair<void**, int64_t>> wanted_;
  int64_t total_ = 0;
  Tensor memory_;
};

// sum = alpha a b, or sum += alpha a b. A sum is float where the products are bfloat16: then `part`
// holds a product on its way.
inline void add_product(const Matrix& a, const Matrix& b, double alpha, bool first,
                        const Matrix& sum, void* part) {
  if (a.dtype != ScalarType::BFloat16) {
    const Tensor to = sum.view();
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(
        to.get(), to.get(), a.view().get(), b.view().get(), first ? 0.0 : 1.0, alpha));
    return;
  }
  multiply(a, b, dense(part, a.dtype, a.rows, b.columns));
  const AddParams p{static_cast<const BFloat16*>(part), static_cast<float*>(sum.data),
                    static_cast<float>(alpha), first};
  torch::stable::parallel_for(0, a.rows * b.columns, 1 << 15,
                              [&](int64_t begin, int64_t end) { add_scaled_cpu(p, begin, end); });
}

// Calls function(begin, end) for chunks of the tile's rows, in parallel.
template <typename Function>
void for_chunks(const Tile& tile, Function function) {
  const int64_t grain = 1 + 8192 / (kChunk * tile.columns + 1);
  torch::stable::parallel_for(0, chunks_of(tile.rows), grain, function);
}

}  // namespace ssl_fast::contrastive
