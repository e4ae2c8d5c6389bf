// I-JEPA's blocks on CUDA: a warp for each sample, its grid as bits in shared memory. Of the tries
// of a context the lanes take twenty at once; the first that succeeds counts.
#include "common/cuda_launch.h"
#include "masks/multiblock_mask.h"

namespace ssl_fast::masks {

namespace {

constexpr int kWarp = 32;
constexpr int kWarpsPerBlock = 4;
constexpr unsigned kAllLanes = 0xFFFFFFFF;
static_assert(kContextTries <= kWarp, "a round of tries avoids the same targets");

// The cells of the first `count` targets.
__device__ __forceinline__ void mark_targets(const MultiblockLaw& law, uint64_t seed, uint64_t id,
                                             int count, int lane, Word* words) {
  const int size = words_of(grid_of(law));
  __syncwarp();
  for (int i = lane; i <= size; i += kWarp) words[i] = 0;
  for (int t = 0; t < count; ++t) {
    const Block block = target_of(law, seed, id, t);
    for (int i = lane; i < size; i += kWarp) words[i] |= word_of_block(block, law.width, i);
  }
  __syncwarp();
}

// The context from `draw` on, which is left at the next one's.
__device__ __forceinline__ Block choose_context(const MultiblockLaw& law, uint64_t seed,
                                                uint64_t id, int lane, uint32_t& draw,
                                                Word* words) {
  for (int tries = 0;; tries += kContextTries) {
    mark_targets(law, seed, id, avoided(law, tries), lane, words);
    const Philox random = draw_words(seed, id, draw + lane, kMultiblockMaskStream);
    const Block mine = place(law, random, law.context_height, law.context_width);
    const bool enough = new_cells(words, mine, grid_of(law)) > law.min_keep;
    const unsigned taken = __ballot_sync(kAllLanes, lane < kContextTries && enough);
    const int first = __ffs(static_cast<int>(taken)) - 1;
    draw += first < 0 ? kContextTries : first + 1;
    if (first < 0) continue;
    return {__shfl_sync(kAllLanes, mine.top, first),
            __shfl_sync(kAllLanes, mine.left, first),
            mine.height,
            mine.width,
            0,
            1};
  }
}

__global__ void __launch_bounds__(kWarp* kWarpsPerBlock)
    multiblock_mask_kernel(const MultiblockParams p) {
  SSL_FAST_DYNAMIC_SHARED(Word, shared);  // [kWarpsPerBlock][words of the grid + 1]
  const MultiblockLaw& law = p.law;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t sample = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + warp;
  if (sample >= p.count) return;
  Word* words = shared + warp * (words_of(grid_of(law)) + 1);
  const auto seed = static_cast<uint64_t>(*p.seed);
  const auto id = static_cast<uint64_t>(p.sample_ids[sample * p.id_stride]);
  const int cells = law.height * law.width, target_cells = law.target_height * law.target_width;
  for (int t = 0; t < law.targets; ++t) {
    const Block block = target_of(law, seed, id, t);
    int64_t* out = p.targets + (sample * law.targets + t) * target_cells;
    for (int i = lane; i < target_cells; i += kWarp)
      out[i] = (block.top + i / block.width) * law.width + block.left + i % block.width;
  }
  auto draw = static_cast<uint32_t>(law.targets);
  for (int c = 0; c < law.contexts; ++c) {
    const Block block = choose_context(law, seed, id, lane, draw, words);
    uint8_t* out = p.contexts + (sample * law.contexts + c) * cells;
    for (int cell = lane; cell < cells; cell += kWarp)
      out[cell] = in_context(words, block, cell, law.width);
  }
}

}  // namespace

void multiblock_mask_cuda(const MultiblockParams& p, void* stream) {
  const MultiblockLaw& law = p.law;
  const int64_t blocks = (p.count + kWarpsPerBlock - 1) / kWarpsPerBlock;
  const size_t shared = sizeof(Word) * kWarpsPerBlock * (words_of(grid_of(law)) + 1);
  SSL_FAST_EXPECT_WRITTEN(p.targets,
                          p.count * law.targets * int64_t{law.target_height} * law.target_width);
  SSL_FAST_EXPECT_WRITTEN(p.contexts, p.count * law.contexts * int64_t{law.height} * law.width);
  SSL_FAST_LAUNCH(multiblock_mask_kernel, dim3(static_cast<unsigned>(blocks)),
                  dim3(kWarp * kWarpsPerBlock), shared, stream, p);
}

}  // namespace ssl_fast::masks
