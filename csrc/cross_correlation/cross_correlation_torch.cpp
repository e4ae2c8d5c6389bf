// The glue of the Barlow Twins loss: checks (a second fence, the first is in
// ssl_fast/ops/cross_correlation), allocation, registration.
#include <tuple>

#include "cross_correlation/correlation.h"

// CPU alone: on a GPU Triton serves.
#ifndef SSL_FAST_EMULATED

namespace ssl_fast::cross_correlation {

namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor>;

template <typename Real>
Outputs finish(const Tensor& z0, const Tensor& z1, const Tensor (&slopes)[2], const Tensor& squares,
               const Tensor& diagonal, const Tensor& statistics, double lambda, int64_t total,
               const Tensor (&gradients)[2]) {
  const int64_t columns = diagonal.size(0);
  const Real *own = data<Real>(diagonal), *off = data<Real>(squares);
  double loss = 0.0, rest = 0.0;
  for (int64_t i = 0; i < columns; ++i) {
    const double difference = own[i] - Real(1);
    loss += difference * difference;
  }
  for (int64_t i = 0; i < (squares.dim() == 1 ? 1 : columns); ++i) rest += off[i];
  Tensor out = torch::stable::new_empty(diagonal, {});
  *data<Real>(out) = static_cast<Real>(loss + lambda * rest);
  if (squares.dim() == 1) return {out, gradients[0], gradients[1]};

  const Tensor z[2] = {columns_contiguous(z0), columns_contiguous(z1)};
  Params<Real> p;
  p.dtype = dtype_of(z0), p.narrow = false;
  p.rows = z0.size(0), p.columns = columns;
  p.total = static_cast<double>(total), p.lambda = lambda;
  p.statistics = data<Real>(statistics), p.diagonal = data<Real>(diagonal);
  p.squares = data<Real>(squares);
  for (int view = 0; view < 2; ++view) {
    p.z[view] = z[view].const_data_ptr(), p.stride[view] = z[view].stride(0);
    p.slopes[view] = data<Real>(slopes[view]), p.gradients[view] = data<Real>(gradients[view]);
  }
  run(p, Step::kFinish);
  return {out, gradients[0], gradients[1]};
}

void check(const Tensor& z0, const Tensor& z1) {
  STD_TORCH_CHECK(z0.dim() == 2 && z1.dim() == 2 && z0.size(0) == z1.size(0) &&
                      z0.size(1) == z1.size(1) && z0.size(1) > 0 &&
                      z0.scalar_type() == z1.scalar_type() && dtype_of(z0) != DType::kUInt8,
                  "barlow_twins_loss: z0 and z1 must be floats [N, D] of one type, D > 0");
}

double value_of(const Tensor& x) {
  STD_TORCH_CHECK(x.numel() == 1, "barlow_twins_loss: lambda_ must be one element");
  return dtype_of(x) == DType::kFloat64 ? *static_cast<const double*>(x.const_data_ptr())
                                        : *static_cast<const float*>(x.const_data_ptr());
}

// Calls f with what the loss is computed in, and what h is rounded to.
template <typename Function>
auto by_type(const Tensor& z, Function f) {
  if (dtype_of(z) == DType::kFloat64) return f(double{}, double{});
  if (dtype_of(z) == DType::kBFloat16 && !by_rows(z)) return f(float{}, BFloat16{});
  return f(float{}, float{});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> cross_correlation_rows(const Tensor& z0,
                                                                          const Tensor& z1,
                                                                          double eps, int64_t begin,
                                                                          int64_t end,
                                                                          bool with_gradient) {
  check(z0, z1);
  STD_TORCH_CHECK(z0.size(0) > 0 && 0 <= begin && begin <= end && end <= z0.size(0),
                  "cross_correlation_rows: begin and end must be of rows that there are");
  return by_type(z0, [&](auto real, auto h) {
    Correlation<decltype(real), decltype(h)> c(z0, z1, eps, begin, end);
    with_gradient ? c.with_slopes() : c.without_slopes();
    return std::make_tuple(c.slopes[0], c.slopes[1], c.squares, c.diagonal, c.statistics);
  });
}

Outputs barlow_twins_gradients(const Tensor& z0, const Tensor& z1, const Tensor& slope0,
                               const Tensor& slope1, const Tensor& squares, const Tensor& diagonal,
                               const Tensor& statistics, const Tensor& lambda_, int64_t total) {
  check(z0, z1);
  return by_type(z0, [&](auto real, auto) {
    using Real = decltype(real);
    const int64_t columns = z0.size(1);
    STD_TORCH_CHECK(
        diagonal.numel() == columns && diagonal.scalar_type() == kType<Real> &&
            statistics.numel() == 6 * columns && statistics.scalar_type() == kType<Real> &&
            squares.numel() == (squares.dim() == 1 ? 1 : 2 * columns) &&
            squares.scalar_type() == kType<Real>,
        "barlow_twins_gradients: the parts must be those that cross_correlation_rows returns");
    Tensor slopes[2] = {torch::stable::contiguous(slope0), torch::stable::contiguous(slope1)};
    Tensor gradients[2];
    for (int view = 0; view < 2; ++view) {
      STD_TORCH_CHECK(slopes[view].scalar_type() == kType<Real> &&
                          (squares.dim() == 1 || slopes[view].numel() == z0.numel()),
                      "barlow_twins_gradients: slopes must be of z's shape, float32 (float64)");
      gradients[view] = torch::stable::new_empty(slopes[view], slopes[view].sizes());
    }
    return finish<Real>(z0, z1, slopes, torch::stable::contiguous(squares),
                        torch::stable::contiguous(diagonal), torch::stable::contiguous(statistics),
                        value_of(lambda_), total, gradients);
  });
}

Outputs barlow_twins_loss(const Tensor& z0, const Tensor& z1, const Tensor& lambda_, double eps,
                          bool with_gradient) {
  check(z0, z1);
  STD_TORCH_CHECK(z0.size(0) > 0, "barlow_twins_loss: z0 and z1 must have rows");
  return by_type(z0, [&](auto real, auto h) {
    using Real = decltype(real);
    Correlation<Real, decltype(h)> c(z0, z1, eps, 0, z0.size(0));
    with_gradient ? c.with_slopes() : c.without_slopes();
    return finish<Real>(z0, z1, c.slopes, c.squares, c.diagonal, c.statistics, value_of(lambda_),
                        z0.size(0), c.slopes);
  });
}

}  // namespace

SSL_FAST_CPU_KERNELS(library) {
  library.impl("cross_correlation_rows", TORCH_BOX(&cross_correlation_rows));
  library.impl("barlow_twins_gradients", TORCH_BOX(&barlow_twins_gradients));
  library.impl("barlow_twins_loss", TORCH_BOX(&barlow_twins_loss));
}

}  // namespace ssl_fast::cross_correlation

#endif
