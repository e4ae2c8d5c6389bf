// What a thread of hog_cuda.cu does to its columns: loads, gradients, bins. Nothing here is known
// to the CPU kernels; what bins mean stands in hog_math.h.
#pragma once

#include "common/cuda_launch.h"
#include "hog/hog_math.h"

namespace ssl_fast::hog {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr uint32_t kSignBit = 0x80000000u;

// Only differences of pixels are used, so a common addend does no harm: the byte b stands as the
// float 2^23 + b, which takes one instruction to make.
constexpr uint32_t kByteBase = 0x4b000000u;
__device__ __forceinline__ float pixel_value(uint8_t pixel) {
  return ssl_fast::detail::float_from_bits(kByteBase | pixel);
}
template <typename Pixel>
__device__ __forceinline__ float pixel_value(Pixel pixel) {
  return to_float(pixel);
}

// Pixel i of those that lie in 32-bit words.
template <typename Pixel>
__device__ __forceinline__ float pixel_of(const uint32_t* words, int i) {
  if constexpr (sizeof(Pixel) == 1) {
    return ssl_fast::detail::float_from_bits(__byte_perm(words[i / 4], kByteBase, 0x7440 | i % 4));
  } else if constexpr (sizeof(Pixel) == 2) {
    return to_float(Pixel{static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16))});
  } else {
    return ssl_fast::detail::float_from_bits(words[i]);
  }
}

// kColumns neighbouring pixels of a row as they are in memory, and the neighbours at both sides.
template <typename Pixel, int kColumns>
struct RawRow {
  static constexpr int kWords = (kColumns * sizeof(Pixel) + 3) / 4;
  uint32_t words[kWords];
  Pixel left, right;
};

// Where a group of columns is: its first pixel, and how far from it the neighbours of a row are, in
// elements: at the border of the image they are reflections.
template <typename Pixel>
struct Group {
  const Pixel* pixels;
  int64_t stride_h, stride_w;
  int left, right;
  bool asks_left, asks_right;  // not in a neighbouring lane: to be loaded
};

template <typename Pixel, int kColumns, bool kShuffle>
__device__ __forceinline__ RawRow<Pixel, kColumns> load_row(const Group<Pixel>& group,
                                                            const Pixel* row) {
  RawRow<Pixel, kColumns> raw = {};
  constexpr int kBytes = kColumns * sizeof(Pixel);
  if constexpr (kColumns == 1) {
    memcpy(raw.words, row, sizeof(Pixel));
  } else if constexpr (kBytes == 4) {
    raw.words[0] = *reinterpret_cast<const uint32_t*>(row);
  } else if constexpr (kBytes == 8) {
    const uint2 two = *reinterpret_cast<const uint2*>(row);
    raw.words[0] = two.x, raw.words[1] = two.y;
  } else {
#pragma unroll
    for (int i = 0; i < kBytes / 16; ++i) {
      const uint4 four = reinterpret_cast<const uint4*>(row)[i];
      raw.words[4 * i] = four.x, raw.words[4 * i + 1] = four.y;
      raw.words[4 * i + 2] = four.z, raw.words[4 * i + 3] = four.w;
    }
  }
  // Vectors are of neighbours in memory.
  const int64_t stride = kColumns == 1 ? group.stride_w : 1;
  if (!kShuffle || group.asks_left) raw.left = row[group.left * stride];
  if (!kShuffle || group.asks_right) raw.right = row[group.right * stride];
  return raw;
}

// A row of pixels, from left - 1 to left + kColumns, and what the Sobel operator wants of it.
template <int kColumns>
struct Row {
  float pixel[kColumns + 2];
  float slope[kColumns];  // left neighbour - right neighbour
};

