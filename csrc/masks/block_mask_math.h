// Blockwise masks (BEiT, MaskFeat, and, with other rules, DINOv2's collate and MaskFeat's cubes):
// the arithmetic, shared by the CPU and CUDA kernels and by the data loader's sampler. Integers
// only, so that all give the same bits; ssl_fast/ops/masks/reference.py does the same in torch.
//
// A try proposes one block. Its area is uniform between min_block and the cap (what may still be
// masked, at most max_block), its aspect log-uniform, its place uniform. It is accepted if it fits
// and masks at least one new cell and at most the cap. Words 0 to 3 of a draw are area, aspect, top
// and left. In a video the area is uniform up to max_block itself, and the next draw's words 0 and
// 1 are the number of frames that the block lasts and the first of them.
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

// The grid in cells of W bits, row after row, bit 64 i + j in bit j of word i.
using Word = uint64_t;
constexpr int kWordBits = 64;
constexpr int kMaxWords = kMaxCells / kWordBits + 1;  // one more is read, not used

struct BlockLaw {
  int frames, height, width;
  int num_masked;
  int min_block, max_block;              // cells
  int log2_min_aspect, log2_max_aspect;  // kAspectBits fractional bits
  int exclusive;                         // 1: the last place of each axis is left out (mmpretrain)
};

// What a sampler does beside proposing blocks.
struct BlockRule {
  Stream stream;
  uint32_t first_draw;
  int max_failed;  // tries in a row, then the rest is left, or filled by single cells
  bool fill;
  bool video;
};
// So many tries fail in a row only where hardly any block can be accepted (a grid of one row; the
// border that mmpretrain's places leave out): then single cells, drawn uniformly, fill the rest.
constexpr BlockRule kBlockRule = {kBlockMaskStream, 0, 320, true, false};
constexpr BlockRule kIbotRule = {kIbotMaskStream, 1, 10, false, false};
constexpr BlockRule kCubeRule = {kCubeMaskStream, 0, 100, false, true};

// How many cells iBOT masks in each sample. Of the batch, put in random order, the first `samples`
// are masked; the i-th of them draws its number from the i-th of so many equal parts of [low,
// high). Word 0 of a sample's draw 0 is its key in that order, ties by position, word 1 the place
// in the part.
struct IbotSlices {
  int samples;        // 0 unless this is iBOT's sampler, or nothing is masked
  int64_t low, high;  // numbers of cells, kSliceBits fractional bits
};
constexpr int kSliceBits = 15;  // 2^16 cells, these and 32 of randomness are 63 bits

struct BlockMaskParams {
  BlockLaw law;
  BlockRule rule;
  IbotSlices slices;
  const int64_t* seed;        // one
  const int64_t* sample_ids;  // [count], elements `id_stride` apart
  int64_t id_stride, count;
  const int* counts;  // [count], to mask in each sample in place of law.num_masked, or null
  uint8_t* out;       // [count, frames, height, width], 0 or 1
};

struct Block {
  int top, left, height, width;
  int front, frames;
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

SSL_HD int cells_of(const BlockLaw& law) { return law.frames * law.height * law.width; }
SSL_HD int words_of(const BlockLaw& law) { return (cells_of(law) - 1) / kWordBits + 1; }

// The number of cells of a sample that is the `rank`-th of the batch in iBOT's random order.
SSL_HD int slice_count(const IbotSlices& slices, int64_t rank, uint32_t word) {
  if (rank >= slices.samples) return 0;
  const int64_t span = slices.high - slices.low, round_up = slices.samples - 1;
  const int64_t from = (span * rank + round_up) / slices.samples;
  const int64_t to = (span * (rank + 1) + round_up) / slices.samples;
  return static_cast<int>((slices.low + from + ((to - from) * word >> 32)) >> kSliceBits);
}

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
  if (height >= law.height || width >= law.width) return {0, 0, 0, 0, 0, 0};
  const int places = 1 - law.exclusive;
  return {static_cast<int>(scale_to(random.word[2], law.height - height + places)),
          static_cast<int>(scale_to(random.word[3], law.width - width + places)),
          height,
          width,
          0,
          1};
}

struct Try {
  Block block;
  int cap;
};

SSL_HD uint32_t draws_of(const BlockRule& rule) { return rule.video ? 2 : 1; }

// The try at a draw, where `remaining` cells are to be masked.
SSL_HD Try propose(const BlockLaw& law, const BlockRule& rule, uint64_t seed, uint64_t sample_id,
                   uint32_t draw, int remaining) {
  const Philox random = draw_words(seed, sample_id, draw, rule.stream);
  if (!rule.video) {
    const int cap = least(remaining, law.max_block);
    return {propose(law, random, cap), cap};
  }
  Block block = propose(law, random, law.max_block);
  const Philox more = draw_words(seed, sample_id, draw + 1, rule.stream);
  block.frames = 1 + static_cast<int>(scale_to(more.word[0], law.frames));
  block.front = static_cast<int>(scale_to(more.word[1], law.frames - block.frames + 1));
  return {block, remaining};
}

// ---- The grid as bits ---------------------------------------------------------------------------

SSL_HD Word low_bits(int count) { return ~Word{0} >> (kWordBits - count); }  // 1 to 64

// Bits begin .. begin + count - 1, at most 64.
SSL_HD Word bits_at(const Word* words, int begin, int count) {
  const int word = begin / kWordBits, shift = begin % kWordBits;
  const Word upper = words[word + 1] << 1 << (kWordBits - 1 - shift);
  return (words[word] >> shift | upper) & low_bits(count);
}

// Rows of all frames are numbered through: the part of a block that lies in a frame.
SSL_HD Block in_frame(const Block& block, int frame, int grid_height) {
  Block part = block;
  part.top += frame * grid_height;
  return part;
}

// The part of a block, in one frame, that lies in word `index`.
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
SSL_HD int new_cells(const Word* words, const Block& block, const BlockLaw& law) {
  int masked = 0;
  for (int frame = block.front; frame < block.front + block.frames; ++frame)
    for (int row = block.top; row < block.top + block.height; ++row)
      for (int x = 0; x < block.width; x += kWordBits)
        masked += count_bits(bits_at(words, (frame * law.height + row) * law.width + block.left + x,
                                     least(kWordBits, block.width - x)));
  return block.frames * block.height * block.width - masked;
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
  const int free = cells_of(law) - (law.num_masked - remaining);
  return nth_free_cell(words, static_cast<int>(scale_to(random.word[0], free)));
}

}  // namespace ssl_fast::masks
