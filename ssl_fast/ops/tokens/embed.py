"""The patch embedding of a vision transformer, of the kept patches alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._dispatch import register
from ..constants import constant
from . import reference
from .arguments import check_device, check_float, check_ids
from .gather import sum_by_id


def embed_visible_patches(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids_keep: Tensor,
    pos_embed: Tensor | None = None,
    mean: Tensor | Sequence[float] | None = None,
    std: Tensor | Sequence[float] | None = None,
) -> Tensor:
    """The tokens `ids_keep` of a patch embedding, without embedding the other patches.

    The same numbers as a strided convolution of the normalised images, plus positions, with the
    kept tokens gathered afterwards. Here the pixels of kept patches are gathered and normalised in
    one pass over the (uint8) images, and one matrix product projects them: no normalised image, no
    convolution of masked patches, no gradient of full size.

    Args:
        images: [N, C, H, W] uint8, float16, bfloat16, float32 or float64, any strides.
        weight: [D, C, p, p] of the convolution (patches may also be p x q); p, q divide H, W.
        bias: [D] or None.
        ids_keep: [N, K] int64 in 0 .. L - 1 with L = H / p * W / q. On a GPU an id out of range
            gives a token of NaN.
        pos_embed: [L, D], or [1, L, D], without prefix tokens; or None.
        mean, std: of each channel, in the pixels' units: a tensor of C or one elements, best kept
            on the device, or a sequence of numbers. Constants: no gradient. Both or neither.

    Returns:
        [N, K, D]. The product is in the dtype of autocast, else of weight; the sum with positions
        in the promoted dtype. Differentiable in weight, bias, pos_embed, and in images that ask for
        it; what is kept for the backward is the gathered patches in the dtype of the product.

    Raises:
        TypeError, ValueError: for another type, shape, device or range.
    """
    height, width = _check(images, weight, bias)
    length = (images.shape[2] // height) * (images.shape[3] // width)
    check_ids("ids_keep", ids_keep, images, length, of="patches")
    if (mean is None) != (std is None):
        raise ValueError("one of mean and std was given; expected both or neither")
    dtype = _product_dtype(weight)
    means, stds = (_statistic(n, v, images, dtype) for n, v in (("mean", mean), ("std", std)))
    patches = _gather_patches(images, ids_keep, height, width, means, stds, dtype)
    tokens = F.linear(patches, weight.flatten(1), bias)
    if pos_embed is None:
        return tokens
    pos_embed = _positions(pos_embed, weight, length)
    dtype = torch.promote_types(tokens.dtype, pos_embed.dtype)
    return _add_positions(tokens, pos_embed.to(dtype), ids_keep)


def visible_patches(images: Tensor, ids: Tensor, height: int, width: int) -> Tensor:
    """Patches `ids` [N, K] of images [N, C, H, W], checked: [N, K, C, height, width]."""
    patches = _gather_patches(images, ids, height, width, None, None, images.dtype)
    return patches.unflatten(2, (images.shape[1], height, width))


def _check(images: Any, weight: Any, bias: Any) -> tuple[int, int]:
    """Height and width of a patch."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images is a {type(images).__name__}; expected a tensor [N, C, H, W]")
    if images.dtype != torch.uint8:
        check_float("images", images, "[N, C, H, W]", images.dim())
    if images.dim() != 4:
        raise ValueError(f"images has shape {tuple(images.shape)}; expected [N, C, H, W]")
    check_float("weight", weight, "[D, C, p, p]", 4)
    check_device("weight", weight, images)
    dim, channels, height, width = weight.shape
    if channels != images.shape[1]:
        raise ValueError(f"weight is for {channels} channels; images have {images.shape[1]}")
    if images.shape[2] % height or images.shape[3] % width:
        sizes = f"{images.shape[2]} x {images.shape[3]}"
        raise ValueError(f"images are {sizes}; not a multiple of patches of {height} x {width}")
    if bias is not None:
        check_float("bias", bias, "[D]", 1)
        check_device("bias", bias, images)
        if bias.shape[0] != dim or bias.dtype != weight.dtype:
            got = f"{tuple(bias.shape)} of {bias.dtype}"
            raise ValueError(f"bias is {got}; expected ({dim},) of weight's {weight.dtype}")
    return height, width


