#include "common/isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace ssl_fast {

namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Isa best_supported() {
  if (isa_supported(Isa::kAvx512)) return Isa::kAvx512;
  return isa_supported(Isa::kAvx2) ? Isa::kAvx2 : Isa::kBaseline;
}

// -1 for a name that is unknown or that this machine does not have.
int usable(const char* name) {
  for (int i = 0; i < 3; ++i)
    if (std::strcmp(name, kNames[i]) == 0) return isa_supported(static_cast<Isa>(i)) ? i : -1;
  return -1;
}

int initial() {
  const char* wanted = std::getenv("SSL_FAST_ISA");
  const int chosen = wanted ? usable(wanted) : -1;
  return chosen >= 0 ? chosen : static_cast<int>(best_supported());
}

std::atomic<int>& active() {
  static std::atomic<int> value{initial()};
  return value;
}

}  // namespace

bool isa_supported(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (isa) {
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    default:
      return true;
  }
#else
  return isa == Isa::kBaseline;
#endif
}

Isa active_isa() { return static_cast<Isa>(active().load(std::memory_order_relaxed)); }

}  // namespace ssl_fast

// For Python, through ctypes: the tests run every set on one machine, the doctor shows them.
extern "C" __attribute__((visibility("default"))) const char* ssl_fast_active_isa() {
  return ssl_fast::kNames[static_cast<int>(ssl_fast::active_isa())];
}

// Returns 0, or -1 (and changes nothing) for a set that is unknown or not to be had here.
extern "C" __attribute__((visibility("default"))) int ssl_fast_force_isa(const char* name) {
  const int chosen = ssl_fast::usable(name);
  if (chosen < 0) return -1;
  ssl_fast::active().store(chosen, std::memory_order_relaxed);
  return 0;
}
