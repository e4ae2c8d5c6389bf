// Random masks on the CPU, one sample after the other: a sort of integers, whose ranks are
// everything that is asked for.
#include "masks/random_mask.h"

namespace ssl_fast::masks::SSL_FAST_ISA {

namespace {

// Draws of Philox at a time: few enough to waste little, too many for their loop to be unrolled.
constexpr int kDraws = 32;

// Elements to sort: key << 32 | token.
SSL_HD uint64_t element(uint32_t key, int token) { return uint64_t{key} << 32 | token; }

// 4 * kDraws keys, from draw `first` on: philox4x32, round by round for all.
void draw_keys(uint64_t seed, uint64_t id, uint32_t first, uint32_t* keys) {
  uint32_t a[kDraws], b[kDraws], c[kDraws], d[kDraws];
  for (int i = 0; i < kDraws; ++i) {
    a[i] = static_cast<uint32_t>(id), b[i] = static_cast<uint32_t>(id >> 32);
    c[i] = first + i, d[i] = kRandomMaskStream;
  }
  uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int i = 0; i < kDraws; ++i) philox_round(a[i], b[i], c[i], d[i], low, high);
    philox_next_key(low, high);
  }
  for (int i = 0; i < kDraws; ++i)
    keys[4 * i] = a[i], keys[4 * i + 1] = b[i], keys[4 * i + 2] = c[i], keys[4 * i + 3] = d[i];
}

// ---- Sorting ------------------------------------------------------------------------------------

// Counts to first places.
void sum_up(uint32_t* counts, int size) {
  uint32_t place = 0;
  for (int i = 0; i < size; ++i) {
    const uint32_t count = counts[i];
    counts[i] = place;
    place += count;
  }
}

// Uniform keys: a bucket for each token by the upper bits, then little is left to be moved.
void sort_uniform(const uint32_t* keys, int length, uint64_t* sorted, uint32_t* counts) {
  int bits = 1;
  while (1 << bits < length) ++bits;
  const int shift = 32 - bits;
  for (int i = 0; i < 1 << bits; ++i) counts[i] = 0;
  for (int i = 0; i < length; ++i) ++counts[keys[i] >> shift];
  sum_up(counts, 1 << bits);
  for (int i = 0; i < length; ++i) sorted[counts[keys[i] >> shift]++] = element(keys[i], i);
  for (int i = 1; i < length; ++i) {
    const uint64_t moved = sorted[i];
    int at = i;
    for (; at > 0 && sorted[at - 1] > moved; --at) sorted[at] = sorted[at - 1];
    sorted[at] = moved;
  }
}

// Keys of any law: by their bytes, from the lowest. Stable, so equal keys keep their order. Returns
// where the sorted elements are: `from` or `to`.
uint64_t* sort_bytes(uint64_t* from, uint64_t* to, int length, uint32_t* counts) {
  for (int i = 0; i < 4 * 256; ++i) counts[i] = 0;
  for (int i = 0; i < length; ++i)
    for (int byte = 0; byte < 4; ++byte) ++counts[byte * 256 + (from[i] >> (32 + 8 * byte) & 255)];
  for (int byte = 0; byte < 4; ++byte) {
    uint32_t* places = counts + byte * 256;
    const int shift = 32 + 8 * byte;
    if (places[from[0] >> shift & 255] == static_cast<uint32_t>(length)) continue;  // all equal
    sum_up(places, 256);
    for (int i = 0; i < length; ++i) to[places[from[i] >> shift & 255]++] = from[i];
    uint64_t* swapped = from;
    from = to;
    to = swapped;
  }
  return from;
}

// ---- Noise --------------------------------------------------------------------------------------

// Unsigned integers in the order of the floats.
SSL_HD uint32_t ordered(float value) {
  if (value != value) return 0xFFFFFFFFu;
  const uint32_t bits = detail::bits_from_float(value + 0.0f);  // -0 + 0 is 0
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
SSL_HD uint64_t ordered(double value) {
  if (value != value) return ~uint64_t{0};
  const double positive_zero = value + 0.0;
  uint64_t bits;
  __builtin_memcpy(&bits, &positive_zero, sizeof bits);
  return bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
}

template <typename T>
uint64_t* sort_noise(const T* noise, int length, uint64_t* a, uint64_t* b, uint32_t* counts) {
  for (int i = 0; i < length; ++i) a[i] = element(ordered(to_float(noise[i])), i);
  return sort_bytes(a, b, length, counts);
}

// Twice the bits: by the lower half first.
uint64_t* sort_noise(const double* noise, int length, uint64_t* a, uint64_t* b, uint32_t* counts) {
  for (int i = 0; i < length; ++i) a[i] = element(static_cast<uint32_t>(ordered(noise[i])), i);
  uint64_t* sorted = sort_bytes(a, b, length, counts);
  for (int i = 0; i < length; ++i) {
    const int token = static_cast<int>(static_cast<uint32_t>(sorted[i]));
    sorted[i] = element(static_cast<uint32_t>(ordered(noise[token]) >> 32), token);
  }
  return sort_bytes(sorted, sorted == a ? b : a, length, counts);
}

template <typename T>
uint64_t* sort_row(const RandomMaskParams& p, int64_t sample, uint64_t* a, uint64_t* b,
                   uint32_t* counts) {
  return sort_noise(static_cast<const T*>(p.noise) + sample * p.length, p.length, a, b, counts);
}

}  // namespace

void random_mask(const RandomMaskParams& p, int64_t begin, int64_t end, uint64_t* scratch) {
  const int length = p.length;
  uint64_t *a = scratch, *b = a + length;
  auto* keys = reinterpret_cast<uint32_t*>(b);                  // filled up to 4 * kDraws
  auto* counts = reinterpret_cast<uint32_t*>(b + length + 64);  // below 2 * length, or 1024
  for (int64_t sample = begin; sample < end; ++sample) {
    const uint64_t* sorted = a;
    if (p.noise == nullptr) {
      const auto seed = static_cast<uint64_t>(*p.seed);
      const int64_t given = p.sample_ids ? p.sample_ids[sample * p.id_stride] : sample;
      const auto id = static_cast<uint64_t>(given);
      for (int i = 0; i < length; i += 4 * kDraws) draw_keys(seed, id, i / 4, keys + i);
      sort_uniform(keys, length, a, counts);
    } else if (p.dtype == DType::kFloat64) {
      sorted = sort_row<double>(p, sample, a, b, counts);
    } else if (p.dtype == DType::kFloat32) {
      sorted = sort_row<float>(p, sample, a, b, counts);
    } else if (p.dtype == DType::kFloat16) {
      sorted = sort_row<Half>(p, sample, a, b, counts);
    } else {
      sorted = sort_row<BFloat16>(p, sample, a, b, counts);
    }
    int64_t* keep = p.ids_keep + sample * p.kept;
    int64_t* restore = p.ids_restore + sample * length;
    float* mask = p.mask + sample * length;
    for (int rank = 0; rank < length; ++rank) {
      const auto token = static_cast<uint32_t>(sorted[rank]);
      if (rank < p.kept) keep[rank] = token;
      restore[token] = rank;
      mask[token] = rank < p.kept ? 0.0f : 1.0f;
    }
  }
}

}  // namespace ssl_fast::masks::SSL_FAST_ISA
