// Blockwise masks on the CPU, one image after the other.
#include "masks/block_mask.h"

namespace ssl_fast::masks::SSL_FAST_ISA {

namespace {

void mask_block(Word* words, const Block& block, int grid_width) {
  const int begin = block.top * grid_width + block.left;
  const int end = begin + (block.height - 1) * grid_width + block.width;
  for (int i = begin / kWordBits; i <= (end - 1) / kWordBits; ++i)
    words[i] |= word_of_block(block, grid_width, i);
}

void sample(const BlockLaw& law, uint64_t seed, uint64_t sample_id, Word* words) {
  int remaining = law.num_masked, failed = 0;
  uint32_t draw = 0;
  while (remaining > 0 && failed < kMaxFailedTries) {
    const int cap = least(remaining, law.max_block);
    const Block block = propose(law, draw_words(seed, sample_id, draw++, kBlockMaskStream), cap);
    const int added = new_cells(words, block, law.width);
    ++failed;
    if (added == 0 || added > cap) continue;
    mask_block(words, block, law.width);
    remaining -= added;
    failed = 0;
  }
  for (; remaining > 0; --remaining) {
    const Philox random = draw_words(seed, sample_id, draw++, kBlockMaskStream);
    mask_cell(words, choose_free_cell(law, random, words, remaining));
  }
}

void write(const Word* words, int cells, uint8_t* out) {
  for (int i = 0; i < cells; ++i) out[i] = words[i / kWordBits] >> (i % kWordBits) & 1;
}

}  // namespace

void block_mask(const BlockMaskParams& p, int64_t begin, int64_t end) {
  const int cells = p.law.height * p.law.width, count = words_of(p.law);
  Word words[kMaxWords];
  for (int64_t i = begin; i < end; ++i) {
    for (int w = 0; w <= count; ++w) words[w] = 0;
    const int64_t id = p.sample_ids[i * p.id_stride];
    sample(p.law, static_cast<uint64_t>(*p.seed), static_cast<uint64_t>(id), words);
    write(words, cells, p.out + i * cells);
  }
}

}  // namespace ssl_fast::masks::SSL_FAST_ISA
