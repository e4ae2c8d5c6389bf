// What every `_torch.cpp` needs of LibTorch's stable ABI (torch 2.10 and later).
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "common/cuda_stream.h"
#include "common/dtype.h"

// The check of what a shim returns has this name from torch 2.13 on.
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

// The library of CUDA kernels compiled for the CPU registers the same kernels for CPU tensors,
// under a name of its own.
//
// SSL_FAST_KERNELS(library) { library.impl("name", TORCH_BOX(&function)); ... } registers functions
// that look at their tensors' device.
#if defined(SSL_FAST_EMULATED)
#define SSL_FAST_REGISTER_ALL \
  STABLE_TORCH_LIBRARY_IMPL(ssl_fast_emulated, CPU, cpu) { register_kernels(cpu); }
#elif defined(SSL_FAST_CUDA)
#define SSL_FAST_REGISTER_ALL                                              \
  STABLE_TORCH_LIBRARY_IMPL(ssl_fast, CPU, cpu) { register_kernels(cpu); } \
  STABLE_TORCH_LIBRARY_IMPL(ssl_fast, CUDA, cuda) { register_kernels(cuda); }
#else
#define SSL_FAST_REGISTER_ALL \
  STABLE_TORCH_LIBRARY_IMPL(ssl_fast, CPU, cpu) { register_kernels(cpu); }
#endif
#define SSL_FAST_KERNELS(library)                                              \
  static void register_kernels(torch::stable::detail::StableLibrary& library); \
  SSL_FAST_REGISTER_ALL                                                        \
  static void register_kernels(torch::stable::detail::StableLibrary& library)

// The same for functions of CPU tensors alone, where Triton serves the GPU. A file that ends in it
// stands within #ifndef SSL_FAST_EMULATED.
#define SSL_FAST_CPU_KERNELS(library) STABLE_TORCH_LIBRARY_IMPL(ssl_fast, CPU, library)

namespace ssl_fast {

using torch::stable::Tensor;

inline DType dtype_of(const Tensor& tensor) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Byte:
      return DType::kUInt8;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      STD_TORCH_CHECK(false, "ssl_fast: expected uint8, float16, bfloat16, float32 or float64");
      return DType::kFloat32;
  }
}

// Runs `cuda(stream)` on the tensor's device. The emulator has neither streams nor devices.
template <typename Function>
void on_cuda(const Tensor& tensor, Function cuda) {
#ifdef SSL_FAST_EMULATED
  (void)tensor;
  cuda(nullptr);
#else
  const torch::stable::accelerator::DeviceGuard guard(tensor.get_device_index());
  cuda(current_cuda_stream(tensor.get_device_index()));
#endif
}

}  // namespace ssl_fast
