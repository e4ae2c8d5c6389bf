"""HOG targets of MaskFeat as a module."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.hog.hog import check_int, check_options

if TYPE_CHECKING:
    import numpy as np

GRID = 14  # the side of upstream's grid of tokens: a 224-pixel image in patches of 16


class HOGGenerator(nn.Module):
    """Turns images into the HOG features that MaskFeat predicts, one vector for each patch.

    Constructor, buffers, attributes and numbers are those of `mmpretrain`'s class of this name
    (Wei et al., "Masked Feature Prediction for Self-Supervised Visual Pre-Training", 2022). The
    buffers are there for its checkpoints and for subclasses with a forward of their own: here
    filter and window are part of the kernel, and what is loaded into the buffers changes nothing.

    Args:
        nbins: bins over 180 degrees, 1 to 180.
        pool: side of a cell in pixels.
        gaussian_window: side of the Gaussian tile that weighs the magnitudes, in pixels; 0 for
            none, else 2 to 512.
        patch_size: side of a patch in pixels, a multiple of pool. None is upstream's rule: as many
            cells a side as make 14 patches in a row, so that 224 pixels give 14 x 14 patches.

    Attributes:
        h, w: height and width of the last images in pixels; 0 before.
        unfold_size: cells along a side of a patch in the last call; 0 before.
        out: features of the last call, [B, C, nbins, H // pool, W // pool]; not there before. From
            the tokens when read, so it shows what was done to them in place; zero where `mask` was
            zero; a RuntimeError after a call with `ids`, which makes only some.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """

    h: int
    w: int
    unfold_size: int

    def __init__(
        self,
        nbins: int = 9,
        pool: int = 8,
        gaussian_window: int = 16,
        *,
        patch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_options(nbins, gaussian_window)
        check_int("pool", pool)
        if patch_size is not None:
            check_int("patch_size", patch_size)
            if patch_size % pool:
                expected = f"expected a multiple of pool ({pool})"
                raise ValueError(f"patch_size is {patch_size}; {expected}")
        self.nbins = nbins
        self.pool = pool
        self.gaussian_window = gaussian_window
        self.patch_size = patch_size
        self.pi = math.pi  # read by subclasses that repeat upstream's forward
        self.h = self.w = self.unfold_size = 0
        self._out: Any = None
        self._tokens: Tensor | None = None
        self._compact = False

        sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        self.register_buffer("weight_x", sobel.repeat(3, 1, 1, 1))
        self.register_buffer("weight_y", sobel.t().repeat(3, 1, 1, 1))
        if gaussian_window:
            kernel = self.get_gaussian_kernel(gaussian_window, gaussian_window // 2)
            self.register_buffer("gaussian_kernel", kernel)

    def get_gaussian_kernel(self, kernlen: int, std: int) -> Tensor:
        """The Gaussian of standard deviation `std`, sum 1: [kernlen, kernlen] float32."""
        offsets = torch.arange(kernlen, dtype=torch.float64) - (kernlen - 1) / 2
        axis = torch.exp(-0.5 * (offsets / std) ** 2)
        axis = axis / axis.sum()
        return torch.outer(axis, axis).float()

    @torch.no_grad()
    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """HOG features of images, without a gradient; float32 under autocast too.

        Args:
            x: [B, C, H, W], any C, uint8, float16, bfloat16, float32 or float64. A mean and std
                per channel change nothing: feed uint8 where you can.
            mask: [B, L] or [B, rows, columns], nonzero where a patch is wanted; others are zero.
            ids: [B, K] int64, the patches wanted, instead of a mask.

        Returns:
            [B, L, C * nbins * u * u], or [B, K, ...] with ids, where u is `unfold_size`; the order
            in a token is (channel, bin, row, column). float32 (float64 for float64). Where a
            subclass overrides `_reshape`, what that returns.

        Raises:
            TypeError, ValueError: for images, masks or ids that `ssl_fast.ops.hog_tokens` does not
                take, for a grid of cells that no whole number of patches makes, and for mask or
                ids with a `_reshape` of the subclass.
        """
        cells = self._cells(x)
        own_layout = type(self)._reshape is not HOGGenerator._reshape
        if own_layout or "_reshape" in self.__dict__:
            if mask is not None or ids is not None:
                raise ValueError("mask and ids are not for a class with a _reshape of its own")
            self.h, self.w = x.shape[-2:]
            self.out = ops.hog(x, self.nbins, self.pool, self.gaussian_window)
            return self._reshape(self.out)
        u = self._cells_per_token(*cells)
        window = self.gaussian_window
        tokens = ops.hog_tokens(x, u * self.pool, self.nbins, self.pool, window, mask=mask, ids=ids)
        self.h, self.w = x.shape[-2:]
        self.unfold_size = u
        self._tokens, self._out, self._compact = tokens, None, ids is not None
        return tokens

    @property
    def out(self) -> Any:
        if self._tokens is not None and self._out is None:
            if self._compact:
                raise RuntimeError(
                    "out needs all tokens; the last call computed those of ids alone"
                )
            return self._unshape(self._tokens)
        if self._out is None:
            raise AttributeError("out is there after the first call")
        return self._out

    @out.setter
    def out(self, value: Any) -> None:
        self._out, self._tokens = value, None

    def _reshape(self, hog_feat: Tensor) -> Tensor:
        """[B, C, nbins, h, w] to [B, L, C * nbins * u * u]. A subclass may lay out otherwise."""
        u = self.unfold_size = self._cells_per_token(*hog_feat.shape[-2:])
        grid = hog_feat.unflatten(-2, (-1, u)).unflatten(-1, (-1, u))
        return grid.permute(0, 3, 5, 1, 2, 4, 6).flatten(1, 2).flatten(2)

    def _unshape(self, tokens: Tensor) -> Tensor:
        """The inverse of `_reshape`, for images of the size of the last call."""
        u = self.unfold_size
        side = u * self.pool
        channels = tokens.shape[-1] // (self.nbins * u * u)
        rows, columns = self.h // side, self.w // side
        grid = tokens.view(len(tokens), rows, columns, channels, self.nbins, u, u)
        return grid.permute(0, 3, 4, 1, 5, 2, 6).flatten(-2).flatten(-3, -2)

    def _cells(self, x: Any) -> tuple[int, int]:
        """Rows and columns of cells in images [B, C, H, W]."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x is a {type(x).__name__}; expected a tensor [B, C, H, W]")
        if x.dim() != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected [B, C, H, W]")
        height, width = x.shape[-2:]
        if height < self.pool or width < self.pool or height % self.pool or width % self.pool:
            raise ValueError(
                f"images are {height} x {width}; height and width must be multiples of pool "
                f"({self.pool})"
            )
        return height // self.pool, width // self.pool

    def _cells_per_token(self, rows: int, columns: int) -> int:
        """Cells along a side of a patch, in a grid of cells that whole patches must cover."""
        u = columns // GRID if self.patch_size is None else self.patch_size // self.pool
        if u and rows % u == 0 and columns % u == 0:
            return u
        grid = f"images have {rows} x {columns} cells of {self.pool} x {self.pool} pixels"
        if self.patch_size is not None:
            patches = f"patches of {u} x {u} cells (patch_size {self.patch_size})"
            raise ValueError(f"{grid}, which {patches} do not cover")
        why = f"patches of {u} x {u} do not cover them" if u else f"fewer than {GRID} in a row"
        raise ValueError(
            f"{grid}: {why} (without patch_size a patch is a {GRID}th of a row); pass patch_size, "
            f"a multiple of {self.pool} that divides height and width"
        )

    def generate_hog_image(self, hog_out: Tensor) -> np.ndarray:
        """Draws features: in each cell a line for each bin, along the edges that the bin counts.

        A line is as long and bright as its bin is strong against the strongest of the image, at
        most one cell. Upstream turns its lines by twice the bin's angle and starts them in a
        cell's corner; these lie along the edge, through the middle of the cell.

        Args:
            hog_out: [1, 3, nbins, h, w], such as `out` after a call with one image.

        Returns:
            [h * pool, w * pool] float64, 0 to 255.

        Raises:
            TypeError, ValueError: if it is no tensor, or one of another shape.
        """
        if not isinstance(hog_out, Tensor):
            raise TypeError(f"hog_out is a {type(hog_out).__name__}; expected a tensor")
        if hog_out.dim() != 5 or tuple(hog_out.shape[:3]) != (1, 3, self.nbins):
            expected = f"(1, 3, {self.nbins}, h, w)"
            raise ValueError(f"hog_out has shape {tuple(hog_out.shape)}; expected {expected}")
        cells = hog_out.detach()[0].double().mean(dim=0).nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
        return _draw(cells.cpu().numpy(), self.pool)

    def extra_repr(self) -> str:
        text = f"nbins={self.nbins}, pool={self.pool}, gaussian_window={self.gaussian_window}"
        return text if self.patch_size is None else f"{text}, patch_size={self.patch_size}"


