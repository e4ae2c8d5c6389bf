"""Triton kernels through the real compiler, for a GPU that is not here."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import importlib
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

kernels = importlib.import_module(f"ssl_fast.ops.{sys.argv[1]}")
tl = kernels.tl
for name, pointers, constants in eval(sys.argv[2], {"tl": tl}):
    kernel = getattr(kernels, name)
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    source = ASTSource(
        fn=kernel, signature=signature,
        constexprs={(names.index(n),): v for n, v in constants.items()},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert len(compiled.asm["cubin"]) > 1000, name
    print(name)
"""


def compile_for_hopper(module: str, cases: str, cache: str) -> list[str]:
    """Compiles kernels to machine code of sm_90; the names of those that did.

    In a process of its own: there Triton must not be in its interpreter's mode.

    Args:
        module: of `ssl_fast.ops`, such as "tokens.triton_kernels", which has the kernels.
        cases: Python text of a list of (kernel, types of its pointers, values of its constants);
            an argument in neither is an i32, and `tl` is Triton's language.
        cache: a folder for what Triton writes.

    Raises:
        AssertionError: with what the compiler said.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": cache}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, module, cases],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.split()
