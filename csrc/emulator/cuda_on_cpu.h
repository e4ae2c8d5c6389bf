#pragma once

// Compiles a .cu file as plain C++17 (g++ or clang++, `-x c++ -DSSL_FAST_EMULATED -I csrc`) and
// runs its kernels on the CPU, so that CUDA code is tested where there is no GPU and no CUDA
// toolkit. Included through common/cuda_launch.h. How a launch runs is in block_scheduler.h; here
// are the functions that kernels call, and the launch itself.
//
// What it finds: missing synchronisation (results then depend on ssl_fast_emulator_seed), barriers
// and collectives that not all threads reach, shared memory read before it was written (poison, a
// NaN), outputs left unwritten, and, when built with -fsanitize=address,undefined, accesses out of
// bounds and misaligned vectors. What it does not model: threads of a block waiting for each other
// in a loop (hangs), memory order weaker than program order, more than 128 KB of stack, speed.

#include <math.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "emulator/block_scheduler.h"
#include "emulator/cuda_types.h"

// Chooses the order in which threads run, for all launches from now on. Weak, as every .cu file of
// a library defines it.
extern "C" __attribute__((weak, visibility("default"))) void ssl_fast_emulator_seed(
    unsigned long long seed) {
  ssl_fast::emulator::seed = seed;
}

#pragma GCC visibility push(hidden)

// ---- Launches -----------------------------------------------------------------------------------

namespace ssl_fast {
namespace emulator {

// Kernels may well write a NaN, so outputs are filled with a NaN (when repeated) that no arithmetic
// makes. What still holds it after the launch is suspect, and unwritten if after another launch,
// with the other poison, it holds that one: also a byte of any value can be told from poison.
constexpr unsigned kOutputPoison = 0xFFF7, kOtherOutputPoison = 0xFFF5;

// Memory that a launch has to write.
struct Output {
  const char* name;
  unsigned char* data;
  std::size_t count, size;  // elements, bytes of one
  std::vector<std::size_t> suspects;

  static unsigned char poison_byte(unsigned poison, std::size_t i) {
    return static_cast<unsigned char>(i % 2 ? poison >> 8 : poison);
  }
  void fill(unsigned poison) const {
    for (std::size_t i = 0; i < count * size; ++i) data[i] = poison_byte(poison, i % size);
  }
  bool holds(unsigned poison, std::size_t element) const {
    for (std::size_t i = 0; i < size; ++i) {
      if (data[element * size + i] != poison_byte(poison, i)) return false;
    }
    return true;
  }
};
inline thread_local std::vector<Output> expected_outputs;
inline std::mutex launch_mutex;  // threadIdx and the like exist once

template <class T>
void expect_written(const char* name, T* data, std::size_t count) {
  expected_outputs.push_back({name, reinterpret_cast<unsigned char*>(data), count, sizeof(T), {}});
}

inline void run_on_poison(const Kernel& kernel, const std::vector<Output>& outputs, unsigned poison,
                          const Run::Observer& observer = nullptr) {
  for (const Output& output : outputs) output.fill(poison);
  Run(kernel, observer).execute();
}

// Runs the kernel once more to see which thread writes the element before the first missing one:
// it tells the reader where the kernel stopped short.
[[noreturn]] inline void fail_unwritten(const Kernel& kernel, const std::vector<Output>& outputs,
                                        const Output& output) {
  const std::size_t missing = output.suspects.front();
  std::string before = "it is the first";
  if (missing > 0) {
    std::string writer;
    run_on_poison(kernel, outputs, kOutputPoison, [&](uint3 block, uint3 thread) {
      if (writer.empty() && !output.holds(kOutputPoison, missing - 1)) {
        writer = "block " + text(block) + ", thread " + text(thread);
      }
    });
    before = "element " + std::to_string(missing - 1) + " was written by " + writer;
  }
  throw std::runtime_error("kernel " + std::string(kernel.name) + ": did not write element " +
                           std::to_string(missing) + " of " + output.name + " (" + before + "; " +
                           std::to_string(output.suspects.size()) + " of " +
                           std::to_string(output.count) + " elements are missing)");
}

inline void run_and_check(const Kernel& kernel) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  std::vector<Output> outputs;
  outputs.swap(expected_outputs);  // also if the launch fails, they are not the next one's
  run_on_poison(kernel, outputs, kOutputPoison);
  bool suspicious = false;
  for (Output& output : outputs) {
    for (std::size_t i = 0; i < output.count; ++i) {
      if (output.holds(kOutputPoison, i)) output.suspects.push_back(i);
    }
    suspicious |= !output.suspects.empty();
  }
  if (!suspicious) return;
  run_on_poison(kernel, outputs, kOtherOutputPoison);
  for (Output& output : outputs) {
    std::vector<std::size_t>& s = output.suspects;
    const auto is_written = [&](std::size_t i) { return !output.holds(kOtherOutputPoison, i); };
    s.erase(std::remove_if(s.begin(), s.end(), is_written), s.end());
    if (!s.empty()) fail_unwritten(kernel, outputs, output);
  }
}

inline void* dynamic_shared() { return Run::dynamic_shared(); }

// The first thread of a block that reaches the declaration of a shared variable poisons it.
inline void poison_once_per_block(void* data, std::size_t bytes, unsigned long long* poisoned_in) {
  if (*poisoned_in == blocks_started) return;
  *poisoned_in = blocks_started;
  std::memset(data, kSharedPoison, bytes);
}

}  // namespace emulator

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared_bytes, void* /*stream*/, Arguments&&... arguments) {
  const std::tuple<Parameters...> parameters(std::forward<Arguments>(arguments)...);
  emulator::run_and_check(
      {name, grid, block, shared_bytes, [&] { std::apply(kernel, parameters); }});
}

}  // namespace ssl_fast

