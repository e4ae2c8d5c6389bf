"""Masks and tokens as `lightly.models.utils` has them, which need no lightly."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import gather_tokens, ibot_mask
from ...ops.masks.arguments import MAX_CELLS
from ...ops.masks.random_mask import first_by_noise
from ...ops.tokens.arguments import DTYPES

# From so many elements on, ours are ahead: below, a call's own cost is all there is.
WORTHWHILE = 2**15
WORTHWHILE_NOISE = 2**9

Device = torch.device | str | None


def random_token_mask(
    size: tuple[int, int],
    mask_ratio: float = 0.6,
    mask_class_token: bool = False,
    device: Device = None,
) -> tuple[Tensor, Tensor]:
    """Random masks of single tokens: the same masks as lightly's from the same torch seed.

    Args:
        size: batch size N and sequence length L, the class token counted.
        mask_ratio: share of the tokens masked.
        mask_class_token: whether token 0 may be masked. If not, it is kept, comes first, and does
            not count in the ratio.
        device: where; None for torch's default.

    Returns:
        idx_keep, idx_mask: [N, K] and [N, L - K] int64, in shuffled order;
        K = int(L * (1 - mask_ratio)), without the class token in L, and that added.
    """
    batch, length = size
    count = int((length - (not mask_class_token)) * (1 - mask_ratio))
    noise = torch.rand(batch, length, device=device)
    if not mask_class_token and length > 0:
        noise[:, 0] = -1
        count = max(1, count + 1)
    if length <= MAX_CELLS and noise.numel() >= WORTHWHILE_NOISE:
        order = first_by_noise(noise, length)
    else:
        order = noise.argsort(dim=1)
    return order[:, :count], order[:, count:]


def random_block_mask(
    size: tuple[int, int, int],
    batch_mask_ratio: float = 0.5,
    min_image_mask_ratio: float = 0.1,
    max_image_mask_ratio: float = 0.5,
    min_num_masks_per_block: int = 4,
    max_num_masks_per_block: int | None = None,
    min_block_aspect_ratio: float = 0.3,
    max_block_aspect_ratio: float | None = None,
    max_attempts_per_block: int = 10,
    device: Device = None,
) -> Tensor:
    """Masks of rectangular blocks for a share of a batch, as DINOv2's: `ops.ibot_mask`.

    Drawn from torch's generator, where lightly draws from Python's, on the device, without waiting
    for it.

    Args:
        size: batch size N, height and width in patches.
        batch_mask_ratio: share of the images that are masked; the others are not at all.
        min_image_mask_ratio, max_image_mask_ratio: share of the patches masked in these.
        min_num_masks_per_block, max_num_masks_per_block: patches of a block; None for no limit.
        min_block_aspect_ratio, max_block_aspect_ratio: height / width of a block; None for
            1 / min_block_aspect_ratio.
        max_attempts_per_block: 10.
        device: where; None for torch's default.

    Returns:
        bool [N, height, width], True where masked.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """
    if max_attempts_per_block != 10:
        raise ValueError(f"max_attempts_per_block is {max_attempts_per_block}; expected 10")
    batch, height, width = size
    drawn = ibot_mask(
        batch,
        (height, width),
        (min_image_mask_ratio, max_image_mask_ratio),
        batch_mask_ratio,
        min_num_masks_per_block,
        height * width if max_num_masks_per_block is None else max_num_masks_per_block,
        min_block_aspect_ratio,
        max_block_aspect_ratio,
        padded=True,
        device=device,
    )
    return drawn.mask.view(batch, height, width)


def get_at_index(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens [N, L, D] chosen by index [N, K] int64: [N, K, D], differentiable once."""
    if can_gather(tokens, index):
        return gather_tokens(tokens, index)
    return tokens.gather(1, _columns_of(index, tokens))


def can_gather(tokens: Tensor, index: Tensor) -> bool:
    """Whether `ops.gather_tokens` takes these and is faster than torch."""
    return (
        tokens.dim() == 3
        and index.dim() == 2
        and tokens.shape[0] == index.shape[0]
        and tokens.dtype in DTYPES
        and index.dtype == torch.int64
        and tokens.device == index.device
        and index.numel() * tokens.shape[2] >= WORTHWHILE
    )


def set_at_index(tokens: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """Tokens [N, L, D] with those at index [N, K] replaced by value [N, K, D]; a copy."""
    if can_put(tokens, index, value):
        rows = torch.arange(tokens.shape[0], device=tokens.device)[:, None]
        return tokens.index_put((rows, index), value)
    return tokens.scatter(1, _columns_of(index, tokens), value)


def can_put(tokens: Tensor, index: Tensor, value: Tensor | float) -> bool:
    """Whether whole rows can be put, and that is faster than element by element."""
    return (
        isinstance(value, Tensor)
        and tokens.dim() == 3
        and index.dim() == 2
        and tokens.shape[0] == index.shape[0]
        and value.shape == (*index.shape, tokens.shape[2])
        and value.numel() >= WORTHWHILE
    )


def mask_at_index(tokens: Tensor, index: Tensor, mask_token: Tensor) -> Tensor:
    """Tokens [N, L, D] with those at index [N, K] replaced by mask_token [1, 1, D].

    A choice, where lightly multiplies by zeros and ones: what is replaced may be infinite or NaN.
    """
    mask = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    mask = mask.scatter_(1, index, True)
    return torch.where(mask[:, :, None], mask_token, tokens)


def repeat_token(token: Tensor, size: tuple[int, int]) -> Tensor:
    """A token [1, 1, D] as [N, L, D], size being (N, L); a copy."""
    return token.repeat(*size, 1)


def prepend_class_token(tokens: Tensor, class_token: Tensor) -> Tensor:
    """Tokens [N, L, D] behind a class token [1, 1, D]: [N, L + 1, D]."""
    return torch.cat([class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Images [N, C, H, W] as patches [N, L, p * p * C], each by row, column and channel.

    For a loss on them, `ops.masked_patch_loss` reads the images and needs no patches.

    Raises:
        ValueError: for images that are not a whole number of patches high and wide.
    """
    height, width = images.shape[2:]
    if height % patch_size or width % patch_size:
        raise ValueError(f"images are {height} x {width}; expected multiples of {patch_size}")
    grid = (-1, patch_size)
    patches = images.unflatten(3, grid).unflatten(2, grid).permute(0, 2, 4, 3, 5, 1)
    return patches.flatten(3).flatten(1, 2)


def normalize_mean_var(x: Tensor, dim: int = -1, eps: float = 1.0e-6) -> Tensor:
    """(x - mean) / sqrt(variance + eps) along `dim`, with the unbiased variance."""
    if can_normalize_in_one_pass(x, dim):
        # Layer norm has the biased variance, smaller by this share.
        share = 1 - 1 / x.shape[-1]
        weight = x.new_full((x.shape[-1],), math.sqrt(share))
        return F.layer_norm(x, x.shape[-1:], weight, eps=share * eps)
    variance, mean = torch.var_mean(x, dim, keepdim=True)
    return (x - mean) / (variance + eps).sqrt()


def can_normalize_in_one_pass(x: Tensor, dim: int) -> bool:
    """Whether layer norm does it, and in the same precision."""
    return (
        dim in (-1, x.dim() - 1)
        and x.dtype in (torch.float32, torch.float64)
        and x.shape[-1] > 1
        and x.numel() >= WORTHWHILE
    )


def _columns_of(index: Tensor, tokens: Tensor) -> Tensor:
    """An index [N, K] for each channel of tokens: [N, K, D], nothing stored."""
    return index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
