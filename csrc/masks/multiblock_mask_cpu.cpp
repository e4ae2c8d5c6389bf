// I-JEPA's blocks on the CPU, one sample after the other.
#include "masks/multiblock_mask.h"

namespace ssl_fast::masks::SSL_FAST_ISA {

namespace {

void write_target(const Block& block, int grid_width, int64_t* out) {
  for (int row = block.top; row < block.top + block.height; ++row)
    for (int x = 0; x < block.width; ++x) *out++ = row * grid_width + block.left + x;
}

// The cells of the first `count` targets.
void mark_targets(const MultiblockLaw& law, uint64_t seed, uint64_t id, int count, Word* words) {
  const int size = words_of(grid_of(law));
  for (int w = 0; w <= size; ++w) words[w] = 0;
  for (int t = 0; t < count; ++t) {
    const Block block = target_of(law, seed, id, t);
    const int begin = block.top * law.width + block.left;
    const int end = begin + (block.height - 1) * law.width + block.width;
    for (int i = begin / kWordBits; i <= (end - 1) / kWordBits; ++i)
      words[i] |= word_of_block(block, law.width, i);
  }
}

// The context from `draw` on, which is left at the next one's.
Block choose_context(const MultiblockLaw& law, uint64_t seed, uint64_t id, uint32_t& draw,
                     Word* words) {
  for (int tries = 0;; ++tries) {
    if (tries % kContextTries == 0) mark_targets(law, seed, id, avoided(law, tries), words);
    const Philox random = draw_words(seed, id, draw++, kMultiblockMaskStream);
    const Block block = place(law, random, law.context_height, law.context_width);
    if (new_cells(words, block, grid_of(law)) > law.min_keep) return block;
  }
}

}  // namespace

void multiblock_mask(const MultiblockParams& p, int64_t begin, int64_t end) {
  const MultiblockLaw& law = p.law;
  const int cells = law.height * law.width, target_cells = law.target_height * law.target_width;
  const auto seed = static_cast<uint64_t>(*p.seed);
  Word words[kMaxWords];
  for (int64_t i = begin; i < end; ++i) {
    const auto id = static_cast<uint64_t>(p.sample_ids[i * p.id_stride]);
    for (int t = 0; t < law.targets; ++t)
      write_target(target_of(law, seed, id, t), law.width,
                   p.targets + (i * law.targets + t) * target_cells);
    auto draw = static_cast<uint32_t>(law.targets);
    for (int c = 0; c < law.contexts; ++c) {
      const Block block = choose_context(law, seed, id, draw, words);
      uint8_t* out = p.contexts + (i * law.contexts + c) * cells;
      for (int cell = 0; cell < cells; ++cell)
        out[cell] = in_context(words, block, cell, law.width);
    }
  }
}

}  // namespace ssl_fast::masks::SSL_FAST_ISA
