// ssl_fast._host: what Python needs of native code without torch. Facts of the build, for the
// doctor, and the mask samplers of data-loading workers, which release the interpreter's lock.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "masks/block_mask.h"
#include "masks/ibot_counts.h"
#include "masks/multiblock_mask.h"
#include "masks/random_mask.h"

namespace py = pybind11;

namespace {

// SSL_FAST_BUILD_* are set by CMake.
py::dict build_info() {
  py::dict info;
  info["compiler"] = SSL_FAST_BUILD_COMPILER;
  info["cuda"] = SSL_FAST_BUILD_CUDA;
  info["cuda_architectures"] = SSL_FAST_BUILD_CUDA_ARCHITECTURES;
  info["torch_headers"] = SSL_FAST_BUILD_TORCH;
  info["instruction_sets"] = SSL_FAST_BUILD_INSTRUCTION_SETS;
  return info;
}

std::array<uint32_t, 4> philox(const std::array<uint32_t, 4>& counter,
                               const std::array<uint32_t, 2>& key) {
  const ssl_fast::Philox words =
      ssl_fast::philox4x32({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return {words.word[0], words.word[1], words.word[2], words.word[3]};
}

// ---- Mask samplers. Shapes and ranges are checked in ssl_fast/host.py; here is a second fence.
// ----

using namespace ssl_fast::masks;
using Ids = py::array_t<int64_t>;

void refuse(const char* why_not) {
  if (why_not != nullptr) throw std::invalid_argument(why_not);
}

int64_t id_stride(const Ids& sample_ids) {
  if (sample_ids.ndim() != 1) throw std::invalid_argument("masks: sample_ids must be [N]");
  return sample_ids.strides(0) / static_cast<int64_t>(sizeof(int64_t));
}

BlockMaskParams block_params(const int64_t& seed, const Ids& sample_ids, const BlockLaw& law,
                             const BlockRule& rule) {
  BlockMaskParams p{};
  p.law = law;
  p.rule = rule;
  p.seed = &seed;
  p.id_stride = id_stride(sample_ids);
  p.sample_ids = sample_ids.data();
  p.count = sample_ids.shape(0);
  return p;
}

py::array_t<bool> run_block_mask(BlockMaskParams& p, const std::vector<py::ssize_t>& shape) {
  py::array_t<bool> out(shape);
  p.out = reinterpret_cast<uint8_t*>(out.mutable_data());
  const py::gil_scoped_release without_lock;
  std::vector<int> counts;
  if (p.rule.stream == ssl_fast::kIbotMaskStream) {
    counts = ibot_counts(p);
    p.counts = counts.data();
  }
  block_mask_cpu(p, 0, p.count);
  return out;
}

py::array_t<bool> block_mask(int64_t seed, const Ids& sample_ids, int64_t height, int64_t width,
                             int64_t num_masked, int64_t min_block, int64_t max_block,
                             int64_t log2_min_aspect, int64_t log2_max_aspect, bool exclusive) {
  refuse(refusal(1, height, width, num_masked, min_block, max_block, log2_min_aspect,
                 log2_max_aspect));
  const BlockLaw law = make_law(1, height, width, num_masked, min_block, max_block, log2_min_aspect,
                                log2_max_aspect, exclusive);
  BlockMaskParams p = block_params(seed, sample_ids, law, kBlockRule);
  return run_block_mask(p, {p.count, height, width});
}

py::array_t<bool> cube_mask(int64_t seed, const Ids& sample_ids, int64_t frames, int64_t height,
                            int64_t width, int64_t num_masked, int64_t min_block, int64_t max_block,
                            int64_t log2_min_aspect, int64_t log2_max_aspect) {
  refuse(refusal(frames, height, width, num_masked, min_block, max_block, log2_min_aspect,
                 log2_max_aspect));
  const BlockLaw law = make_law(frames, height, width, num_masked, min_block, max_block,
                                log2_min_aspect, log2_max_aspect, false);
  BlockMaskParams p = block_params(seed, sample_ids, law, kCubeRule);
  return run_block_mask(p, {p.count, frames, height, width});
}

py::array_t<bool> ibot_mask(int64_t seed, const Ids& sample_ids, int64_t height, int64_t width,
                            int64_t num_samples_masked, int64_t low, int64_t high,
                            int64_t min_block, int64_t max_block, int64_t log2_min_aspect,
                            int64_t log2_max_aspect) {
  refuse(refusal(1, height, width, 0, min_block, max_block, log2_min_aspect, log2_max_aspect));
  const BlockLaw law =
      make_law(1, height, width, 0, min_block, max_block, log2_min_aspect, log2_max_aspect, false);
  BlockMaskParams p = block_params(seed, sample_ids, law, kIbotRule);
  refuse(refusal(p.count, height * width, num_samples_masked, low, high));
  p.slices = {static_cast<int>(num_samples_masked), low, high};
  return run_block_mask(p, {p.count, height, width});
}

// Arrays of the results, and the work on them.
py::tuple run_random_mask(RandomMaskParams& p) {
  const py::ssize_t count = p.count, length = p.length, kept = p.kept;
  py::array_t<int64_t> ids_keep({count, kept}), ids_restore({count, length});
  py::array_t<float> mask({count, length});
  p.ids_keep = ids_keep.mutable_data();
  p.ids_restore = ids_restore.mutable_data();
  p.mask = mask.mutable_data();
  {
    const py::gil_scoped_release without_lock;
    std::vector<uint64_t> scratch(random_mask_scratch(p.length));
    random_mask_cpu(p, 0, p.count, scratch.data());
  }
  return py::make_tuple(ids_keep, ids_restore, mask);
}

py::tuple random_mask(int64_t seed, const Ids& sample_ids, int64_t length, int64_t num_kept) {
  refuse(refusal(length, num_kept));
  RandomMaskParams p{};
  p.seed = &seed;
  p.id_stride = id_stride(sample_ids);
  p.sample_ids = sample_ids.data();
  p.count = sample_ids.shape(0);
  p.length = static_cast<int>(length);
  p.kept = static_cast<int>(num_kept);
  return run_random_mask(p);
}

template <typename T>
py::tuple random_mask_from_noise(const py::array_t<T, py::array::c_style>& noise,
                                 int64_t num_kept) {
  if (noise.ndim() != 2) throw std::invalid_argument("random_mask: noise must be [N, L]");
  refuse(refusal(noise.shape(1), num_kept));
  RandomMaskParams p{};
  p.noise = noise.data();
  p.dtype = sizeof(T) == 8 ? ssl_fast::DType::kFloat64 : ssl_fast::DType::kFloat32;
  p.count = noise.shape(0);
  p.length = static_cast<int>(noise.shape(1));
  p.kept = static_cast<int>(num_kept);
  return run_random_mask(p);
}

py::tuple multiblock_mask(int64_t seed, const Ids& sample_ids, int64_t height, int64_t width,
                          int64_t targets, int64_t target_height, int64_t target_width,
                          int64_t contexts, int64_t context_height, int64_t context_width,
                          int64_t min_keep, bool overlap, bool exclusive) {
  MultiblockParams p{};
  p.law = make_multiblock_law({height, width, targets, target_height, target_width, contexts,
                               context_height, context_width, min_keep},
                              overlap, exclusive);
  refuse(refusal(p.law));
  p.seed = &seed;
  p.id_stride = id_stride(sample_ids);
  p.sample_ids = sample_ids.data();
  p.count = sample_ids.shape(0);
  py::array_t<int64_t> target_ids({p.count, targets, target_height * target_width});
  py::array_t<bool> context({p.count, contexts, height, width});
  p.targets = target_ids.mutable_data();
  p.contexts = reinterpret_cast<uint8_t*>(context.mutable_data());
  {
    const py::gil_scoped_release without_lock;
    multiblock_mask_cpu(p, 0, p.count);
  }
  return py::make_tuple(target_ids, context);
}

}  // namespace

PYBIND11_MODULE(_host, module) {
  module.doc() = "ssl_fast's native code that needs no torch.";
  module.def("build_info", &build_info,
             "Facts of this build: compiler, CUDA version and architectures ('' without CUDA), the "
             "torch whose headers were used, and the CPU instruction sets compiled.");
  module.def("philox", &philox, "Philox4x32-10 of a counter (four words) and a key (two).");
  module.def("block_mask", &block_mask, "See ssl_fast.host.block_mask.");
  module.def("cube_mask", &cube_mask, "See ssl_fast.host.cube_mask.");
  module.def("ibot_mask", &ibot_mask, "See ssl_fast.host.ibot_mask.");
  module.def("multiblock_mask", &multiblock_mask, "See ssl_fast.host.multiblock_mask.");
  module.def("random_mask", &random_mask, "See ssl_fast.host.random_mask.");
  module.def("random_mask_from_noise", &random_mask_from_noise<float>,
             "See ssl_fast.host.random_mask.");
  module.def("random_mask_from_noise", &random_mask_from_noise<double>,
             "See ssl_fast.host.random_mask.");
}
