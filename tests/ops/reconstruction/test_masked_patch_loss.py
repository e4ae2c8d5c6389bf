"""The masked patch loss beyond the generic tests: upstream's laws, gradients, threads, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_fast import ops
from ssl_fast._dispatch import OPS, native
from ssl_fast._testing.samples.reconstruction import MEAN, STD, integers, masks, normal
from ssl_fast.ops.reconstruction import reference
from tests.ops.test_every_op import CPU_BACKENDS, serving

BACKENDS = [*CPU_BACKENDS[:-1], "triton"]
OP = "masked_patch_loss"


def patches_of(images: Tensor, patch: int) -> Tensor:
    """[N, L, patch * patch * C] by way of unfold, which orders (channel, row, column)."""
    batch, channels = images.shape[:2]
    columns = F.unfold(images, patch, stride=patch).transpose(1, 2)
    split = columns.reshape(batch, -1, channels, patch * patch)
    return split.transpose(2, 3).flatten(2)


def mae(pred: Tensor, images: Tensor, mask: Tensor, patch: int, norm_pix: bool = True) -> Tensor:
    """The loss of MAE's and mmpretrain's heads."""
    target = patches_of(images, patch)
    if norm_pix:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6) ** 0.5
    losses = ((pred - target) ** 2).mean(dim=-1)
    return (losses * mask).sum() / mask.sum()


def simmim(pred: Tensor, images: Tensor, mask: Tensor, patch: int) -> Tensor:
    """The loss of mmpretrain's SimMIMHead, L1 with `channel` = C: the mask spread over pixels."""
    pixels = mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
    losses = (pred - images).abs()
    return (losses * pixels).sum() / pixels.sum() / images.shape[1]


def value_and_gradient(loss: Tensor, pred: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(loss, pred)
    return loss.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float32])
@pytest.mark.parametrize("name", BACKENDS)
def test_masks_of_any_type(name: str, dtype: torch.dtype) -> None:
    """What is not 0 is masked, read as it is."""
    pred, images = normal(torch.float32, 2, 4, 192), normal(torch.float32, 2, 3, 16, 16)
    mask = masks(2, 4)
    with serving(name, OP):
        expected = ops.masked_patch_loss(pred, images, mask, 8, True)
        scaled = (0.25 if dtype.is_floating_point else 3) * mask.to(dtype)
        assert torch.equal(ops.masked_patch_loss(pred, images, scaled.to(dtype), 8, True), expected)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("norm_pix", [True, False])
def test_mae(name: str, norm_pix: bool) -> None:
    images, mask = normal(torch.float64, 3, 3, 48, 32), masks(3, 6).double()
    pred = normal(torch.float64, 3, 6, 768).requires_grad_()
    truth = value_and_gradient(mae(pred, images, mask, 16, norm_pix), pred)
    with serving(name, OP):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
            ours = pred.detach().to(dtype).requires_grad_()
            loss = ops.masked_patch_loss(ours, images.to(dtype), mask, 16, norm_pix)
            assert loss.dtype == dtype
            for got, true in zip(value_and_gradient(loss, ours), truth, strict=True):
                assert (got - true).abs().max() <= tolerance * true.abs().max()


