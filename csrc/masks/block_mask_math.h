// Blockwise masks (Bao et al., "BEiT", 2022; Wei et al., MaskFeat, 2022): the arithmetic, shared by
// the CPU and CUDA kernels and by the data loader's sampler. Integers only, so that all give the
// same bits; ssl_fast/ops/masks/reference.py does the same in torch.
//
// A try proposes one block. Its area is uniform between min_block and the cap (what may still be
// masked, at most max_block), its aspect log-uniform, its place uniform. It is accepted if it fits
// and masks at least one new cell and at most the cap. Words 0 to 3 of a draw are area, aspect, top
// and left.
//
// A side is round(sqrt(area * aspect)), computed exactly: the largest s with (2 s - 1)^2 <=
// 4 area aspect. The aspect is 2^t, t linear in its random word, by a polynomial in fixed point. A
// table of (area, quantile) -> (h, w) would have to be coarse in both, be made and cached for each
// setting and be sent to the device; this has 2^32 areas and all aspects at 3.4e-6, with no state.
#pragma once

#include <cstdint>

#include "common/philox.h"

namespace ssl_fast::masks {

constexpr int kMaxCells = 65536;
constexpr int kAspectBits = 24;  // fraction of a log2 of an aspect
constexpr int kMaxLog2Aspect = 20 << kAspectBits;

// So many tries fail in a row only where hardly any block can be accepted (a grid of one row; the
// border that mmpretrain's places leave out): then single cells, drawn uniformly, fill the rest.
constexpr int kMaxFailedTries = 320;

// The grid in cells of W bits, row after row, bit 64 i + j in bit j of word i.
using Word = uint64_t;
constexpr int kWordBits = 64;
constexpr int kMaxWords = kMaxCells / kWordBits + 1;  // one more is read, not used

struct BlockLaw {
  int height, width;
  int num_masked;
  int min_block, max_block;              // cells
  int log2_min_aspect, log2_max_aspect;  // kAspectBits fractional bits
  int exclusive;                         // 1: the last place of each axis is left out (mmpretrain)
};

struct BlockMaskParams {
  BlockLaw law;
  const int64_t* seed;        // one
  const int64_t* sample_ids;  // [count], elements `id_stride` apart
  int64_t id_stride, count;
  uint8_t* out;  // [count, height, width], 0 or 1
};

struct Block {
  int top, left, height, width;
};

SSL_HD int least(int a, int b) { return a < b ? a : b; }

SSL_HD int count_bits(Word word) {
#if defined(__CUDA_ARCH__)
  return __popcll(word);
#else
  return __builtin_popcountll(word);
#endif
}

SSL_HD int lowest_bit(Word word) {
#if defined(__CUDA_ARCH__)
  return __ffsll(static_cast<long long>(word)) - 1;
#else
  return __builtin_ctzll(word);
#endif
}

SSL_HD int words_of(const BlockLaw& law) { return (law.height * law.width - 1) / kWordBits + 1; }

// ---- Proposals ----------------------------------------------------------------------------------

// floor(sqrt(x)). The float is at most one off, wherever it is rounded to.
SSL_HD uint32_t integer_root(uint32_t x) {
  uint64_t root = static_cast<uint64_t>(__builtin_sqrtf(static_cast<float>(x)));
  if (root * root > x) --root;
  if ((root + 1) * (root + 1) <= x) ++root;
  return static_cast<uint32_t>(root);
}

// round(sqrt(area * 2^log2_aspect)), of an area with 16 fractional bits.
SSL_HD int side_of(uint64_t area, int log2_aspect) {
  const int exponent = log2_aspect >> kAspectBits;
  const uint64_t fraction = log2_aspect & ((1 << kAspectBits) - 1);
  // 2^fraction with 28 fractional bits: the minimax polynomial that is exact at 0 and 1.
  uint64_t power = 3638843;
  power = (power * fraction >> kAspectBits) + 13967333;
  power = (power * fraction >> kAspectBits) + 64794887;
  power = (power * fraction >> kAspectBits) + 186034393;
  power = (power * fraction >> kAspectBits) + 268435456;
  // A side of 32768 or more fits no grid of kMaxCells in both directions: any such will do.
  const uint64_t fourfold = area * power >> (16 + 28 - 2 - exponent);
  const uint32_t capped = fourfold < 0xFFFFFFFFu ? static_cast<uint32_t>(fourfold) : 0xFFFFFFFFu;
  return static_cast<int>((integer_root(capped) + 1) / 2);
}

// The block of a draw under a cap; without cells if it does not fit.
SSL_HD Block propose(const BlockLaw& law, const Philox& random, int cap) {
  const int64_t span = cap - law.min_block;  // negative once little is left
  const uint64_t area = (static_cast<int64_t>(law.min_block) << 16) + (span * random.word[0] >> 16);
  const int64_t aspects = law.log2_max_aspect - law.log2_min_aspect;
  const int aspect = law.log2_min_aspect + static_cast<int>(aspects * random.word[1] >> 32);
  const int height = side_of(area, aspect), width = side_of(area, -aspect);
  if (height >= law.height || width >= law.width) return {0, 0, 0, 0};
  const int places = 1 - law.exclusive;
  return {static_cast<int>(scale_to(random.word[2], law.height - height + places)),
          static_cast<int>(scale_to(random.word[3], law.width - width + places)), height, width};
}

// ---- The grid as bits ---------------------------------------------------------------------------

SSL_HD Word low_bits(int count) { return ~Word{0} >> (kWordBits - count); }  // 1 to 64

// Bits begin .. begin + count - 1, at most 64.
SSL_HD Word bits_at(const Word* words, int begin, int count) {
  const int word = begin / kWordBits, shift = begin % kWordBits;
  const Word upper = words[word + 1] << 1 << (kWordBits - 1 - shift);
  return (words[word] >> shift | upper) & low_bits(count);
}

// The part of a block that lies in word `index`.
SSL_HD Word word_of_block(const Block& block, int grid_width, int index) {
  const int begin = index * kWordBits, end = begin + kWordBits;
  Word bits = 0;
  int row = begin / grid_width, last = (end - 1) / grid_width;
  if (row < block.top) row = block.top;
  if (last > block.top + block.height - 1) last = block.top + block.height - 1;
  for (; row <= last; ++row) {
    int from = row * grid_width + block.left, to = from + block.width;
    if (from < begin) from = begin;
    if (to > end) to = end;
    if (from < to) bits |= low_bits(to - from) << (from - begin);
  }
  return bits;
}

// Cells of a block that are not masked yet.
SSL_HD int new_cells(const Word* words, const Block& block, int grid_width) {
  int masked = 0;
  for (int row = block.top; row < block.top + block.height; ++row)
    for (int x = 0; x < block.width; x += kWordBits)
      masked += count_bits(
          bits_at(words, row * grid_width + block.left + x, least(kWordBits, block.width - x)));
  return block.height * block.width - masked;
}

// The n-th cell, from 0, that is not masked; there must be one.
SSL_HD int nth_free_cell(const Word* words, int n) {
  int word = 0;
  for (int free; n >= (free = kWordBits - count_bits(words[word])); ++word) n -= free;
  Word candidates = ~words[word];
  for (; n > 0; --n) candidates &= candidates - 1;
  return word * kWordBits + lowest_bit(candidates);
}

SSL_HD void mask_cell(Word* words, int cell) {
  words[cell / kWordBits] |= Word{1} << (cell % kWordBits);
}

// The free cell that a draw chooses.
SSL_HD int choose_free_cell(const BlockLaw& law, const Philox& random, const Word* words,
                            int remaining) {
  const int free = law.height * law.width - (law.num_masked - remaining);
  return nth_free_cell(words, static_cast<int>(scale_to(random.word[0], free)));
}

}  // namespace ssl_fast::masks
