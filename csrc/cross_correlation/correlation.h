// One call's products, slopes and sums on the CPU. For the glue alone.
#pragma once

#include <cmath>
#include <vector>

#include "common/large_output.h"
#include "cross_correlation/cross_correlation.h"
#include "cross_correlation/products.h"

namespace ssl_fast::cross_correlation {

using torch::headeronly::ScalarType;
constexpr int64_t kPanelBytes = 128 << 20;  // of parts of C, or of the matrices of rows, at a time

// At most 32 chunks of whole blocks of rows.
inline int64_t chunk_of(int64_t rows) {
  const int64_t chunk = ((rows + 31) / 32 + 15) / 16 * 16;
  return chunk == 0 ? 16 : chunk;
}

template <typename Real>
constexpr ScalarType kType = sizeof(Real) == 8 ? ScalarType::Double : ScalarType::Float;

inline Tensor columns_contiguous(const Tensor& x) {
  return x.stride(1) == 1 || x.size(1) == 1 ? x : torch::stable::contiguous(x);
}

inline Tensor large(const Tensor& like, int64_t rows, int64_t columns, ScalarType type) {
  Tensor x = torch::stable::new_empty(like, {rows, columns}, type);
  advise_huge_pages(x.mutable_data_ptr(), x.numel() * static_cast<int64_t>(x.element_size()));
  return x;
}

template <typename Real>
Real* data(const Tensor& x) {
  return static_cast<Real*>(x.mutable_data_ptr());
}

// Sums of columns of all chunks: one tensor after another, [chunks, sums_of(step), columns].
struct Sums {
  std::vector<double> values;
  int64_t chunks, size;

  // Chunk by chunk, in order.
  double total(int64_t column) const {
    double sum = 0.0;
    for (int64_t c = 0; c < chunks; ++c) sum += values[c * size + column];
    return sum;
  }
};

// Runs a step over all rows.
template <typename Real>
Sums run(Params<Real>& p, Step step) {
  p.step = step;
  p.chunk = chunk_of(p.rows);
  Sums sums;
  sums.chunks = (p.rows + p.chunk - 1) / p.chunk;
  sums.size = sums_of(step) * p.columns;
  sums.values.resize(sums.chunks * sums.size);
  p.sums = sums.values.data();
  torch::stable::parallel_for(0, sums.chunks, 1 + 16384 / (p.chunk * p.columns + 1),
                              [&](int64_t begin, int64_t end) { run_cpu(p, begin, end); });
  return sums;
}

// Half the sum of C_ij^2, i != j, has the slopes h1 C^T / N in h0 and h0 C / N in h1, C without its
// diagonal. With D x D matrices that takes three products, 6 N D^2 operations. But h1 C^T is also
// (h1 h1^T) h0 / N: with N x N matrices it takes four, 8 N^2 D, fewer where there are fewer rows
// than columns. The diagonal of C is in there; to take it out again is benign for 2 N <= D: C has
// rank N at most, so that the squares of its D x D elements cannot be small where those of its
// diagonal are large, and no more than a digit or so is lost.
//
// Products of bfloat16 take a fourth of the time of float32's, and return bfloat16. That is enough
// for C, but not for the matrices of rows, which have D on their diagonals: these are float32's,
// where they are still the faster.
inline bool by_rows(const Tensor& z) {
  return (dtype_of(z) == DType::kBFloat16 ? 6 : 2) * z.size(0) <= z.size(1);
}

template <typename Real, typename H>
class Correlation {
 public:
  Tensor statistics, diagonal, slopes[2], squares;

  Correlation(const Tensor& z0, const Tensor& z1, double eps, int64_t begin, int64_t end)
      : z_{columns_contiguous(z0), columns_contiguous(z1)},
        begin_(begin),
        end_(end),
        rows_(z0.size(0)),
        columns_(z0.size(1)),
        by_rows_(by_rows(z0)) {
    p_.dtype = dtype_of(z0), p_.narrow = sizeof(H) == 2;
    p_.rows = rows_, p_.columns = columns_;
    for (int view = 0; view < 2; ++view) {
      p_.z[view] = z_[view].const_data_ptr(), p_.stride[view] = z_[view].stride(0);
      h_[view] = large(z0, rows_, columns_, kH);
      p_.h[view] = h_[view].mutable_data_ptr();
    }
    statistics = torch::stable::new_empty(z0, {6, columns_}, kType<Real>);
    diagonal = torch::stable::new_empty(z0, {columns_}, kType<Real>);
    p_.statistics = data<Real>(statistics), p_.diagonal = data<Real>(diagonal);
    join_moments(run(p_, Step::kMoments), eps);
    const Sums sums = run(p_, Step::kStandardise);
    for (int64_t i = 0; i < columns_; ++i)
      data<Real>(diagonal)[i] = static_cast<Real>(sums.total(i) / rows_);
  }

