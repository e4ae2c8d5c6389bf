// Instruction sets. Every `_cpu.cpp` is compiled once for each, in a namespace named after it
// (SSL_FAST_ISA), and the best one that this processor has is chosen when it is called.
//
// Such a file must not instantiate templates or inline functions that other files share (the
// linker keeps one copy, perhaps the AVX-512 one): whatever it uses is in its own namespace or
// forced inline.
#pragma once

namespace ssl_fast {

enum class Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The set in use: the best one supported, unless `force_isa` or SSL_FAST_ISA chose a lower one.
Isa active_isa();

// True when this processor, operating system and build have the set.
bool isa_supported(Isa isa);

}  // namespace ssl_fast

#if defined(__x86_64__)
#define SSL_FAST_DECLARE_PER_ISA(declaration) \
  namespace baseline {                        \
  declaration;                                \
  }                                           \
  namespace avx2 {                            \
  declaration;                                \
  }                                           \
  namespace avx512 {                          \
  declaration;                                \
  }
#define SSL_FAST_CALL_BEST_ISA(function, ...) \
  switch (::ssl_fast::active_isa()) {         \
    case ::ssl_fast::Isa::kAvx512:            \
      return avx512::function(__VA_ARGS__);   \
    case ::ssl_fast::Isa::kAvx2:              \
      return avx2::function(__VA_ARGS__);     \
    default:                                  \
      return baseline::function(__VA_ARGS__); \
  }
#else
#define SSL_FAST_DECLARE_PER_ISA(declaration) \
  namespace baseline {                        \
  declaration;                                \
  }
#define SSL_FAST_CALL_BEST_ISA(function, ...) return baseline::function(__VA_ARGS__)
#endif
