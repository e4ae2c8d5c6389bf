"""From a batch of the data loader to what a model takes: on its device, normalised, padded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.hog.hog import check_int
from .registry import MODELS

if TYPE_CHECKING:
    from typing_extensions import Self

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


@MODELS.register
class SelfSupDataPreprocessor(nn.Module):
    """Moves a batch to the device, flips channels, normalises and pads.

    Differences from upstream: padding is done (upstream accepts its options and ignores them),
    the dict's items may come in any order and `data_samples` may be missing, views may come in a
    tuple, and any number of channels can have a mean and std of its own.

    Args:
        mean, std: one number, or one for each channel, in units of the pixels; both or neither.
        pad_size_divisor: height and width are padded at the bottom and right to a multiple of it.
        pad_value: of the padding, in units of the result: of normalised images (of pixels for
            those that stay uint8).
        to_rgb, bgr_to_rgb, rgb_to_bgr: any one reverses the three channels. A gray image stays.
        non_blocking: whether copies from pinned memory run beside other work.
        keep_uint8: whether uint8 images stay uint8, so that what reads pixels reads a quarter of
            the bytes; `normalize` is then for who needs floats.

    Attributes:
        mean, std: [C, 1, 1] or [1, 1, 1] float32, also in a model of another dtype; 0 and 1 where
            none were given. Not in the state dict.

    Raises:
        TypeError, ValueError: for options that are of another type or do not go together.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        to_rgb: bool = False,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        non_blocking: bool | None = False,
        *,
        keep_uint8: bool = False,
    ) -> None:
        super().__init__()
        if bgr_to_rgb and rgb_to_bgr:
            raise ValueError("bgr_to_rgb and rgb_to_bgr are both true; choose one")
        check_int("pad_size_divisor", pad_size_divisor)
        if keep_uint8 and not (0 <= pad_value <= 255 and pad_value == int(pad_value)):
            raise ValueError(
                f"pad_value is {pad_value}; with keep_uint8 accepted are whole numbers, 0 to 255"
            )
        self._statistics: dict[str, tuple[float, ...]] = {}
        self._set_statistics("mean", mean, "std", std)
        self.pad_size_divisor = pad_size_divisor
        self.pad_value = pad_value
        self.flip_channels = bool(to_rgb or bgr_to_rgb or rgb_to_bgr)
        self.non_blocking = bool(non_blocking)
        self.keep_uint8 = keep_uint8

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """The batch as the model takes it.

        Args:
            data: a dict with `inputs`, images [N, C, H, W], uint8 or floats, or a list or tuple of
                such views; and optionally `data_samples`, see `BaseSelfSupervisor`.
            training: nothing here; for subclasses.

        Returns:
            {"inputs": float32 images (uint8 ones stay so with keep_uint8), or a list of them,
            "data_samples": those given, on the device, or None}.

        Raises:
            TypeError, ValueError: for data of another form.
        """
        expected = "expected a dict with 'inputs' and optionally 'data_samples'"
        if not isinstance(data, Mapping):
            raise TypeError(f"data is a {type(data).__name__}; {expected} (use default_collate)")
        if "inputs" not in data or not set(data) <= {"inputs", "data_samples"}:
            raise ValueError(f"data has {', '.join(map(str, data)) or 'no items'}; {expected}")
        inputs, samples = data["inputs"], data.get("data_samples")
        if isinstance(inputs, (list, tuple)):
            images: Any = [self._prepare(view, index) for index, view in enumerate(inputs)]
        else:
            images = self._prepare(inputs, 0)
        return {"inputs": images, "data_samples": self._cast_samples(samples)}

    def normalize(self, images: Tensor, view: int = 0) -> Tensor:
        """Images with mean and std applied, float32.

        Args:
            images: [N, C, H, W], uint8 or floats, in units of the pixels.
            view: the place in the list of views that they come from.

        Raises:
            TypeError, ValueError: for other images, or if mean or std have another number of
                channels.
        """
        self._check(images, view)
        names = self._names(view)
        self._check_channels(names, images.shape[1])
        if [self._statistics[name] for name in names] == [(0.0,), (1.0,)]:
            return images.float()
        mean, std = (getattr(self, name) for name in names)
        # A difference from float32 is float32 for all narrower types, in one pass.
        images = images.float() if images.dtype == torch.float64 else images
        return (images - mean).div_(std)

    def statistics(self, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The mean and std that images still need, for ops that apply them: [C] float32 each.

        Args:
            images: [N, C, H, W], a first view from this preprocessor; uint8 ones were kept, floats
                are normalised and need none.

        Raises:
            ValueError: if mean or std have another number of channels.
        """
        if images.dtype != torch.uint8:
            return None, None
        channels = images.shape[1]
        self._check_channels(("mean", "std"), channels)
        return self.mean.flatten().expand(channels), self.std.flatten().expand(channels)

    def _check_channels(self, names: tuple[str, str], channels: int) -> None:
        for name in names:
            count = len(self._statistics[name])
            if count not in (1, channels):
                raise ValueError(
                    f"{name} has {count} values and images have {channels} channels; expected 1 or "
                    f"{channels} values"
                )

    def cast_data(self, data: Any) -> Any:
        """The tensors in dicts, lists and tuples, and what else has `.to`, on the device."""
        if isinstance(data, Mapping):
            return {key: self.cast_data(value) for key, value in data.items()}
        if isinstance(data, tuple) and hasattr(data, "_fields"):
            return type(data)(*(self.cast_data(value) for value in data))
        if isinstance(data, (list, tuple)):
            return type(data)(self.cast_data(value) for value in data)
        if hasattr(data, "to"):
            return data.to(self.device, non_blocking=self.non_blocking)
        return data

    @property
    def device(self) -> torch.device:
        """Where batches go: to where this module has been moved."""
        return self.mean.device

    def _prepare(self, images: Any, view: int) -> Tensor:
        self._check(images, view)
        images = images.to(self.device, non_blocking=self.non_blocking)
        if self.flip_channels and images.shape[1] > 1:
            if images.shape[1] != 3:
                raise ValueError(
                    f"images have {images.shape[1]} channels; to_rgb, bgr_to_rgb and rgb_to_bgr "
                    f"take 3, or 1, which stays as it is"
                )
            images = images.flip(1)
        if not (self.keep_uint8 and images.dtype == torch.uint8):
            images = self.normalize(images, view)
        bottom, right = (-size % self.pad_size_divisor for size in images.shape[-2:])
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom), value=self.pad_value)
        return images

    def _check(self, images: Any, view: int) -> None:
        if not isinstance(images, Tensor):
            got = type(images).__name__
            raise TypeError(f"view {view} of inputs is a {got}; expected a tensor [N, C, H, W]")
        if images.dtype not in DTYPES:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise TypeError(f"view {view} of inputs is {images.dtype}; accepted are {names}")
        if images.dim() != 4:
            shape = tuple(images.shape)
            raise ValueError(f"view {view} of inputs has shape {shape}; expected [N, C, H, W]")

    def _cast_samples(self, samples: Any) -> Any:
        """Data samples on the device; masks of a list of samples travel in one copy."""
        masks = _equal_masks(samples)
        if not masks or all(mask.device == self.device for mask in masks):
            return self.cast_data(samples)
        moved = torch.stack(masks).to(self.device, non_blocking=self.non_blocking)
        result = []
        for sample, mask in zip(samples, moved, strict=True):
            sample = copy.copy(sample)  # the caller's stays as it is
            sample.mask = mask
            result.append(self.cast_data(sample))
        return type(samples)(result)

    def _names(self, view: int) -> tuple[str, str]:
        """The buffers that hold the mean and std of a view."""
        return "mean", "std"

    def _set_statistics(self, mean_name: str, mean: Any, std_name: str, std: Any) -> None:
        """Checks a mean and std and makes buffers of them."""
        if (mean is None) != (std is None):
            given, lacking = (mean_name, std_name) if std is None else (std_name, mean_name)
            raise ValueError(f"{given} is given and {lacking} is not; expected both or neither")
        self._statistics[mean_name] = (0.0,) if mean is None else _numbers(mean_name, mean)
        self._statistics[std_name] = (1.0,) if std is None else _numbers(std_name, std)
        sizes = {len(values) for values in self._statistics.values()} - {1}
        if len(sizes) > 1:
            raise ValueError(f"statistics have {sorted(sizes)} values; expected one number of them")
        if 0 in self._statistics[std_name]:
            raise ValueError(f"{std_name} is {std}; expected no zero")
        for name in (mean_name, std_name):
            self.register_buffer(name, _column(self._statistics[name]), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        # `model.bfloat16()` (123.675 would become 123.5) and `model.to_empty()` come here too.
        for name, values in self._statistics.items():
            setattr(self, name, _column(values).to(getattr(self, name).device))
        return self


@MODELS.register
class TwoNormDataPreprocessor(SelfSupDataPreprocessor):
    """Two views, each with statistics of its own: for the model and for its target (BEiT, CAE).

    Upstream normalises neither view if mean is None; here the second is normalised all the same.

    Args:
        second_mean, second_std: of the second view.
        mean, std, ...: see `SelfSupDataPreprocessor`.

    Attributes:
        second_mean, second_std: as mean and std.

    Raises:
        TypeError, ValueError: see `SelfSupDataPreprocessor`; without second_mean or second_std.
    """

    second_mean: Tensor
    second_std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        second_mean: Sequence[float] | None = None,
        second_std: Sequence[float] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        to_rgb: bool = False,
        non_blocking: bool | None = False,
        *,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        keep_uint8: bool = False,
    ) -> None:
        super().__init__(
            mean,
            std,
            pad_size_divisor,
            pad_value,
            to_rgb,
            bgr_to_rgb,
            rgb_to_bgr,
            non_blocking,
            keep_uint8=keep_uint8,
        )
        if second_mean is None or second_std is None:
            raise ValueError("second_mean and second_std are needed, the statistics of the target")
        self._set_statistics("second_mean", second_mean, "second_std", second_std)

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """As `SelfSupDataPreprocessor.forward`, for `inputs` of two views."""
        inputs = data.get("inputs") if isinstance(data, Mapping) else None
        if inputs is not None and not (isinstance(inputs, (list, tuple)) and len(inputs) == 2):
            got = f"{len(inputs)} views" if isinstance(inputs, (list, tuple)) else "one tensor"
            raise ValueError(f"inputs are {got}; expected a list or tuple of two views")
        return super().forward(data, training)

    def _names(self, view: int) -> tuple[str, str]:
        return ("mean", "std") if view == 0 else ("second_mean", "second_std")


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {values!r}; expected a list of numbers") from None
    if not numbers:
        raise ValueError(f"{name} is empty; expected one number, or one for each channel")
    return numbers


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def _equal_masks(samples: Any) -> list[Tensor]:
    """The masks of a list of samples, if all have one and one stack can be made of them."""
    if not isinstance(samples, (list, tuple)):
        return []
    masks: list[Any] = [getattr(sample, "mask", None) for sample in samples]
    kinds = {(m.shape, m.dtype, m.device) if isinstance(m, Tensor) else None for m in masks}
    return masks if len(kinds) == 1 and None not in kinds else []
