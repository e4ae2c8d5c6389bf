// Gathering of patches on the CPU: read once, normalised and converted on the way.
#include "tokens/patches.h"

#include "tokens/lanes.h"

namespace ssl_fast::tokens::SSL_FAST_ISA {

namespace {

using namespace ::ssl_fast::SSL_FAST_ISA::lanes;

template <typename Compute, typename In, typename Out>
SSL_SIMD void dense_row(const In* in, Out* out, int64_t width) {
  along<Compute>(width, [=](auto lanes, int64_t i) { lanes.store(out + i, lanes.load(in + i)); });
}

template <typename Compute, typename In, typename Out>
SSL_SIMD void dense_row(const In* in, Out* out, int64_t width, Compute mean, Compute scale) {
  along<Compute>(width, [=](auto lanes, int64_t i) {
    const auto centred = lanes.sub(lanes.load(in + i), lanes.set1(mean));
    lanes.store(out + i, lanes.mul(centred, lanes.set1(scale)));
  });
}

template <typename In, typename Out>
void gather(const PatchParams& p, int64_t begin, int64_t end) {
  using Compute = typename ComputeOf<In, Out>::Type;
  using One = Scalar<Compute>;
  const int64_t width = p.patch_w;
  Out* out = static_cast<Out*>(p.out) + begin * p.channels * p.patch_h * width;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = i / p.count, k = i % p.count;
    const int64_t id = p.ids[n * p.id_stride_n + k * p.id_stride_k];
    const In* patch = static_cast<const In*>(p.images) + n * p.stride_n +
                      id / p.patches_per_row * p.patch_h * p.stride_h +
                      id % p.patches_per_row * width * p.stride_w;
    for (int64_t c = 0; c < p.channels; ++c) {
      const bool normalised = p.mean != nullptr;
      const Compute mean = normalised ? static_cast<Compute>(p.mean[c]) : Compute{0};
      const Compute scale = normalised ? static_cast<Compute>(p.scale[c]) : Compute{1};
      for (int64_t y = 0; y < p.patch_h; ++y, out += width) {
        const In* row = patch + c * p.stride_c + y * p.stride_h;
        if (p.stride_w != 1) {
          for (int64_t x = 0; x < width; ++x)
            One::store(out + x, (One::load(row + x * p.stride_w) - mean) * scale);
        } else if (normalised) {
          dense_row<Compute>(row, out, width, mean, scale);
        } else {
          dense_row<Compute>(row, out, width);
        }
      }
    }
  }
}

template <typename In>
void gather_to(const PatchParams& p, int64_t begin, int64_t end) {
  with_float_type(p.out_dtype, [&](auto out) { gather<In, decltype(out)>(p, begin, end); });
}

}  // namespace

void gather_patches(const PatchParams& p, int64_t begin, int64_t end) {
  if (p.dtype == DType::kUInt8) return gather_to<uint8_t>(p, begin, end);
  with_float_type(p.dtype, [&](auto in) { gather_to<decltype(in)>(p, begin, end); });
}

}  // namespace ssl_fast::tokens::SSL_FAST_ISA
