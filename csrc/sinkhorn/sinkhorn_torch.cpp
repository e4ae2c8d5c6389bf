// The glue of Sinkhorn: checks (a second fence, the first is in ssl_fast/ops/sinkhorn), the chunks'
// sums in order, registration.
#include <cmath>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "common/large_output.h"
#include "common/stable_torch.h"
#include "sinkhorn/sinkhorn.h"

// CPU alone: on a GPU Triton serves.
#ifndef SSL_FAST_EMULATED

namespace ssl_fast::sinkhorn {

namespace {

using torch::headeronly::ScalarType;
constexpr int64_t kChunks = 64;         // at most: the result does not depend on the threads
constexpr double kLeastWeight = 1e-30;  // as in reference.py

template <typename Real>
constexpr ScalarType kType = sizeof(Real) == 8 ? ScalarType::Double : ScalarType::Float;

Tensor rows_contiguous(const Tensor& scores) {
  STD_TORCH_CHECK(scores.dim() == 2 && scores.size(1) > 0 && dtype_of(scores) != DType::kUInt8,
                  "sinkhorn: scores must be floats [N, K], K > 0");
  return scores.stride(1) == 1 || scores.size(1) == 1 ? scores : torch::stable::contiguous(scores);
}

// A statistic of each column: a copy of [K] tensors, zeros behind the columns.
template <typename Real>
using Columns = std::vector<Real>;

template <typename Real>
Columns<Real> columns_of(const Tensor& x, int64_t columns) {
  STD_TORCH_CHECK(x.dim() == 1 && x.size(0) == columns && x.scalar_type() == kType<Real>,
                  "sinkhorn: maxima and sums must be [K], float32 (float64 for float64)");
  const Tensor packed = torch::stable::contiguous(x);
  const Real* values = static_cast<const Real*>(packed.const_data_ptr());
  Columns<Real> result(padded(columns), Real(0));
  for (int64_t k = 0; k < columns; ++k) result[k] = values[k];
  return result;
}

template <typename Real>
Tensor tensor_of(const Columns<Real>& values, const Tensor& like) {
  Tensor out = torch::stable::new_empty(like, {like.size(1)}, kType<Real>);
  Real* to = static_cast<Real*>(out.mutable_data_ptr());
  for (int64_t k = 0; k < like.size(1); ++k) to[k] = values[k];
  return out;
}

// Prototypes to equal sums: the inverses of their sums, the largest 1. NaN stays NaN.
template <typename Real>
Columns<Real> weights_of(const Columns<Real>& sums, int64_t columns) {
  double least = std::numeric_limits<double>::infinity();
  for (int64_t k = 0; k < columns; ++k) {
    if (std::isnan(sums[k])) least = sums[k];
    if (sums[k] < least) least = sums[k];
  }
  Columns<Real> weights(padded(columns), Real(0));
  for (int64_t k = 0; k < columns; ++k) {
    const double weight = least / sums[k];
    weights[k] = static_cast<Real>(weight < kLeastWeight ? kLeastWeight : weight);
  }
  return weights;
}

// The sweeps of one call.
template <typename Real>
class Sweeps {
 public:
  Sweeps(const Tensor& scores, const Tensor& epsilon) : scores_(rows_contiguous(scores)) {
    STD_TORCH_CHECK(epsilon.numel() == 1 && epsilon.scalar_type() == kType<Real>,
                    "sinkhorn: epsilon must be one element, float32 (float64 for float64)");
    p_.scores = scores_.const_data_ptr();
    p_.dtype = dtype_of(scores_);
    p_.rows = scores_.size(0), p_.columns = scores_.size(1), p_.stride = scores_.stride(0);
    p_.inverse_epsilon = 1 / *static_cast<const Real*>(epsilon.const_data_ptr());
    const int64_t least = (p_.rows + kChunks - 1) / kChunks;
    p_.chunk = (least + kBlock - 1) / kBlock * kBlock;
    if (p_.chunk == 0) p_.chunk = kBlock;
    chunks_ = (p_.rows + p_.chunk - 1) / p_.chunk;
    size_ = padded(p_.columns);
    p_.maxima = p_.weights = nullptr, p_.sums = nullptr, p_.largest = p_.out = nullptr;
  }

  int64_t columns() const { return p_.columns; }

  // Largest score of each column (-inf without rows), sums of exp((S - M) / epsilon).
  void of_columns(Columns<Real>& maxima, Columns<Real>& sums) {
    // Lowest, not -inf: -inf less -inf would be NaN where a chunk has no other scores.
    std::vector<Real> largest(chunks_ * size_, std::numeric_limits<Real>::lowest());
    p_.largest = largest.data();
    run(Sweep::kColumns);
    maxima.assign(size_, Real(0)), sums.assign(size_, Real(0));
    for (int64_t k = 0; k < p_.columns; ++k) {
      Real most = -std::numeric_limits<Real>::infinity();
      for (int64_t c = 0; c < chunks_; ++c) most = std::fmax(most, largest[c * size_ + k]);
      double sum = 0.0;
      for (int64_t c = 0; c < chunks_; ++c)
        sum += sums_[c * size_ + k] *
               std::exp((largest[c * size_ + k] - most) * double(p_.inverse_epsilon));
      maxima[k] = most, sums[k] = static_cast<Real>(sum);
    }
  }

