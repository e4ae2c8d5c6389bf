"""Models, optimisers and batches of the algorithms in `algorithms.py`, in one of their sizes."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmpretrain
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.models.utils.clip_generator_helper import CLIP
from mmpretrain.registry import MODELS, TRANSFORMS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from tests.integrations.mmpretrain.algorithms import ALGORITHMS, Size

CONFIGS = Path(mmpretrain.__file__).parent / ".mim/configs"
MASKED = 0.383  # share of patches: 75 of 196, as CAE wants
MAX_ITERS = 100  # momentum schedules ask for it


def config_of(name: str, size: Size) -> Config:
    """mmpretrain's config of an algorithm, with what `size` changes."""
    config = Config.fromfile(CONFIGS / ALGORITHMS[name].config)
    override(config.model, size)
    config.model.setdefault("data_preprocessor", config.get("data_preprocessor"))
    if "num_crops" in config.model.head.loss:
        config.model.head.loss.setdefault("num_prototypes", 3000)
    # One precision for all, so that losses can be compared; scaling of fp16 needs a GPU anyway.
    config.optim_wrapper.type = "OptimWrapper"
    config.optim_wrapper.pop("loss_scale", None)
    return config


def override(model: Any, size: Size) -> None:
    """Changes a model's config to that of a size."""
    for path, value in size.model.items():
        *parents, last = path.split(".")
        part = functools.reduce(lambda inner, key: inner[key], parents, model)
        part[last] = clip_teacher(value) if value in ("toy", "base") else value


def build(name: str, size: Size) -> nn.Module:
    """The model, initialised, in training mode; the same after the same `torch.manual_seed`."""
    MMLogger.get_current_instance().setLevel("ERROR")  # else it lists every weight
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(config_of(name, size).model)
        model.init_weights()
    MessageHub.get_current_instance().update_info("max_iters", MAX_ITERS)
    return revert_sync_batchnorm(model).train()


def optimizer_of(name: str, size: Size, model: nn.Module) -> Any:
    """mmengine's wrapper of the optimiser that the config asks for."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return build_optim_wrapper(model, config_of(name, size).optim_wrapper)


def batch_of(name: str, size: Size, seed: int = 0) -> dict[str, Any]:
    """A batch as mmpretrain's data loaders give it: uint8 images, and masks where it has them."""
    generator = torch.Generator().manual_seed(seed)

    def images(side: int) -> Tensor:
        shape = (size.batch, 3, side, side)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    kind, patches = ALGORITHMS[name].inputs, size.grid**2
    samples = [DataSample() for _ in range(size.batch)]
    if kind in ("masked", "pictures"):
        for sample in samples:
            order = torch.rand(patches, generator=generator).argsort()
            sample.set_mask((order < int(MASKED * patches)).long().view(size.grid, size.grid))
    inputs: Any = {
        "image": lambda: images(size.image),
        "masked": lambda: images(size.image),
        "pictures": lambda: [images(size.image), images(_second_side(name, size))],
        "views": lambda: [images(size.image) for _ in range(2)],
        "crops": lambda: (
            [images(size.image) for _ in range(2)] + [images(size.image // 2) for _ in range(6)]
        ),
    }[kind]()
    return {"inputs": inputs, "data_samples": samples}


def mask_step_of(name: str, size: Size) -> Any:
    """The transform of the config's pipeline that makes the masks; None if there is none."""
    for step in config_of(name, size).train_dataloader.dataset.pipeline:
        if step["type"] == "BEiTMaskGenerator":
            few = {} if size.grid == 14 else {"num_masking_patches": 6, "min_num_patches": 2}
            return TRANSFORMS.build({**step, "input_size": size.grid, **few})
        if step["type"] == "SimMIMMaskGenerator":
            return TRANSFORMS.build({**step, "input_size": size.image})
    return None


def masks_of(name: str, size: Size) -> Callable[[], None]:
    """A function that makes the masks of a batch as the config's data loader does."""
    transform = mask_step_of(name, size)

    def masks() -> None:
        if transform is not None:
            for _ in range(size.batch):
                transform({})

    return masks


def _second_side(name: str, size: Size) -> int:
    # DALL-E's tokenizer makes a token of 8 x 8 pixels, others of as many as the model.
    return 8 * size.grid if name in ("BEiT", "CAE") else size.image


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def clip_teacher(kind: str) -> dict[str, Any]:
    """The config of a CLIP with random weights: "toy" for 64 px, "base" as ViT-B/16."""
    path = Path(_folder().name) / f"{kind}.pth"
    if not path.is_file():
        embed, side, layers, width = (16, 64, 1, 64) if kind == "toy" else (512, 224, 12, 768)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            clip = CLIP(embed, side, layers, width, 16, 4, 8, 64, 1, 1, False, 1)  # small texts
        torch.save(clip.state_dict(), path)
    return dict(type="CLIPGenerator", tokenizer_path=str(path))
