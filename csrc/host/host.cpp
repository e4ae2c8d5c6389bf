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

// Shapes and ranges are checked in ssl_fast/host.py; this is a second fence.
py::array_t<bool> block_mask(int64_t seed, const py::array_t<int64_t>& sample_ids, int64_t height,
                             int64_t width, int64_t num_masked, int64_t min_block,
                             int64_t max_block, int64_t log2_min_aspect, int64_t log2_max_aspect,
                             bool exclusive) {
  using namespace ssl_fast::masks;
  if (const char* why_not = refusal(height, width, num_masked, min_block, max_block,
                                    log2_min_aspect, log2_max_aspect))
    throw std::invalid_argument(why_not);
  if (sample_ids.ndim() != 1) throw std::invalid_argument("block_mask: sample_ids must be [N]");
  BlockMaskParams p;
  p.law = make_law(height, width, num_masked, min_block, max_block, log2_min_aspect,
                   log2_max_aspect, exclusive);
  p.seed = &seed;
  p.sample_ids = sample_ids.data();
  p.id_stride = sample_ids.strides(0) / static_cast<int64_t>(sizeof(int64_t));
  p.count = sample_ids.shape(0);
  py::array_t<bool> out({p.count, height, width});
  p.out = reinterpret_cast<uint8_t*>(out.mutable_data());
  const py::gil_scoped_release without_lock;
  block_mask_cpu(p, 0, p.count);
  return out;
}

// Arrays of the results, and the work on them.
py::tuple run_random_mask(ssl_fast::masks::RandomMaskParams& p) {
  using namespace ssl_fast::masks;
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

py::tuple random_mask(int64_t seed, const py::array_t<int64_t>& sample_ids, int64_t length,
                      int64_t num_kept) {
  using namespace ssl_fast::masks;
  if (const char* why_not = refusal(length, num_kept)) throw std::invalid_argument(why_not);
  if (sample_ids.ndim() != 1) throw std::invalid_argument("random_mask: sample_ids must be [N]");
  RandomMaskParams p{};
  p.seed = &seed;
  p.sample_ids = sample_ids.data();
  p.id_stride = sample_ids.strides(0) / static_cast<int64_t>(sizeof(int64_t));
  p.count = sample_ids.shape(0);
  p.length = static_cast<int>(length);
  p.kept = static_cast<int>(num_kept);
  return run_random_mask(p);
}

template <typename T>
py::tuple random_mask_from_noise(const py::array_t<T, py::array::c_style>& noise,
                                 int64_t num_kept) {
  using namespace ssl_fast::masks;
  if (noise.ndim() != 2) throw std::invalid_argument("random_mask: noise must be [N, L]");
  if (const char* why_not = refusal(noise.shape(1), num_kept)) throw std::invalid_argument(why_not);
  RandomMaskParams p{};
  p.noise = noise.data();
  p.dtype = sizeof(T) == 8 ? ssl_fast::DType::kFloat64 : ssl_fast::DType::kFloat32;
  p.count = noise.shape(0);
  p.length = static_cast<int>(noise.shape(1));
  p.kept = static_cast<int>(num_kept);
  return run_random_mask(p);
}

}  // namespace

PYBIND11_MODULE(_host, module) {
  module.doc() = "ssl_fast's native code that needs no torch.";
  module.def("build_info", &build_info,
             "Facts of this build: compiler, CUDA version and architectures ('' without CUDA), the "
             "torch whose headers were used, and the CPU instruction sets compiled.");
  module.def("philox", &philox, "Philox4x32-10 of a counter (four words) and a key (two).");
  module.def("block_mask", &block_mask, "See ssl_fast.host.block_mask.");
  module.def("random_mask", &random_mask, "See ssl_fast.host.random_mask.");
  module.def("random_mask_from_noise", &random_mask_from_noise<float>,
             "See ssl_fast.host.random_mask.");
  module.def("random_mask_from_noise", &random_mask_from_noise<double>,
             "See ssl_fast.host.random_mask.");
}
