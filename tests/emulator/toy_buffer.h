#pragma once

#include <cstddef>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "common/cuda_launch.h"

namespace {

constexpr unsigned kFullWarp = 0xFFFFFFFF;

// Memory that host and kernels see, of exactly `count` elements, so that ASan sees an overrun.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count, T value = T{}) : count_(count) {
#ifdef SSL_FAST_EMULATED
    data_ = static_cast<T*>(malloc(count * sizeof(T)));
#else
    ssl_fast::check_cuda(cudaMallocManaged(&data_, count * sizeof(T)), "allocation");
#endif
    for (size_t i = 0; i < count; ++i) data_[i] = value;
  }
  ~Buffer() {
#ifdef SSL_FAST_EMULATED
    free(data_);
#else
    cudaFree(data_);
#endif
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return data_; }
  T& operator[](size_t i) const { return data_[i]; }
  std::vector<double> values() const {
#ifndef SSL_FAST_EMULATED
    ssl_fast::check_cuda(cudaDeviceSynchronize(), "kernel");
#endif
    return std::vector<double>(data_, data_ + count_);
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

template <class T>
T* iota(const Buffer<T>& buffer, size_t count) {
  std::iota(buffer.get(), buffer.get() + count, T(1));
  return buffer.get();
}

}  // namespace
