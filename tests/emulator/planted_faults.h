#pragma once

// Kernels with a planted fault each, that the emulator or a sanitizer has to find.

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "common/cuda_launch.h"
#include "toy_buffer.h"

namespace {

__global__ void no_syncthreads_after_write(int* out) {
  SSL_FAST_SHARED(int[64], tile);
  tile[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = tile[63 - threadIdx.x];
}

// The barrier before the next round's write is missing.
__global__ void no_syncthreads_before_write(int* out) {
  SSL_FAST_SHARED(int[64], tile);
  int sum = 0;
  for (int round = 0; round < 4; ++round) {
    tile[threadIdx.x] = threadIdx.x + 100 * round;
    __syncthreads();
    sum += tile[(threadIdx.x + 32) % 64];
  }
  out[threadIdx.x] = sum;
}

__global__ void no_syncthreads_between_warps(int* out) {
  SSL_FAST_SHARED(int[2], sums);
  int sum = threadIdx.x;
  for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(kFullWarp, sum, i);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  out[threadIdx.x] = sums[1 - threadIdx.x / 32];
}

__global__ void no_syncwarp(int* out) {
  SSL_FAST_SHARED(int[64], tile);
  tile[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

__global__ void exit_before_barrier(int* out) {
  if (threadIdx.x >= 60) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void two_kinds_of_barrier(int* out) {
  out[threadIdx.x] = threadIdx.x < 32 ? __syncthreads_or(1) : __syncthreads_and(1);
}

__global__ void exit_before_shuffle(int* out) {
  if (threadIdx.x == 37) return;
  out[threadIdx.x] = __shfl_xor_sync(kFullWarp, int(threadIdx.x), 1);
}

__global__ void two_kinds_of_collective(int* out) {
  out[threadIdx.x] = threadIdx.x % 2 ? __any_sync(kFullWarp, 1) : __all_sync(kFullWarp, 1);
}

__global__ void foreign_mask(int* out) {
  out[threadIdx.x] = __shfl_sync(0x0000FFFF, int(threadIdx.x), 0);
}

__global__ void undefined_lane(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000FFFF, int(threadIdx.x), 20);
}

// Element 50 and all from 100 on are forgotten.
template <class T>
__global__ void leaves_gaps(T* out, int count) {
  const int i = threadIdx.x + blockIdx.x * blockDim.x;
  if (i < count && i != 50) out[i] = T(7);
}

template <class T>
std::vector<double> run_leaves_gaps() {
  Buffer<T> out(110);
  SSL_FAST_EXPECT_WRITTEN(out.get(), 110);
  SSL_FAST_LAUNCH(leaves_gaps<T>, 4, 32, 0, nullptr, out.get(), 100);
  return out.values();
}

// Block 0 writes what all others read.
template <class T>
__global__ void reads_unwritten_shared(T* out) {
  SSL_FAST_SHARED(T, fixed);
  SSL_FAST_DYNAMIC_SHARED(T, dynamic);
  if (blockIdx.x == 0) fixed = dynamic[0] = T(1);
  out[2 * blockIdx.x] = fixed;
  out[2 * blockIdx.x + 1] = dynamic[0];
}

template <class T>
std::vector<double> run_reads_unwritten_shared() {
  Buffer<T> out(6);
  SSL_FAST_LAUNCH(reads_unwritten_shared<T>, 3, 1, sizeof(T), nullptr, out.get());
  return out.values();
}

__global__ void writes_global(int* out, int index) { out[index] = 1; }

std::vector<double> run_global_overrun() {
  Buffer<int> out(64);
  SSL_FAST_LAUNCH(writes_global, 1, 1, 0, nullptr, out.get(), 64);
  return out.values();
}

__global__ void writes_dynamic_shared(int* out, int index) {
  SSL_FAST_DYNAMIC_SHARED(int, tile);
  tile[index] = 1;
  out[0] = tile[index];
}

std::vector<double> run_dynamic_shared_overrun() {
  Buffer<int> out(1);
  SSL_FAST_LAUNCH(writes_dynamic_shared, 1, 1, 5 * sizeof(int), nullptr, out.get(), 5);
  return out.values();
}

__global__ void writes_static_shared(int* out, int index) {
  SSL_FAST_SHARED(int[5], tile);
  tile[index] = 1;
  __syncthreads();
  out[0] = tile[index];
}

std::vector<double> run_static_shared_overrun() {
  Buffer<int> out(1);
  SSL_FAST_LAUNCH(writes_static_shared, 1, 1, 0, nullptr, out.get(), 5);
  return out.values();
}

__global__ void writes_local(int* out, int index) {
  int local[5] = {};
  __syncthreads();
  (out[1] ? out : local)[index] = 1;
  __syncthreads();
  out[0] = local[1];
}

std::vector<double> run_local_overrun() {
  Buffer<int> out(2);
  SSL_FAST_LAUNCH(writes_local, 1, 2, 0, nullptr, out.get(), 5);
  return out.values();
}

__global__ void overflows(int* out) { out[0] = 0x7FFFFFFF + out[0]; }

std::vector<double> run_signed_overflow() {
  Buffer<int> out(1, 1);
  SSL_FAST_LAUNCH(overflows, 1, 1, 0, nullptr, out.get());
  return out.values();
}

__global__ void loads_vector(const float* in, float4* out) {
  out[0] = *reinterpret_cast<const float4*>(in + 1);
}

std::vector<double> run_misaligned_vector() {
  Buffer<float> in(8);
  Buffer<float4> out(1);
  SSL_FAST_LAUNCH(loads_vector, 1, 1, 0, nullptr, in.get(), out.get());
  return in.values();
}

template <unsigned kGrid, unsigned kBlock>
std::vector<double> run_invalid_configuration() {
  Buffer<int> out(1);
  SSL_FAST_LAUNCH(writes_global, kGrid, kBlock, 0, nullptr, out.get(), 0);
  return out.values();
}

#ifdef SSL_FAST_EMULATED
__global__ void throws(int* out) {
  __syncthreads();
  if (threadIdx.x == 5) throw std::out_of_range("thrown by a kernel");
  out[threadIdx.x] = 1;
}

int deep(int levels) {
  volatile char frame[1024] = {};
  frame[levels % 1024] = 1;
  return levels == 0 ? 0 : deep(levels - 1) + frame[levels % 1024];
}

// Damages the stack of thread 39 too, but the launch fails before that thread could run again.
__global__ void overflows_stack(int* out) { out[threadIdx.x] = threadIdx.x == 40 ? deep(130) : 0; }
#endif

}  // namespace
