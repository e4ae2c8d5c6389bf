// Token ops on the CPU: every row on its own.
#include "tokens/lanes.h"
#include "tokens/tokens.h"

namespace ssl_fast::tokens::SSL_FAST_ISA {

namespace {

using namespace ::ssl_fast::SSL_FAST_ISA::lanes;
namespace simd = ::ssl_fast::SSL_FAST_ISA::simd;

template <typename T>
SSL_SIMD const T* row_of(const Rows& rows, int64_t n, int64_t l) {
  return static_cast<const T*>(rows.data) + n * rows.stride_n + l * rows.stride_l;
}

SSL_SIMD int64_t id_of(const Ids& ids, int64_t n, int64_t k) {
  return ids.data[n * ids.stride_n + k * ids.stride_k];
}

// Copies a row, whatever its bytes are, and fetches the one that comes next: the processor does not
// foresee which. libc's memcpy is slower by a third on rows that no cache holds.
template <typename Vectors>
SSL_SIMD void copy_row(const char* from, char* to, int64_t size, const char* next) {
  using Value = typename Vectors::Value;
  constexpr int64_t kStep = sizeof(Value);
  int64_t i = 0;
  for (; i + kStep <= size; i += kStep) {
    Value value;
    __builtin_memcpy(&value, from + i, kStep);
    Vectors::store(reinterpret_cast<float*>(to + i), value);
    __builtin_prefetch(next + i);
  }
  for (; i < size; i += 2) __builtin_memcpy(to + i, from + i, 2);
}

// out = x + pos, without pos if it is null.
template <typename Vectors, typename In, typename Out>
SSL_SIMD void add_row(const In* x, const Out* pos, Out* out, int64_t dim) {
  using Compute = typename ComputeOf<In, Out>::Type;
  if (pos == nullptr)
    along<Compute, Vectors>(
        dim, [=](auto lanes, int64_t i) { lanes.store(out + i, lanes.load(x + i)); });
  else
    along<Compute, Vectors>(dim, [=](auto lanes, int64_t i) {
      lanes.store(out + i, lanes.add(lanes.load(x + i), lanes.load(pos + i)));
    });
}

template <typename Vectors, typename In, typename Out>
void restore(const RestoreParams& p, int64_t begin, int64_t end) {
  const int64_t rows = p.prefix + p.length;
  const Out* mask_token = static_cast<const Out*>(p.mask_token);
  const Out* pos = static_cast<const Out*>(p.pos);
  Out* out = static_cast<Out*>(p.out) + begin * p.dim;
  int64_t n = begin / rows, row = begin % rows;
  for (int64_t i = begin; i < end; ++i, out += p.dim) {
    const Out* pos_row = pos ? pos + row * p.dim : nullptr;
    int64_t from = row;
    if (row >= p.prefix) {
      const uint64_t id = static_cast<uint64_t>(id_of(p.ids, n, row - p.prefix));
      from = id < static_cast<uint64_t>(p.kept) ? p.prefix + static_cast<int64_t>(id) : -1;
    }
    if (from >= 0)
      add_row<Vectors>(row_of<In>(p.x, n, from), pos_row, out, p.dim);
    else
      add_row<Vectors>(mask_token, pos_row, out, p.dim);
    if (++row == rows) row = 0, ++n;
  }
}

template <typename Vectors, typename In, typename Out>
void position(const PositionParams& p, int64_t begin, int64_t end) {
  const Out* pos = static_cast<const Out*>(p.pos);
  Out* out = static_cast<Out*>(p.out);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = i / p.count, k = i % p.count;
    add_row<Vectors>(row_of<In>(p.x, n, k), pos + id_of(p.ids, n, k) * p.dim, out + i * p.dim,
                     p.dim);
  }
}

template <typename Vectors, typename In, typename Out>
void sum(const SumParams& p, int64_t begin, int64_t end) {
  using Compute = typename ComputeOf<In, Out>::Type;
  const int64_t rows = p.prefix + p.length;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = i / rows, row = i % rows;
    Out* out = static_cast<Out*>(p.out) + i * p.dim;
    if (row < p.prefix) {
      add_row<Vectors, In, Out>(row_of<In>(p.grad, n, row), nullptr, out, p.dim);
      continue;
    }
    const int32_t* first = p.links + n * (p.length + p.count);
    const int32_t* next = first + p.length;
    const In* grad = row_of<In>(p.grad, n, p.prefix);
    const int64_t step = p.grad.stride_l;
    const int32_t k = first[row - p.prefix];
    if (k < 0)
      along<Compute, Vectors>(p.dim,
                              [=](auto lanes, int64_t d) { lanes.store(out + d, lanes.zero()); });
    else
      along<Compute, Vectors>(p.dim, [=](auto lanes, int64_t d) {
        auto total = lanes.load(grad + k * step + d);
        for (int32_t other = next[k]; other >= 0; other = next[other])
          total = lanes.add(total, lanes.load(grad + other * step + d));
        lanes.store(out + d, total);
      });
  }
}

