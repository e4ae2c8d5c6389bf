"""The emulator that runs CUDA kernels on the CPU: right kernels give right results, planted faults
are found."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
TOY = Path(__file__).with_name("toy_kernels.cu")
SEEDS = range(12)
RIGHT = [
    "block_sum_int",
    "block_sum_double",
    "shuffles_int",
    "shuffles_64",
    "shuffles_double",
    "partial_warps",
    "votes",
    "atomics",
    "transpose",
    "coordinates",
    "vectors",
    "intrinsics",
    "write_anything",
    "after_failure",
]


def compile_emulated(sources: list[Path], output: Path, *flags: str) -> Path:
    if not (CSRC / "emulator" / "cuda_on_cpu.h").exists():
        pytest.skip(f"the C++ sources are not here ({CSRC}): an installed package, not a checkout")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *flags]
    command += ["-DSSL_FAST_EMULATED", f"-I{CSRC}", "-x", "c++", *map(str, sources)]
    result = subprocess.run([*command, "-o", str(output)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return output


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_emulated([TOY], tmp_path_factory.mktemp("emulator") / "toy")


@pytest.fixture(scope="session")
def sanitized_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("emulator") / "toy_sanitized"
    return compile_emulated([TOY], output, "-g1", "-fsanitize=address,undefined")


def run(program: Path, case: str, seed: int = 0) -> subprocess.CompletedProcess[str]:
    # UBSan reports and goes on, so that ASan has its say on the same access.
    environment = dict(os.environ, UBSAN_OPTIONS="halt_on_error=0", ASAN_OPTIONS="exitcode=99")
    command = [str(program), case, str(seed)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def values(program: Path, case: str, seed: int = 0) -> list[float]:
    result = run(program, case, seed)
    assert result.returncode == 0, result.stderr
    return [float(line) for line in result.stdout.split()]


def error(program: Path, case: str, seed: int = 0) -> str:
    result = run(program, case, seed)
    assert result.returncode == 3, f"no error was reported: {result.stdout} {result.stderr}"
    return result.stderr


# ---- Right kernels


def test_block_sum(toy: Path) -> None:
    def expected(threads: int) -> list[float]:  # block b takes chunks b, b + 3, b + 6, ...
        return [sum(i + 1 for i in range(1000) if i // threads % 3 == b) for b in range(3)]

    assert values(toy, "block_sum_int") == expected(256)
    assert values(toy, "block_sum_double") == expected(64)


@pytest.mark.parametrize(
    ("case", "scale"), [("shuffles_int", 1), ("shuffles_64", 10**12), ("shuffles_double", 1e12)]
)
def test_shuffles_of_every_width(toy: Path, case: str, scale: float) -> None:
    expected = []
    for kind in ("index", "up", "down", "xor"):
        for width in (1, 2, 4, 8, 16, 32):
            for lane in range(32):
                first, end = lane // width * width, lane // width * width + width
                source = {
                    "index": first + (lane * 5 + 3) % width,
                    "up": lane - 3 if lane - 3 >= first else lane,
                    "down": lane + 3 if lane + 3 < end else lane,
                    "xor": lane ^ 5 if lane ^ 5 < end else lane,
                }[kind]
                expected.append(scale * (source + 1))
    assert values(toy, case) == expected


def test_partial_warps(toy: Path) -> None:
    halves = [sum(range(16)), sum(range(16, 32)), sum(range(16))]
    lanes = [32, 32, 16]
    assert values(toy, "partial_warps") == [
        1000 * lanes[t // 16] + halves[t // 16] for t in range(48)
    ]


def test_votes(toy: Path) -> None:
    got = values(toy, "votes")
    for t in range(64):
        warp = t // 32
        ballot = sum(1 << lane for lane in range(32) if lane % 3 == warp)
        assert got[t * 8 : t * 8 + 8] == [ballot, warp == 1, warp == 0, 13, 1, 0, 1, 0], t


def test_atomics(toy: Path) -> None:
    integers = [128, 127, -127, 77, 1, 1]
    rest = [3 * 128, 2**32 - 1, 0, 128 * 2**32, 5 * 2**40, 64, 2.5, 32]
    assert values(toy, "atomics") == integers + rest


def test_static_and_dynamic_shared_memory(toy: Path) -> None:
    rows, columns = 13, 21
    expected = []
    for column in range(columns):
        for row in range(rows):
            tile = range(column // 8 * 8, min(column // 8 * 8 + 8, columns))
            row_sum = sum(row * columns + c + 1 for c in tile)
            expected.append(row * columns + column + 1 + 1000 * row_sum)
    assert values(toy, "transpose") == expected


def test_grids_and_blocks_of_three_dimensions(toy: Path) -> None:
    expected = [x + 100 * y + 10000 * z for z in range(8) for y in range(6) for x in range(6)]
    assert values(toy, "coordinates") == expected


def test_vector_types(toy: Path) -> None:
    assert values(toy, "vectors") == [0.5, 1, 1.5, 127.5, 3, 258, 16, 32]


def test_intrinsics(toy: Path) -> None:
    x = 1 + 2.0**-12
    arithmetic = [2.0**-11, x * x - 1, 2, 4, 0.25, 0.125]
    bits = [0x3F800000, 0xBF800000, 2, 2, 8, 4, 31, 32, 0xC0000000, 15]
    assert values(toy, "intrinsics") == [*arithmetic, *bits, 2 + 3 + 1 + 2, 4, 32]


def test_nan_and_every_byte_count_as_written(toy: Path) -> None:
    assert values(toy, "write_anything") == list(range(256))


def test_a_failed_launch_leaves_nothing_behind(toy: Path) -> None:
    assert values(toy, "after_failure") == [*values(toy, "block_sum_int"), 5]


@pytest.mark.parametrize("case", RIGHT)
def test_right_kernels_do_not_depend_on_the_seed(toy: Path, case: str) -> None:
    assert all(values(toy, case, seed) == values(toy, case) for seed in (1, 2, 3))


def test_order_of_threads(toy: Path) -> None:
    orders = [values(toy, "arrivals", seed) for seed in SEEDS]
    assert all(sorted(order) == sorted(4 * list(range(128))) for order in orders)
    assert len({tuple(order) for order in orders}) == len(SEEDS)
    assert values(toy, "arrivals", 5) == orders[5]

    warps = [[thread // 32 for thread in order] for order in orders]
    changes = [sum(a != b for a, b in itertools.pairwise(w)) for w in warps]
    assert max(changes) > 100, "no seed interleaves the warps"
    first = {w[0] for w, n in zip(warps, changes, strict=True) if n == 3}
    assert len(first) > 1, "no two seeds let different warps run as far ahead as they can"
    for order in orders:  # a lane passes __syncwarp only after its whole warp has arrived
        for warp in range(4):
            lanes = [thread for thread in order if thread // 32 == warp]
            assert all(len(set(lanes[i : i + 32])) == 32 for i in range(0, 128, 32))


# ---- Planted faults


@pytest.mark.parametrize(
    "case",
    [
        "no_syncthreads_after_write",
        "no_syncthreads_before_write",
        "no_syncthreads_between_warps",
        "no_syncwarp",
    ],
)
def test_missing_barrier_shows_between_seeds(toy: Path, case: str) -> None:
    assert len({tuple(values(toy, case, seed)) for seed in SEEDS}) > 1


@pytest.mark.parametrize(
    ("case", "fragments"),
    [
        ("exit_before_barrier", ["60 thread(s)", "in __syncthreads;", "first (60,0,0), exited"]),
        ("two_kinds_of_barrier", ["(0,0,0), waiting in __syncthreads_or", "(32,0,0), waiting in"]),
        ("exit_before_shuffle", ["__shfl_xor_sync of warp 1", "for lanes 0x00000020", "exited"]),
        ("two_kinds_of_collective", ["__any_sync of warp 0", "for lanes 0xaaaaaaaa"]),
        ("foreign_mask", ["__shfl_sync with mask 0x0000ffff", "lacks its own lane"]),
    ],
)
def test_incomplete_barriers_and_collectives(toy: Path, case: str, fragments: list[str]) -> None:
    for seed in (0, 1, 2):
        message = error(toy, case, seed)
        for fragment in [f"kernel {case}, block (0,0,0)", *fragments]:
            assert fragment in message


def test_value_of_a_lane_outside_the_mask_is_poison(toy: Path) -> None:
    assert values(toy, "undefined_lane")[:16] == [-1] * 16


@pytest.mark.parametrize("case", ["leaves_gaps_float", "leaves_gaps_byte"])
def test_unwritten_output(toy: Path, case: str) -> None:
    message = error(toy, case)
    assert "kernel leaves_gaps<T>: did not write element 50 of out.get()" in message
    assert "element 49 was written by block (1,0,0), thread (17,0,0)" in message
    assert "11 of 110" in message


@pytest.mark.parametrize("kind", ["float", "double", "int"])
def test_unwritten_shared_memory_is_poison_in_every_block(toy: Path, kind: str) -> None:
    got = values(toy, f"reads_unwritten_shared_{kind}")  # even seed: block 0 runs first
    assert got[:2] == [1, 1]
    assert all(v == -1 if kind == "int" else math.isnan(v) for v in got[2:])


@pytest.mark.parametrize("case", ["empty_grid", "large_block"])
def test_invalid_configuration(toy: Path, case: str) -> None:
    assert "kernel writes_global: invalid configuration" in error(toy, case)


def test_exception_in_a_kernel(toy: Path) -> None:
    assert error(toy, "throws") == "thrown by a kernel\n"


def test_stack_overflow(toy: Path) -> None:
    assert "thread (40,0,0) used more than" in error(toy, "overflows_stack")


def test_bare_shared_does_not_compile(tmp_path: Path) -> None:
    source = tmp_path / "bare.cu"
    source.write_text('#include "common/cuda_launch.h"\nvoid f() { __shared__ float tile[3]; }\n')
    with pytest.raises(AssertionError, match="SSL_FAST_SHARED"):
        compile_emulated([source], tmp_path / "bare.o", "-c")


# ---- Sanitizers


@pytest.mark.parametrize("case", RIGHT)
def test_right_kernels_are_clean(toy: Path, sanitized_toy: Path, case: str) -> None:
    result = run(sanitized_toy, case)
    assert result.returncode == 0, result.stderr
    assert "runtime error" not in result.stderr
    assert result.stdout == run(toy, case).stdout


@pytest.mark.parametrize(
    "case", ["exit_before_barrier", "exit_before_shuffle", "leaves_gaps_float", "throws"]
)
def test_failed_launches_are_clean(sanitized_toy: Path, case: str) -> None:
    assert "AddressSanitizer:" not in error(sanitized_toy, case)  # nor a leak: status 3, not 99


@pytest.mark.parametrize(
    ("case", "report"),
    [
        ("global_overrun", "heap-buffer-overflow"),
        ("dynamic_shared_overrun", "heap-buffer-overflow"),
        ("static_shared_overrun", "global-buffer-overflow"),
        ("local_overrun", "stack-buffer-overflow"),
        ("signed_overflow", "signed integer overflow"),
        ("misaligned_vector", "misaligned address"),
    ],
)
def test_sanitizers_find(sanitized_toy: Path, case: str, report: str) -> None:
    message = run(sanitized_toy, case).stderr
    assert report in message
    assert "planted_faults.h" in message


# ---- Libraries

LIBRARY_HEADER = """
#include "common/cuda_launch.h"
template <class T>
__global__ void in_both(T* out) {
  SSL_FAST_SHARED(T[32], tile);
  out[2 * threadIdx.x] = tile[0];
  __syncthreads();
  tile[threadIdx.x] = T(threadIdx.x);
  __syncthreads();
  out[2 * threadIdx.x + 1] = tile[31 - threadIdx.x];
}
"""
LIBRARY_SOURCE = """
#include "both.h"
extern "C" void run_NAME(double* out) {
  SSL_FAST_EXPECT_WRITTEN(out, 64);
  SSL_FAST_LAUNCH(in_both<double>, 1, 32, 0, nullptr, out);
}
"""
LIBRARY_USE = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.ssl_fast_emulator_seed(ctypes.c_ulonglong(3))
for name in ("first", "second", "first"):
    out = (ctypes.c_double * 64)()
    getattr(library, "run_" + name)(out)
    assert all(value != value for value in out[::2]), list(out)
    assert out[1::2] == list(range(31, -1, -1)), list(out)
"""


def test_two_cuda_files_in_one_library(tmp_path: Path) -> None:
    (tmp_path / "both.h").write_text(LIBRARY_HEADER)
    sources = [tmp_path / "first.cu", tmp_path / "second.cu"]
    for source in sources:
        source.write_text(LIBRARY_SOURCE.replace("NAME", source.stem))
    library = compile_emulated(sources, tmp_path / "library.so", "-shared", "-fPIC")
    command = [sys.executable, "-c", LIBRARY_USE, str(library)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