// ---- Barriers, shuffles, votes ------------------------------------------------------------------

inline std::uint64_t emulated_barrier(const char* call, bool predicate) {
  using namespace ssl_fast::emulator;
  return Run::wait(State::kAtBarrier, call, 0, predicate).received;
}
inline void __syncthreads() { emulated_barrier("__syncthreads", false); }
inline int __syncthreads_count(int predicate) {
  return static_cast<int>(emulated_barrier("__syncthreads_count", predicate != 0));
}
inline int __syncthreads_or(int predicate) {
  return emulated_barrier("__syncthreads_or", predicate != 0) != 0;
}
inline int __syncthreads_and(int predicate) {
  return emulated_barrier("__syncthreads_and", predicate == 0) == 0;
}

inline const ssl_fast::emulator::Thread& emulated_vote(const char* call, unsigned mask,
                                                       bool predicate) {
  using namespace ssl_fast::emulator;
  return Run::wait(State::kAtCollective, call, mask, predicate);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFF) { emulated_vote("__syncwarp", mask, false); }
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return emulated_vote("__ballot_sync", mask, predicate != 0).ballot;
}
inline int __any_sync(unsigned mask, int predicate) {
  return emulated_vote("__any_sync", mask, predicate != 0).ballot != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return emulated_vote("__all_sync", mask, predicate == 0).ballot == 0;
}

// `source` is counted as in CUDA: one beyond the lane's segment of `width` lanes means itself.
template <class T>
T emulated_shuffle(const char* call, unsigned mask, T value, int source, bool beyond) {
  using namespace ssl_fast::emulator;
  static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8),
                "CUDA shuffles values of 32 or 64 bits");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const unsigned lane = beyond ? Run::current().lane : static_cast<unsigned>(source);
  bits = Run::wait(State::kAtCollective, call, mask, bits, lane).received;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline int emulated_lane() { return static_cast<int>(ssl_fast::emulator::Run::current().lane); }
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize) {
  const int first = emulated_lane() & -width;
  return emulated_shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), false);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int first = emulated_lane() & -width;
  const int source = emulated_lane() - static_cast<int>(delta);
  return emulated_shuffle("__shfl_up_sync", mask, value, source, source < first);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int end = (emulated_lane() & -width) + width;
  const int source = emulated_lane() + static_cast<int>(delta);
  return emulated_shuffle("__shfl_down_sync", mask, value, source, source >= end);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize) {
  const int end = (emulated_lane() & -width) + width;
  const int source = emulated_lane() ^ lane_mask;
  return emulated_shuffle("__shfl_xor_sync", mask, value, source, source >= end);
}

