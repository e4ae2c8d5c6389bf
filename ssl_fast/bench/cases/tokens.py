"""Tokens as MAE moves them: 196 patches of 224 x 224, 49 kept; encoder of 768, decoder of 512."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ..._dispatch import OPS
from ..case import Case, Check, Inputs, Provider, tensors_of
from ..providers import standard, under_torch_compile

SIZE, PATCH, CHANNELS = 224, 16, 3
TOKENS = (SIZE // PATCH) ** 2
RATIO = 0.75
KEPT = int(TOKENS * (1 - RATIO))
ENCODER, DECODER = 768, 512
PIXELS = CHANNELS * PATCH * PATCH
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
Function = Callable[..., Any]


class Counts(Check):
    """Masks of other random numbers agree in what they count; the tests compare our bits."""

    def view(self, output: Tensor) -> Tensor:
        rows = (output != 0).any(dim=2) if output.dim() == 3 else output
        return rows.sum(dim=1)


def cases(device: str, small: bool) -> Iterator[Case]:
    """The three ops that MAE calls in a step, forward and with backward."""
    batch = 2 if small else 256 if device == "cuda" else 64
    dtypes = (torch.float32,) if small else (torch.float32, torch.bfloat16)
    for make in (_masking, _restoring, _embedding):
        for dtype in dtypes:
            yield make(batch, dtype, False)
        yield make(batch, torch.float32, True)


def _normal(device: str, seed: int, dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, device=device, generator=generator).to(dtype)


def _noise(device: str, seed: int, batch: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.rand(batch, TOKENS, device=device, generator=generator)


def _trained(function: Function, leaves: tuple[int, ...]) -> Function:
    """`function`, then its gradients at these arguments; the gradient that comes in is an input."""

    def run(gradient: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        asking = {i: inputs[i].detach().requires_grad_() for i in leaves}
        outputs = tensors_of(function(*(asking.get(i, part) for i, part in enumerate(inputs))))
        gradients = torch.autograd.grad(outputs[0], list(asking.values()), gradient)
        return (*(output.detach() for output in outputs), *gradients)

    return run


def _with_backward(case: Case, leaves: tuple[int, ...], width: int, rows: int, extra: int) -> Case:
    """The case and its backward.

    Args:
        leaves: which inputs ask for a gradient.
        width, rows: of the gradient that comes in, [N, rows, width].
        extra: bytes that the backward moves.
    """

    def trained(provider: Provider) -> Provider:
        def prepare(device: str) -> Function:
            return _trained(provider.prepare(device), leaves)

        return Provider(provider.name, prepare, provider.backend, provider.packages)

    def more(check: Check) -> Check:
        def inputs(device: str, seed: int) -> Inputs:
            first = check.make_inputs(device, seed)
            shape = (first[0].shape[0], rows, width)
            return (_normal(device, seed + 1, torch.float32, *shape), *first)

        return type(check)(check.name, inputs, atol=100 * check.atol)

    return Case(
        op=case.op,
        name=f"{case.name}, with backward",
        dtype=case.dtype,
        reference=_trained(case.reference, leaves),
        checks=tuple(map(more, case.checks)),
        moved_bytes=case.moved_bytes + extra,
        providers=tuple(map(trained, case.providers)),
    )


def _eager(name: str, function: Function) -> tuple[Provider, Provider]:
    plain = Provider(name, lambda device: function)
    return plain, under_torch_compile(plain)


def _masking(batch: int, dtype: torch.dtype, backward: bool) -> Case:
    def reference(x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        if noise is None:
            noise = torch.rand(x.shape[:2], device=x.device)
        ids, restore, mask = OPS["random_mask_from_noise"].reference(noise, KEPT)
        return OPS["gather_tokens"].reference(x, ids), mask, restore

    def public(x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        return ops.random_masking(x, RATIO, noise=noise)

    def inputs(device: str, seed: int) -> Inputs:
        return (_normal(device, seed, dtype, batch, TOKENS, ENCODER),)

    def with_noise(device: str, seed: int) -> Inputs:
        return (*inputs(device, seed), _noise(device, seed, batch))

    row = ENCODER * dtype.itemsize
    case = Case(
        op="random_masking",
        name=f"{batch}x{TOKENS}x{ENCODER}, {KEPT} kept",
        dtype=_name(dtype),
        reference=reference,
        checks=(Counts("own noise", inputs, atol=0.0), Check("given noise", with_noise, atol=0.0)),
        moved_bytes=batch * (2 * KEPT * row + TOKENS * 12),
        providers=(
            *standard("gather_tokens", public, reference),
            *_eager("mmpretrain's steps", masking_in_steps),
        ),
    )
    if not backward:
        return case
    return _with_backward(case, (0,), ENCODER, KEPT, batch * (KEPT + TOKENS) * row)


def masking_in_steps(x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
    """The random masking of MAE's and mmpretrain's encoder, op by op."""
    batch, length, dim = x.shape
    kept = int(length * (1 - RATIO))
    if noise is None:
        noise = torch.rand(batch, length, device=x.device)
    shuffle = torch.argsort(noise, dim=1)
    restore = torch.argsort(shuffle, dim=1)
    keep = shuffle[:, :kept]
    x_kept = torch.gather(x, 1, keep.unsqueeze(-1).repeat(1, 1, dim))
    mask = torch.ones([batch, length], device=x.device)
    mask[:, :kept] = 0
    return x_kept, torch.gather(mask, 1, restore), restore


def _restoring(batch: int, dtype: torch.dtype, backward: bool) -> Case:
    def reference(x: Tensor, restore: Tensor, token: Tensor, pos: Tensor) -> Tensor:
        return OPS["restore_tokens"].reference(x, restore, token.flatten(), pos[0], 1)

    def public(x: Tensor, restore: Tensor, token: Tensor, pos: Tensor) -> Tensor:
        return ops.restore_tokens(x, restore, token, pos, num_prefix_tokens=1)

    def inputs(device: str, seed: int) -> Inputs:
        x = _normal(device, seed, dtype, batch, 1 + KEPT, DECODER)
        token = _normal(device, seed + 1, dtype, 1, 1, DECODER)
        pos = _normal(device, seed + 2, dtype, 1, 1 + TOKENS, DECODER)
        return x, _noise(device, seed, batch).argsort(dim=1), token, pos

    row = DECODER * dtype.itemsize
    kept, all_rows = batch * (1 + KEPT) * row, batch * (1 + TOKENS) * row
    case = Case(
        op="restore_tokens",
        name=f"{batch}x{1 + TOKENS}x{DECODER}, {1 + KEPT} kept",
        dtype=_name(dtype),
        reference=reference,
        checks=(Check("normal", inputs, atol=1e-5 if dtype == torch.float32 else 0.04),),
        moved_bytes=kept + all_rows + batch * TOKENS * 8 + (2 + TOKENS) * row,
        providers=(
            *standard("restore_tokens", public, reference),
            *_eager("mmpretrain's steps", restoring_in_steps),
        ),
    )
    if not backward:
        return case
    return _with_backward(case, (0, 2, 3), DECODER, 1 + TOKENS, kept + all_rows)


def restoring_in_steps(x: Tensor, restore: Tensor, token: Tensor, pos: Tensor) -> Tensor:
    """How mmpretrain's MAE decoder begins, op by op."""
    batch, kept, dim = x.shape
    tokens = token.repeat(batch, restore.shape[1] + 1 - kept, 1)
    rest = torch.cat([x[:, 1:], tokens], dim=1)
    rest = torch.gather(rest, 1, restore.unsqueeze(-1).repeat(1, 1, dim))
    return torch.cat([x[:, :1], rest], dim=1) + pos


