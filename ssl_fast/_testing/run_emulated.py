"""Takes every op's samples through the emulated CUDA kernels, with several orders of threads.

A program of its own, so that it can run under AddressSanitizer: `python -m
ssl_fast._testing.run_emulated SEEDS`.
"""

from __future__ import annotations

import ctypes
import sys

import torch

import ssl_fast
from ssl_fast._dispatch import OPS, backends, native

from . import checks
from .samples import SAMPLES


def main(seeds: int) -> None:
    """Checks samples of all ops; prints their number, or raises."""
    library = native.emulated()
    if library.handle is None:
        raise RuntimeError(library.reason)
    count = 0
    for name, samples in SAMPLES.items():
        if backends.reason(OPS[name], "emulated", "cpu"):
            continue  # no CUDA kernel
        for dtype in (samples.dtypes[0], torch.float32):
            for sample in samples.make(dtype):
                for seed in range(seeds):
                    library.handle.ssl_fast_emulator_seed(ctypes.c_ulonglong(seed))
                    with ssl_fast.backend("emulated"):
                        checks.check_against_truth(OPS[name], sample)
                    count += 1
    print(f"{count} launches checked")


if __name__ == "__main__":
    main(int(sys.argv[1]))