def _product_dtype(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    if weight.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


def _statistic(name: str, value: Any, images: Tensor, product: torch.dtype) -> Tensor | None:
    """`value` as the op takes it: [C], float32 or float64."""
    if value is None:
        return None
    dtype = reference.sum_dtype(images.dtype, product)
    if not isinstance(value, Tensor):
        values = tuple(value) if isinstance(value, Sequence) else (value,)
        value = constant(values, dtype, images)
    check_device(name, value, images)
    channels = images.shape[1]
    if value.numel() not in (1, channels):
        raise ValueError(f"{name} has {value.numel()} elements; expected 1 or {channels}")
    if value.shape == (channels,) and value.dtype == dtype and not value.requires_grad:
        return value
    return value.detach().reshape(-1).to(dtype).expand(channels)


def _positions(pos_embed: Any, weight: Tensor, length: int) -> Tensor:
    check_float("pos_embed", pos_embed, "[L, D]", 3 if _is_batched(pos_embed) else 2)
    check_device("pos_embed", pos_embed, weight)
    shape = (length, weight.shape[0])
    if tuple(pos_embed.shape[-2:]) != shape or (pos_embed.dim() == 3 and pos_embed.shape[0] != 1):
        raise ValueError(f"pos_embed has shape {tuple(pos_embed.shape)}; expected {shape}")
    return pos_embed.reshape(shape)


def _is_batched(pos_embed: Any) -> bool:
    return isinstance(pos_embed, Tensor) and pos_embed.dim() == 3


def _patches_fake(
    images: Tensor,
    ids: Tensor,
    patch_h: int,
    patch_w: int,
    mean: Tensor | None,
    std: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    size = (images.shape[0], ids.shape[1], images.shape[1] * patch_h * patch_w)
    return images.new_empty(size, dtype=dtype)


def _patches_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    images, ids, patch_h, patch_w, _, std, _ = inputs
    ctx.save_for_backward(ids, std)
    ctx.shape, ctx.dtype, ctx.patch = images.shape, images.dtype, (patch_h, patch_w)


def _patches_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Rows of pixels back into the image; a patch that was gathered twice gets the sum."""
    if not ctx.needs_input_grad[0]:
        return (None,) * 7
    ids, std = ctx.saved_tensors
    batch, channels, height, width = ctx.shape
    patch_h, patch_w = ctx.patch
    rows, columns = height // patch_h, width // patch_w
    patches = sum_by_id(grad, ids, rows * columns)
    if std is not None:
        each = patches.unflatten(2, (channels, patch_h * patch_w))
        patches = (each / std[:, None]).flatten(2)
    patches = patches.view(batch, rows, columns, channels, patch_h, patch_w)
    images = patches.permute(0, 3, 1, 4, 2, 5).reshape(ctx.shape).to(ctx.dtype)
    return (images, *(None,) * 6)


def _positions_fake(tokens: Tensor, pos_embed: Tensor, ids: Tensor) -> Tensor:
    return tokens.new_empty(tokens.shape, dtype=pos_embed.dtype)


def _positions_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tokens, pos_embed, ids = inputs
    ctx.save_for_backward(ids)
    ctx.dtype, ctx.length = tokens.dtype, pos_embed.shape[0]


def _positions_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (ids,) = ctx.saved_tensors
    needs_tokens, needs_positions, _ = ctx.needs_input_grad
    pos_embed = None
    if needs_positions:  # all samples are one: row l is the sum over them, in their order
        rows = ids.numel()
        pos_embed = sum_by_id(
            grad.reshape(1, rows, grad.shape[2]), ids.reshape(1, rows), ctx.length
        )[0]
    return grad.to(ctx.dtype) if needs_tokens else None, pos_embed, None


_gather_patches = register(
    "gather_patches(Tensor images, Tensor ids, SymInt patch_h, SymInt patch_w, Tensor? mean, "
    "Tensor? std, ScalarType dtype) -> Tensor",
    reference=reference.gather_patches,
    fake=_patches_fake,
    triton=True,
    backward=_patches_backward,
    setup_context=_patches_setup,
)
_add_positions = register(
    "add_positions(Tensor tokens, Tensor pos_embed, Tensor ids) -> Tensor",
    reference=reference.add_positions,
    fake=_positions_fake,
    triton=True,
    backward=_positions_backward,
    setup_context=_positions_setup,
)
