// The numbers of cells that iBOT's sampler masks in a batch, on the CPU. For the glue alone: a
// kernel file must not instantiate what others share.
#pragma once

#include <algorithm>
#include <vector>

#include "masks/block_mask.h"

namespace ssl_fast::masks {

inline std::vector<int> ibot_counts(const BlockMaskParams& p) {
  std::vector<uint64_t> keyed(static_cast<size_t>(p.count));  // key << 32 | position
  std::vector<uint32_t> places(keyed.size());
  for (size_t i = 0; i < keyed.size(); ++i) {
    const auto id = static_cast<uint64_t>(p.sample_ids[static_cast<int64_t>(i) * p.id_stride]);
    const Philox words = draw_words(static_cast<uint64_t>(*p.seed), id, 0, p.rule.stream);
    keyed[i] = uint64_t{words.word[0]} << 32 | i;
    places[i] = words.word[1];
  }
  std::sort(keyed.begin(), keyed.end());
  std::vector<int> counts(keyed.size());
  for (size_t rank = 0; rank < keyed.size(); ++rank) {
    const auto sample = static_cast<uint32_t>(keyed[rank]);
    counts[sample] = slice_count(p.slices, static_cast<int64_t>(rank), places[sample]);
  }
  return counts;
}

}  // namespace ssl_fast::masks
