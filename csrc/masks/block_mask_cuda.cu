// Blockwise masks on CUDA: a warp for each image, its grid as bits in shared memory. The lanes try
// the next 32 draws at once; the first that is accepted counts, as if they had come one by one.
#include "common/cuda_launch.h"
#include "masks/block_mask.h"

namespace ssl_fast::masks {

namespace {

constexpr int kWarp = 32;
constexpr int kWarpsPerBlock = 4;
constexpr unsigned kAllLanes = 0xFFFFFFFF;

__device__ __forceinline__ Block shuffle(const Block& block, int lane) {
  return {__shfl_sync(kAllLanes, block.top, lane),    __shfl_sync(kAllLanes, block.left, lane),
          __shfl_sync(kAllLanes, block.height, lane), __shfl_sync(kAllLanes, block.width, lane),
          __shfl_sync(kAllLanes, block.front, lane),  __shfl_sync(kAllLanes, block.frames, lane)};
}

__device__ __forceinline__ void mask_block(const Block& block, const BlockLaw& law, int lane,
                                           Word* words) {
  for (int frame = block.front; frame < block.front + block.frames; ++frame) {
    const Block part = in_frame(block, frame, law.height);
    for (int i = lane; i < words_of(law); i += kWarp) words[i] |= word_of_block(part, law.width, i);
  }
}

__device__ __forceinline__ void sample(const BlockLaw& law, const BlockRule& rule, uint64_t seed,
                                       uint64_t sample_id, int lane, Word* words) {
  int remaining = law.num_masked, failed = 0;
  uint32_t draw = rule.first_draw;
  while (remaining > 0 && failed < rule.max_failed) {
    const Try mine = propose(law, rule, seed, sample_id, draw + lane * draws_of(rule), remaining);
    const int added = new_cells(words, mine.block, law);
    const bool in_time = failed + lane < rule.max_failed;
    const unsigned accepted = __ballot_sync(kAllLanes, in_time && added > 0 && added <= mine.cap);
    const int first = __ffs(static_cast<int>(accepted)) - 1;
    if (first < 0) {
      const int tries = least(kWarp, rule.max_failed - failed);
      draw += tries * draws_of(rule);
      failed += tries;
      continue;
    }
    mask_block(shuffle(mine.block, first), law, lane, words);
    remaining -= __shfl_sync(kAllLanes, added, first);
    draw += (first + 1) * draws_of(rule);
    failed = 0;
    __syncwarp();
  }
  if (!rule.fill) return;
  for (; remaining > 0; --remaining) {
    const Philox random = draw_words(seed, sample_id, draw++, rule.stream);
    const int cell = choose_free_cell(law, random, words, remaining);
    __syncwarp();
    if (lane == 0) mask_cell(words, cell);
    __syncwarp();
  }
}

// Each warp ranks its own sample: no order of the batch has to be made before.
__device__ __forceinline__ int count_in_batch(const BlockMaskParams& p, int64_t image, int lane) {
  const auto seed = static_cast<uint64_t>(*p.seed);
  const auto words_at = [&](int64_t i) {
    return draw_words(seed, static_cast<uint64_t>(p.sample_ids[i * p.id_stride]), 0, p.rule.stream);
  };
  const Philox mine = words_at(image);
  int rank = 0;
  for (int64_t i = lane; i < p.count; i += kWarp) {
    const uint32_t key = words_at(i).word[0];
    rank += key < mine.word[0] || (key == mine.word[0] && i < image);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) rank += __shfl_xor_sync(kAllLanes, rank, step);
  return slice_count(p.slices, rank, mine.word[1]);
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
  BlockLaw law = p.law;
  if (p.slices.samples > 0) law.num_masked = count_in_batch(p, image, lane);
  const int64_t id = p.sample_ids[image * p.id_stride];
  sample(law, p.rule, static_cast<uint64_t>(*p.seed), static_cast<uint64_t>(id), lane, words);
  const int cells = cells_of(law);
  uint8_t* out = p.out + image * cells;
  for (int i = lane; i < cells; i += kWarp)
    out[i] = static_cast<uint8_t>(words[i / kWordBits] >> (i % kWordBits) & 1);
}

}  // namespace

void block_mask_cuda(const BlockMaskParams& p, void* stream) {
  const int64_t blocks = (p.count + kWarpsPerBlock - 1) / kWarpsPerBlock;
  const size_t shared = sizeof(Word) * kWarpsPerBlock * (words_of(p.law) + 1);
  SSL_FAST_EXPECT_WRITTEN(p.out, p.count * cells_of(p.law));
  SSL_FAST_LAUNCH(block_mask_kernel, dim3(static_cast<unsigned>(blocks)),
                  dim3(kWarp * kWarpsPerBlock), shared, stream, p);
}

}  // namespace ssl_fast::masks
