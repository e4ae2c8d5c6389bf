#pragma once

// SSL_HD marks an inline function that both the CPU kernels and the GPU kernels call, so that the
// arithmetic of an op is written once. It is a macro, outside any namespace, because the spelling
// differs by compiler and a C++ name cannot stand for a set of attributes.
//
// Always inlined on the CPU as well: CPU kernels are compiled once per instruction set, and an
// out-of-line copy, merged by the linker, could bring AVX-512 code to a machine without it.
#if defined(__CUDACC__)
#define SSL_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__) || defined(__clang__)
#define SSL_HD inline __attribute__((always_inline))
#else
#define SSL_HD inline
#endif