// Sums over samples: groups of kGroup in `group`, which then go to `total`. Both are exact enough
// for any batch, and nothing depends on threads.
constexpr int64_t kGroup = 32;
template <typename Compute>
struct Sums {
  Compute group[(kRowsPerUnit + 1) * kDimsPerUnit];  // rows, then the mask token
  Compute total[(kRowsPerUnit + 1) * kDimsPerUnit];
};

template <typename Compute>
SSL_SIMD void flush(Sums<Compute>& sums, int64_t size) {
  Compute *group = sums.group, *total = sums.total;
  along<Compute>(size, [=](auto lanes, int64_t i) {
    lanes.store(total + i, lanes.add(lanes.load(total + i), lanes.load(group + i)));
    lanes.store(group + i, lanes.zero());
  });
}

template <typename T>
void sum_unit(const ParameterParams& p, int64_t row_unit, int64_t dim_unit) {
  using Compute = typename ComputeOf<T, T>::Type;
  alignas(64) Sums<Compute> sums;
  const int64_t first = row_unit * kRowsPerUnit, all = p.prefix + p.length;
  const int64_t rows = first + kRowsPerUnit < all ? kRowsPerUnit : all - first;
  const int64_t from = dim_unit * kDimsPerUnit;
  const int64_t dims = from + kDimsPerUnit < p.dim ? kDimsPerUnit : p.dim - from;
  for (int64_t i = 0; i < (rows + 1) * dims; ++i) sums.group[i] = sums.total[i] = 0;
  for (int64_t n = 0; n < p.batch; ++n) {
    for (int64_t r = 0; r < rows; ++r) {
      const T* grad = row_of<T>(p.grad, n, first + r) + from;
      const int64_t l = first + r - p.prefix;
      const bool masked =
          p.partial != nullptr && l >= 0 &&
          static_cast<uint64_t>(id_of(p.ids, n, l)) >= static_cast<uint64_t>(p.kept);
      Compute* row = sums.group + r * dims;
      Compute* token = sums.group + rows * dims;
      if (p.pos != nullptr)
        along<Compute>(dims, [=](auto lanes, int64_t i) {
          lanes.store(row + i, lanes.add(lanes.load(row + i), lanes.load(grad + i)));
        });
      if (masked)
        along<Compute>(dims, [=](auto lanes, int64_t i) {
          lanes.store(token + i, lanes.add(lanes.load(token + i), lanes.load(grad + i)));
        });
    }
    if ((n + 1) % kGroup == 0 || n + 1 == p.batch) flush(sums, (rows + 1) * dims);
  }
  const Compute* total = sums.total;
  for (int64_t r = 0; p.pos != nullptr && r < rows; ++r) {
    T* out = static_cast<T*>(p.pos) + (first + r) * p.dim + from;
    along<Compute>(dims, [=](auto lanes, int64_t i) {
      lanes.store(out + i, lanes.load(total + r * dims + i));
    });
  }
  if (p.partial == nullptr) return;
  Compute* partial = static_cast<Compute*>(p.partial) + row_unit * p.dim + from;
  for (int64_t i = 0; i < dims; ++i) partial[i] = total[rows * dims + i];
}