  void without_slopes() {
    double total = 0.0;
    if (by_rows_) {
      for_row_panels([&](int64_t begin, int64_t end, const Tensor& of0, const Tensor& of1) {
        multiply(part(h_[0], 0, begin, end), transposed(h_[0]), of0);
        multiply(part(h_[1], 0, begin, end), transposed(h_[1]), of1);
        total += sum_of_products<H>(of0, of1);
      });
      total *= 1.0 / rows_ / rows_;
      for (int64_t i = 0; i < columns_; ++i)
        total -= share() * static_cast<double>(p_.diagonal[i]) * p_.diagonal[i];
    } else {
      std::vector<double> sums(2 * columns_, 0.0);
      for_column_panels(sums, [](int64_t, int64_t, const Tensor&) {});
      for (int64_t i = 0; i < columns_; ++i) total += sums[i];
    }
    squares = torch::stable::new_empty(diagonal, {1});
    *data<Real>(squares) = static_cast<Real>(total);
    for (Tensor& none : slopes) none = torch::stable::new_empty(diagonal, {0});
  }

  void with_slopes() {
    const int64_t own = end_ - begin_;
    squares = torch::stable::new_empty(diagonal, {2, columns_});
    std::vector<double> sums(2 * columns_, 0.0);
    Tensor products[2];
    for (int view = 0; view < 2; ++view) {
      slopes[view] = large(diagonal, own, columns_, kType<Real>);
      products[view] = kH == kType<Real> ? slopes[view] : large(diagonal, own, columns_, kH);
    }
    if (own != 0) by_rows_ ? multiply_by_rows(products) : multiply_by_columns(products, sums);
    // The sums of squares that the panels gave are those of the whole batch.
    if (by_rows_ || own != rows_ || kH != kType<Real>) settle(products, sums);
    for (int64_t i = 0; i < 2 * columns_; ++i) data<Real>(squares)[i] = static_cast<Real>(sums[i]);
  }

 private:
  static constexpr ScalarType kH = sizeof(H) == 2 ? ScalarType::BFloat16 : kType<Real>;

  // This process's part of what all processes have computed.
  double share() const { return static_cast<double>(end_ - begin_) / rows_; }

  void join_moments(const Sums& sums, double eps) {
    Real* to = data<Real>(statistics);
    const auto join = [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t view = i / columns_, column = i % columns_;
        double mean = 0.0, squares = 0.0;
        for (int64_t c = 0, before = 0; c < sums.chunks; ++c) {
          const int64_t left = rows_ - before, count = p_.chunk < left ? p_.chunk : left;
          const double* of = sums.values.data() + c * sums.size + 2 * view * columns_ + column;
          const double share = double(count) / (before + count), shift = of[0] - mean;
          mean += shift * share;
          squares += of[columns_] + shift * shift * share * before;
          before += count;
        }
        Real* statistic = to + 3 * view * columns_ + column;
        statistic[0] = static_cast<Real>(mean);
        statistic[columns_] = static_cast<Real>(mean - static_cast<double>(statistic[0]));
        // Rounding can leave less than nothing of a constant column's squares; NaN stays.
        const double variance = squares < 0.0 ? 0.0 : squares / rows_;
        statistic[2 * columns_] = static_cast<Real>(1 / std::sqrt(variance + eps));
      }
    };
    torch::stable::parallel_for(0, 2 * columns_, 1024, join);
  }

