// Blockwise masks on CUDA: a warp for each image, its grid as bits in shared memory. The lanes try
// the next 32 draws at once; the first that is accepted counts, as if they had come one by one.
#include "common/cuda_launch.h"
#include "masks/block_mask.h"

namespace ssl_fast::masks {

namespace {

constexpr int kWarp = 32;
constexpr int kWarpsPerBlock = 4;
constexpr unsigned kAllLanes = 0xFFFFFFFF;
static_assert(kMaxFailedTries % kWarp == 0, "lanes beyond the last try would have to be ignored");

__device__ __forceinline__ Block shuffle(const Block& block, int lane) {
  return {__shfl_sync(kAllLanes, block.top, lane), __shfl_sync(kAllLanes, block.left, lane),
          __shfl_sync(kAllLanes, block.height, lane), __shfl_sync(kAllLanes, block.width, lane)};
}

__device__ __forceinline__ void sample(const BlockLaw& law, uint64_t seed, uint64_t sample_id,
                                       int lane, Word* words) {
  int remaining = law.num_masked, failed = 0;
  uint32_t draw = 0;
  while (remaining > 0 && failed < kMaxFailedTries) {
    const int cap = least(remaining, law.max_block);
    const Block mine =
        propose(law, draw_words(seed, sample_id, draw + lane, kBlockMaskStream), cap);
    const int added = new_cells(words, mine, law.width);
    const unsigned accepted = __ballot_sync(kAllLanes, added > 0 && added <= cap);
    const int first = __ffs(static_cast<int>(accepted)) - 1;
    if (first < 0) {
      draw += kWarp;
      failed += kWarp;
      continue;
    }
    const Block block = shuffle(mine, first);
    remaining -= __shfl_sync(kAllLanes, added, first);
    draw += first + 1;
    failed = 0;
    for (int i = lane; i < words_of(law); i += kWarp)
      words[i] |= word_of_block(block, law.width, i);
    __syncwarp();
  }
  for (; remaining > 0; --remaining) {
    const Philox random = draw_words(seed, sample_id, draw++, kBlockMaskStream);
    const int cell = choose_free_cell(law, random, words, remaining);
    __syncwarp();
    if (lane == 0) mask_cell(words, cell);
    __syncwarp();
  }
}

__global__ void __launch_bounds__(kWarp* kWarpsPerBlock)
    block_mask_kernel(const BlockMaskParams p) {
  SSL_FAST_DYNAMIC_SHARED(Word, shared);  // [kWarpsPerBlock][words_of(law) + 1]
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t image = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + warp;
  if (image >= p.count) return;
  const int count = words_of(p.law);
  Word* words = shared + warp * (count + 1);
  for (int i = lane; i <= count; i += kWarp) words[i] = 0;
  __syncwarp();
  const int64_t id = p.sample_ids[image * p.id_stride];
  sample(p.law, static_cast<uint64_t>(*p.seed), static_cast<uint64_t>(id), lane, words);
  const int cells = p.law.height * p.law.width;
  uint8_t* out = p.out + image * cells;
  for (int i = lane; i < cells; i += kWarp)
    out[i] = static_cast<uint8_t>(words[i / kWordBits] >> (i % kWordBits) & 1);
}

}  // namespace

void block_mask_cuda(const BlockMaskParams& p, void* stream) {
  const int64_t blocks = (p.count + kWarpsPerBlock - 1) / kWarpsPerBlock;
  const size_t shared = sizeof(Word) * kWarpsPerBlock * (words_of(p.law) + 1);
  SSL_FAST_EXPECT_WRITTEN(p.out, p.count * p.law.height * p.law.width);
  SSL_FAST_LAUNCH(block_mask_kernel, dim3(static_cast<unsigned>(blocks)),
                  dim3(kWarp * kWarpsPerBlock), shared, stream, p);
}

}  // namespace ssl_fast::masks
