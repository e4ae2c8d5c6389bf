// The glue of the Barlow Twins loss: checks (a second fence, the first is in
// ssl_fast/ops/cross_correlation), products through aten, registration.
#include <tuple>

#include "cross_correlation/cross_correlation.h"
#include "cross_correlation/products.h"

// CPU alone: on a GPU Triton serves.
#ifndef SSL_FAST_EMULATED

namespace ssl_fast::cross_correlation {

namespace {

using torch::headeronly::ScalarType;
using Outputs = std::tuple<Tensor, Tensor, Tensor>;
constexpr int64_t kPanelBytes = 128 << 20;  // of parts of C, or of the matrices of rows, at a time

template <typename Real>
constexpr ScalarType kType = sizeof(Real) == 8 ? ScalarType::Double : ScalarType::Float;

Tensor columns_contiguous(const Tensor& x) {
  return x.stride(1) == 1 || x.size(1) == 1 ? x : torch::stable::contiguous(x);
}

template <typename Real>
Real* data(const Tensor& x) {
  return static_cast<Real*>(x.mutable_data_ptr());
}

// Half the sum of C_ij^2, i != j, has the slopes h1 C^T / N in h0 and h0 C / N in h1, C without its
// diagonal. With D x D matrices that takes three products, 6 N D^2 operations. But h1 C^T is also
// (h1 h1^T) h0 / N: with N x N matrices it takes four, 8 N^2 D, fewer where there are fewer rows
// than columns. The diagonal of C is in there; to take it out again is benign for 2 N <= D: C has
// rank N at most, so that the squares of its D x D elements cannot be small where those of its
// diagonal are large, and no more than a digit or so is lost.
template <typename Real, typename H>
class Correlation {
 public:
  Tensor statistics, diagonal, slopes[2], squares;

  Correlation(const Tensor& z0, const Tensor& z1, double eps, int64_t begin, int64_t end)
      : z_{columns_contiguous(z0), columns_contiguous(z1)} {
    p_.dtype = dtype_of(z0);
    p_.rows = rows_ = z0.size(0), p_.columns = columns_ = z0.size(1);
    p_.begin = begin, p_.end = end, p_.eps = eps;
    for (int view = 0; view < 2; ++view) {
      p_.z[view] = z_[view].const_data_ptr(), p_.stride[view] = z_[view].stride(0);
      h_[view] = torch::stable::new_empty(z0, {rows_, columns_}, kH);
      p_.h[view] = h_[view].mutable_data_ptr();
    }
    statistics = torch::stable::new_empty(z0, {4, columns_}, kType<Real>);
    diagonal = torch::stable::new_empty(z0, {columns_}, kType<Real>);
    p_.statistics = data<Real>(statistics), p_.diagonal = data<Real>(diagonal);
    run(Step::kStandardise);
  }

  void without_slopes() {
    const double rows = static_cast<double>(rows_);
    const double share = (p_.end - p_.begin) / rows;
    double total = 0.0;
    if (by_rows()) {
      for_row_panels([&](int64_t begin, int64_t end, const Tensor& of0, const Tensor& of1) {
        multiply(part(h_[0], 0, begin, end), transposed(h_[0]), of0);
        multiply(part(h_[1], 0, begin, end), transposed(h_[1]), of1);
        total += sum_of_products<H>(of0, of1);
      });
      total /= rows * rows;
      for (int64_t i = 0; i < columns_; ++i)
        total -= share * static_cast<double>(p_.diagonal[i]) * p_.diagonal[i];
    } else {
      for_column_panels([&](int64_t, int64_t, const Tensor& panel) {
        total += sum_of_products<H>(panel, panel) * (share / (rows * rows));
      });
    }
    squares = torch::stable::new_empty(diagonal, {1});
    *data<Real>(squares) = static_cast<Real>(total);
    for (Tensor& none : slopes) none = torch::stable::new_empty(diagonal, {0});
  }

  void with_slopes() {
    const int64_t own = p_.end - p_.begin;
    squares = torch::stable::new_empty(diagonal, {2, columns_});
    Tensor products[2];
    for (int view = 0; view < 2; ++view) {
      slopes[view] = torch::stable::new_empty(diagonal, {own, columns_});
      products[view] = kH == kType<Real> ? slopes[view]
                                         : torch::stable::new_empty(diagonal, {own, columns_}, kH);
      p_.slopes[view] = data<Real>(slopes[view]);
      p_.products[view] = products[view].const_data_ptr();
    }
    if (own != 0) by_rows() ? multiply_by_rows(products) : multiply_by_columns(products);
    p_.squares = data<Real>(squares);
    p_.scale = 1.0 / (static_cast<double>(rows_) * static_cast<double>(rows_));
    p_.with_diagonal = by_rows();
    run(Step::kSettle);
  }

 private:
  static constexpr ScalarType kH = sizeof(H) == 2 ? ScalarType::BFloat16 : kType<Real>;

  bool by_rows() const { return 2 * rows_ <= columns_; }

