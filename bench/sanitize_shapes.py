"""Calls every op's CUDA kernels on small inputs, for compute-sanitizer; see gpu_check.sh.

Inputs are made on the CPU and copied, so that hardly any kernel runs there but ours.
"""

import os
import sys
from pathlib import Path

# Every tensor becomes an allocation of its own, whose ends memcheck knows.
os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import ssl_fast
from ssl_fast._dispatch import OPS, backends, native
from ssl_fast._testing.samples import SAMPLES


def main() -> int:
    """Calls each op that has CUDA kernels with each of its samples; 1 if none can be called."""
    if reason := native.cuda_reason():
        print(f"nothing called: {reason}")
        return 1
    with ssl_fast.backend("compiled"):
        for name, samples in SAMPLES.items():
            if reason := backends.reason(OPS[name], "compiled", "cuda"):
                print(f"{name}: not called: {reason}")
                continue
            calls = 0
            for dtype in samples.dtypes:
                for sample in samples.make(dtype):
                    OPS[name].overload(*sample.to("cuda").args)
                    torch.cuda.synchronize()  # an error shows at the call that made it
                    calls += 1
            print(f"{name}: {calls} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
