"""Several views of each image: what the papers do to them, and what is drawn for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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


def expanded(views: Sequence[View]) -> list[View]:
    """The views one by one, in their order: what `inputs` of a batch hold."""
    return [replace(view, count=1) for view in views for _ in range(view.count)]
