// I-JEPA's blocks over raw pointers: no torch in sight. Sizes come once for a batch, from Python;
// here each sample draws places.
//
// Target t is placed by words 0 and 1 of draw t. The tries of the contexts take the draws behind. A
// context is a block without the cells of the sample's targets, and is taken if more than min_keep
// cells are left. After each 20 tries in vain one more target, the last first, is disregarded.
#pragma once

#include "common/isa.h"
#include "masks/block_mask_math.h"

namespace ssl_fast::masks {

constexpr int kContextTries = 20;

struct MultiblockLaw {
  int height, width;
  int targets, target_height, target_width;
  int contexts, context_height, context_width;
  int min_keep;   // less than a context block has
  int overlap;    // 1: contexts keep the cells of targets
  int exclusive;  // 1: the last place of each axis is left out
};

struct MultiblockParams {
  MultiblockLaw law;
  const int64_t* seed;        // one
  const int64_t* sample_ids;  // [count], elements `id_stride` apart
  int64_t id_stride, count;
  int64_t* targets;   // [count, targets, cells of a target], ascending
  uint8_t* contexts;  // [count, contexts, height, width], 0 or 1
};

SSL_FAST_DECLARE_PER_ISA(void multiblock_mask(const MultiblockParams& params, int64_t begin,
                                              int64_t end))

// Samples begin .. end - 1 on the calling thread.
inline void multiblock_mask_cpu(const MultiblockParams& params, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(multiblock_mask, params, begin, end);
}

// Enqueues all samples on a CUDA stream.
void multiblock_mask_cuda(const MultiblockParams& params, void* stream);

// Where a draw puts a block.
SSL_HD Block place(const MultiblockLaw& law, const Philox& random, int height, int width) {
  const int places = 1 - law.exclusive;
  return {static_cast<int>(scale_to(random.word[0], law.height - height + places)),
          static_cast<int>(scale_to(random.word[1], law.width - width + places)),
          height,
          width,
          0,
          1};
}

SSL_HD Block target_of(const MultiblockLaw& law, uint64_t seed, uint64_t id, int target) {
  const Philox random = draw_words(seed, id, target, kMultiblockMaskStream);
  return place(law, random, law.target_height, law.target_width);
}

// How many targets a context has to avoid after so many tries.
SSL_HD int avoided(const MultiblockLaw& law, int tries) {
  const int left = law.overlap ? 0 : law.targets - tries / kContextTries;
  return left > 0 ? left : 0;
}

// The grid as block_mask_math.h takes it.
SSL_HD BlockLaw grid_of(const MultiblockLaw& law) {
  return {1, law.height, law.width, 0, 1, 1, 0, 0, 0};
}

// Whether `cell` lies in the block and is not among the words.
SSL_HD uint8_t in_context(const Word* words, const Block& block, int cell, int grid_width) {
  const int row = cell / grid_width - block.top, column = cell % grid_width - block.left;
  const bool inside = row >= 0 && row < block.height && column >= 0 && column < block.width;
  return inside && (words[cell / kWordBits] >> (cell % kWordBits) & 1) == 0;
}

// A law of the schema's integers: those that fit no int are what refusal() refuses.
inline MultiblockLaw make_multiblock_law(const int64_t (&sizes)[9], bool overlap, bool exclusive) {
  int narrow[9];
  for (int i = 0; i < 9; ++i) {
    const bool fits = sizes[i] >= 0 && sizes[i] <= kMaxCells;
    narrow[i] = fits ? static_cast<int>(sizes[i]) : -1;
  }
  return {narrow[0], narrow[1], narrow[2], narrow[3],       narrow[4],        narrow[5],
          narrow[6], narrow[7], narrow[8], overlap ? 1 : 0, exclusive ? 1 : 0};
}

// Why the kernels do not take this law, or null: the second fence behind the checks in Python.
inline const char* refusal(const MultiblockLaw& law) {
  if (law.height < 1 || law.width < 1 || law.height > kMaxCells / law.width)
    return "multiblock_mask: grid out of range";
  if (law.targets < 0 || law.contexts < 0) return "multiblock_mask: number of blocks out of range";
  const int last = law.exclusive ? 1 : 0;
  if (law.target_height < 1 || law.target_height > law.height - last || law.target_width < 1 ||
      law.target_width > law.width - last || law.context_height < 1 ||
      law.context_height > law.height - last || law.context_width < 1 ||
      law.context_width > law.width - last)
    return "multiblock_mask: block out of range";
  if (law.min_keep < 0 || law.min_keep >= law.context_height * law.context_width)
    return "multiblock_mask: min_keep out of range";
  return nullptr;
}

}  // namespace ssl_fast::masks
