// ssl_fast._host: what Python needs of native code without torch. Facts of the build, for the
// doctor; the mask samplers of data-loading workers come here too.
#include <pybind11/pybind11.h>

#include <string>

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

}  // namespace

PYBIND11_MODULE(_host, module) {
  module.doc() = "ssl_fast's native code that needs no torch.";
  module.def("build_info", &build_info,
             "Facts of this build: compiler, CUDA version and architectures ('' without CUDA), the "
             "torch whose headers were used, and the CPU instruction sets compiled.");
}
