// Only libtorch_cuda exports the current stream. It cannot be linked (a CPU build of torch has
// none), and a weak symbol stays null: Python loads libtorch_cuda without making its symbols
// global. So it is looked up where torch has loaded it. (Stream::nativeHandle would do, but from
// torch 2.13 on.)
#include "common/cuda_stream.h"

#include <dlfcn.h>

#include <stdexcept>

namespace ssl_fast {

namespace {

using GetStream = int32_t (*)(int32_t device_index, void** stream);

GetStream find_get_stream() {
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  return reinterpret_cast<GetStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
}

GetStream get_stream() {
  static const GetStream found = find_get_stream();
  return found;
}

}  // namespace

void* current_cuda_stream(int32_t device_index) {
  void* stream = nullptr;
  if (get_stream() == nullptr || get_stream()(device_index, &stream) != 0)
    throw std::runtime_error("ssl_fast: torch does not tell its current CUDA stream");
  return stream;
}

}  // namespace ssl_fast

// For Python: whether the compiled CUDA kernels can be given torch's stream.
extern "C" __attribute__((visibility("default"))) int ssl_fast_finds_cuda_stream() {
  return ssl_fast::get_stream() != nullptr;
}
