"""The trained backbone as files that timm loads, and the lines of Python that do it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._compat import import_timm, import_torchvision
from .._version import __version__
from .files import write_atomically

WEIGHTS, CONFIG = "backbone.safetensors", "backbone.json"
MODES = {1: "L", 3: "RGB"}  # Pillow's name of an image with so many channels
OURS = ("checkpoint_path", "num_classes", "pretrained")  # arguments that the snippet passes

# Where torchvision was built for another torch, timm is imported only with this before it.
SHIM = """\
from ssl_fast._compat import import_timm

import_timm()
"""
SNIPPET = """\
import numpy as np
import timm
import torch
from PIL import Image

backbone = timm.create_model(
    {architecture!r},
    checkpoint_path={weights!r},
    num_classes=0,{options}
).eval()

image = Image.open("image.jpg").convert({mode!r}).resize({size!r}, Image.Resampling.BICUBIC)
pixels = torch.from_numpy(np.array(image)).reshape(1, {height}, {width}, {channels})
mean, std = torch.tensor({mean!r}), torch.tensor({std!r})
pixels = ((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()
with torch.inference_mode():
    features = backbone(pixels)  # [1, {num_features}]
"""


def export_backbone(
    folder: str | os.PathLike[str], model: nn.Module, info: Mapping[str, Any]
) -> Path:
    """Writes a timm model's weights and what is needed to build it again.

    `backbone.safetensors` holds its state dict, floating point as float32; `backbone.json` holds
    info, the versions of ssl_fast, timm and torch, and the number of features. Each is written in
    one step, after a model built from info has been seen to take the weights.

    Args:
        folder: where to write; made if it is not there.
        model: a timm model without a classifier (num_classes=0).
        info: "architecture" and "options" as `timm.create_model` takes them; "mean" and "std", one
            number a channel, on the scale of 8-bit pixels (0 to 255); "image_size", an int or
            (height, width), not needed if options has "img_size"; whatever else JSON holds, such
            as facts of the training.

    Returns:
        The path of `backbone.safetensors`.

    Raises:
        TypeError: if info holds what JSON cannot.
        ValueError: if info lacks an entry, or does not describe this model.
        OSError: if a file cannot be written.
    """
    from safetensors.torch import save

    weights = {name: _portable(tensor) for name, tensor in model.state_dict().items()}
    config = _complete(info)
    config["num_features"] = _num_features(config, weights)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomically(folder / WEIGHTS) as file:
        file.write(save(weights, metadata={"format": "pt"}))
    with write_atomically(folder / CONFIG, "w") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    return folder / WEIGHTS


def load_backbone(folder: str | os.PathLike[str]) -> nn.Module:
    """The exported timm model, on the CPU, in evaluation mode.

    Args:
        folder: what was given to `export_backbone`.

    Raises:
        OSError: if a file is missing.
        RuntimeError: if the weights are not those of the model that `backbone.json` names.
    """
    config = _read(folder)
    weights = Path(folder) / WEIGHTS
    if not weights.is_file():  # timm's error has no text
        raise FileNotFoundError(f"{weights} is not there; expected the weights of {CONFIG}")
    return _create(config, checkpoint_path=str(weights)).eval()


def snippet(folder: str | os.PathLike[str]) -> str:
    """Python that loads the exported backbone with timm alone and embeds an image file.

    Args:
        folder: what was given to `export_backbone`.

    Returns:
        The text of a script that reads an `image.jpg`. Where torchvision was built for another
        torch than is installed, it begins with the lines that let timm be imported all the same.
    """
    config = _read(folder)
    shim = "" if import_torchvision().extension._has_ops() else SHIM
    height, width = config["image_size"]
    channels = len(config["mean"])
    return shim + SNIPPET.format(
        architecture=config["architecture"],
        weights=str(Path(folder).resolve() / WEIGHTS),
        options="".join(f"\n    {name}={value!r}," for name, value in config["options"].items()),
        mode=MODES[channels],
        size=(width, height),  # Pillow's order
        height=height,
        width=width,
        channels=channels,
        mean=config["mean"],
        std=config["std"],
        num_features=config["num_features"],
    )


def _portable(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU, floating point as float32, that shares memory with nothing."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def _complete(info: Mapping[str, Any]) -> dict[str, Any]:
    """info as it will be read back, checked, with versions and [height, width]."""
    try:
        config = json.loads(json.dumps(dict(info)))
    except TypeError as error:
        raise TypeError(f"info cannot be written as JSON: {error}") from error
    options = config.setdefault("options", {})
    size = config.setdefault("image_size", options.get("img_size"))
    missing = [key for key in ("architecture", "image_size", "mean", "std") if not config.get(key)]
    if missing:
        raise ValueError(f"info lacks {', '.join(missing)}")
    taken = [name for name in OURS if name in options]
    if taken:
        raise ValueError(f"info['options'] has {', '.join(taken)}, which the export sets itself")
    config["image_size"] = [size, size] if isinstance(size, int) else size
    mean, std = config["mean"], config["std"]
    if len(mean) != len(std) or len(mean) not in MODES:
        raise ValueError(
            f"info has {len(mean)} mean and {len(std)} std; expected one each a channel, 1 or 3"
        )
    if min(std) < 1:
        raise ValueError(f"info['std'] is {std}; expected the scale of 8-bit pixels, 0 to 255")
    config["versions"] = {
        "ssl_fast": __version__,
        "timm": import_timm().__version__,
        "torch": str(torch.__version__),
    }
    return config


def _num_features(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> int:
    """Features of an image, from a model built as a reader of the files will build it."""
    with torch.random.fork_rng(devices=[]):  # the weights it starts from draw random numbers
        rebuilt = _create(config).eval()
    image = torch.zeros(1, len(config["mean"]), *config["image_size"])
    try:
        rebuilt.load_state_dict(weights, strict=True)
        with torch.inference_mode():
            return rebuilt(image).shape[-1]
    except (AssertionError, RuntimeError) as error:  # timm asserts the size of images
        raise ValueError(f"info does not describe this model: {error}") from error


def _create(config: Mapping[str, Any], **arguments: Any) -> nn.Module:
    options = config["options"]
    return import_timm().create_model(config["architecture"], num_classes=0, **arguments, **options)


def _read(folder: str | os.PathLike[str]) -> dict[str, Any]:
    return json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
