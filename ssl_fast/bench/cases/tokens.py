"""Tokens as MAE moves them: 196 patches of 224 x 224, 49 kept; a decoder of 512."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ..._dispatch import OPS
from ..case import Case, Check, Inputs, tensors_of
from ..gradients import BACKWARD, BOTH, FORWARD, Staged, backward_of
from ..providers import growing, others, peer, standard

SIZE, PATCH, CHANNELS = 224, 16, 3
TOKENS = (SIZE // PATCH) ** 2
RATIO = 0.75
DIMS = {"ViT-S": 384, "ViT-B": 768, "ViT-L": 1024}
DECODER = 512
PIXELS = CHANNELS * PATCH * PATCH
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
ALL_PATCHES = "all patches, then gather"
PASSES = {FORWARD: 1, BOTH: 2, BACKWARD: 1}
Function = Callable[..., Any]


class Counts(Check):
    """Masks of other random numbers agree in what they count; the tests compare our bits."""

    def view(self, output: Tensor) -> Tensor:
        rows = (output != 0).any(dim=2) if output.dim() == 3 else output
        return rows.sum(dim=1)


def cases(device: str, small: bool) -> Iterator[Case]:
    """The three ops that MAE calls in a step, each way; of ViT-S and ViT-L too."""
    batch = 2 if small else 256 if device == "cuda" else 64
    dtypes = (torch.float32,) if small else (torch.float32, torch.bfloat16)
    for dtype in dtypes:
        headline = dtype == torch.float32
        yield replace(_masking(batch, dtype), headline=headline)
        yield replace(_restoring(batch, dtype), headline=headline)
        yield replace(_embedding(batch, dtype), headline=headline)
    yield replace(_masking(batch, torch.float32, way=BOTH), headline=True)
    yield _masking(batch, torch.float32, way=BACKWARD)
    for way in (BOTH, BACKWARD):
        yield _restoring(batch, torch.float32, way=way)
        yield _embedding(batch, torch.float32, way=way)
    if not small:
        for model in ("ViT-S", "ViT-L"):
            yield _masking(batch, torch.float32, model)
            yield _embedding(batch, torch.float32, model)


def growth(device: str, small: bool) -> Iterator[Case]:
    """Over the number of tokens: 224 px and up to 1,024 px in patches of 16."""
    batch = 2 if small else 64 if device == "cuda" else 16
    lengths = (16, 64) if small else (196, 576, 1024, 4096)
    for make in (_masking, _restoring):
        for length in lengths:
            yield growing(make(batch, torch.float32, length=length), "L", length)


def _normal(device: str, seed: int, dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, device=device, generator=generator).to(dtype)


def _noise(device: str, seed: int, batch: int, length: int = TOKENS) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    noise = torch.rand(batch, length, device=device, generator=generator)
    # Ranks: of equal random numbers, which are there in long rows, sorts leave the order open.
    return noise.argsort(dim=1).argsort(dim=1) / noise.shape[1]


def _kept(length: int) -> int:
    return int(length * (1 - RATIO))


def _forward(function: Function) -> Function:
    return function


def _trained(leaves: tuple[int, ...]) -> Callable[[Function], Function]:
    """A function, then its gradients; the gradient that comes in is the first input.

    Args:
        leaves: which of the other inputs ask for one.
    """

    def complete(function: Function) -> Function:
        def run(gradient: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
            asking = {i: inputs[i].detach().requires_grad_() for i in leaves}
            outputs = tensors_of(function(*(asking.get(i, part) for i, part in enumerate(inputs))))
            gradients = torch.autograd.grad(outputs[0], list(asking.values()), gradient)
            return (*(output.detach() for output in outputs), *gradients)

        return run

    return complete


def _alone(leaves: tuple[int, ...]) -> Callable[[Function], Function]:
    """The gradients of a function that has been run; the inputs are those of `_trained`."""

    def complete(function: Function) -> Function:
        def first_output(*inputs: Any) -> Tensor:
            return tensors_of(function(*inputs))[0]

        return Staged(lambda gradient, *rest: backward_of(first_output, leaves, gradient, rest))

    return complete


def _timed(way: str, leaves: tuple[int, ...]) -> Callable[[Function], Function]:
    """Makes of a function what is timed."""
    return {FORWARD: _forward, BOTH: _trained(leaves), BACKWARD: _alone(leaves)}[way]


def _with_gradient(check: Check, *shape: int) -> Check:
    """The check with a gradient of this shape before the other inputs."""

    def inputs(device: str, seed: int) -> Inputs:
        gradient = _normal(device, seed + 1, torch.float32, *shape)
        return (gradient, *check.make_inputs(device, seed))

    return replace(check, make_inputs=inputs, atol=100 * check.atol)


def _masking(
    batch: int,
    dtype: torch.dtype,
    model: str = "ViT-B",
    length: int = TOKENS,
    way: str = FORWARD,
) -> Case:
    dim, kept = DIMS[model], _kept(length)

    def reference(x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        if noise is None:
            noise = torch.rand(x.shape[:2], device=x.device)
        ids, restore, mask = OPS["random_mask_from_noise"].reference(noise, kept)
        return OPS["gather_tokens"].reference(x, ids), mask, restore

    def public(x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        return ops.random_masking(x, RATIO, noise=noise)

    def inputs(device: str, seed: int) -> Inputs:
        return (_normal(device, seed, dtype, batch, length, dim),)

    def with_noise(device: str, seed: int) -> Inputs:
        return (*inputs(device, seed), _noise(device, seed, batch, length))

    complete = _timed(way, (0,))
    backward = way != FORWARD
    checks: tuple[Check, ...] = (
        Counts("own noise", inputs, atol=0.0),
        Check("given noise", with_noise, atol=0.0),
    )
    if way == BACKWARD:
        checks = checks[1:]  # gradients lie where the tokens were taken, which is drawn
    row = dim * dtype.itemsize
    moved = 2 * kept * row + length * 12  # mask and places; then the gradients of kept and all
    return Case(
        op="random_masking",
        name=f"MAE {model}: {batch}x{length}x{dim}, {kept} kept{_and(way)}",
        dtype=_name(dtype),
        reference=complete(reference),
        checks=tuple(_with_gradient(c, batch, kept, dim) for c in checks) if backward else checks,
        moved_bytes=batch * (moved * (way != BACKWARD) + (kept + length) * row * backward),
        providers=(
            *standard("gather_tokens", public, reference, complete),
            *others(
                "mmpretrain",
                lambda device: peer("mmpretrain_peer").random_masking(RATIO),
                ("mmpretrain",),
                complete,
            ),
        ),
        theirs="mmpretrain",
    )


def _restoring(batch: int, dtype: torch.dtype, length: int = TOKENS, way: str = FORWARD) -> Case:
    kept = _kept(length)

    def reference(x: Tensor, restore: Tensor, token: Tensor, pos: Tensor) -> Tensor:
        return OPS["restore_tokens"].reference(x, restore, token.flatten(), pos[0], 1)

    def public(x: Tensor, restore: Tensor, token: Tensor, pos: Tensor) -> Tensor:
        return ops.restore_tokens(x, restore, token, pos, num_prefix_tokens=1)

    def inputs(device: str, seed: int) -> Inputs:
        x = _normal(device, seed, dtype, batch, 1 + kept, DECODER)
        token = _normal(device, seed + 1, dtype, 1, 1, DECODER)
        pos = _normal(device, seed + 2, dtype, 1, 1 + length, DECODER)
        return x, _noise(device, seed, batch, length).argsort(dim=1), token, pos

    complete, backward = _timed(way, (0, 2, 3)), way != FORWARD
    check = Check("normal", inputs, atol=1e-5 if dtype == torch.float32 else 0.04)
    row = DECODER * dtype.itemsize
    both = batch * (2 + kept + length) * row  # rows in and out
    return Case(
        op="restore_tokens",
        name=f"MAE's decoder: {batch}x{1 + length}x{DECODER}, {1 + kept} kept{_and(way)}",
        dtype=_name(dtype),
        reference=complete(reference),
        checks=(_with_gradient(check, batch, 1 + length, DECODER) if backward else check,),
        moved_bytes=both * PASSES[way] + batch * length * 8 + (2 + length) * row,
        providers=(
            *standard("restore_tokens", public, reference, complete),
            *others(
                "mmpretrain",
                lambda device: peer("mmpretrain_peer").restore_tokens(),
                ("mmpretrain",),
                complete,
            ),
        ),
        theirs="mmpretrain",
    )


def _embedding(batch: int, dtype: torch.dtype, model: str = "ViT-B", way: str = FORWARD) -> Case:
    dim = DIMS[model]

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
        weight = _normal(device, seed, dtype, dim, CHANNELS, PATCH, PATCH) * 0.02
        bias = _normal(device, seed + 1, dtype, dim)
        ids = _noise(device, seed, batch).argsort(dim=1)[:, : _kept(TOKENS)].contiguous()
        pos = _normal(device, seed + 2, dtype, 1, TOKENS, dim)
        mean, std = torch.tensor((MEAN, STD), device=device)  # as a module's buffers
        return images, weight, bias, ids, pos, mean, std

    complete, backward = _timed(way, (1, 2, 4)), way != FORWARD
    check = Check("uint8", inputs, atol=1e-4 if dtype == torch.float32 else 0.08)
    item, kept = dtype.itemsize, _kept(TOKENS)
    parameters = (dim * (PIXELS + 1) + TOKENS * dim) * item
    tokens, patches = batch * kept * dim * item, batch * kept * PIXELS * item
    return Case(
        op="embed_visible_patches",
        name=f"MAE {model} at {SIZE}: {batch}x{CHANNELS}x{SIZE}x{SIZE} uint8, "
        f"{kept} of {TOKENS}{_and(way)}",
        dtype=_name(dtype),
        reference=complete(reference),
        checks=(_with_gradient(check, batch, kept, dim) if backward else check,),
        moved_bytes=(batch * kept * (PIXELS + 8) + parameters + tokens) * (way != BACKWARD)
        + (tokens + patches + parameters) * backward,
        providers=(
            *standard("gather_patches", ops.embed_visible_patches, reference, complete),
            *others(ALL_PATCHES, lambda device: embedding_all, (), complete),
        ),
        # Patches times weight; their gradient: patches times the tokens' (images get none).
        flops=2 * batch * kept * PIXELS * dim * PASSES[way],
        theirs=ALL_PATCHES,
    )


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


def _and(way: str) -> str:
    return {FORWARD: "", BOTH: ", with backward", BACKWARD: ", backward alone"}[way]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
