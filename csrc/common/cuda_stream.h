// torch's current CUDA stream, without linking to CUDA.
#pragma once

#include <cstdint>

namespace ssl_fast {

// The current stream of a device as a cudaStream_t, or throws std::runtime_error.
void* current_cuda_stream(int32_t device_index);

}  // namespace ssl_fast