def _embedding(batch: int, dtype: torch.dtype, backward: bool) -> Case:
    def reference(
        images: Tensor, weight: Tensor, bias: Tensor, ids: Tensor, pos: Tensor, *statistics: Tensor
    ) -> Tensor:
        patches = OPS["gather_patches"].reference(
            images, ids, PATCH, PATCH, *statistics, weight.dtype
        )
        tokens = F.linear(patches, weight.flatten(1), bias)
        return OPS["add_positions"].reference(tokens, pos[0], ids)

    def inputs(device: str, seed: int) -> Inputs:
        generator = torch.Generator(device).manual_seed(seed)
        shape = (batch, CHANNELS, SIZE, SIZE)
        images = torch.randint(0, 256, shape, device=device, generator=generator).to(torch.uint8)
        weight = _normal(device, seed, dtype, ENCODER, CHANNELS, PATCH, PATCH) * 0.02
        bias = _normal(device, seed + 1, dtype, ENCODER)
        ids = _noise(device, seed, batch).argsort(dim=1)[:, :KEPT].contiguous()
        pos = _normal(device, seed + 2, dtype, 1, TOKENS, ENCODER)
        mean, std = torch.tensor((MEAN, STD), device=device)  # as a module's buffers
        return images, weight, bias, ids, pos, mean, std

    item = dtype.itemsize
    parameters = (ENCODER * (PIXELS + 1) + TOKENS * ENCODER) * item
    tokens = batch * KEPT * ENCODER * item
    case = Case(
        op="embed_visible_patches",
        name=f"{batch}x{CHANNELS}x{SIZE}x{SIZE} uint8 to {ENCODER}, {KEPT} of {TOKENS}",
        dtype=_name(dtype),
        reference=reference,
        checks=(Check("uint8", inputs, atol=1e-4 if dtype == torch.float32 else 0.08),),
        moved_bytes=batch * KEPT * (PIXELS + 8) + parameters + tokens,
        providers=(
            *standard("gather_patches", ops.embed_visible_patches, reference),
            *_eager("all patches, then gather", embedding_all),
        ),
    )
    if not backward:
        return case
    patches = batch * KEPT * PIXELS * item
    return _with_backward(case, (1, 2, 4), ENCODER, KEPT, tokens + patches + parameters)


def embedding_all(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    ids: Tensor,
    pos: Tensor,
    mean: Tensor,
    std: Tensor,
) -> Tensor:
    """How MAE's encoder begins in mmpretrain, preprocessor included, op by op."""
    x = (images.float() - mean.view(1, CHANNELS, 1, 1)) / std.view(1, CHANNELS, 1, 1)
    x = x.to(weight.dtype)
    x = F.conv2d(x, weight, bias, stride=PATCH).flatten(2).transpose(1, 2) + pos
    return torch.gather(x, 1, ids.unsqueeze(-1).repeat(1, 1, x.shape[2]))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
