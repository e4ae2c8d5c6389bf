"""A run that takes a second, for the tests of whole runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml

import ssl_fast

ROOT = Path(ssl_fast.__file__).parent.parent
TINY = dict(
    data="digits",
    backbone="vit_tiny_patch16_224",
    # Dropped paths: a resumed run must draw what the other one drew.
    backbone_options=dict(depth=2, embed_dim=24, num_heads=2, drop_path_rate=0.2),
    image_size=16,
    patch_size=8,
    steps=10,
    batch_size=16,
    lr=0.003,
    workers=0,
    holdout=0.9,
    checkpoint_steps=3,
    accelerator="cpu",
)

# Options of the methods, fit for images of 2 x 2 patches.
OTHERS = dict(
    maskfeat={},
    mae=dict(decoder_dim=16, decoder_depth=1, decoder_heads=2),
    simmim=dict(mask_patch_size=8),
    moco=dict(hidden_dim=16, out_dim=8, queue_len=24),
)


def pretrain(folder, **options):
    """A tiny run in this process."""
    return ssl_fast.pretrain(**{**TINY, "output": folder, **options})


def command(folder, *launcher, **options):
    """A tiny run as a command: the arguments for subprocess."""
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({**TINY, "output": str(folder), **options}))
    start = launcher or (sys.executable,)
    return [*start, "-m", "ssl_fast", "pretrain", "--config", str(config)]


def environment():
    """For a subprocess: this checkout, one thread."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def finish(arguments, timeout=180):
    """Runs a command to its end."""
    return subprocess.run(
        arguments,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def losses(folder):
    """Loss of each step, as metrics.jsonl has it."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if "loss" in record}


def weights(folder, name="last"):
    """The weights in a checkpoint."""
    path = folder / "checkpoints" / f"{name}.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