// Calls function(vectors, In{}, Out{}) where In promoted with Out is Out.
template <typename Function>
SSL_SIMD void with_promotion(DType in, DType out, bool streams, Function function) {
  const auto call = [=](auto in, auto out) {
    if (streams)
      function(Streaming{}, in, out);
    else
      function(Vector{}, in, out);
  };
  if (in == out) return with_float_type(in, [=](auto type) { call(type, type); });
  if (out == DType::kFloat64) return with_float_type(in, [=](auto type) { call(type, double{}); });
  return with_float_type(in, [=](auto type) { call(type, float{}); });
}

}  // namespace

void gather_rows(const GatherParams& p, int64_t begin, int64_t end) {
  const int64_t size = p.row_bytes;
  const int64_t item = p.x.dtype == DType::kFloat64 ? 8 : p.x.dtype == DType::kFloat32 ? 4 : 2;
  const auto row_at = [&](int64_t i) {
    const int64_t n = i / p.count, k = i % p.count;
    const int64_t at = n * p.x.stride_n + id_of(p.ids, n, k) * p.x.stride_l;
    return static_cast<const char*>(p.x.data) + at * item;
  };
  const char* row = row_at(begin);
  for (int64_t i = begin; i < end; ++i) {
    const char* next = i + 1 < end ? row_at(i + 1) : row;
    char* out = static_cast<char*>(p.out) + i * size;
    if (p.streams)
      copy_row<Streaming>(row, out, size, next);
    else
      copy_row<Vector>(row, out, size, next);
    row = next;
  }
  simd::fence();
}

void restore_rows(const RestoreParams& p, int64_t begin, int64_t end) {
  with_promotion(p.x.dtype, p.dtype, p.streams, [&](auto vectors, auto in, auto out) {
    restore<decltype(vectors), decltype(in), decltype(out)>(p, begin, end);
  });
  simd::fence();
}

void add_positions(const PositionParams& p, int64_t begin, int64_t end) {
  with_promotion(p.x.dtype, p.dtype, p.streams, [&](auto vectors, auto in, auto out) {
    position<decltype(vectors), decltype(in), decltype(out)>(p, begin, end);
  });
  simd::fence();
}

void link_rows(const SumParams& p, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    int32_t* first = p.links + n * (p.length + p.count);
    int32_t* next = first + p.length;
    for (int64_t r = 0; r < p.length; ++r) first[r] = -1;
    for (int64_t k = p.count - 1; k >= 0; --k) {
      const int64_t id = id_of(p.ids, n, k);
      if (id < 0 || id >= p.length) continue;
      next[k] = first[id];
      first[id] = static_cast<int32_t>(k);
    }
  }
}

void sum_rows(const SumParams& p, int64_t begin, int64_t end) {
  with_promotion(p.dtype, p.grad.dtype, p.streams, [&](auto vectors, auto out, auto grad) {
    sum<decltype(vectors), decltype(grad), decltype(out)>(p, begin, end);
  });
  simd::fence();
}

void sum_parameters(const ParameterParams& p, int64_t begin, int64_t end) {
  const int64_t dims = dim_units(p);
  for (int64_t i = begin; i < end; ++i)
    with_float_type(p.grad.dtype,
                    [&](auto type) { sum_unit<decltype(type)>(p, i / dims, i % dims); });
}

void finish_mask_token(const ParameterParams& p) {
  with_float_type(p.grad.dtype, [&](auto type) {
    using T = decltype(type);
    using Compute = typename ComputeOf<T, T>::Type;
    const Compute* partial = static_cast<const Compute*>(p.partial);
    T* out = static_cast<T*>(p.mask_token);
    const int64_t units = row_units(p), dim = p.dim;
    along<Compute>(dim, [=](auto lanes, int64_t i) {
      auto total = lanes.zero();
      for (int64_t u = 0; u < units; ++u)
        total = lanes.add(total, lanes.load(partial + u * dim + i));
      lanes.store(out + i, total);
    });
  });
}

}  // namespace ssl_fast::tokens::SSL_FAST_ISA