// ---- Atomics: fibers are never interrupted, so plain updates are atomic -------------------------

#define SSL_FAST_ATOMIC(name, T, updated) \
  inline T name(T* address, T value) {    \
    const T old = *address;               \
    *address = updated;                   \
    return old;                           \
  }
#define SSL_FAST_INTEGER_ATOMICS(T)                        \
  SSL_FAST_ATOMIC(atomicAdd, T, old + value)               \
  SSL_FAST_ATOMIC(atomicMax, T, old > value ? old : value) \
  SSL_FAST_ATOMIC(atomicMin, T, old < value ? old : value) \
  SSL_FAST_ATOMIC(atomicExch, T, value)                    \
  SSL_FAST_ATOMIC(atomicOr, T, old | value)                \
  SSL_FAST_ATOMIC(atomicAnd, T, old& value)                \
  inline T atomicCAS(T* address, T expected, T desired) {  \
    const T old = *address;                                \
    if (old == expected) *address = desired;               \
    return old;                                            \
  }
SSL_FAST_INTEGER_ATOMICS(int)
SSL_FAST_INTEGER_ATOMICS(unsigned)
SSL_FAST_INTEGER_ATOMICS(unsigned long long)
SSL_FAST_ATOMIC(atomicAdd, float, old + value)
SSL_FAST_ATOMIC(atomicAdd, double, old + value)
SSL_FAST_ATOMIC(atomicExch, float, value)
#undef SSL_FAST_INTEGER_ATOMICS
#undef SSL_FAST_ATOMIC
inline void __threadfence() {}

// ---- Arithmetic ---------------------------------------------------------------------------------

#define SSL_FAST_MIN_MAX(T)                        \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
SSL_FAST_MIN_MAX(int)
SSL_FAST_MIN_MAX(unsigned)
SSL_FAST_MIN_MAX(long)
SSL_FAST_MIN_MAX(unsigned long)
SSL_FAST_MIN_MAX(long long)
SSL_FAST_MIN_MAX(unsigned long long)
#undef SSL_FAST_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// volatile: rounded on their own, never contracted with what follows into a fused multiply-add.
inline float __fmul_rn(float a, float b) {
  const volatile float product = a * b;
  return product;
}
inline float __fadd_rn(float a, float b) {
  const volatile float sum = a + b;
  return sum;
}
inline float __fsub_rn(float a, float b) { return __fadd_rn(a, -b); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
// A macro, since newer C libraries declare a function of this name.
#define rsqrtf(x) (1.0f / sqrtf(x))

template <class To, class From>
To emulated_bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "a change of type, not of size");
  To bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline int __float_as_int(float a) { return emulated_bits<int>(a); }
inline unsigned __float_as_uint(float a) { return emulated_bits<unsigned>(a); }
inline float __int_as_float(int a) { return emulated_bits<float>(a); }
inline float __uint_as_float(unsigned a) { return emulated_bits<float>(a); }

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline int __clz(int a) { return a == 0 ? 32 : __builtin_clz(static_cast<unsigned>(a)); }
inline unsigned __brev(unsigned a) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (a >> i & 1) << (31 - i);
  return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<std::uint64_t>(a) * b) >> 32);
}
// Four of the eight bytes of a (the lower) and b; a selector's high bit, to copy a sign, is
// unknown.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selectors) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>(bytes >> 8 * (selectors >> 4 * i & 7) & 0xff) << 8 * i;
  }
  return result;
}
template <class T>
T __ldg(const T* address) {
  return *address;
}

#pragma GCC visibility pop
