// Sinkhorn's sweeps on the CPU, chunk by chunk. Compiled once for each instruction set.
//
// A row is read once and stays in the caches until its sum is known and it has been added to the
// columns, so that an iteration is one sweep over the scores.
#include "sinkhorn/sinkhorn.h"

#include "sinkhorn/lanes.h"

namespace ssl_fast::sinkhorn::SSL_FAST_ISA {

namespace {

constexpr int64_t kTile = 1024;  // columns summed in `Real`, then in double
constexpr int kRows = 4;         // that are added to the columns at a time
static_assert(kBlock % kRows == 0);

// Largest scores and sums of a block of rows, joined to those of the chunk.
template <typename Real, typename T>
SSL_SIMD void join_block(const Params<Real>& p, const T* scores, int64_t rows, Real* largest,
                         double* sums) {
  using L = Lanes<Real>;
  const auto inverse = L::set(p.inverse_epsilon);
  for (int64_t k = 0; k < p.columns; k += L::kWidth) {
    const auto before = L::load(largest + k);
    auto most = before;
    for (int64_t n = 0; n < rows; ++n)
      most = L::max(load_scores<Real>(scores + n * p.stride, k, p.columns), most);
    auto sum = L::set(0);
    for (int64_t n = 0; n < rows; ++n) {
      const auto x = L::sub(load_scores<Real>(scores + n * p.stride, k, p.columns), most);
      sum = L::add(sum, L::exp(L::mul(x, inverse)));
    }
    Real scale[L::kWidth], added[L::kWidth];
    L::store(scale, L::exp(L::mul(L::sub(before, most), inverse)));
    L::store(added, sum);
    L::store(largest + k, most);
    for (int i = 0; i < L::kWidth; ++i) sums[k + i] = sums[k + i] * scale[i] + added[i];
  }
}

// E of one row, to `row`; returns the sum of E times the weights.
template <typename Real, typename T>
SSL_SIMD double make_row(const Params<Real>& p, const T* scores, Real* row) {
  using L = Lanes<Real>;
  const int64_t size = padded(p.columns);
  auto most = L::set(minus_infinity<Real>());
  for (int64_t k = 0; k < size; k += L::kWidth) {
    const auto x = L::sub(load_scores<Real>(scores, k, p.columns), L::load(p.maxima + k));
    L::store(row + k, x);
    most = L::max(x, most);
  }
  const auto shift = L::set(max_of<Real>(most)), inverse = L::set(p.inverse_epsilon);
  double sum = 0.0;
  for (int64_t tile = 0; tile < size; tile += kTile) {
    const int64_t end = tile + kTile < size ? tile + kTile : size;
    auto lanes = L::set(0);
    for (int64_t k = tile; k < end; k += L::kWidth) {
      const auto e = L::exp(L::mul(L::sub(L::load(row + k), shift), inverse));
      L::store(row + k, e);
      lanes = L::fma(e, L::load(p.weights + k), lanes);
    }
    sum += sum_of<Real>(lanes);
  }
  return sum;
}

// Adds rows, each times its scale, to the columns.
template <typename Real, int kCount>
SSL_SIMD void add_rows(const Real* rows, const Real* scales, int64_t size, Real* columns) {
  using L = Lanes<Real>;
  typename L::Type scale[kCount];
  for (int i = 0; i < kCount; ++i) scale[i] = L::set(scales[i]);
  for (int64_t k = 0; k < size; k += L::kWidth) {
    auto sum = L::load(columns + k);
    for (int i = 0; i < kCount; ++i) sum = L::fma(scale[i], L::load(rows + i * size + k), sum);
    L::store(columns + k, sum);
  }
}

template <typename Real, typename T>
SSL_SIMD void sum_block(const Params<Real>& p, const T* scores, int64_t count, Real* workspace,
                        double* sums) {
  const int64_t size = padded(p.columns);
  Real *rows = workspace, *columns = workspace + kRows * size;
  for (int64_t k = 0; k < size; ++k) columns[k] = 0;
  int64_t n = 0;
  for (; n + kRows <= count; n += kRows) {
    Real scales[kRows];
    for (int i = 0; i < kRows; ++i)
      scales[i] = static_cast<Real>(1 / make_row(p, scores + (n + i) * p.stride, rows + i * size));
    add_rows<Real, kRows>(rows, scales, size, columns);
  }
  for (; n < count; ++n) {
    const Real scale = static_cast<Real>(1 / make_row(p, scores + n * p.stride, rows));
    add_rows<Real, 1>(rows, &scale, size, columns);
  }
  for (int64_t k = 0; k < size; ++k) sums[k] += columns[k];
}

template <typename Real, typename T>
SSL_SIMD void assign_row(const Params<Real>& p, const T* scores, Real* row, Real* out) {
  using L = Lanes<Real>;
  const auto scale = L::set(static_cast<Real>(1 / make_row(p, scores, row)));
  int64_t k = 0;
  for (; k + L::kWidth <= p.columns; k += L::kWidth)
    L::store(out + k, L::mul(L::mul(L::load(row + k), L::load(p.weights + k)), scale));
  if (k == p.columns) return;
  L::store(row + k, L::mul(L::mul(L::load(row + k), L::load(p.weights + k)), scale));
  for (; k < p.columns; ++k) out[k] = row[k];
}

template <typename Real, typename T>
void run(const Params<Real>& p, int64_t begin, int64_t end, Real* workspace) {
  const int64_t size = padded(p.columns);
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t first = chunk * p.chunk;
    const int64_t last = first + p.chunk < p.rows ? first + p.chunk : p.rows;
    const T* scores = static_cast<const T*>(p.scores);
    if (p.sweep == Sweep::kAssign) {
      for (int64_t n = first; n < last; ++n)
        assign_row(p, scores + n * p.stride, workspace, p.out + n * p.columns);
      continue;
    }
    double* sums = p.sums + chunk * size;
    for (int64_t k = 0; k < size; ++k) sums[k] = 0.0;
    for (int64_t n = first; n < last; n += kBlock) {
      const int64_t count = n + kBlock < last ? kBlock : last - n;
      if (p.sweep == Sweep::kColumns)
        join_block(p, scores + n * p.stride, count, p.largest + chunk * size, sums);
      else
        sum_block(p, scores + n * p.stride, count, workspace, sums);
    }
  }
}

}  // namespace

void sweep(const Params<float>& p, int64_t begin, int64_t end, float* workspace) {
  switch (p.dtype) {
    case DType::kFloat16:
      return run<float, Half>(p, begin, end, workspace);
    case DType::kBFloat16:
      return run<float, BFloat16>(p, begin, end, workspace);
    default:
      return run<float, float>(p, begin, end, workspace);
  }
}

void sweep(const Params<double>& p, int64_t begin, int64_t end, double* workspace) {
  run<double, double>(p, begin, end, workspace);
}

}  // namespace ssl_fast::sinkhorn::SSL_FAST_ISA
