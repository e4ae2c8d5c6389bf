"""HOG targets and BEiT's masks against mmpretrain's own."""

import copy
import pickle

import numpy as np
import pytest
import torch

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmpretrain.datasets.transforms import BEiTMaskGenerator, SimMIMMaskGenerator  # noqa: E402
from mmpretrain.models.selfsup.maskfeat import HOGGenerator  # noqa: E402

from ssl_fast.integrations import mmpretrain as integration  # noqa: E402
from ssl_fast.integrations.mmpretrain import generators, hog  # noqa: E402
from tests.integrations.mmpretrain.agreement import both, same  # noqa: E402


@pytest.fixture
def calls(monkeypatch):
    """The images that our op was given."""
    made, op = [], hog.ops.hog
    monkeypatch.setattr(hog.ops, "hog", lambda *a: made.append(a[0]) or op(*a))
    return made


@pytest.mark.parametrize("window", [16, 0])
@pytest.mark.parametrize("nbins", [9, 12])
@pytest.mark.parametrize("size", [112, 224])
def test_hog(size, nbins, window, calls):
    torch.manual_seed(0)
    generator = HOGGenerator(nbins=nbins, pool=8, gaussian_window=window)
    images = torch.randn(2, 3, size, size)

    def generated():
        features = generator(images)
        assert (generator.h, generator.w) == (size, size)
        assert generator.unfold_size == size // 8 // 14
        return features, generator.out

    ours, theirs = both(generated)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.is_contiguous() == other.is_contiguous()
    # On the border a gradient is 0 but for upstream's rounding, the edge of two of 12 bins; and a
    # pixel or two within may fall into another bin: then a cell is off.
    one, other = (result[1][..., 1:-1, 1:-1] for result in (ours, theirs))
    assert ((one - other).abs() > 1e-4).sum() <= 2 * nbins
    if nbins == 9:
        assert ((ours[0] - theirs[0]).abs() > 1e-4).sum() <= 2 * nbins
    assert len(calls) == 1
    assert not ours[0].requires_grad


def test_hog_takes_images_of_every_dtype(calls):
    generator, images = HOGGenerator(), torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    expected = generator(images.float())
    with integration.disable():
        torch.testing.assert_close(generator(images.float()), expected)
    for dtype in (torch.uint8, torch.bfloat16, torch.float16):
        torch.testing.assert_close(generator(images.to(dtype)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(generator(images.float().requires_grad_()), expected)
    assert len(calls) == 5


def test_hog_keeps_state_and_layouts_of_subclasses(calls):
    class Flat(HOGGenerator):
        def _reshape(self, hog_feat):
            return hog_feat.flatten(1)

    images = torch.randn(2, 3, 112, 112)
    generator = HOGGenerator()
    with integration.disable():
        before = HOGGenerator().state_dict()
    assert list(generator.state_dict()) == list(before)
    generator(images)
    assert torch.equal(Flat()(images), generator.out.flatten(1))
    same(*both(lambda: [Flat()(images)]), rtol=1e-4, atol=1e-4)
    for other in (copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        assert torch.equal(other(images), generator(images))


def test_hog_hands_on_what_the_kernel_does_not_compute(calls):
    images = torch.randn(2, 3, 112, 112)
    scharr = HOGGenerator()
    scharr(images)
    assert len(calls) == 1
    scharr.weight_x.mul_(2)  # written in place after the first call
    scharr.weight_x[:, :, 1] *= 2

    class Narrow(HOGGenerator):
        def get_gaussian_kernel(self, kernlen, std):
            return super().get_gaussian_kernel(kernlen, std / 2)

    for generator, x in (
        (scharr, images),
        (Narrow(), images),
        (HOGGenerator(gaussian_window=0), torch.randn(1, 3, 116, 116)),
    ):
        same(*both(lambda g=generator, i=x: [g(i)]), rtol=0, atol=0)
    for wrong in (
        torch.randn(1, 1, 112, 112),
        torch.randn(1, 3, 112, 224),
        torch.randn(1, 3, 120, 120),
    ):
        with pytest.raises((RuntimeError, AssertionError)):
            HOGGenerator()(wrong)
    assert len(calls) == 1
    half = HOGGenerator().half()
    half(images)
    assert len(calls) == 2


def masks_of(generator, count):
    return np.stack([generator.transform({"img": 1})["mask"] for _ in range(count)])


@pytest.mark.parametrize("correct", [False, True])
def test_beit_masks_follow_the_law(correct):
    options = dict(input_size=(8, 10), num_masking_patches=30, min_num_patches=4)
    with integration.enable(correct=correct, quiet=True):
        np.random.seed(0)
        ours = masks_of(BEiTMaskGenerator(**options), 6000)
    with integration.disable():
        theirs = masks_of(BEiTMaskGenerator(**options), 3000)
    assert (ours.shape[1:], ours.dtype) == (theirs.shape[1:], theirs.dtype)
    assert (ours.sum(axis=(1, 2)) == 30).all()
    assert set(np.unique(ours)) == {0, 1}
    gap = np.abs(ours.mean(axis=0) - theirs.mean(axis=0))
    # Four standard deviations of a cell's frequency in 3000 and 6000 masks.
    bound = 4 * (0.25 / 3000 + 0.25 / 6000) ** 0.5
    assert theirs[:, -1].sum() == theirs[:, :, -1].sum() == 0
    if correct:
        assert ours[:, -1].mean() > 0.1
        assert gap.max() > bound
    else:
        assert gap.max() < bound
        # Blocks, not cells: as many pairs of neighbours of one kind.
        pairs = [(m[:, 1:] == m[:, :-1]).mean() for m in (ours, theirs)]
        assert abs(pairs[0] - pairs[1]) < 0.01


def test_beit_masks_come_from_the_generator_of_numpy():
    generator = BEiTMaskGenerator(14, 75, min_num_patches=16)
    np.random.seed(3)
    first, second = masks_of(generator, 2)
    assert (first != second).any()
    np.random.seed(3)
    assert (masks_of(generator, 1)[0] == first).all()
    np.random.seed(4)
    assert (masks_of(generator, 1)[0] != first).any()
    assert list(generator.transform({"img": 1})) == ["img", "mask"]


def test_beit_masks_of_other_laws_stay(monkeypatch):
    class Corner(BEiTMaskGenerator):
        def _mask(self, mask, max_mask_patches):
            mask[0, :3] = 1
            return 3

    assert Corner(4, 3).transform({})["mask"].sum() == 3
    monkeypatch.setattr(generators.host, "block_mask", None)
    assert BEiTMaskGenerator(8, 12, min_num_patches=2.5).transform({})["mask"].sum() == 12
    monkeypatch.setattr(BEiTMaskGenerator, "_mask", Corner._mask)
    assert BEiTMaskGenerator(4, 3).transform({})["mask"][0].sum() == 3


def test_simmim_masks_are_those_of_the_same_seed():
    same(*both(lambda: [torch.from_numpy(SimMIMMaskGenerator().transform({})["mask"])]))
