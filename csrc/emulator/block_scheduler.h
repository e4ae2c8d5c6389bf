#pragma once

// Runs the blocks of a kernel on the CPU, their threads as cooperatively scheduled fibers.
//
// How a launch runs. Blocks run one after another. Each thread of a block is a fiber with a stack
// of its own. A fiber runs until it has to wait, in a barrier of the block or in a warp collective,
// or until it exits; it notes that in its `Thread` and switches to the scheduler, `Run::run_block`,
// which chooses the next at random. A collective ends when the last lane of its mask arrives. A
// barrier ends when nothing else can run and every thread waits in it; if nothing can run and some
// thread does not, the block is stuck and the launch fails. All rules and all errors live in the
// scheduler; fibers only wait.

#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "emulator/cuda_types.h"

#if defined(__SANITIZE_ADDRESS__)
#define SSL_FAST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SSL_FAST_ASAN 1
#endif
#endif
#ifdef SSL_FAST_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#pragma GCC visibility push(hidden)

namespace ssl_fast {
namespace emulator {

// Shared memory: a NaN in fp16, bf16, fp32 and fp64, and -1 as an integer.
constexpr int kSharedPoison = 0xFF;

// The memory of a stack is only reserved; the system provides it page by page, when touched.
constexpr std::size_t kStackBytes = 128 * 1024;
constexpr std::uint64_t kStackEnd = 0x5AFE57ACC0FFEE11;  // overwritten by a stack overflow

inline std::uint64_t seed = 0;
inline std::uint64_t blocks_started = 0;  // over all launches: identifies the running block

enum class State { kReady, kAtBarrier, kAtCollective, kExited };

struct Thread {
  ucontext_t context{};
  void* fake_stack = nullptr;  // AddressSanitizer's
  char* stack = nullptr;
  uint3 index{};
  unsigned warp = 0, lane = 0;
  State state = State::kReady;
  const char* call = "";       // the barrier or collective it waits in
  unsigned mask = 0;           // collective: the lanes that take part
  unsigned source = 0;         // collective: the lane whose value it receives
  std::uint64_t value = 0;     // what it brings
  std::uint64_t received = 0;  // barrier: the number of threads that brought another value than 0
  unsigned ballot = 0;         // collective: the lanes that brought another value than 0
};

struct Kernel {
  const char* name;
  dim3 grid, block;
  std::size_t shared_bytes;
  std::function<void()> body;  // the kernel with its arguments, as one thread runs it
};

inline std::string text(uint3 v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}

inline std::string lanes_text(unsigned mask) {
  std::string text = "0x";
  for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[mask >> shift & 15];
  return text;
}

// Switches stacks. AddressSanitizer is told before and after, or it would take the accesses to the
// new stack for overflows of the old one.
inline void switch_stack(ucontext_t* from, ucontext_t* to, [[maybe_unused]] void** fake_stack,
                         [[maybe_unused]] const void* to_stack,
                         [[maybe_unused]] std::size_t to_bytes) {
#ifdef SSL_FAST_ASAN
  __sanitizer_start_switch_fiber(fake_stack, to_stack, to_bytes);
#endif
  swapcontext(from, to);
#ifdef SSL_FAST_ASAN
  __sanitizer_finish_switch_fiber(*fake_stack, nullptr, nullptr);
#endif
}

// One execution of a kernel over its grid.
class Run {
 public:
  // Told each time a thread has run, up to a wait or to its exit.
  using Observer = std::function<void(uint3 block, uint3 thread)>;

  explicit Run(const Kernel& kernel, Observer observer = nullptr)
      : kernel_(kernel), observer_(std::move(observer)) {
    check_configuration();
    const unsigned count = kernel.block.x * kernel.block.y * kernel.block.z;
    // Not make_unique and not vector: they would write, and so touch, all of the stacks.
    stacks_.reset(new char[count * kStackBytes]);
    // Exactly the size asked for, so that AddressSanitizer sees an access behind it.
    shared_.reset(new char[kernel.shared_bytes]);
    threads_.resize(count);
    ready_.resize((count + 31) / 32);
    for (unsigned i = 0; i < count; ++i) {
      Thread& thread = threads_[i];
      thread.index = {i % kernel.block.x, i / kernel.block.x % kernel.block.y,
                      i / kernel.block.x / kernel.block.y};
      thread.warp = i / 32;
      thread.lane = i % 32;
      thread.stack = stacks_.get() + i * kStackBytes;
      make_fiber(thread);
    }
  }

  void execute() {
    running_ = this;
    gridDim = kernel_.grid;
    blockDim = kernel_.block;
    const std::uint64_t x = gridDim.x, y = gridDim.y, blocks = x * y * gridDim.z;
    for (std::uint64_t i = 0; i < blocks; ++i) {
      // CUDA promises no order of blocks: odd seeds run them backwards.
      const std::uint64_t block = seed % 2 ? blocks - 1 - i : i;
      blockIdx = {static_cast<unsigned>(block % x), static_cast<unsigned>(block / x % y),
                  static_cast<unsigned>(block / x / y)};
      random_ = seed * 0x9E3779B97F4A7C15 ^ (block + 1) * 0xD1B54A32D192ED03;
      run_block();
    }
  }

