// Large outputs in pages of 2 MB.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ssl_fast {

// Asks for huge pages for memory that is about to be written whole. glibc gives blocks over 32 MB
// back to the system at every free, so each new one is fresh pages: a fault for every 4 KB costs
// more than the writing. A wish: where the system does not grant it, nothing happens.
inline void prefer_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHuge = uintptr_t{1} << 21;
  constexpr size_t kLeast = size_t{32} << 20;  // below it memory is mostly used again
  if (bytes < kLeast) return;
  const uintptr_t start = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHuge * kHuge;
  madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace ssl_fast
