// The glue of InfoNCE against a queue: one sweep over the queue with a running maximum, as in
// FlashAttention. The queue, which may be a transposed view, is read where it lies.
#ifndef SSL_FAST_EMULATED

#include <cmath>
#include <tuple>

#include "contrastive/outputs.h"

namespace ssl_fast::contrastive {

namespace {

using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

constexpr int64_t kTileRows = 256;
constexpr int64_t kTileElements = kTileRows * 1024;

// What is kept of each row of the query, and memory for a tile.
struct Memory {
  Sums rows;  // the shift is the largest logit so far, to begin with the positive's
  double *matched = nullptr, *dots = nullptr;  // inner products: the positive's; of all others
  void* weighted = nullptr;                    // sums of e^(logit - shift) times the queue's rows
  void *tile = nullptr, *part = nullptr;
  void* widened = nullptr;  // rows of a queue of another type

  Memory(Workspace& workspace, const Matrix& query, int64_t width, bool widens) {
    const int64_t size = query.dtype == ScalarType::Double ? 8 : 4, rows_count = query.rows;
    workspace.want(&rows.shifts, rows_count * size);
    workspace.want(&rows.sums, rows_count * size);
    workspace.want(&matched, rows_count * 8);
    workspace.want(&dots, rows_count * 8);
    workspace.want(&weighted, rows_count * query.columns * size);
    workspace.want(&tile, std::min(rows_count, kTileRows) * width * query.element_size());
    if (query.dtype == ScalarType::BFloat16)
      workspace.want(&part, std::min(rows_count, kTileRows) * query.columns * 2);
    if (widens) workspace.want(&widened, width * query.columns * 4);
  }
};

double to_double(double x) { return x; }
double to_double(float x) { return x; }
double to_double(BFloat16 x) { return to_float(x); }

template <typename T>
double value_at(const Matrix& x, int64_t row, int64_t column) {
  return to_double(static_cast<const T*>(x.data)[row * x.row_stride + column * x.column_stride]);
}

// Each row's shift begins with its positive, which the sum leaves out.
template <typename Real, typename T>
void start(const Matrix& query, const Matrix& positive, double scale, const Memory& memory) {
  const auto row = [&](int64_t i) {
    double dot = 0.0;
    for (int64_t d = 0; d < query.columns; ++d)
      dot += value_at<T>(query, i, d) * value_at<T>(positive, i, d);
    memory.matched[i] = static_cast<Real>(dot);
    static_cast<Real*>(memory.rows.shifts)[i] = static_cast<Real>(scale) * static_cast<Real>(dot);
    static_cast<Real*>(memory.rows.sums)[i] = Real(0);
  };
  torch::stable::parallel_for(0, query.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row(i);
  });
  std::fill_n(memory.dots, query.rows, 0.0);
  std::fill_n(static_cast<Real*>(memory.weighted), query.rows * query.columns, Real(0));
}

// Rows first .. first + count - 1 of the queue as they are multiplied.
Matrix rows_of(const Matrix& queue, int64_t first, int64_t count, void* widened) {
  const Matrix from = queue.slice(first, count);
  if (!widened) return from;
  const Matrix to = dense(widened, ScalarType::Float, count, from.columns);
  Tensor view = to.view();
  torch::stable::copy_(view, from.view());
  return to;
}

// The tile of the queue stays in the cache while all queries meet it.
void sweep(const Matrix& query, const Matrix& queue, double scale, int64_t width,
           bool with_gradient, const Memory& memory) {
  const ScalarType real = real_type(query.dtype);
  const Matrix weighted = dense(memory.weighted, real, query.rows, query.columns);
  for (int64_t c = 0; c < queue.rows; c += width) {
    const Matrix keys = rows_of(queue, c, std::min(width, queue.rows - c), memory.widened);
    for (int64_t r = 0; r < query.rows; r += kTileRows) {
      const int64_t rows = std::min(kTileRows, query.rows - r);
      const Matrix dots = dense(memory.tile, query.dtype, rows, keys.rows);
      multiply(query.slice(r, rows), keys.transposed(), dots);
      const Tile tile{
          dots.data, kernel_type(query.dtype), rows, keys.rows, keys.rows, r, 0, scale, kNobody,
          nullptr};
      if (!with_gradient) {
        const SumParams p{tile, memory.rows, nullptr, {}, {}};
        for_chunks(tile, [&](int64_t begin, int64_t end) { sum_exponentials_cpu(p, begin, end); });
        continue;
      }
      const FlashParams p{tile, memory.rows, memory.dots, memory.weighted, query.columns};
      for_chunks(tile, [&](int64_t begin, int64_t end) { flash_rows_cpu(p, begin, end); });
      add_product(dots, keys, 1.0, false, weighted.slice(r, rows), memory.part);
    }
  }
}

struct Results {
  double loss = 0.0, of_scale = 0.0;  // summed over rows
};

// The loss, and gradients of the mean over rows where they are wanted.
template <typename Real, typename T>
Results finish(const Matrix& query, const Matrix& positive, double scale, const Memory& memory,
               void* grad_query, void* grad_positive) {
  Results all;
  const double alpha = scale / query.rows;
  std::vector<double> own(query.rows);  // gradients of the positives' logits
  std::vector<double> factors(query.rows);
  for (int64_t i = 0; i < query.rows; ++i) {
    const double logit = static_cast<Real>(scale) * static_cast<Real>(memory.matched[i]);
    const double above = static_cast<Real*>(memory.rows.shifts)[i] - logit;
    const double matched = std::exp(-above);
    const double sum = matched + static_cast<Real*>(memory.rows.sums)[i];
    const double loss = above + std::log(sum);
    all.loss += loss < 0.0 ? 0.0 : loss;
    own[i] = matched / sum - 1.0;
    factors[i] = alpha / sum;
    all.of_scale += memory.dots[i] / sum + own[i] * memory.matched[i];
  }
  if (!grad_query) return all;
  const auto row = [&](int64_t i) {
    const int64_t at = i * query.columns;
    const Real at_own = static_cast<Real>(alpha * own[i]);
    const Real others = static_cast<Real>(factors[i]);
    const Real* weighted = static_cast<const Real*>(memory.weighted) + at;
    for (int64_t d = 0; d < query.columns; ++d) {
      static_cast<Real*>(grad_query)[at + d] =
          at_own * static_cast<Real>(value_at<T>(positive, i, d)) + others * weighted[d];
      static_cast<Real*>(grad_positive)[at + d] =
          at_own * static_cast<Real>(value_at<T>(query, i, d));
    }
  };
  torch::stable::parallel_for(0, query.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row(i);
  });
  return all;
}