  // Called by a fiber: waits, and returns when the scheduler has filled in what it waited for.
  static const Thread& wait(State state, const char* call, unsigned mask = 0,
                            std::uint64_t value = 0, unsigned source = 0) {
    Run& run = *running_;
    Thread& me = *run.current_;
    me.state = state;
    me.call = call;
    me.mask = mask;
    me.value = value;
    me.source = source;
    switch_stack(&me.context, &run.host_, &me.fake_stack, run.host_stack_, run.host_stack_bytes_);
    return me;
  }

  static const Thread& current() { return *running_->current_; }
  static void* dynamic_shared() { return running_->shared_.get(); }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("kernel " + std::string(kernel_.name) + ", block " + text(blockIdx) +
                             ": " + what);
  }

  void check_configuration() const {
    const dim3 &g = kernel_.grid, &b = kernel_.block;
    const bool grid_fits = g.x && g.y && g.z && g.x <= 0x7FFFFFFF && g.y <= 65535 && g.z <= 65535;
    const bool block_fits =
        b.x && b.y && b.z && b.x <= 1024 && b.y <= 1024 && b.z <= 64 && b.x * b.y * b.z <= 1024;
    if (!grid_fits || !block_fits || kernel_.shared_bytes > 227 * 1024) {
      throw std::runtime_error("kernel " + std::string(kernel_.name) +
                               ": invalid configuration: grid " + text({g.x, g.y, g.z}) +
                               ", block " + text({b.x, b.y, b.z}) + ", " +
                               std::to_string(kernel_.shared_bytes) + " bytes of shared memory");
    }
  }

  static void make_fiber(Thread& thread) {
    std::memcpy(thread.stack, &kStackEnd, sizeof kStackEnd);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack;
    thread.context.uc_stack.ss_size = kStackBytes;
    makecontext(&thread.context, fiber_main, 0);
    // Used up by makecontext. AddressSanitizer's swapcontext would clear its notes on all of a
    // stack that it finds here, at every switch: slow, and blind to overflows of local arrays.
    thread.context.uc_stack = {};
  }

  // A fiber is not finished when its thread exits: it waits to be that thread in the next block.
  static void fiber_main() {
    Run& run = *running_;
#ifdef SSL_FAST_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &run.host_stack_, &run.host_stack_bytes_);
#endif
    for (;;) {
      try {
        run.kernel_.body();
      } catch (...) {
        run.thrown_ = std::current_exception();
      }
      wait(State::kExited, "exit");
    }
  }

  void run_block() {
    ++blocks_started;
    std::memset(shared_.get(), kSharedPoison, kernel_.shared_bytes);
    for (Thread& thread : threads_) make_ready(thread);
    choose_style();
    for (;;) {
      if (Thread* thread = choose()) {
        resume(*thread);
        if (thread->state == State::kAtCollective) end_collective_if_complete(*thread);
      } else if (all_of([](const Thread& t) { return t.state == State::kExited; })) {
        return;
      } else {
        end_barrier();
      }
    }
  }

  void resume(Thread& thread) {
    current_ = &thread;
    threadIdx = thread.index;
    switch_stack(&host_, &thread.context, &host_fake_stack_, thread.stack, kStackBytes);
    if (thrown_) std::rethrow_exception(thrown_);
    if (std::memcmp(thread.stack, &kStackEnd, sizeof kStackEnd) != 0) {
      fail("thread " + text(thread.index) + " used more than " + std::to_string(kStackBytes) +
           " bytes of stack");
    }
    if (observer_) observer_(blockIdx, thread.index);
  }

  void make_ready(Thread& thread) {
    thread.state = State::kReady;
    ready_[thread.warp] |= 1u << thread.lane;
  }

  // Until the next barrier either all warps interleave, or one after another gets as far ahead of
  // the others as it can (keep_warp_): some races show only in the one, some in the other.
  void choose_style() {
    keep_warp_ = next_random(2) != 0;
    warp_ = next_random(static_cast<unsigned>(ready_.size()));
  }

  // Any thread that can run.
  Thread* choose() {
    if (!keep_warp_ || !ready_[warp_]) {
      unsigned warps = 0;
      for (unsigned w = 0; w < ready_.size(); ++w) warps |= (ready_[w] != 0 ? 1u : 0u) << w;
      if (!warps) return nullptr;
      warp_ = random_bit(warps);
    }
    const unsigned lane = random_bit(ready_[warp_]);
    ready_[warp_] &= ~(1u << lane);
    return &threads_[warp_ * 32 + lane];
  }

