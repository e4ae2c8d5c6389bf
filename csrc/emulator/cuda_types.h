#pragma once

// CUDA's words, types and built-in variables, for a plain C++17 compiler.

#include <cstddef>
#include <cstring>

// Hidden, here and below: every library has its own emulator, also when a process loads two.
#pragma GCC visibility push(hidden)

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ _Pragma("GCC error \"declare shared memory with SSL_FAST_SHARED\"") static

// Alignments are CUDA's, so that UBSan reports a misaligned vector access as a GPU would.
#define SSL_FAST_VECTOR2(T, name)                    \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }
#define SSL_FAST_VECTORS(T, name)                                    \
  SSL_FAST_VECTOR2(T, name)                                          \
  struct name##3 { T x, y, z; };                                     \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  struct alignas(4 * sizeof(T)) name##4 { T x, y, z, w; };           \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SSL_FAST_VECTORS(signed char, char)
SSL_FAST_VECTORS(unsigned char, uchar)
SSL_FAST_VECTORS(short, short)
SSL_FAST_VECTORS(unsigned short, ushort)
SSL_FAST_VECTORS(int, int)
SSL_FAST_VECTORS(unsigned, uint)
SSL_FAST_VECTORS(float, float)
SSL_FAST_VECTOR2(long long, longlong)
SSL_FAST_VECTOR2(unsigned long long, ulonglong)
SSL_FAST_VECTOR2(double, double)
#undef SSL_FAST_VECTORS
#undef SSL_FAST_VECTOR2

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

inline uint3 threadIdx{}, blockIdx{};
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0 };
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

#pragma GCC visibility pop
