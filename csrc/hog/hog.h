// HOG over raw pointers: no torch in sight. What the arguments mean stands in hog_math.h.
#pragma once

#include "common/isa.h"
#include "hog/hog_math.h"
#include "hog/hog_plan.h"

namespace ssl_fast::hog {

SSL_FAST_DECLARE_PER_ISA(void run(const Params& params, int64_t begin, int64_t end))

// Computes blocks begin .. end - 1 of make_plan(params).units on the calling thread.
inline void hog_cpu(const Params& params, int64_t begin, int64_t end) {
  SSL_FAST_CALL_BEST_ISA(run, params, begin, end);
}

// Enqueues the whole on a CUDA stream.
void hog_cuda(const Params& params, void* stream);

}  // namespace ssl_fast::hog
