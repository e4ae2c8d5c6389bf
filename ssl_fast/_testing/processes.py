"""Runs a function in several processes that talk through gloo."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT_SECONDS = 60.0


def run_in_processes(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = TIMEOUT_SECONDS
) -> list[Any]:
    """Calls `function(*args)` in each of `world_size` processes of one group.

    Args:
        function: of a module, so that another process can import it.
        args: pickled.
        timeout: of the group's collectives, in seconds.

    Returns:
        What each rank's call returned: of anything that `torch.load` takes without code.

    Raises:
        torch.multiprocessing.ProcessRaisedException: with the traceback of a rank that raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_run, (world_size, folder, timeout, function, args), nprocs=world_size)
        return [torch.load(_result(folder, rank), weights_only=True) for rank in range(world_size)]


def _run(
    rank: int,
    world_size: int,
    folder: str,
    timeout: float,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=timeout),
    )
    try:
        torch.save(function(*args), _result(folder, rank))
    finally:
        dist.destroy_process_group()


def _result(folder: str, rank: int) -> Path:
    return Path(folder) / f"result{rank}"