@pytest.mark.parametrize("name", BACKENDS)
def test_simmim(name: str) -> None:
    images, mask = normal(torch.float64, 2, 3, 16, 24), masks(2, 4, 6)
    pred = normal(torch.float64, 2, 3, 16, 25)[..., 1:].requires_grad_()
    truth = value_and_gradient(simmim(pred, images, mask, 4), pred)
    with serving(name, OP):
        loss = ops.masked_patch_loss(pred, images, mask, 4, norm_pix=False, p=1)
        for got, true in zip(value_and_gradient(loss, pred), truth, strict=True):
            torch.testing.assert_close(got, true, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", BACKENDS)
def test_uint8_with_statistics_equals_the_normalised_image(name: str) -> None:
    pixels, mask = integers(torch.uint8, 2, 3, 32, 48), masks(2, 6)
    pred = normal(torch.float32, 2, 6, 768)
    mean, std = torch.tensor(MEAN).double(), torch.tensor(STD).double()
    images = (pixels - mean[:, None, None]) / std[:, None, None]
    with serving(name, OP):
        for norm_pix in (True, False):
            truth = mae(pred.double(), images, mask, 16, norm_pix).item()
            for m, s in ((MEAN, STD), (mean, std), (mean.view(3, 1, 1), STD)):
                loss = ops.masked_patch_loss(pred, pixels, mask, 16, norm_pix, mean=m, std=s)
                assert loss.item() == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("value", [0.1, 1000.3])
def test_constant_patches_have_a_target_of_zero(name: str, value: float) -> None:
    """Divided by sqrt(1e-6), a mean that is one rounding off would show."""
    images = torch.full((1, 3, 32, 32), value)
    pred = normal(torch.float32, 1, 4, 768)
    with serving(name, OP):
        loss = ops.masked_patch_loss(pred, images, torch.ones(1, 4), 16)
    expected = pred.double().square().mean().item()
    # The reference's own error is what plain float32 has.
    assert loss.item() == pytest.approx(expected, rel=1e-6 if name != "reference" else 1e-2)


@pytest.mark.parametrize("name", BACKENDS)
def test_small_contrast_on_a_large_level(name: str) -> None:
    images = 100 + 1e-2 * normal(torch.float64, 1, 3, 32, 32)
    images = images.float()  # what is lost here is not the kernel's
    pred, mask = normal(torch.float32, 1, 4, 768), torch.ones(1, 4)
    truth = mae(pred.double(), images.double(), mask, 16).item()
    with serving(name, OP):
        loss = ops.masked_patch_loss(pred, images, mask, 16)
    assert loss.item() == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("p", [1, 2])
def test_nothing_masked(name: str, p: int) -> None:
    pred = normal(torch.float32, 2, 4, 48).requires_grad_()
    images = normal(torch.float32, 2, 3, 8, 8)
    with serving(name, OP):
        loss = ops.masked_patch_loss(pred, images, torch.zeros(2, 4), 4, p=p)
        loss.backward()
    assert loss.item() == 0
    assert torch.equal(pred.grad, torch.zeros_like(pred))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("shaped", [False, True])
def test_what_is_not_masked_is_not_read(name: str, shaped: bool) -> None:
    images, mask = normal(torch.float32, 1, 3, 8, 8), torch.tensor([[1, 0, 0, 1]])
    pred = images.clone() if shaped else patches_of(images, 4)
    expected = ops.masked_patch_loss(pred + 1, images, mask, 4, norm_pix=False)
    images[..., 0:4, 4:8] = torch.nan
    spoiled = pred.clone()
    if shaped:
        spoiled[..., 4:8, 0:4] = torch.inf
    else:
        spoiled[:, 2] = torch.inf
    spoiled.requires_grad_()
    with serving(name, OP):
        loss = ops.masked_patch_loss(spoiled + 1, images, mask, 4, norm_pix=False)
        (gradient,) = torch.autograd.grad(loss, spoiled)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert gradient.isfinite().all()
    assert (gradient != 0).sum() == 2 * 48


@pytest.mark.parametrize("name", BACKENDS)
def test_equal_pixels_have_no_slope(name: str) -> None:
    images = integers(torch.uint8, 1, 3, 8, 8)
    pred = images.float().requires_grad_()
    with serving(name, OP):
        loss = ops.masked_patch_loss(pred, images, torch.ones(1, 4), 4, norm_pix=False, p=1)
        loss.backward()
    assert loss.item() == 0
    assert torch.equal(pred.grad, torch.zeros_like(pred))


def test_masks_of_all_types_and_shapes() -> None:
    images, pred = normal(torch.float32, 2, 3, 8, 12), normal(torch.float32, 2, 6, 48)
    mask = torch.tensor([[1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 0, 0]])
    expected = ops.masked_patch_loss(pred, images, mask.bool(), 4)
    for dtype in (torch.uint8, torch.int64, torch.float16, torch.float32):
        for shape in ((2, 6), (2, 2, 3)):
            typed = mask.to(dtype).view(shape)
            assert torch.equal(ops.masked_patch_loss(pred, images, typed, 4), expected)
    assert torch.equal(ops.masked_patch_loss(pred, images, 0.25 * mask, 4), expected)


def test_narrow_predictions_are_summed_in_float32() -> None:
    images, mask = integers(torch.uint8, 4, 3, 64, 64), torch.ones(4, 16)
    for dtype in (torch.float16, torch.bfloat16):
        pred = normal(dtype, 4, 16, 768).requires_grad_()
        loss = ops.masked_patch_loss(pred, images, mask, 16)
        truth = mae(pred.double(), images.double(), mask, 16)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(truth.item(), rel=1e-6)
        loss.backward()
        assert pred.grad.dtype == dtype


def test_only_the_prediction_gets_a_gradient() -> None:
    pred = normal(torch.float32, 1, 4, 48).requires_grad_()
    images = normal(torch.float32, 1, 3, 8, 8).requires_grad_()
    mean = torch.zeros(3, requires_grad=True)
    ops.masked_patch_loss(pred, images, torch.ones(1, 4), 4, mean=mean).backward()
    assert pred.grad is not None
    assert images.grad is None
    assert mean.grad is None
    assert not ops.masked_patch_loss(pred.detach(), images, torch.ones(1, 4), 4).requires_grad


@pytest.mark.parametrize(
    ("images", "shaped", "options"),
    [
        (integers(torch.uint8, 1, 3, 8, 12), False, {"mean": MEAN, "std": STD}),
        (normal(torch.float64, 1, 3, 8, 12), True, {}),
        (normal(torch.float64, 1, 3, 8, 12), True, {"norm_pix": False, "p": 1}),
        (normal(torch.float64, 1, 2, 4, 12), False, {"p": 1}),
    ],
)
@pytest.mark.parametrize("name", ["reference", "compiled"])
def test_gradcheck(name: str, images: Tensor, shaped: bool, options: dict) -> None:
    batch, channels, height, width = images.shape
    tokens = (batch, height * width // 16, 16 * channels)
    shape = tuple(images.shape) if shaped else tokens
    pred = normal(torch.float64, *shape).requires_grad_()
    mask = masks(batch, tokens[1])
    with serving(name, OP):
        assert torch.autograd.gradcheck(
            lambda x: ops.masked_patch_loss(x, images, mask, 4, **options), pred
        )


def test_the_same_whatever_the_threads() -> None:
    images, mask = integers(torch.uint8, 8, 3, 64, 64), masks(8, 16)
    pred = normal(torch.float32, 8, 16, 768).requires_grad_()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loss = ops.masked_patch_loss(pred, images, mask, 16)
            results.append(value_and_gradient(loss, pred))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for got, first in zip(result, results[0], strict=True):
            assert torch.equal(got, first)


def test_one_graph_of_torch_compile() -> None:
    images, mask = integers(torch.uint8, 2, 3, 8, 8), masks(2, 2, 2).float()
    pred = normal(torch.float32, 2, 4, 48).requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return ops.masked_patch_loss(x * 2, images, mask, 4, mean=MEAN, std=STD)

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for got, eager in zip(
        value_and_gradient(compiled(pred), pred), value_and_gradient(loss(pred), pred), strict=True
    ):
        assert torch.equal(got, eager)


@pytest.mark.skipif(not native.ops().handle, reason="nothing is compiled")
def test_no_copy_in_patches() -> None:
    """Beyond its output and the buffer of a patch a call allocates nothing."""
    images, mask = integers(torch.uint8, 8, 3, 64, 64), masks(8, 16)
    pred, grad = normal(torch.float32, 8, 16, 768), torch.tensor(1.0)
    options = (16, True, 2, None, None)
    with torch.profiler.profile(profile_memory=True) as profile:
        _, count = OPS[OP].overload(pred, images, mask, *options)
        OPS[f"{OP}_backward"].overload(grad, count, pred, images, mask, *options)
    allocated = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    assert allocated <= pred.nbytes + 256


def test_the_reference_puts_patches_back() -> None:
    images = normal(torch.float32, 2, 5, 12, 18)
    patches = reference.patchify(images, 6)
    assert torch.equal(patches, patches_of(images, 6))
    assert torch.equal(reference.unpatchify(patches, 6, images.shape), images)


IMAGES, PRED, MASK = torch.zeros(2, 3, 8, 12), torch.zeros(2, 6, 48), torch.ones(2, 6)
META = torch.zeros(2, 6, device="meta")
BAD_CALLS = {
    "pred type": ((None, IMAGES, MASK, 4), {}, TypeError, "pred is a NoneType; expected a tensor"),
    "pred dtype": ((PRED.int(), IMAGES, MASK, 4), {}, TypeError, "pred is torch.int32; accepted"),
    "pred shape": (
        (PRED[:, 1:], IMAGES, MASK, 4),
        {},
        ValueError,
        r"pred has shape \(2, 5, 48\); expected \(2, 6, 48\), tokens of patch_size 4, or \(2, 3, 8",
    ),
    "images dtype": ((PRED, IMAGES.int(), MASK, 4), {}, TypeError, "accepted are uint8, float16"),
    "images shape": ((PRED, IMAGES[0], MASK, 4), {}, ValueError, r"expected \[N, C, H, W\]"),
    "images size": ((PRED, IMAGES, MASK, 5), {}, ValueError, r"multiples of patch_size \(5\)"),
    "no channels": ((PRED, IMAGES[:, :0], MASK, 4), {}, ValueError, "nothing but the batch"),
    "mask type": ((PRED, IMAGES, [1], 4), {}, TypeError, "mask is a list; expected a tensor"),
    "mask shape": (
        (PRED, IMAGES, MASK.T, 4),
        {},
        ValueError,
        r"mask has shape \(6, 2\); expected \(2, 6\) or \(2, 2, 3\)",
    ),
    "mask device": ((PRED, IMAGES, META, 4), {}, ValueError, "mask is on meta, images on cpu"),
    "patch type": ((PRED, IMAGES, MASK, 4.0), {}, TypeError, r"patch_size is 4.0 \(float\)"),
    "patch value": ((PRED, IMAGES, MASK, 0), {}, ValueError, "patch_size is 0; expected 1"),
    "norm_pix": ((PRED, IMAGES, MASK, 4), {"norm_pix": 1}, TypeError, "norm_pix is 1; expected"),
    "p": ((PRED, IMAGES, MASK, 4), {"p": 3}, ValueError, "p is 3; accepted are 1"),
    "one value": (
        (torch.zeros(2, 96, 1), IMAGES[:, :1], torch.ones(2, 96), 1),
        {},
        ValueError,
        "patches of two values or more",
    ),
    "mean": ((PRED, IMAGES, MASK, 4), {"mean": [1, 2]}, ValueError, "mean has 2 values; the image"),
    "mean type": ((PRED, IMAGES, MASK, 4), {"mean": ["a"]}, TypeError, "mean is .*; expected a t"),
    "std": ((PRED, IMAGES, MASK, 4), {"std": (1, 0, 1)}, ValueError, "accepted are positive"),
    "nan": ((PRED, IMAGES, MASK, 4), {"mean": float("nan")}, ValueError, "accepted are finite"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_input_is_named(case: str) -> None:
    args, options, error, message = BAD_CALLS[case]
    with pytest.raises(error, match=message):
        ops.masked_patch_loss(*args, **options)


@pytest.mark.skipif(not native.ops().handle, reason="nothing is compiled")
def test_second_fence() -> None:
    """Who calls the ops themselves, past the checks, gets an error and no crash."""
    forward, backward = OPS[OP].overload, OPS[f"{OP}_backward"].overload
    mask, three, grad = MASK.bool(), torch.ones(3), torch.tensor(1.0)
    with serving("compiled", OP):
        for bad, message in (
            ((PRED, IMAGES, mask, 5, True, 2), "whole patches"),
            ((PRED, IMAGES, mask, 0, True, 2), "whole patches"),
            ((PRED[..., 1:], IMAGES, mask, 4, True, 2), "tokens or an image"),
            ((PRED, IMAGES, MASK, 4, True, 2), "mask must be bool"),
            ((PRED, IMAGES, mask[:, 1:], 4, True, 2), "mask must be bool"),
            ((PRED, IMAGES, mask, 4, True, 3), "p is 1 or 2"),
            ((PRED, IMAGES, mask, 4, True, 2, three[:2]), "mean and std must be"),
            ((PRED, IMAGES, mask, 4, True, 2, three, three.half()), "mean and std must be"),
        ):
            with pytest.raises(RuntimeError, match=message):
                forward(*bad)
            with pytest.raises(RuntimeError, match=message):
                backward(grad, grad, *bad)
        with pytest.raises(RuntimeError, match="grad must be one"):
            backward(three, grad, PRED, IMAGES, mask, 4, True, 2)
