// Softmax over the rows, or over rows and columns, of similarities: sums in one sweep over the
// tiles, gradients in a second. For the `_torch.cpp` files of this folder alone.
#pragma once

#include <limits>

#include "contrastive/tiles.h"

namespace ssl_fast::contrastive {

// A sum of exponentials and its shift become their logarithm, and what makes up for its rounding.
// Returns the logarithm.
template <typename Real>
double take_logarithm(Real& shift, Real& sum) {
  const double exact = static_cast<double>(shift) + std::log(static_cast<double>(sum));
  shift = static_cast<Real>(exact);
  sum = std::isfinite(exact) ? static_cast<Real>(std::exp(shift - exact)) : Real(1);
  return exact;
}

// For each sum, the logarithm less the logit of its positive: not below 0 but by rounding.
template <typename Real>
double losses_of(const Sums& sums, const void* positives, int64_t count) {
  Real *shifts = static_cast<Real*>(sums.shifts), *values = static_cast<Real*>(sums.sums);
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    const double loss =
        take_logarithm(shifts[i], values[i]) - static_cast<const Real*>(positives)[i];
    total += loss < 0.0 ? 0.0 : loss;
  }
  return total;
}

template <typename Real>
void start(const Sums& sums, int64_t count) {
  std::fill_n(static_cast<Real*>(sums.shifts), count, std::numeric_limits<Real>::lowest());
  std::fill_n(static_cast<Real*>(sums.sums), count, Real(0));
}

class Softmax {
 public:
  // `by_columns`: over columns too. Of symmetric pairs the columns' sums are the rows'.
  Softmax(const Tensor& like, const Pairs& pairs, bool by_columns, bool keep)
      : tiles_(pairs, keep), by_columns_(by_columns) {
    double_ = pairs.rows.dtype == ScalarType::Double;
    const int64_t size = double_ ? 8 : 4, rows = pairs.rows.rows, columns = pairs.columns.rows;
    tiles_.want(workspace_);
    workspace_.want(&rows_.shifts, rows * size);
    workspace_.want(&rows_.sums, rows * size);
    workspace_.want(&positives_, rows * size);
    if (by_columns && !pairs.symmetric) {
      workspace_.want(&columns_.shifts, columns * size);
      workspace_.want(&columns_.sums, columns * size);
    }
    const int64_t parts = by_columns ? tiles_.chunks() * tiles_.columns() * size : 0;
    workspace_.want(&parts_.shifts, parts);
    workspace_.want(&parts_.sums, parts);
    workspace_.want(&dots_, tiles_.chunks() * 8);
    if (pairs.rows.dtype == ScalarType::BFloat16)
      workspace_.want(&part_, tiles_.longest_side() * pairs.rows.columns * 2);
    workspace_.allocate(like);
    if (pairs.symmetric) columns_ = rows_;
  }
  Softmax(const Softmax&) = delete;

  // First sweep. Positives are those of the tiles that are made.
  void sum() {
    begin(rows_, tiles_.pairs().rows.rows);
    if (by_columns_ && !tiles_.pairs().symmetric) begin(columns_, tiles_.pairs().columns.rows);
    tiles_.for_places([&](const Place& place) {
      tiles_.multiply(place);
      const bool with_columns = by_columns_ && !place.diagonal;
      const SumParams p{tiles_.tile(place), rows_, positives_, with_columns ? parts_ : Sums{},
                        columns_};
      for_chunks(p.tile, [&](int64_t begin, int64_t end) { sum_exponentials_cpu(p, begin, end); });
      if (!with_columns) return;
      torch::stable::parallel_for(0, place.columns, 512, [&](int64_t begin, int64_t end) {
        merge_columns_cpu(p, begin, end);
      });
    });
  }

  // After `sum`: the losses of rows, and of columns, added up. Sums become logarithms.
  double losses(const void* of_rows, const void* of_columns) {
    const auto total = [&](const Sums& sums, const void* positives, int64_t count) {
      return double_ ? losses_of<double>(sums, positives, count)
                     : losses_of<float>(sums, positives, count);
    };
    double loss = total(rows_, of_rows, tiles_.pairs().rows.rows);
    if (of_columns) loss += total(columns_, of_columns, tiles_.pairs().columns.rows);
    return loss;
  }

  // Second sweep: the gradients of the losses times `alpha`, to `rows` and, if not null, to
  // `columns`; of symmetric pairs all of it to `rows`. `at_target`: how many losses have a row's
  // positive. Returns the sum of logits' gradients times inner products, without `alpha`.
  double gradients(double at_target, double alpha, const Matrix& rows, const Matrix* columns) {
    const Pairs& pairs = tiles_.pairs();
    double dots = 0.0;
    GradientParams p{{}, row_lse_, nullptr, column_lse_, nullptr, at_target, parts_.shifts, dots_};
    if (!row_lse_) {
      p.row_lse = rows_.shifts, p.row_correction = rows_.sums;
      if (by_columns_) p.column_lse = columns_.shifts, p.column_correction = columns_.sums;
    }
    tiles_.for_places([&](const Place& place) {
      p.tile = tiles_.tile(place);
      if (!place.kept) tiles_.multiply(place);
      for_chunks(p.tile, [&](int64_t begin, int64_t end) { softmax_gradients_cpu(p, begin, end); });
      double sum = 0.0;
      for (int64_t i = 0; i < chunks_of(place.rows); ++i) sum += dots_[i];
      dots += place.diagonal ? sum / 2 : sum;
      add_feature_gradients(tiles_, place, alpha, rows, columns, part_);
    });
    return pairs.symmetric ? 2.0 * dots : dots;
  }

  // Instead of `sum`: logarithms of sums over more than these pairs.
  void use(const void* row_lse, const void* column_lse) {
    row_lse_ = row_lse, column_lse_ = column_lse;
  }

  const void* row_lse() const { return rows_.shifts; }
  const void* column_lse() const { return columns_.shifts; }
  void* positives() const { return positives_; }

 private:
  void begin(const Sums& sums, int64_t count) const {
    return double_ ? start<double>(sums, count) : start<float>(sums, count);
  }

  Tiles tiles_;
  bool by_columns_, double_;
  Workspace workspace_;
  Sums rows_{}, columns_{};
  void* positives_ = nullptr;
  Sums parts_{};  // over a chunk's rows
  double* dots_ = nullptr;
  void* part_ = nullptr;
  const void *row_lse_ = nullptr, *column_lse_ = nullptr;
};

}  // namespace ssl_fast::contrastive