  // Lanes named by the thread's mask that are not yet in the same collective.
  unsigned missing_lanes(const Thread& thread) const {
    unsigned missing = thread.mask;
    for (const Thread* peer = warp_begin(thread); peer != warp_end(thread); ++peer) {
      if (peer->state == State::kAtCollective && peer->mask == thread.mask &&
          std::strcmp(peer->call, thread.call) == 0) {
        missing &= ~(1u << peer->lane);
      }
    }
    return missing;
  }

  void end_collective_if_complete(Thread& last) {
    if (!(last.mask >> last.lane & 1)) {
      fail("thread " + text(last.index) + " calls " + last.call + " with mask " +
           lanes_text(last.mask) + ", which lacks its own lane " + std::to_string(last.lane));
    }
    // As on a GPU, the lanes behind the end of the block do not count as missing.
    const std::ptrdiff_t lanes = warp_end(last) - warp_begin(last);
    last.mask &= 0xFFFFFFFF >> (32 - lanes);
    if (missing_lanes(last)) return;
    Thread* warp = &threads_[last.warp * 32];
    unsigned ballot = 0;
    for (unsigned i = 0; i < lanes; ++i) {
      if (last.mask >> i & 1) ballot |= (warp[i].value != 0 ? 1u : 0u) << i;
    }
    for (unsigned i = 0; i < lanes; ++i) {
      if (!(last.mask >> i & 1)) continue;
      const unsigned source = warp[i].source;
      // The value of a lane that takes no part is undefined: poison, an error only if it is used.
      warp[i].received = last.mask >> source & 1 ? warp[source].value : ~std::uint64_t{0};
      warp[i].ballot = ballot;
      make_ready(warp[i]);
    }
  }

  void end_barrier() {
    const char* call = threads_[0].call;
    if (!all_of([call](const Thread& t) {
          return t.state == State::kAtBarrier && std::strcmp(t.call, call) == 0;
        })) {
      fail_stuck();
    }
    std::uint64_t count = 0;
    for (const Thread& thread : threads_) count += thread.value != 0;
    for (Thread& thread : threads_) {
      thread.received = count;
      make_ready(thread);
    }
    choose_style();
  }

  [[noreturn]] void fail_stuck() const {
    std::vector<std::pair<std::string, unsigned>> groups;  // text, number of threads
    std::vector<const Thread*> first;
    for (const Thread& thread : threads_) {
      std::string what = thread.state == State::kExited ? "exited" : "waiting in ";
      if (thread.state != State::kExited) what += thread.call;
      if (thread.state == State::kAtCollective) {
        what += " of warp " + std::to_string(thread.warp) + " with mask " +
                lanes_text(thread.mask) + " for lanes " + lanes_text(missing_lanes(thread));
      }
      std::size_t g = 0;
      while (g < groups.size() && groups[g].first != what) ++g;
      if (g == groups.size()) {
        groups.emplace_back(what, 0);
        first.push_back(&thread);
      }
      ++groups[g].second;
    }
    std::string message = "stuck";
    for (std::size_t g = 0; g < groups.size(); ++g) {
      message += "; " + std::to_string(groups[g].second) + " thread(s), the first " +
                 text(first[g]->index) + ", " + groups[g].first;
    }
    fail(message);
  }

  template <class Predicate>
  bool all_of(Predicate predicate) const {
    return std::all_of(threads_.begin(), threads_.end(), predicate);
  }
  const Thread* warp_begin(const Thread& t) const { return threads_.data() + t.warp * 32; }
  const Thread* warp_end(const Thread& t) const {
    return threads_.data() + std::min<std::size_t>(threads_.size(), t.warp * 32 + 32);
  }

  unsigned next_random(unsigned limit) {  // splitmix64
    std::uint64_t z = random_ += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return static_cast<unsigned>(((z ^ z >> 31) >> 32) * limit >> 32);
  }
  unsigned random_bit(unsigned bits) {
    for (unsigned skip = next_random(__builtin_popcount(bits)); skip > 0; --skip) bits &= bits - 1;
    return __builtin_ctz(bits);
  }

  static inline Run* running_ = nullptr;
  const Kernel& kernel_;
  Observer observer_;
  std::unique_ptr<char[]> stacks_, shared_;
  std::vector<Thread> threads_;
  std::vector<unsigned> ready_;  // for each warp, the lanes that can run
  Thread* current_ = nullptr;
  unsigned warp_ = 0;
  bool keep_warp_ = false;
  std::uint64_t random_ = 0;
  std::exception_ptr thrown_;
  ucontext_t host_{};
  void* host_fake_stack_ = nullptr;
  const void* host_stack_ = nullptr;
  std::size_t host_stack_bytes_ = 0;
};

}  // namespace emulator
}  // namespace ssl_fast

#pragma GCC visibility pop