// Calls f(a real, a feature) of the types that go with features of `dtype`.
template <typename Function>
auto for_types(ScalarType dtype, Function f) {
  if (dtype == ScalarType::Double) return f(double{}, double{});
  return dtype == ScalarType::BFloat16 ? f(float{}, BFloat16{}) : f(float{}, float{});
}

Four info_nce_queue(const Tensor& query_in, const Tensor& positive_in, const Tensor& queue,
                    const Tensor& scale_in, bool with_gradient) {
  check_features("info_nce_queue", query_in, positive_in, scale_in);
  check_features("info_nce_queue", query_in, queue, scale_in);
  STD_TORCH_CHECK(positive_in.size(0) == query_in.size(0),
                  "info_nce_queue: as many positives as queries");
  const int64_t products = query_in.numel() * queue.size(0);
  const Tensor query = operand(query_in, products), positive = operand(positive_in, products);
  const Matrix rows = matrix_of(query), positives = matrix_of(positive);
  const double scale = value_of(scale_in), count = std::max<double>(rows.rows, 1.0);
  const int64_t height = std::clamp<int64_t>(rows.rows, 32, kTileRows);
  const int64_t width = std::min(queue.size(0), kTileElements / height);
  Workspace workspace;
  Memory memory(workspace, rows, width, queue.scalar_type() != query.scalar_type());
  workspace.allocate(query);
  Tensor grad_query = with_gradient ? new_gradient(query, query) : nothing(query);
  Tensor grad_positive = with_gradient ? new_gradient(query, query) : nothing(query);
  const Results results = for_types(rows.dtype, [&](auto real, auto feature) {
    using Real = decltype(real);
    using Feature = decltype(feature);
    start<Real, Feature>(rows, positives, scale, memory);
    sweep(rows, matrix_of(queue), scale, width, with_gradient, memory);
    return finish<Real, Feature>(rows, positives, scale, memory,
                                 with_gradient ? grad_query.mutable_data_ptr() : nullptr,
                                 with_gradient ? grad_positive.mutable_data_ptr() : nullptr);
  });
  return {new_scalar(query, results.loss / count), grad_query, grad_positive,
          with_gradient ? new_scalar(query, results.of_scale / count) : nothing(query)};
}

}  // namespace

SSL_FAST_CPU_KERNELS(library) { library.impl("info_nce_queue", TORCH_BOX(&info_nce_queue)); }

}  // namespace ssl_fast::contrastive

#endif
