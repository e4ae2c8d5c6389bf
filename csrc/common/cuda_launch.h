#pragma once

// What every .cu file includes: one way to declare shared memory and to launch a kernel, valid for
// nvcc and, with SSL_FAST_EMULATED defined, for a plain C++17 compiler (emulator/cuda_on_cpu.h).
// These are macros because they declare variables, need the kernel's name as text, or must vanish.

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

#ifdef SSL_FAST_EMULATED
#include "emulator/cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
#endif

namespace ssl_fast {

// Lets a macro write `Same<float[32][33]> tile`: the name of an array does not follow its type.
template <class T>
using Same = T;

inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

#ifndef SSL_FAST_EMULATED
// A kernel may use more than 48 KB of dynamic shared memory only after asking for it.
template <class Kernel>
void allow_dynamic_shared(const char* name, Kernel* kernel, std::size_t shared_bytes) {
  if (shared_bytes > 48 * 1024) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)),
               name);
  }
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared_bytes, void* stream, Arguments&&... arguments) {
  allow_dynamic_shared(name, kernel, shared_bytes);
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(
      std::forward<Arguments>(arguments)...);
  check_cuda(cudaGetLastError(), name);
}
#endif

}  // namespace ssl_fast

// SSL_FAST_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...): launches, raising the
// limit of dynamic shared memory where needed, and throws std::runtime_error with the kernel's name
// if the launch is refused. A template instance goes in parentheses: `(hog_kernel<float, 9>)`.
// `stream` is a cudaStream_t or the same as void*.
#define SSL_FAST_LAUNCH(kernel, grid, block, shared_bytes, ...) \
  ::ssl_fast::launch(#kernel, kernel, grid, block, shared_bytes, __VA_ARGS__)

// SSL_FAST_SHARED(float[32][33], tile): static shared memory `tile`, 16-byte aligned. Used in place
// of `__shared__`, which gives the emulator no way to find the variable and poison it: gcc ignores
// section attributes in templates.
//
// SSL_FAST_DYNAMIC_SHARED(float, tile): `float* tile`, the dynamic shared memory of the block,
// 16-byte aligned.
//
// SSL_FAST_EXPECT_WRITTEN(pointer, count), just before a launch: the emulator fails unless the
// launch writes every one of these elements. The launch is then repeated if an output looks
// unwritten, so the kernel must not update its inputs in place. Nothing in CUDA.
#ifdef SSL_FAST_EMULATED
#define SSL_FAST_SHARED(type, name)                 \
  alignas(16) static ::ssl_fast::Same<type> name;   \
  static unsigned long long name##_poisoned_in = 0; \
  ::ssl_fast::emulator::poison_once_per_block(&name, sizeof(name), &name##_poisoned_in)
#define SSL_FAST_DYNAMIC_SHARED(type, name) \
  type* name = static_cast<type*>(::ssl_fast::emulator::dynamic_shared())
#define SSL_FAST_EXPECT_WRITTEN(pointer, count) \
  ::ssl_fast::emulator::expect_written(#pointer, pointer, count)
#else
#define SSL_FAST_SHARED(type, name) __shared__ __align__(16)::ssl_fast::Same<type> name
#define SSL_FAST_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char ssl_fast_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(ssl_fast_dynamic_shared)
#define SSL_FAST_EXPECT_WRITTEN(pointer, count) \
  (static_cast<void>(pointer), static_cast<void>(count))
#endif