  void run(Step step) {
    p_.step = step;
    const int64_t tiles = (columns_ + kTile - 1) / kTile;
    torch::stable::parallel_for(0, tiles, 1 + 16384 / (rows_ * kTile + 1),
                                [&](int64_t begin, int64_t end) { run_cpu(p_, begin, end); });
  }

  Tensor own(int view) const { return part(h_[view], 0, p_.begin, p_.end); }

  // Calls f(begin, end, [end - begin, N], [end - begin, N]) for panels of this process's rows.
  template <typename Function>
  void for_row_panels(Function f) const {
    const int64_t most = 1 + kPanelBytes / (2 * rows_ * static_cast<int64_t>(sizeof(H)));
    const int64_t size = most < p_.end - p_.begin ? most : p_.end - p_.begin;
    Tensor panels[2];
    for (Tensor& panel : panels) panel = torch::stable::new_empty(h_[0], {size, rows_});
    for (int64_t begin = p_.begin; begin < p_.end; begin += size) {
      const int64_t end = begin + size < p_.end ? begin + size : p_.end;
      f(begin, end, part(panels[0], 0, 0, end - begin), part(panels[1], 0, 0, end - begin));
    }
  }

  // Calls f(begin, end, N * C [D, end - begin], its diagonal 0) for panels of columns of C.
  template <typename Function>
  void for_column_panels(Function f) const {
    const int64_t most = 1 + kPanelBytes / (columns_ * static_cast<int64_t>(sizeof(H)));
    const int64_t size = most < columns_ ? most : columns_;
    const Tensor memory = torch::stable::new_empty(h_[0], {columns_ * size});
    for (int64_t begin = 0; begin < columns_; begin += size) {
      const int64_t end = begin + size < columns_ ? begin + size : columns_;
      const Tensor panel = torch::stable::view(part(memory, 0, 0, columns_ * (end - begin)),
                                               {columns_, end - begin});
      multiply(transposed(h_[0]), part(h_[1], 1, begin, end), panel);
      for (int64_t i = begin; i < end; ++i) data<H>(panel)[i * (end - begin) + i - begin] = H{};
      f(begin, end, panel);
    }
  }

  void multiply_by_rows(const Tensor (&products)[2]) const {
    for_row_panels([&](int64_t begin, int64_t end, const Tensor& of0, const Tensor& of1) {
      multiply(part(h_[0], 0, begin, end), transposed(h_[0]), of0);
      multiply(part(h_[1], 0, begin, end), transposed(h_[1]), of1);
      multiply(of1, h_[0], part(products[0], 0, begin - p_.begin, end - p_.begin));
      multiply(of0, h_[1], part(products[1], 0, begin - p_.begin, end - p_.begin));
    });
  }

  void multiply_by_columns(const Tensor (&products)[2]) const {
    const int64_t count = p_.end - p_.begin;
    const int64_t most = 1 + kPanelBytes / (8 * columns_ * static_cast<int64_t>(sizeof(H)));
    const int64_t size = most < count ? most : count;
    Tensor terms;  // of some rows: those of later panels are added to those of the first
    for_column_panels([&](int64_t begin, int64_t end, const Tensor& panel) {
      multiply(own(0), panel, part(products[1], 1, begin, end));
      const Tensor left = part(own(1), 1, begin, end);
      if (begin == 0) return multiply(left, transposed(panel), products[0]);
      if (!terms.defined()) terms = torch::stable::new_empty(h_[0], {size, columns_});
      for (int64_t n = 0; n < count; n += size) {
        const int64_t last = n + size < count ? n + size : count;
        const Tensor some = part(terms, 0, 0, last - n);
        multiply(part(left, 0, n, last), transposed(panel), some);
        add_to<H>(part(products[0], 0, n, last), some);
      }
    });
  }

  Tensor z_[2], h_[2];
  Params<Real> p_;
  int64_t rows_, columns_;
};

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
  p.step = Step::kFinish;
  p.dtype = dtype_of(z0);
  p.rows = z0.size(0), p.columns = columns;
  p.total = static_cast<double>(total), p.lambda = lambda;
  p.statistics = data<Real>(statistics), p.diagonal = data<Real>(diagonal);
  p.squares = data<Real>(squares);
  for (int view = 0; view < 2; ++view) {
    p.z[view] = z[view].const_data_ptr(), p.stride[view] = z[view].stride(0);
    p.slopes[view] = data<Real>(slopes[view]), p.gradients[view] = data<Real>(gradients[view]);
  }
  const int64_t tiles = (columns + kTile - 1) / kTile;
  torch::stable::parallel_for(0, tiles, 1 + 16384 / (p.rows * kTile + 1),
                              [&](int64_t begin, int64_t end) { run_cpu(p, begin, end); });
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

template <typename Function>
auto by_type(const Tensor& z, Function function) {
  switch (dtype_of(z)) {
    case DType::kFloat64:
      return function(double{}, double{});
    case DType::kBFloat16:
      return function(float{}, BFloat16{});
    default:
      return function(float{}, float{});
  }
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
