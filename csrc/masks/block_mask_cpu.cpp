// Blockwise masks on the CPU, one image after the other.
#include "masks/block_mask.h"

namespace ssl_fast::masks::SSL_FAST_ISA {

namespace {

void mask_block(Word* words, const Block& block, const BlockLaw& law) {
  for (int frame = block.front; frame < block.front + block.frames; ++frame) {
    const Block part = in_frame(block, frame, law.height);
    const int begin = part.top * law.width + part.left;
    const int end = begin + (part.height - 1) * law.width + part.width;
    for (int i = begin / kWordBits; i <= (end - 1) / kWordBits; ++i)
      words[i] |= word_of_block(part, law.width, i);
  }
}

void sample(const BlockLaw& law, const BlockRule& rule, uint64_t seed, uint64_t sample_id,
            Word* words) {
  int remaining = law.num_masked, failed = 0;
  uint32_t draw = rule.first_draw;
  while (remaining > 0 && failed < rule.max_failed) {
    const Try trial = propose(law, rule, seed, sample_id, draw, remaining);
    draw += draws_of(rule);
    const int added = new_cells(words, trial.block, law);
    ++failed;
    if (added <= 0 || added > trial.cap) continue;
    mask_block(words, trial.block, law);
    remaining -= added;
    failed = 0;
  }
  if (!rule.fill) return;
  for (; remaining > 0; --remaining) {
    const Philox random = draw_words(seed, sample_id, draw++, rule.stream);
    mask_cell(words, choose_free_cell(law, random, words, remaining));
  }
}

void write(const Word* words, int cells, uint8_t* out) {
  for (int i = 0; i < cells; ++i) out[i] = words[i / kWordBits] >> (i % kWordBits) & 1;
}

}  // namespace

void block_mask(const BlockMaskParams& p, int64_t begin, int64_t end) {
  const int cells = cells_of(p.law), count = words_of(p.law);
  BlockLaw law = p.law;
  Word words[kMaxWords];
  for (int64_t i = begin; i < end; ++i) {
    for (int w = 0; w <= count; ++w) words[w] = 0;
    if (p.counts != nullptr) law.num_masked = p.counts[i];
    const int64_t id = p.sample_ids[i * p.id_stride];
    sample(law, p.rule, static_cast<uint64_t>(*p.seed), static_cast<uint64_t>(id), words);
    write(words, cells, p.out + i * cells);
  }
}

}  // namespace ssl_fast::masks::SSL_FAST_ISA
