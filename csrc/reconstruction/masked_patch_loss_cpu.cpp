// Masked patch loss on the CPU, patch by patch. Compiled once for each instruction set.
#include "reconstruction/masked_patch_loss.h"

#include "reconstruction/staging.h"

namespace ssl_fast::reconstruction::SSL_FAST_ISA {

namespace {

constexpr double kEps = 1e-6;  // added to the variance, as MAE does

SSL_SIMD int64_t patch_size_of(const Params& p) { return p.channels * p.patch * p.patch; }

template <typename Real>
struct Workspace {
  Real *target, *pred;
  Real *means, *inverses;  // of one row of a patch, where the prediction is tokens; else [channels]
};

template <typename Real>
SSL_SIMD Workspace<Real> prepare(const Params& p, void* memory) {
  Real* target = static_cast<Real*>(memory);
  Real* pred = target + buffer_size(p);
  Real* means = pred + buffer_size(p);
  const int64_t count = p.image_shaped ? p.channels : p.channels * p.patch;
  const Workspace<Real> w{target, pred, means, means + count};
  for (int64_t i = 0; i < count; ++i) {
    w.means[i] = p.mean ? static_cast<Real>(p.mean[i % p.channels]) : Real(0);
    w.inverses[i] = p.inverse ? static_cast<Real>(p.inverse[i % p.channels]) : Real(1);
  }
  return w;
}

// What a target is made of: value = (element - shift) * scale.
struct Line {
  double shift, scale;
};

// Mean and unbiased variance in two passes, the second of which mends the mean that was rounded:
// a patch of one value becomes exactly 0, whatever the value.
template <typename Real>
SSL_SIMD Line normalise(Real* x, int64_t n) {
  Sum<Real> sum;
  for_lanes<Real>(n, [&](auto tag, int64_t i)
                         __attribute__((always_inline)) { sum.add_lanes(tag, get(tag, x + i)); });
  const Real mean = static_cast<Real>(sum.total() / n);
  Sum<Real> deviations, squares;
  for_lanes<Real>(n, [&](auto tag, int64_t i) __attribute__((always_inline)) {
    const auto d = sub(get(tag, x + i), spread(tag, mean));
    put(x + i, d);
    deviations.add_lanes(tag, d);
    squares.add_lanes(tag, mul(d, d));
  });
  const double shift = deviations.total() / n;
  const double variance = (squares.total() - n * shift * shift) / (n - 1);
  return {shift, 1.0 / __builtin_sqrt((variance > 0.0 ? variance : 0.0 * variance) + kEps)};
}

template <typename Real>
SSL_SIMD void standardise(const Params& p, const Workspace<Real>& w, const Rectangle& r) {
  const int64_t width = p.patch * r.patches;
  Real* x = w.target;
  if (!p.image_shaped) {
    // Rows of one patch: of several, only where a patch is one pixel, so that any multiple fits.
    const int64_t row = p.patch * p.channels;
    for (Real* end = x + elements(p, r); x < end; x += row)
      for_lanes<Real>(row, [&](auto tag, int64_t i) __attribute__((always_inline)) {
        put(x + i, mul(sub(get(tag, x + i), get(tag, w.means + i)), get(tag, w.inverses + i)));
      });
    return;
  }
  for (int64_t c = 0; c < p.channels; ++c, x += width * p.patch)
    for_lanes<Real>(width * p.patch, [&](auto tag, int64_t i) __attribute__((always_inline)) {
      const auto centred = sub(get(tag, x + i), spread(tag, w.means[c]));
      put(x + i, mul(centred, spread(tag, w.inverses[c])));
    });
}

template <typename Real>
__attribute__((noinline)) Line make_target(const Params& p, const Workspace<Real>& w,
                                           const Rectangle& r) {
  gather(p, p.images, r, w.target);
  if (p.mean || p.inverse) standardise(p, w, r);
  return p.norm_pix ? normalise(w.target, elements(p, r)) : Line{0.0, 1.0};
}

// What a loss or gradient runs along: pieces where both the prediction and the gradient lie
// contiguously.
struct Pieces {
  int64_t per_channel, channels, length;
};
SSL_SIMD Pieces pieces_of(const Params& p, const Rectangle& r) {
  if (!p.image_shaped) return {1, 1, elements(p, r)};
  return {p.patch, p.channels, p.patch * r.patches};
}
SSL_SIMD bool contiguous(const Params& p) {
  const PatchView& view = p.pred;
  if (p.image_shaped) return view.x == 1;
  return view.channel == 1 && view.x == p.channels && view.y == p.channels * p.patch;
}

template <typename Real, typename Tag, typename Lanes>
SSL_SIMD Lanes difference(Tag tag, Lanes pred, Lanes target, const Line& line) {
  const Lanes shift = spread(tag, static_cast<Real>(line.shift));
  return sub(pred, mul(sub(target, shift), spread(tag, static_cast<Real>(line.scale))));
}

template <typename Real, int kPower, typename T>
SSL_SIMD void add_losses(const T* pred, const Real* target, int64_t n, const Line& line,
                         Sum<Real>& sum) {
  for_lanes<Real>(n, [&](auto tag, int64_t i) __attribute__((always_inline)) {
    const auto d = difference<Real>(tag, get(tag, pred + i), get(tag, target + i), line);
    sum.add_lanes(tag, kPower == 1 ? abs(d) : mul(d, d));
  });
}

template <typename Real, int kPower, typename T, typename Out>
SSL_SIMD void write_gradient(const T* pred, const Real* target, int64_t n, const Line& line,
                             double factor, Out* to) {
  const Real slope = static_cast<Real>(kPower == 1 ? factor : 2.0 * factor);
  for_lanes<Real>(n, [&](auto tag, int64_t i) __attribute__((always_inline)) {
    const auto d = difference<Real>(tag, get(tag, pred + i), get(tag, target + i), line);
    const auto s = spread(tag, slope);
    put(to + i, kPower == 1 ? with_sign_of(d, s) : mul(d, s));
  });
}

// Calls f(prediction, target, gradient offset, length) for each piece. The prediction is read in
// place where it lies contiguously, else gathered.
template <typename Real, typename T, typename Function>
SSL_SIMD void for_pieces(const Params& p, const Workspace<Real>& w, const Rectangle& r,
                         Function f) {
  const Pieces pieces = pieces_of(p, r);
  const bool in_place = contiguous(p);
  if (!in_place) gather(p, p.pred, r, w.pred);
  const T* pred = first_element<T>(p.pred, r);
  const int64_t row = p.columns * p.patch;  // of an image that is contiguous
  const Real *target = w.target, *gathered = w.pred;
  for (int64_t c = 0; c < pieces.channels; ++c) {
    for (int64_t y = 0; y < pieces.per_channel; ++y) {
      const int64_t to = (c * p.rows * p.patch + y) * row;
      if (in_place)
        f(pred + c * p.pred.channel + y * p.pred.y, target, to, pieces.length);
      else
        f(gathered, target, to, pieces.length);
      target += pieces.length;
      gathered += pieces.length;
    }
  }
}

template <typename T>
SSL_SIMD T* gradient_of(const Params& p, const Rectangle& r) {
  T* grad = static_cast<T*>(p.grad);
  const int64_t patches = (r.image * p.rows + r.row) * p.columns + r.column;
  if (!p.image_shaped) return grad + patches * patch_size_of(p);
  const int64_t planes = r.image * p.channels * p.rows + r.row;
  return grad + (planes * p.patch * p.columns + r.column) * p.patch;
}

template <typename T>
SSL_SIMD void write_zeros(const Params& p, const Rectangle& r) {
  T* to = gradient_of<T>(p, r);
  const Pieces pieces = pieces_of(p, r);
  const int64_t row = p.columns * p.patch;
  for (int64_t c = 0; c < pieces.channels; ++c)
    for (int64_t y = 0; y < pieces.per_channel; ++y)
      __builtin_memset(to + (c * p.rows * p.patch + y) * row, 0, pieces.length * sizeof(T));
}

// The longest run of patches from `column` on that are all masked, or all not; at most `limit`.
SSL_SIMD int64_t run_length(const uint8_t* mask, int64_t column, int64_t columns, int64_t limit) {
  const bool masked = mask[column];
  int64_t end = column + 1;
  while (end < columns && end - column < limit && (mask[end] != 0) == masked) ++end;
  return end - column;
}

// How many masked patches may be handled as one.
SSL_SIMD int64_t mergeable(const Params& p) {
  const bool joined = p.image_shaped || (p.patch == 1 && contiguous(p) &&
                                         (p.pred.column == p.channels || p.columns == 1));
  if (p.norm_pix || !joined || patch_size_of(p) > kMerged) return 1;
  return kMerged / patch_size_of(p);
}

// Asks for the pixels of the next masked patch, where rows are contiguous: they are too short for
// the processor to foresee where the next begins.
SSL_SIMD void prefetch_next(const Params& p, const uint8_t* mask, const Rectangle& r) {
  int64_t column = r.column + r.patches;
  while (column < p.columns && !mask[column]) ++column;
  const PatchView& view = p.images;
  if (column == p.columns || view.x != 1) return;
  const int64_t size = view.dtype == DType::kUInt8 ? 1 : view.dtype == DType::kFloat32 ? 4 : 2;
  const char* from = static_cast<const char*>(view.data) +
                     size * (r.image * view.image + r.row * view.row + column * view.column);
  for (int64_t c = 0; c < p.channels; ++c)
    for (int64_t y = 0; y < p.patch; ++y)
      __builtin_prefetch(from + size * (c * view.channel + y * view.y), 0, 2);
}

// Calls f(rectangle, masked) along one row of patches.
template <typename Function>
SSL_SIMD void for_rectangles(const Params& p, int64_t unit, Function f) {
  const uint8_t* mask = p.mask + unit * p.columns;
  Rectangle r{unit / p.rows, unit % p.rows, 0, 0};
  for (const int64_t most = mergeable(p); r.column < p.columns; r.column += r.patches) {
    const bool masked = mask[r.column];
    r.patches = run_length(mask, r.column, p.columns, masked ? most : p.columns);
    if (masked && !works_in_double(p)) prefetch_next(p, mask, r);
    f(r, masked);
  }
}

template <typename Real, int kPower, typename T>
SSL_SIMD void sum_rows(const Params& p, int64_t begin, int64_t end, const Workspace<Real>& w) {
  for (int64_t unit = begin; unit < end; ++unit) {
    double total = 0.0;
    for_rectangles(p, unit, [&](const Rectangle& r, bool masked) __attribute__((always_inline)) {
      if (!masked) return;
      const Line line = make_target(p, w, r);
      Sum<Real> sum;
      for_pieces<Real, T>(p, w, r,
                          [&](const auto* pred, const Real* target, int64_t, int64_t n)
                              __attribute__((always_inline)) {
                                add_losses<Real, kPower>(pred, target, n, line, sum);
                              });
      total += sum.total();
    });
    p.sums[unit] = total;
  }
}

template <typename Real, int kPower, typename T>
SSL_SIMD void gradient_rows(const Params& p, int64_t begin, int64_t end, const Workspace<Real>& w) {
  for (int64_t unit = begin; unit < end; ++unit) {
    for_rectangles(p, unit, [&](const Rectangle& r, bool masked) __attribute__((always_inline)) {
      if (!masked) return write_zeros<T>(p, r);
      const Line line = make_target(p, w, r);
      T* grad = gradient_of<T>(p, r);
      for_pieces<Real, T>(p, w, r,
                          [&](const auto* pred, const Real* target, int64_t to, int64_t n)
                              __attribute__((always_inline)) {
                                write_gradient<Real, kPower>(pred, target, n, line, p.factor,
                                                             grad + to);
                              });
    });
  }
}

template <typename Real, int kPower, typename T>
void run(const Params& p, int64_t begin, int64_t end, void* workspace) {
  const Workspace<Real> w = prepare<Real>(p, workspace);
  if (p.grad)
    gradient_rows<Real, kPower, T>(p, begin, end, w);
  else
    sum_rows<Real, kPower, T>(p, begin, end, w);
}

template <typename Real, int kPower>
void run_by_type(const Params& p, int64_t begin, int64_t end, void* workspace) {
  switch (p.pred.dtype) {
    case DType::kFloat16:
      return run<Real, kPower, Half>(p, begin, end, workspace);
    case DType::kBFloat16:
      return run<Real, kPower, BFloat16>(p, begin, end, workspace);
    case DType::kFloat64:
      if constexpr (!kVectors<Real>) run<Real, kPower, double>(p, begin, end, workspace);
      return;
    default:
      return run<Real, kPower, float>(p, begin, end, workspace);
  }
}

template <typename Real>
void run_by_power(const Params& p, int64_t begin, int64_t end, void* workspace) {
  if (p.power == 1) return run_by_type<Real, 1>(p, begin, end, workspace);
  return run_by_type<Real, 2>(p, begin, end, workspace);
}

}  // namespace

void masked_patch_loss(const Params& p, int64_t begin, int64_t end, void* workspace) {
  if (works_in_double(p)) return run_by_power<double>(p, begin, end, workspace);
  return run_by_power<float>(p, begin, end, workspace);
}

}  // namespace ssl_fast::reconstruction::SSL_FAST_ISA
