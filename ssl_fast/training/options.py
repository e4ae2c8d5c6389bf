"""The options of a pretraining run: the same names in Python, on the command line and in YAML."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any

from .methods import METHODS
from .optim import OPTIMIZERS

PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}


@dataclass
class PretrainOptions:
    """How to pretrain.

    None stands for a value that follows from others: the method's recipe, the data or the machine.

    Args:
        data: a folder of images (searched through, in class folders or not), or "digits",
            scikit-learn's bundled scans.
        output: folder of the run; if it is taken, a number is appended. None for runs/METHOD.
        method: "maskfeat", "mae", "simmim", "simclr", "moco", "mocov3", "densecl", "byol",
            "simsiam", "barlowtwins" or "swav".
        backbone: a model, as timm names it; None for a ViT-S or a ResNet-50, as the method's paper.
        backbone_options: more options of `timm.create_model`, such as {"depth": 6}.
        method_options: options of the method, such as {"mask_ratio": 0.4}.
        image_size: side of the images that the model sees, in pixels.
        patch_size: side of a patch in pixels; None for the backbone's own.
        epochs: passes over the data; None with steps, else 100.
        steps: steps of the optimiser, in place of epochs.
        batch_size: images in one step, over all devices and accumulated parts together.
        accumulate: parts in which a batch is computed, one after the other, to save memory.
        optimizer: "adamw", "sgd" (momentum 0.9) or "lars"; None for the method's.
        base_lr: learning rate for a batch of 256 images, scaled with the batch.
        lr: learning rate as it is, in place of base_lr.
        min_lr: learning rate at the end of the cosine.
        warmup_steps: steps over which the learning rate rises; None for a tenth of all.
        weight_decay: of matrices; norms, biases, tokens and positions have none.
        layer_decay: factor of the learning rate from a layer to the one below; 1 for none.
        clip_grad: largest norm of the gradient; 0 for no limit.
        precision: "fp32" or "bf16" (autocast).
        compile: whether the model goes through `torch.compile`.
        crop_scale: least and largest area of a random crop, as shares of the image; of the whole
            views where a method has small ones too.
        flip: whether images are mirrored at random; None for what suits the data.
        jitter: strength of the random changes of colours, times the method's; 0 for none.
        local_views: small views of each image, for methods that have them ("swav").
        seed: of everything random; the same seed, the same run.
        workers: processes that load images, for each device; None for what the machine has.
        devices: processes or GPUs, a number or "auto".
        nodes: machines.
        accelerator: "auto", "cpu", "gpu" or another name of Lightning's.
        strategy: how devices share the work, by Lightning's names: "auto", "ddp", "fsdp", ...
        holdout: share of the labelled images kept from training, to measure features on.
        evaluate_epochs: epochs between two evaluations (probes and panel); None for ten in all,
            one an epoch at most.
        checkpoint_steps: steps between two checkpoints.
        log_steps: steps between two writings of the log.
        resume: folder of a run to go on with, or a checkpoint in it. Options left at their
            defaults are then those of that run.

    Raises:
        ValueError: for values out of range or that exclude each other.
    """

    data: str | None = None
    output: str | None = None
    method: str = "maskfeat"
    backbone: str | None = None
    backbone_options: dict[str, Any] = field(default_factory=dict)
    method_options: dict[str, Any] = field(default_factory=dict)
    image_size: int = 224
    patch_size: int | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 256
    accumulate: int = 1
    optimizer: str | None = None
    base_lr: float | None = None
    lr: float | None = None
    min_lr: float = 1e-6
    warmup_steps: int | None = None
    weight_decay: float | None = None
    layer_decay: float = 1.0
    clip_grad: float | None = None
    precision: str = "fp32"
    compile: bool = False
    crop_scale: tuple[float, float] | None = None
    flip: bool | None = None
    jitter: float | None = None
    local_views: int | None = None
    seed: int = 0
    workers: int | None = None
    devices: int | str = "auto"
    nodes: int = 1
    accelerator: str = "auto"
    strategy: str = "auto"
    holdout: float = 0.1
    evaluate_epochs: int | None = None
    checkpoint_steps: int = 500
    log_steps: int = 10
    resume: str | None = None

    def __post_init__(self) -> None:
        for name in ("data", "output", "resume"):
            if getattr(self, name) is not None:
                setattr(self, name, os.fspath(getattr(self, name)))
        for name in ("backbone_options", "method_options"):
            if not isinstance(getattr(self, name), dict):
                raise TypeError(f"{name} is {getattr(self, name)!r}; expected a dict")
        _choice("method", self.method, tuple(METHODS))
        _choice("precision", self.precision, tuple(PRECISIONS))
        if self.optimizer is not None:
            _choice("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("image_size", "batch_size", "accumulate", "nodes", "checkpoint_steps"):
            _at_least(name, getattr(self, name), 1)
        for name in ("patch_size", "epochs", "steps", "evaluate_epochs"):
            _at_least(name, getattr(self, name), 1, optional=True)
        _at_least("log_steps", self.log_steps, 1)
        for name in (
            "base_lr",
            "lr",
            "warmup_steps",
            "weight_decay",
            "clip_grad",
            "workers",
            "jitter",
            "local_views",
        ):
            _at_least(name, getattr(self, name), 0, optional=True)
        _at_least("min_lr", self.min_lr, 0)
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"epochs ({self.epochs}) and steps ({self.steps}) exclude each other")
        if self.base_lr is not None and self.lr is not None:
            raise ValueError(f"base_lr ({self.base_lr}) and lr ({self.lr}) exclude each other")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; accepted are over 0, up to 1")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout}; accepted are 0 up to, not with, 1")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size is {self.batch_size}, which accumulate ({self.accumulate}) must divide"
            )
        self._check_crop()
        self._check_views()

    def _check_crop(self) -> None:
        if self.crop_scale is None:
            return
        low, high = self.crop_scale
        self.crop_scale = (low, high)  # YAML has lists
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"crop_scale is {self.crop_scale}; accepted are 0 < least <= most <= 1"
            )

    def _check_views(self) -> None:
        views = METHODS[self.method].views
        if self.jitter is not None and not views:
            raise ValueError(f"jitter is {self.jitter}, and {self.method} changes no colours")
        if self.local_views is not None and not any(view.local for view in views):
            raise ValueError(f"local_views is {self.local_views}, and {self.method} has none")

    def continued(self, saved: PretrainOptions) -> PretrainOptions:
        """These options for going on with a run: what is left at its default is as `saved`."""
        changed = {name: value for name, value in self.as_dict().items() if value != DEFAULTS[name]}
        for one, other in (("steps", "epochs"), ("lr", "base_lr")):  # of each, one is given
            if one in changed or other in changed:
                changed = {one: None, other: None, **changed}
        return PretrainOptions(**{**saved.as_dict(), **changed})

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as YAML and checkpoints hold them."""
        values = dataclasses.asdict(self)
        if self.crop_scale is not None:
            values["crop_scale"] = list(self.crop_scale)
        return values


def _choice(name: str, value: Any, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"{name} is {value!r}; accepted are {', '.join(map(repr, accepted))}")


def _at_least(name: str, value: Any, least: int, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); expected a number")
    if not least <= value < float("inf"):
        raise ValueError(f"{name} is {value}; expected {least} or more")


DEFAULTS = PretrainOptions().as_dict()