template <typename Pixel, int kColumns, bool kShuffle>
__device__ __forceinline__ Row<kColumns> convert(const Group<Pixel>& group,
                                                 const RawRow<Pixel, kColumns>& raw) {
  Row<kColumns> row;
#pragma unroll
  for (int i = 0; i < kColumns; ++i) row.pixel[i + 1] = pixel_of<Pixel>(raw.words, i);
  row.pixel[0] = pixel_value(raw.left);
  row.pixel[kColumns + 1] = pixel_value(raw.right);
  if constexpr (kShuffle) {
    const float left = __shfl_up_sync(kWholeWarp, row.pixel[kColumns], 1);
    const float right = __shfl_down_sync(kWholeWarp, row.pixel[1], 1);
    if (!group.asks_left) row.pixel[0] = left;
    if (!group.asks_right) row.pixel[kColumns + 1] = right;
  }
#pragma unroll
  for (int i = 0; i < kColumns; ++i) row.slope[i] = row.pixel[i] - row.pixel[i + 2];
  return row;
}

// hog_math.h's sobel of pixel i.
template <int kColumns>
__device__ __forceinline__ Gradient<float> gradient_at(const Row<kColumns>& top,
                                                       const Row<kColumns>& middle,
                                                       const Row<kColumns>& bottom, int i) {
  const auto drop = [&](int j) { return top.pixel[j] - bottom.pixel[j]; };
  return {fmaf(2.0f, middle.slope[i], top.slope[i] + bottom.slope[i]),
          fmaf(2.0f, drop(i + 1), drop(i) + drop(i + 2))};
}

__device__ __forceinline__ uint32_t with_sign_of(uint32_t sign, uint32_t bits) {
#ifdef SSL_FAST_EMULATED
  return (bits & ~kSignBit) | (sign & kSignBit);
#else
  // For this nvcc needs two instructions, where one does: bits where the mask is 0, else sign.
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xb8;" : "=r"(result) : "r"(bits), "r"(kSignBit), "r"(sign));
  return result;
#endif
}

// nbins - 1 - bin: bins counted from the end. It is hog_math.h's bin_of without a comparison: the
// sign of |gx| cot - |gy|, or on the mirrored side of its negative, says how a test ends. It is set
// where the test is failed, on the mirrored side where it is passed; 0 has none, which is right on
// both sides. Any sign that a NaN has leads to some bin.
template <int kBins>
__device__ __forceinline__ int reversed_bin_of(Gradient<float> g, int nbins,
                                               const float* cotangents) {
  using ssl_fast::detail::bits_from_float;
  using ssl_fast::detail::float_from_bits;
  const uint32_t down_bits = bits_from_float(g.y);
  // |gx|, negative on the mirrored side, and with the same sign |gy|. Adding 0 makes +0 of -0: no
  // gx of 0 is mirrored.
  const float across = float_from_bits(bits_from_float(g.x) ^ (down_bits & kSignBit)) + 0.0f;
  const uint32_t across_bits = bits_from_float(across);
  const float down = float_from_bits(with_sign_of(across_bits, down_bits));
  const int tests = kBins ? kBins / 2 : nbins / 2;
  // All tests passed: nbins - 1 - tests, on the mirrored side none: 0.
  const uint32_t straight = ~static_cast<uint32_t>(static_cast<int32_t>(across_bits) >> 31);
  uint32_t bin = straight & static_cast<uint32_t>((kBins ? kBins : nbins) - 1 - tests);
  const auto test = [&](int k) {
    bin += bits_from_float(fmaf(across, cotangents[k], -down)) >> 31;
  };
  if constexpr (kBins != 0) {
#pragma unroll
    for (int k = 0; k < kBins / 2; ++k) test(k);
  } else {
    for (int k = 0; k < tests; ++k) test(k);
  }
  return static_cast<int>(bin);
}

// Less than 2^-23 off, relatively; one below 1e-19 is taken for 0.
__device__ __forceinline__ float magnitude(Gradient<float> g) {
  const float squares = fmaf(g.x, g.x, g.y * g.y);
#ifdef SSL_FAST_EMULATED
  return sqrtf(squares);
#else
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(squares));
  return root;
#endif
}

}  // namespace ssl_fast::hog
