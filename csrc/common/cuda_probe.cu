// Whether the CUDA runtime linked into this library can work with the driver that is there.
// Creates no CUDA context.
#include <cuda_runtime.h>

#include <cstdio>

// Returns 0, or -1 with the reason in `reason`.
extern "C" __attribute__((visibility("default"))) int ssl_fast_cuda_probe(char* reason, int size) {
  int driver = 0, runtime = 0;
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess ||
      cudaDriverGetVersion(&driver) != cudaSuccess) {
    std::snprintf(reason, size, "the CUDA runtime does not answer");
    return -1;
  }
  if (driver == 0) {
    std::snprintf(reason, size, "there is no NVIDIA driver");
    return -1;
  }
  if (driver / 1000 < runtime / 1000) {
    std::snprintf(reason, size,
                  "the kernels were built with CUDA %d.%d, the driver supports CUDA %d.%d at most",
                  runtime / 1000, runtime % 1000 / 10, driver / 1000, driver % 1000 / 10);
    return -1;
  }
  return 0;
}
