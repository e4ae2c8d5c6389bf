"""The base class of all self-supervised models."""

from __future__ import annotations

import copy
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import ops
from ..distributed import default_group
from .initializers import InitCfg, initialize, split_init_cfg
from .losses import parse_losses
from .registry import MODELS

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("ssl_fast")

Component = Mapping[str, Any] | nn.Module
SIMILARITIES = ("nt_xent", "info_nce", "info_nce_queue")


class BaseSelfSupervisor(nn.Module, ABC):
    """A backbone and what its self-supervised training needs; subclasses define `loss`.

    Constructor, methods and checkpoints are those of mmpretrain's class of this name, and neither
    mmpretrain nor mmengine is needed. The state dict has backbone, neck, head and target_generator
    in this order.

    Three steps are methods that call `ssl_fast.ops` and that a subclass may override:
    `sample_mask`, `build_target` and `similarity_loss`. Its `loss` calls those that it needs.

    `data_samples` is None, or a list of objects, one for each image, that may have a `mask` (as
    mmpretrain's DataSample), or one dict for the batch with any of `mask` [N, h, w], `sample_ids`
    [N] int64 and `seed` (an int, or an int64 tensor of one element). See `masks_of` and
    `randomness_of`.

    Differences from upstream: the target generator is frozen and stays in eval mode, whatever
    `train()` says (upstream does neither, so that running statistics of it drift), unless the class
    sets `freeze_target_generator = False`; the caller's dicts stay as they are; see also
    `losses.parse_losses` and `init_weights`.

    Args:
        backbone, neck, head, target_generator: a config dict for `MODELS.build`, or a module; all
            but the backbone may be None.
        pretrained: path or URL of a checkpoint, loaded by `init_weights`; init_cfg is not used
            then.
        data_preprocessor: a config dict (its type is SelfSupDataPreprocessor if it names none), a
            module, or None for the default.
        init_cfg: how `init_weights` initialises, a dict or a list of dicts; see
            `ssl_fast.models.initializers.initialize`.

    Raises:
        TypeError: for a component that is neither a dict nor a module.
        ValueError: for a type that is not registered, or arguments that it does not take.
    """

    freeze_target_generator = True
    data_preprocessor: Any
    backbone: Any
    neck: Any
    head: Any
    target_generator: Any

    def __init__(
        self,
        backbone: Component,
        neck: Component | None = None,
        head: Component | None = None,
        target_generator: Component | None = None,
        pretrained: str | PathLike[str] | None = None,
        data_preprocessor: Component | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__()
        if pretrained is not None:
            init_cfg = {"type": "Pretrained", "checkpoint": pretrained}
        split_init_cfg(init_cfg)  # says at once what is wrong
        self.init_cfg = copy.deepcopy(init_cfg)
        self.is_init = False
        if data_preprocessor is None or isinstance(data_preprocessor, Mapping):
            data_preprocessor = {"type": "SelfSupDataPreprocessor", **(data_preprocessor or {})}
        self.data_preprocessor = self._built("data_preprocessor", data_preprocessor)
        self.backbone = self._built("backbone", backbone)
        self.neck = None if neck is None else self._built("neck", neck)
        self.head = None if head is None else self._built("head", head)
        self.target_generator = (
            None if target_generator is None else self._built("target_generator", target_generator)
        )
        self._freeze()

    def _built(self, name: str, component: Any) -> nn.Module:
        if not isinstance(component, (Mapping, nn.Module)):
            got = type(component).__name__
            raise TypeError(f"{name} is a {got}; expected a dict or an nn.Module")
        return MODELS.build(component, type(self))

    @property
    def with_neck(self) -> bool:
        """Whether the model has a neck."""
        return getattr(self, "neck", None) is not None

    @property
    def with_head(self) -> bool:
        """Whether the model has a head."""
        return getattr(self, "head", None) is not None

    @property
    def with_target_generator(self) -> bool:
        """Whether the model has a target generator."""
        return getattr(self, "target_generator", None) is not None

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; a frozen target generator stays in eval mode."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        # Also when a subclass has replaced the target generator since.
        if self.freeze_target_generator and self.with_target_generator:
            self.target_generator.eval().requires_grad_(False)

    def init_weights(self) -> None:
        """Initialises the model, once; a second call only warns.

        First what init_cfg fills or draws, then the children that have an `init_weights` of their
        own and were not initialised yet, and at last the weights that init_cfg loads. timm's models
        are left alone, unlike upstream: their constructors have initialised them, and their
        `init_weights` would throw pretrained weights away.

        Raises:
            FileNotFoundError, OSError, ValueError: if a checkpoint cannot be loaded.
        """
        if self.is_init:
            name = type(self).__name__
            logger.warning("init_weights of %s has been called more than once", name)
            return
        fill, load = split_init_cfg(self.init_cfg)
        for cfg in fill:
            initialize(self, cfg)
        for child in self.children():
            from_timm = type(child).__module__.startswith("timm.")
            if from_timm or getattr(child, "is_init", False):
                continue
            if init_child := getattr(child, "init_weights", None):
                init_child()
        for cfg in load:
            initialize(self, cfg)
        self.is_init = True

    def forward(
        self, inputs: Tensor | list[Tensor], data_samples: Any = None, mode: str = "tensor"
    ) -> Any:
        """Features or losses.

        Args:
            inputs: [N, C, H, W], or a list of views.
            data_samples: what else is known of the batch; see the class.
            mode: "tensor" for `extract_feat(inputs)`, "loss" for `loss(inputs, data_samples)`.

        Raises:
            RuntimeError: for another mode.
        """
        if mode == "tensor":
            return self.extract_feat(inputs)
        if mode == "loss":
            return self.loss(inputs, data_samples)
        raise RuntimeError(f'Invalid mode "{mode}".')

    def extract_feat(self, inputs: Any) -> Any:
        """Features of images, from the backbone; see `normalized` for uint8 images."""
        return self.backbone(self.normalized(inputs))

    @abstractmethod
    def loss(self, inputs: Any, data_samples: Any) -> dict[str, Tensor]:
        """The losses of a batch by name; the total is the sum of those named "...loss...".

        Args:
            inputs: [N, C, H, W], or a list of views.
            data_samples: what else is known of the batch; see the class.
        """

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Depth of a parameter and the number of depths, from the backbone.

        Args:
            param_name: the parameter's name in this model, such as "backbone.cls_token".

        Raises:
            NotImplementedError: if the backbone does not know.
        """
        if not hasattr(self.backbone, "get_layer_depth"):
            raise NotImplementedError(f"{type(self.backbone).__name__} has no get_layer_depth")
        return self.backbone.get_layer_depth(param_name, "backbone.")

    def normalized(self, inputs: Any) -> Any:
        """Images as the backbone takes them: uint8 ones with mean and std, floats as they are.

        Args:
            inputs: [N, C, H, W], or a list of views, from the preprocessor.

        Raises:
            TypeError: for uint8 images if the preprocessor has no `normalize`.
        """
        if isinstance(inputs, (list, tuple)):
            return [self._normalized(view, index) for index, view in enumerate(inputs)]
        return self._normalized(inputs, 0)

    def _normalized(self, images: Tensor, view: int) -> Tensor:
        if images.dtype != torch.uint8:
            return images
        normalize = getattr(self.data_preprocessor, "normalize", None)
        if normalize is None:
            kind = type(self.data_preprocessor).__name__
            raise TypeError(f"inputs are uint8 and data_preprocessor ({kind}) has no normalize()")
        return normalize(images, view)

    def sample_mask(
        self,
        num_samples: int,
        grid: tuple[int, int],
        num_masked: int | None = None,
        *,
        seed: int | Tensor | None = None,
        sample_ids: Tensor | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Any:
        """Draws which patches of each sample are masked: here blockwise, as `ops.block_mask`.

        A subclass with another law overrides this, may give num_masked a default, and may return
        what its `loss` reads, such as MAE the ids that are kept.

        Args:
            num_samples: N.
            grid: rows and columns of patches, (h, w).
            num_masked: patches masked in each sample; needed here.
            seed, sample_ids: equal ones give equal masks; see `randomness_of`. None draws a seed
                from torch's generator, and numbers the samples from 0.
            device: of the result; None for the model's.
            options: of the op.

        Returns:
            [N, h, w] bool, True where masked.

        Raises:
            ValueError: without num_masked, and as the op.
        """
        if num_masked is None:
            raise ValueError("num_masked is None; blockwise masks need the number of patches")
        if device is None:
            device = next((parameter.device for parameter in self.parameters()), None)
        return ops.block_mask(
            num_samples,
            grid,
            num_masked,
            seed=seed,
            sample_ids=sample_ids,
            device=device,
            **options,
        )

    def build_target(
        self, images: Any, *, ids: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        """What the model is to predict: here by the target generator.

        A generator that takes `ids` or `mask`, such as HOGGenerator, computes only the tokens that
        are wanted; of others, which compute all, those of ids are chosen. A subclass whose target
        are the images returns these.

        Args:
            images: [N, C, H, W], uint8 where the generator takes it.
            ids: [N, K] int64, the tokens wanted.
            mask: [N, L] or [N, h, w], nonzero where a token is wanted; what the others hold is the
                generator's choice.

        Returns:
            [N, L, D], or [N, K, D] with ids.

        Raises:
            RuntimeError: without a target generator.
        """
        if not self.with_target_generator:
            raise RuntimeError(
                f"{type(self).__name__} has no target_generator; configure one or override "
                f"build_target()"
            )
        options = {"ids": ids, "mask": mask}
        options = {name: value for name, value in options.items() if value is not None}
        taken = inspect.signature(self.target_generator.forward).parameters
        options = {name: value for name, value in options.items() if name in taken}
        target = self.target_generator(images, **options)
        if ids is None or "ids" in options:
            return target
        return torch.take_along_dim(target, ids[..., None], dim=1)

    def similarity_loss(
        self,
        z0: Tensor,
        z1: Tensor,
        temperature: float = 0.1,
        *,
        op: str = "nt_xent",
        **options: Any,
    ) -> Tensor:
        """How far two views are from each other, against others; these are of all processes.

        Args:
            z0, z1: [N, D], embeddings of the two views of each sample.
            temperature: divides the similarities.
            op: "nt_xent" (SimCLR); "info_nce", where z0 finds z1 among all z1 (MoCo v3); or
                "info_nce_queue", among the option `queue` [K, D] (MoCo).
            options: of the op; its `group` is that of all processes if none is given.

        Returns:
            A scalar.

        Raises:
            ValueError: for another op, and as the op.
        """
        if op not in SIMILARITIES:
            raise ValueError(f"op is {op!r}; accepted are {', '.join(SIMILARITIES)}")
        options.setdefault("group", default_group())
        loss: Tensor = getattr(ops, op)(z0, z1, temperature=temperature, **options)
        return loss

    def masks_of(self, data_samples: Any) -> Tensor | None:
        """The masks that came with a batch, [N, h, w], or None if there are none.

        Raises:
            ValueError: if some samples have one and others do not.
        """
        if data_samples is None:
            return None
        if isinstance(data_samples, Mapping):
            return data_samples.get("mask")
        masks = [getattr(sample, "mask", None) for sample in data_samples]
        given = [torch.as_tensor(mask) for mask in masks if mask is not None]
        if given and len(given) < len(masks):
            raise ValueError(f"{len(given)} of {len(masks)} data samples have a mask; give all one")
        return torch.stack(given) if given else None

    def randomness_of(self, data_samples: Any) -> dict[str, Any]:
        """Those of `seed` and `sample_ids` that came with a batch, for `sample_mask`."""
        if not isinstance(data_samples, Mapping):
            return {}
        keys = ("seed", "sample_ids")
        return {key: data_samples[key] for key in keys if data_samples.get(key) is not None}

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """One step of training.

        Args:
            data: what the preprocessor takes.
            optim_wrapper: mmengine's OptimWrapper, or what has its `optim_context(model)`, the
                context of preprocessing and forward, and `update_params(loss)`.

        Returns:
            Values to log by name, without gradients, those of this process alone.
        """
        with optim_wrapper.optim_context(self):
            losses = self._run_forward(self.data_preprocessor(data, True), mode="loss")
        loss, log_vars = self.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return log_vars

    def val_step(self, data: Any) -> Any:
        """Preprocesses and calls mode "predict", which a subclass may have and this class refuses.

        Raises:
            RuntimeError: here.
        """
        return self._run_forward(self.data_preprocessor(data, False), mode="predict")

    def test_step(self, data: Any) -> Any:
        """As `val_step`."""
        return self.val_step(data)

    def _run_forward(self, data: Any, mode: str) -> Any:
        if isinstance(data, Mapping):
            return self(**data, mode=mode)
        if isinstance(data, (list, tuple)):
            return self(*data, mode=mode)
        got = type(data).__name__
        raise TypeError(f"data_preprocessor returned a {got}; expected a dict, list or tuple")

    def parse_losses(self, losses: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and the values to log; see `ssl_fast.models.losses`."""
        return parse_losses(losses)