def _draw(cells: np.ndarray, pool: int) -> np.ndarray:
    """The picture of strengths [nbins, h, w], none negative: [h * pool, w * pool]."""
    import numpy as np

    nbins, height, width = cells.shape
    image = np.zeros((height * pool, width * pool))
    strongest = cells.max(initial=0.0)
    if strongest == 0:
        return image
    strength = (cells / strongest)[..., None]
    # A bin's gradient points to (cos, sin) of its angle in (row, column); the edge lies across it.
    angle = ((np.arange(nbins) + 0.5) * math.pi / nbins)[:, None, None, None]
    # Points at most a pixel apart, so that the line has no gaps.
    along = strength * (pool - 1) / 2 * np.linspace(-1, 1, pool + 1)
    row = np.arange(height)[:, None, None] * pool + (pool - 1) / 2 + along * np.sin(angle)
    column = np.arange(width)[:, None] * pool + (pool - 1) / 2 - along * np.cos(angle)
    # Halves go up (np.rint would send neighbours of a diagonal to one pixel); the small shift
    # keeps the rounding noise of sin and cos from deciding where the middle of a cell is.
    pixels = tuple(np.floor(place + 0.5 + 1e-9).astype(np.int64) for place in (row, column))
    shade = np.rint(255 * np.sqrt(strength))
    np.maximum.at(image, pixels, np.broadcast_to(shade, row.shape))
    return image
