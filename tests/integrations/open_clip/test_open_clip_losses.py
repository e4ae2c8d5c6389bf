"""open_clip's losses with our hot paths against open_clip's own, in one process."""

import copy
import inspect
from unittest import mock

import pytest
import torch
from torch.testing import assert_close

from tests.integrations.peers import require

require("open_clip")
from open_clip import loss as theirs  # noqa: E402

from ssl_fast import ops  # noqa: E402
from ssl_fast.integrations import open_clip as integration  # noqa: E402

pytestmark = pytest.mark.smoke


@pytest.fixture(autouse=True)
def enabled(monkeypatch):
    for name in ("WORTHWHILE_CLIP", "WORTHWHILE_SIGLIP"):
        monkeypatch.setattr(integration, name, 1)
    with integration.enable(quiet=True):
        yield


def batch(count, dim=24, dtype=torch.float32):
    generator = torch.Generator().manual_seed(count)
    rows = torch.randn(2, count, dim, generator=generator)
    return [x.to(dtype) for x in torch.nn.functional.normalize(rows, dim=-1)]


def run(loss, *arguments, autocast=False, **options):
    leaves = [x.detach().clone().requires_grad_() for x in arguments]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(*leaves, **options)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return (value.detach(), *gradients)


def check(name, loss, *arguments, near=None, **options):
    with mock.patch.object(ops, name, wraps=getattr(ops, name)) as spy:
        found = run(loss, *arguments, **options)
    assert spy.called
    with integration.disable():
        assert_close(found, run(loss, *arguments, **options), **(near or {}))


@pytest.mark.parametrize("count", [1, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_values_and_gradients(count, dtype, shape):
    pair = batch(count, dtype=dtype)
    scale, bias = torch.full(shape, 14.0), torch.full(shape, -10.0)
    near = {"rtol": 1e-4, "atol": 1e-5}
    check("clip_loss", theirs.ClipLoss(), *pair, scale, near=near)
    check("clip_loss", theirs.ClipLoss(cache_labels=True), *pair, scale, bias, near=near)
    check("siglip_loss", theirs.SigLipLoss(), *pair, scale, bias, near=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision(dtype, autocast):
    pair, near = batch(40, dtype=dtype), {"rtol": 0.05, "atol": 0.05}
    options = {"autocast": autocast, "near": near}
    check("clip_loss", theirs.ClipLoss(), *pair, torch.tensor(14.0), **options)
    scale, bias = torch.tensor(5.0), torch.tensor(-4.0)
    options["near"] = {"rtol": 0.05, "atol": 0.3}  # its sum of all pairs is bfloat16 there
    check("siglip_loss", theirs.SigLipLoss(), *pair, scale, bias, **options)


def test_scale_as_a_number_and_output_dict():
    image, text = batch(9)
    for loss, arguments in (
        (theirs.ClipLoss(), (image, text, 10.0)),
        (theirs.SigLipLoss(), (image, text, 10.0, None)),
        (theirs.SigLipLoss(), (image, text, 10.0, -3.0)),
    ):
        found = loss(*arguments, output_dict=True)
        with integration.disable():
            expected = loss(*arguments, output_dict=True)
        assert found.keys() == expected.keys() == {"contrastive_loss"}
        assert_close(found, expected)


def test_losses_made_of_clips():
    """CoCa's calls our forward, the distilled one takes the logits itself."""
    image, text, scale = *batch(6), torch.tensor(14.0)
    logits, labels = torch.randn(6, 5, 11), torch.randint(0, 11, (6, 5))
    coca = theirs.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=0.5)
    with mock.patch.object(ops, "clip_loss", wraps=ops.clip_loss) as spy:
        found = coca(image, text, logits, labels, scale)
    assert spy.called
    distill = theirs.DistillClipLoss()
    arguments = (image, text, scale, *batch(6, 12), torch.tensor(8.0))
    distilled = distill(*arguments)
    with integration.disable():
        assert_close(found, coca(image, text, logits, labels, scale))
        assert_close(distilled, distill(*arguments), rtol=0, atol=0)


class Sharpened(theirs.ClipLoss):
    def get_logits(self, *args, **kwargs):
        return tuple(2 * x for x in super().get_logits(*args, **kwargs))


class Doubled(theirs.SigLipLoss):
    def _loss(self, *args, **kwargs):
        return 2 * super()._loss(*args, **kwargs)


def test_overridden_parts_are_called():
    image, text = batch(6)
    for loss, arguments in (
        (Sharpened(), (image, text, 10.0)),
        (Doubled(), (image, text, 10.0, -5.0)),
    ):
        found = loss(*arguments)
        with integration.disable():
            assert_close(found, loss(*arguments), rtol=0, atol=0)
    other = theirs.ClipLoss()
    other.get_logits = Sharpened().get_logits
    found = other(image, text, 10.0)
    with integration.disable():
        assert_close(found, copy.copy(other)(image, text, 10.0), rtol=0, atol=0)


def test_errors_are_open_clips():
    image, text = batch(6)
    for arguments in ((image, text[:, :5], 10.0), (image[0], text, 10.0)):
        messages = []
        for context in (integration.enable, integration.disable):
            with context(), pytest.raises((RuntimeError, ValueError, IndexError)) as error:
                theirs.ClipLoss()(*arguments)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_few_pairs_are_open_clips(monkeypatch):
    monkeypatch.undo()
    assert min(integration.WORTHWHILE_CLIP, integration.WORTHWHILE_SIGLIP) > 36
    with mock.patch.multiple(ops, clip_loss=mock.DEFAULT, siglip_loss=mock.DEFAULT) as spies:
        theirs.ClipLoss()(*batch(6), 10.0)
        theirs.SigLipLoss()(*batch(6), 10.0, -5.0)
    assert not any(spy.called for spy in spies.values())


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
def test_signatures(name):
    """4.x has `chunk_size` besides, at the end."""
    for method in ("__init__", "forward"):
        found, expected = (
            [(p.name, p.default, p.kind) for p in inspect.signature(f).parameters.values()]
            for f in (getattr(getattr(m, name), method) for m in (integration, theirs))
        )
        assert found[: len(expected)] == expected
        assert [p[:2] for p in found[len(expected) :]] in ([], [("chunk_size", 0)])


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
def test_our_classes_agree(name):
    arguments = [*batch(20), torch.tensor(14.0), torch.tensor(-10.0)]
    with integration.disable():
        expected = run(getattr(theirs, name)(), *arguments)
    assert_close(run(getattr(integration, name)(), *arguments), expected)
    assert not list(getattr(integration, name)().state_dict())
    image, text = arguments[:2]
    with integration.disable():
        expected = getattr(theirs, name)()(image, text, 10.0, None, output_dict=True)
    assert_close(getattr(integration, name)()(image, text, 10.0, None, output_dict=True), expected)


def test_what_is_replaced(capsys):
    integration.enable()
    assert "  left " not in integration.report()
    before = theirs.ClipLoss.forward
    integration.disable()
    assert theirs.ClipLoss.forward is not before
    assert integration.report().startswith("ssl_fast replaces 0 of 0")