  Columns<Real> next_sums(const Columns<Real>& maxima, const Columns<Real>& sums) {
    const Columns<Real> weights = weights_of(sums, p_.columns);
    p_.maxima = maxima.data(), p_.weights = weights.data();
    run(Sweep::kSums);
    std::vector<double> total(size_, 0.0);
    for (int64_t c = 0; c < chunks_; ++c)
      for (int64_t k = 0; k < size_; ++k) total[k] += sums_[c * size_ + k];
    return Columns<Real>(total.begin(), total.end());
  }

  Tensor assign(const Columns<Real>& maxima, const Columns<Real>& sums) {
    const Columns<Real> weights = weights_of(sums, p_.columns);
    p_.maxima = maxima.data(), p_.weights = weights.data();
    Tensor out = torch::stable::new_empty(scores_, {p_.rows, p_.columns}, kType<Real>);
    p_.out = static_cast<Real*>(out.mutable_data_ptr());
    advise_huge_pages(p_.out, out.numel() * static_cast<int64_t>(sizeof(Real)));
    run(Sweep::kAssign);
    return out;
  }

 private:
  void run(Sweep sweep) {
    p_.sweep = sweep;
    if (sweep != Sweep::kAssign) sums_.resize(chunks_ * size_);
    p_.sums = sums_.data();
    const int64_t grain = 1 + 32768 / (p_.chunk * p_.columns + 1);
    torch::stable::parallel_for(0, chunks_, grain, [&](int64_t begin, int64_t end) {
      constexpr size_t kLine = 64;
      const size_t bytes = workspace_size(p_.columns) * sizeof(Real);
      const std::unique_ptr<char[]> memory(new char[bytes + kLine]);
      const uintptr_t start =
          (reinterpret_cast<uintptr_t>(memory.get()) + kLine - 1) / kLine * kLine;
      sweep_cpu(p_, begin, end, reinterpret_cast<Real*>(start));
    });
  }

  Tensor scores_;
  Params<Real> p_;
  int64_t chunks_, size_;
  std::vector<double> sums_;
};

template <typename Function>
auto by_type(const Tensor& scores, Function function) {
  return dtype_of(scores) == DType::kFloat64 ? function(double{}) : function(float{});
}

Tensor sinkhorn(const Tensor& scores, const Tensor& epsilon, int64_t iterations) {
  return by_type(scores, [&](auto real) {
    Sweeps<decltype(real)> sweeps(scores, epsilon);
    Columns<decltype(real)> maxima, sums;
    sweeps.of_columns(maxima, sums);
    for (int64_t i = 1; i < iterations; ++i) sums = sweeps.next_sums(maxima, sums);
    return sweeps.assign(maxima, sums);
  });
}

std::tuple<Tensor, Tensor> sinkhorn_columns(const Tensor& scores, const Tensor& epsilon) {
  return by_type(scores, [&](auto real) {
    Sweeps<decltype(real)> sweeps(scores, epsilon);
    Columns<decltype(real)> maxima, sums;
    sweeps.of_columns(maxima, sums);
    return std::make_tuple(tensor_of(maxima, scores), tensor_of(sums, scores));
  });
}

Tensor sinkhorn_sweep(const Tensor& scores, const Tensor& epsilon, const Tensor& maxima,
                      const Tensor& sums) {
  return by_type(scores, [&](auto real) {
    using Real = decltype(real);
    Sweeps<Real> sweeps(scores, epsilon);
    const int64_t columns = sweeps.columns();
    return tensor_of(
        sweeps.next_sums(columns_of<Real>(maxima, columns), columns_of<Real>(sums, columns)),
        scores);
  });
}

Tensor sinkhorn_assign(const Tensor& scores, const Tensor& epsilon, const Tensor& maxima,
                       const Tensor& sums) {
  return by_type(scores, [&](auto real) {
    using Real = decltype(real);
    Sweeps<Real> sweeps(scores, epsilon);
    const int64_t columns = sweeps.columns();
    return sweeps.assign(columns_of<Real>(maxima, columns), columns_of<Real>(sums, columns));
  });
}

}  // namespace

SSL_FAST_CPU_KERNELS(library) {
  library.impl("sinkhorn", TORCH_BOX(&sinkhorn));
  library.impl("sinkhorn_columns", TORCH_BOX(&sinkhorn_columns));
  library.impl("sinkhorn_sweep", TORCH_BOX(&sinkhorn_sweep));
  library.impl("sinkhorn_assign", TORCH_BOX(&sinkhorn_assign));
}

}  // namespace ssl_fast::sinkhorn

#endif
