"""mmpretrain's transforms that make masks, on the samplers of `ssl_fast.host`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import host
from ..ops.masks.arguments import block_law, simmim_sizes
from ..random import check_seed


class _MaskGenerator:
    """A transform of a pipeline: adds `results["mask"]`.

    A mask depends on the seed and its sample id. Without a seed both are drawn from NumPy's global
    generator, as mmpretrain's transforms draw theirs: whoever seeds the workers rules. With one the
    id is `results["sample_idx"]`, which mmengine's datasets provide.
    """

    seed: int | None

    def sample(self, seed: int, sample_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool [1, h, w]."""
        raise NotImplementedError

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds "mask", int64 [h, w], 1 where masked; returns the same dict.

        Raises:
            KeyError: where a seed was given and the results have no "sample_idx".
        """
        if self.seed is None:
            seed, index = np.random.randint(-(2**63), 2**63, size=2, dtype=np.int64)
        else:
            seed, index = self.seed, results["sample_idx"]
        mask = self.sample(int(seed), np.array([index], dtype=np.int64))[0]
        results["mask"] = mask.astype(np.int64)
        return results

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return self.transform(results)


class BEiTMaskGenerator(_MaskGenerator):
    """Blockwise masks: the twin of mmpretrain's transform of this name.

    Args:
        input_size: of the grid in patches, one number or (height, width).
        num_masking_patches: patches masked, always exactly so many.
        min_num_patches: least area of a block.
        max_num_patches: most new patches of a block; None for `num_masking_patches`.
        min_aspect: least height / width of a block.
        max_aspect: greatest; None for 1 / `min_aspect`.
        seed: see `transform`; None draws from NumPy's generator.
        compat: "mmpretrain" for its places, which leave out the last row and column.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int],
        num_masking_patches: int,
        min_num_patches: int = 4,
        max_num_patches: int | None = None,
        min_aspect: float = 0.3,
        max_aspect: float | None = None,
        *,
        seed: int | None = None,
        compat: str | None = None,
    ) -> None:
        grid = input_size if isinstance(input_size, (tuple, list)) else (input_size, input_size)
        options = (num_masking_patches, min_num_patches, max_num_patches, min_aspect, max_aspect)
        law = block_law(grid, *options, compat)
        self.height, self.width = law.height, law.width
        self.num_patches = law.height * law.width
        self.num_masking_patches = num_masking_patches
        self.min_num_patches = min_num_patches
        self.max_num_patches = max_num_patches
        self.min_aspect = min_aspect
        self.max_aspect = max_aspect
        self.seed = None if seed is None else check_seed(seed)
        self.compat = compat

    def sample(self, seed: int, sample_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool [N, h, w], one for each id."""
        return host.block_mask(
            len(sample_ids),
            (self.height, self.width),
            self.num_masking_patches,
            self.min_num_patches,
            self.max_num_patches,
            self.min_aspect,
            self.max_aspect,
            seed=seed,
            sample_ids=sample_ids,
            compat=self.compat,
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(input_size=({self.height}, {self.width}), "
            f"num_masking_patches={self.num_masking_patches}, "
            f"min_num_patches={self.min_num_patches}, max_num_patches={self.max_num_patches}, "
            f"min_aspect={self.min_aspect}, max_aspect={self.max_aspect})"
        )


class SimMIMMaskGenerator(_MaskGenerator):
    """Masks of large squares: the twin of mmpretrain's transform of this name.

    Args:
        input_size: height and width of the images in pixels.
        mask_patch_size: of a square that is masked as a whole, in pixels.
        model_patch_size: of the model's patches: the mask has input_size / model_patch_size rows.
        mask_ratio: share of the squares masked, in [0, 1].
        seed: see `transform`; None draws from NumPy's generator.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """

    def __init__(
        self,
        input_size: int = 192,
        mask_patch_size: int = 32,
        model_patch_size: int = 4,
        mask_ratio: float = 0.6,
        *,
        seed: int | None = None,
    ) -> None:
        self.input_size = input_size
        self.mask_patch_size = mask_patch_size
        self.model_patch_size = model_patch_size
        self.mask_ratio = mask_ratio
        self.seed = None if seed is None else check_seed(seed)
        sizes = simmim_sizes(input_size, mask_patch_size, model_patch_size, mask_ratio)
        self.rand_size, self.scale, self.mask_count = sizes
        self.token_count = self.rand_size**2

    def sample(self, seed: int, sample_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool [N, h, w], one for each id."""
        options = (self.input_size, self.mask_patch_size, self.model_patch_size, self.mask_ratio)
        return host.simmim_mask(len(sample_ids), *options, seed=seed, sample_ids=sample_ids)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(input_size={self.input_size}, "
            f"mask_patch_size={self.mask_patch_size}, model_patch_size={self.model_patch_size}, "
            f"mask_ratio={self.mask_ratio})"
        )
