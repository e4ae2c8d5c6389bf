"""Several views of each image: what the papers do to them, and what is drawn for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .augment import Augmentation, generator
from .photometric import FIELDS, ORDERS, augmented

Range = tuple[float, float]


@dataclass(frozen=True)
class View:
    """How views of one kind are made of an image, in this order.

    The crop is made in the data-loading worker, all else on the device by `ViewAugmentation`, from
    parameters that the worker drew.

    Args:
        count: views of this kind.
        size: side of the view, as a share of image_size.
        scale: least and largest area of the crop, as shares of the image's.
        ratio: least and largest width / height of the crop.
        jitter: strengths of brightness, contrast, saturation and hue, as those of torchvision's
            ColorJitter: the first three are factors from 1 - strength to 1 + strength, hue turns
            by up to the strength (of a whole turn), all uniform, in a random order for each sample.
        jitter_p: share of the views whose colours change.
        grayscale: share that loses its colours.
        blur: share that is blurred, by a Gaussian kernel a tenth of the side wide.
        blur_sigma: least and largest standard deviation of the kernel in pixels, uniform.
        solarize: share whose bright half, from 128 on, is inverted.
        flip: share that is mirrored left to right.

    Raises:
        ValueError: for values out of range.
    """

    count: int = 1
    size: float = 1.0
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.8
    grayscale: float = 0.2
    blur: float = 0.5
    blur_sigma: Range = (0.1, 2.0)
    solarize: float = 0.0
    flip: float = 0.5

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is {self.count}; expected 0 or more")
        if not 0 < self.size <= 1:
            raise ValueError(f"size is {self.size}; expected over 0, up to 1")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}; expected 0 < least <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"ratio is {self.ratio}; expected 0 < least <= largest")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1] < math.inf:
            raise ValueError(f"blur_sigma is {self.blur_sigma}; expected 0 < least <= largest")
        if len(self.jitter) != 4 or not all(0 <= strength < math.inf for strength in self.jitter):
            raise ValueError(f"jitter is {self.jitter}; expected four strengths, 0 or more")
        if self.jitter[3] > 0.5:
            raise ValueError(f"jitter turns hue by {self.jitter[3]}; expected 0.5 at most")
        for name in ("jitter_p", "grayscale", "blur", "solarize", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1")

    @property
    def local(self) -> bool:
        """Whether it is one of the small views of multi-crop."""
        return self.size < 1

    @property
    def crop(self) -> Augmentation:
        """What the worker does; views are mirrored with the rest, on the device."""
        return Augmentation(self.scale, self.ratio, flip=False)

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """What happens to one view on the device, as `photometric.augmented` takes it: [9] float32.

        As many numbers are drawn whatever the recipe, so that a change of one part of it leaves the
        rest of every view as it was.
        """
        shares = (self.jitter_p, self.grayscale, self.blur, self.solarize, self.flip)
        jitter, grayscale, blur, solarize, flip = random.random(5) < shares
        strength, none = np.array(self.jitter), np.array([1.0, 1.0, 1.0, 0.0])
        least = np.maximum(none - strength, [0.0, 0.0, 0.0, -0.5])  # no factor is negative
        colours = random.uniform(least, none + strength)
        order, sigma = random.integers(len(ORDERS)), random.uniform(*self.blur_sigma)
        drawn = (*(colours if jitter else none), order, grayscale, sigma * blur, solarize, flip)
        return np.array(drawn, np.float32)

    def side(self, image_size: int, multiple: int = 1) -> int:
        """Side of the view in pixels.

        Args:
            image_size: side of a whole view.
            multiple: of what the side of a smaller view is a multiple, such as the patch size.
        """
        if not self.local:
            return image_size
        return max(1, round(self.size * image_size / multiple)) * multiple


# Each is what the paper's own code does, where this says more than the paper.
# Chen et al. 2020 (SimCLR), appendix A, colour strength 1.
SIMCLR = (View(2, jitter=(0.8, 0.8, 0.8, 0.2)),)
# Chen et al. 2020 (MoCo v2); DenseCL has the same.
MOCO_V2 = (View(2, scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1)),)
# Chen, He 2021 (SimSiam), appendix A.
SIMSIAM = MOCO_V2
# Grill et al. 2020 (BYOL), appendix B; MoCo v3 and Barlow Twins have the same.
BYOL = (
    View(jitter=(0.4, 0.4, 0.2, 0.1), blur=1.0),
    View(jitter=(0.4, 0.4, 0.2, 0.1), blur=0.1, solarize=0.2),
)
# Caron et al. 2020 (SwAV), section 4.3 of the appendix: 2 x 224 + 6 x 96.
SWAV = (
    View(2, scale=(0.14, 1.0), jitter=(0.8, 0.8, 0.8, 0.2)),
    View(6, size=96 / 224, scale=(0.05, 0.14), jitter=(0.8, 0.8, 0.8, 0.2)),
)


def chosen(
    views: Sequence[View],
    *,
    crop_scale: Range | None = None,
    flip: bool | None = None,
    jitter: float | None = None,
    local_views: int | None = None,
) -> list[View]:
    """Views with what the user wants otherwise; see `PretrainOptions`. None leaves it as it is."""
    result = []
    for view in views:
        changes: dict[str, Any] = {}
        if crop_scale is not None and not view.local:
            changes["scale"] = crop_scale
        if local_views is not None and view.local:
            changes["count"] = local_views
        if flip is not None:
            changes["flip"] = 0.5 if flip else 0.0
        if jitter is not None:
            *factors, hue = (jitter * strength for strength in view.jitter)
            changes["jitter"] = (*factors, min(hue, 0.5))
        result.append(replace(view, **changes))
    return result


def expanded(views: Sequence[View]) -> list[View]:
    """The views one by one, in their order: what `inputs` of a batch hold."""
    return [replace(view, count=1) for view in views for _ in range(view.count)]


class MultiView:
    """Crops of an image and what is drawn for them: the worker's half of an augmentation.

    Args:
        views: what is made of an image.
        image_size: side of whole views in pixels.
        multiple: see `View.side`.

    Attributes:
        views: one by one.
        sides: of each, in pixels.
    """

    def __init__(self, views: Sequence[View], image_size: int, multiple: int = 1) -> None:
        self.views = expanded(views)
        self.sides = [view.side(image_size, multiple) for view in self.views]

    def __call__(
        self, image: Image.Image, seed: int, epoch: int, sample: int
    ) -> tuple[list[Tensor], np.ndarray]:
        """Views of an RGB image, each a function of (seed, epoch, sample, its place).

        Returns:
            [3, side, side] uint8 for each view, and the parameters [V, 9] float32 of all.
        """
        crops, parameters = [], np.empty((len(self.views), len(FIELDS)), np.float32)
        for place, (view, side) in enumerate(zip(self.views, self.sides, strict=True)):
            random = generator(seed, epoch, sample, place)
            parameters[place] = view.draw(random)
            crops.append(view.crop(image, side, random))
        return crops, parameters

    def decode_size(self) -> int:
        """The shorter side that an image needs for no crop to be enlarged, in pixels."""
        sides = zip(self.views, self.sides, strict=True)
        return max(view.crop.decode_size(side) for view, side in sides)


def augmented_views(inputs: Sequence[Tensor], parameters: Any) -> list[Tensor]:
    """Crops with what was drawn for them done; see `ViewAugmentation.forward`."""
    drawn = np.asarray(parameters, np.float32)
    if drawn.ndim != 3 or drawn.shape[1] != len(inputs):
        raise ValueError(
            f"parameters has shape {drawn.shape}; expected [N, {len(inputs)}, {len(FIELDS)}]"
        )
    return [augmented(view, drawn[:, place]) for place, view in enumerate(inputs)]


class ViewAugmentation(nn.Module):
    """The device's half of an augmentation: from crops to views.

    Args:
        views: what `inputs` hold; needed to draw parameters alone.
    """

    def __init__(self, views: Sequence[View]) -> None:
        super().__init__()
        self.views = expanded(views)

    def forward(self, inputs: Sequence[Tensor], parameters: Any = None) -> list[Tensor]:
        """Augmented views.

        Args:
            inputs: [N, 3, S, S] uint8 for each view, on any device; not changed.
            parameters: [N, V, 9] floats on the CPU, from `MultiView`; None draws them, so that
                `torch.manual_seed` rules.

        Returns:
            As inputs, new.

        Raises:
            TypeError, ValueError: for another number of views; see `photometric.augmented`.
        """
        if isinstance(inputs, Tensor) or len(inputs) != len(self.views):
            got = "one tensor" if isinstance(inputs, Tensor) else f"{len(inputs)} views"
            raise ValueError(f"inputs are {got}; expected a list of {len(self.views)} views")
        if parameters is None:
            parameters = self.draw(len(inputs[0]))
        return augmented_views(inputs, parameters)

    def draw(self, num_samples: int) -> np.ndarray:
        """Parameters [num_samples, V, 9] float32 from torch's generator."""
        random = np.random.Generator(np.random.Philox(int(torch.randint(2**63 - 1, ()))))
        drawn = [view.draw(random) for _ in range(num_samples) for view in self.views]
        return np.reshape(drawn, (num_samples, len(self.views), len(FIELDS)))