  // Products to slopes, of this process's rows, and their sums of squares where panels gave none.
  void settle(const Tensor (&products)[2], std::vector<double>& squares_of) {
    Params<Real> p = p_;
    p.rows = end_ - begin_;
    p.total = static_cast<double>(rows_);
    p.scale = by_rows_ ? 1.0 / rows_ / rows_ : 1.0;
    p.with_diagonal = by_rows_;
    for (int view = 0; view < 2; ++view) {
      p.z[view] = static_cast<const char*>(z_[view].const_data_ptr()) +
                  begin_ * z_[view].stride(0) * z_[view].element_size();
      p.products[view] = products[view].const_data_ptr();
      p.slopes[view] = data<Real>(slopes[view]);
    }
    const Sums sums = run(p, Step::kSettle);
    if (!by_rows_ && p.rows == rows_) return;
    for (int64_t i = 0; i < 2 * columns_; ++i) squares_of[i] = sums.total(i);
  }

  Tensor own(int view) const { return part(h_[view], 0, begin_, end_); }

  // Calls f(begin, end, [end - begin, N], [end - begin, N]) for panels of this process's rows.
  template <typename Function>
  void for_row_panels(Function f) const {
    const int64_t most = 1 + kPanelBytes / (2 * rows_ * static_cast<int64_t>(sizeof(H)));
    const int64_t size = most < end_ - begin_ ? most : end_ - begin_;
    Tensor panels[2];
    for (Tensor& panel : panels) panel = large(h_[0], size, rows_, kH);
    for (int64_t begin = begin_; begin < end_; begin += size) {
      const int64_t end = begin + size < end_ ? begin + size : end_;
      f(begin, end, part(panels[0], 0, 0, end - begin), part(panels[1], 0, 0, end - begin));
    }
  }

  // Calls f(begin, end, C / N [D, end - begin], its diagonal 0) for panels of columns of C, whose
  // squares are added along rows, to the first D sums, and along columns.
  template <typename Function>
  void for_column_panels(std::vector<double>& sums, Function f) const {
    const int64_t most = 1 + kPanelBytes / (columns_ * static_cast<int64_t>(sizeof(H)));
    const int64_t size = most < columns_ ? most : columns_;
    const Tensor memory = large(h_[0], 1, columns_ * size, kH);
    for (int64_t begin = 0; begin < columns_; begin += size) {
      const int64_t end = begin + size < columns_ ? begin + size : columns_;
      const Tensor panel = torch::stable::view(part(memory, 1, 0, columns_ * (end - begin)),
                                               {columns_, end - begin});
      multiply(transposed(h_[0]), part(h_[1], 1, begin, end), panel);
      square(panel, begin, sums);
      f(begin, end, panel);
    }
  }

  void square(const Tensor& panel, int64_t begin, std::vector<double>& sums) const {
    const int64_t width = panel.size(1), chunk = chunk_of(columns_);
    const int64_t chunks = (columns_ + chunk - 1) / chunk;
    const double scale = 1.0 / rows_ / rows_, factor = scale * share();
    std::vector<double> along(chunks * width, 0.0);
    torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first * chunk; i < last * chunk && i < columns_; ++i) {
        H* row = data<H>(panel) + i * width;
        if (begin <= i && i < begin + width) row[i - begin] = H{};
        sums[i] += factor * square_row_cpu(row, width, scale, along.data() + i / chunk * width);
      }
    });
    for (int64_t c = 0; c < chunks; ++c)
      for (int64_t j = 0; j < width; ++j)
        sums[columns_ + begin + j] += factor * along[c * width + j];
  }

  void multiply_by_rows(const Tensor (&products)[2]) const {
    for_row_panels([&](int64_t begin, int64_t end, const Tensor& of0, const Tensor& of1) {
      multiply(part(h_[0], 0, begin, end), transposed(h_[0]), of0);
      multiply(part(h_[1], 0, begin, end), transposed(h_[1]), of1);
      multiply(of1, h_[0], part(products[0], 0, begin - begin_, end - begin_));
      multiply(of0, h_[1], part(products[1], 0, begin - begin_, end - begin_));
    });
  }

  void multiply_by_columns(const Tensor (&products)[2], std::vector<double>& sums) const {
    const int64_t count = end_ - begin_;
    const int64_t most = 1 + kPanelBytes / (8 * columns_ * static_cast<int64_t>(sizeof(H)));
    const int64_t size = most < count ? most : count;
    Tensor terms;  // of some rows: those of later panels are added to those of the first
    for_column_panels(sums, [&](int64_t begin, int64_t end, const Tensor& panel) {
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
  int64_t begin_, end_, rows_, columns_;
  bool by_rows_;
};

}  // namespace ssl_fast::cross_correlation
