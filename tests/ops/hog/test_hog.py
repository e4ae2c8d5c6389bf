"""HOG beyond the generic tests: decisions, NaN, photographs, errors, upstream's law."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ssl_fast
from ssl_fast import ops
from ssl_fast._dispatch import OPS, backends, native
from ssl_fast._testing.samples.hog import integers
from tests.ops.test_every_op import CPU_BACKENDS, serving

BACKENDS = [*CPU_BACKENDS, "triton"]


def upstream_hog(images: Tensor, nbins: int, cell: int) -> Tensor:
    """HOG by convolution, atan2 and scatter: the law that mmpretrain and SlowFast follow."""
    channels = images.shape[1]
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).to(images)
    kernel = kernel.expand(channels, 1, 3, 3)
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    gx = F.conv2d(padded, kernel, groups=channels)
    gy = F.conv2d(padded, kernel.transpose(2, 3), groups=channels)
    magnitude = torch.stack([gx, gy], dim=-1).norm(dim=-1)
    bins = (torch.atan2(gx, gy) / math.pi * nbins).floor().long() % nbins
    spread = images.new_zeros(images.shape[0], channels, nbins, *images.shape[2:])
    spread.scatter_add_(2, bins[:, :, None], magnitude[:, :, None])
    return F.normalize(F.avg_pool3d(spread, (1, cell, cell)) * cell**2, dim=2)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("nbins", [8, 9, 12, 16])
def test_integer_images_are_right_everywhere(name: str, dtype: torch.dtype, nbins: int) -> None:
    """No pixel in a wrong bin: each would move a value by far more than 1e-6."""
    images = integers(torch.uint8, 1, 2, 160, 160)
    truth = upstream_hog(images.double(), nbins, 8)
    with serving(name, "hog"):
        assert (ops.hog(images.to(dtype), nbins) - truth).abs().max() < 1e-6


@pytest.mark.parametrize("rounded", [True, False])
def test_bins_of_all_gradients_of_8_bit_images(rounded: bool) -> None:
    """The rule of hog_math.h, in float32, against float64's atan2 for all 2041 x 2041 gradients.

    Its product is rounded; CUDA C++ takes the sign of a multiply-add, which is that of the exact
    difference.
    """
    values = torch.arange(-1020, 1021, dtype=torch.float32)
    gx, gy = values[:, None], values[None, :]
    ax, ay = gx.abs(), gy.abs()
    for nbins in (8, 9, 12, 16, 18):
        angle = torch.atan2(gx.double(), gy.double())
        truth = (angle / math.pi * nbins).floor().long() % nbins
        mirrored = (gx != 0) & ((gx < 0) != (gy < 0))
        limit = torch.where(mirrored, torch.nextafter(ay, torch.tensor(torch.inf)), ay)
        passed = torch.zeros_like(truth)
        for k in range(1, nbins // 2 + 1):
            rational = {nbins // 2 if nbins % 2 == 0 else 0: 0.0, nbins / 4: 1.0}
            cotangent = rational.get(k, 1 / math.tan(k * math.pi / nbins))
            cotangent = torch.tensor(cotangent, dtype=torch.float32)
            if rounded:
                passed += ax * cotangent >= limit
            else:
                difference = ax.double() * cotangent.double() - ay
                passed += torch.where(mirrored, difference > 0, difference >= 0)
        bins = torch.where(mirrored, nbins - 1 - passed, passed)
        counts = (gx != 0) | (gy != 0)  # no gradient, no weight
        assert int(((bins != truth) & counts).sum()) == 0, nbins


def test_fractions_of_the_integer_path() -> None:
    """csrc/hog/hog_strip.h compares p |gx| >= q |gy|: the outcome is the true one for all pairs."""
    fractions = [(10347, 3766), (2399, 2013), (18817, 32592), (2239, 12698)]
    gx = np.arange(0, 1021)
    for k, (p, q) in enumerate(fractions, start=1):
        true = np.floor(gx / np.tan(np.longdouble(k) * np.pi / 9)).astype(np.int64)
        assert np.array_equal(true, p * gx // q)


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "reference"])
def test_normal_images_agree_with_upstream(name: str) -> None:
    images = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    with serving(name, "hog"):
        difference = (ops.hog(images) - upstream_hog(images, 9, 8)).abs()
    assert (difference < 1e-5).double().mean() >= 0.9999


def photographs() -> Tensor:
    """scikit-learn's two photographs, cropped to 320 x 320, normalised as ImageNet's are."""
    pytest.importorskip("PIL", reason="pip install pillow")
    datasets = pytest.importorskip("sklearn.datasets", reason="pip install scikit-learn")
    crops = [
        torch.from_numpy(image.copy())[:320, :320] for image in datasets.load_sample_images().images
    ]
    images = torch.stack(crops).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_photographs_are_no_further_from_truth_than_upstream(name: str) -> None:
    """Exact ties of 8-bit pixels fall apart in fp32, for everyone: flips are counted apart."""
    images = photographs()
    truth = upstream_hog(images.double(), 9, 8)
    upstream = (upstream_hog(images, 9, 8) - truth).abs()
    with serving(name, "hog"):
        ours = (ops.hog(images) - truth).abs()
    assert (ours > 1e-5).double().mean() <= (upstream > 1e-5).double().mean()
    settled = (ours <= 1e-5) & (upstream <= 1e-5)
    assert ours[settled].square().mean() <= upstream[settled].square().mean() * 4


@pytest.mark.parametrize("name", BACKENDS)
def test_uint8_photographs_equal_the_float64_normalised_ones(name: str) -> None:
    """From the 8-bit pixels there is nothing to flip."""
    pytest.importorskip("PIL", reason="pip install pillow")
    datasets = pytest.importorskip("sklearn.datasets", reason="pip install scikit-learn")
    crop = torch.from_numpy(datasets.load_sample_image("china.jpg")[:160, :160].copy())
    images = crop.permute(2, 0, 1)[None]
    truth = upstream_hog(images.double(), 9, 8)
    with serving(name, "hog"):
        assert (ops.hog(images) - truth).abs().max() < 1e-6


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("y", "x"), [(0, 0), (7, 7), (8, 20), (31, 47), (12, 12)])
def test_nan_reaches_the_cells_of_its_neighbours(name: str, y: int, x: int) -> None:
    images = integers(torch.float32, 1, 2, 32, 48)
    images[0, 1, y, x] = torch.nan
    expected = torch.zeros(2, 4, 6, dtype=torch.bool)
    for dy, dx in itertools.product((-1, 0, 1), repeat=2):
        if 0 <= y + dy < 32 and 0 <= x + dx < 48:
            expected[1, (y + dy) // 8, (x + dx) // 8] = True
    with serving(name, "hog"):
        found = ops.hog(images).isnan()[0]
    assert torch.equal(found.any(dim=1), expected)
    assert torch.equal(found.all(dim=1), expected)


@pytest.mark.parametrize("name", BACKENDS)
def test_constant_images_are_zero(name: str) -> None:
    with serving(name, "hog"):
        assert ops.hog(torch.full((1, 3, 16, 16), 0.1)).abs().max() == 0


def test_many_rows_of_cells_in_several_threads() -> None:
    images = integers(torch.uint8, 4, 3, 64, 64)
    one_by_one = torch.cat([ops.hog(image[None], gaussian_window=16) for image in images])
    assert torch.equal(ops.hog(images, gaussian_window=16), one_by_one)


def test_tokens_are_the_cells_of_their_patch() -> None:
    images = integers(torch.uint8, 1, 2, 48, 32)
    features, tokens = ops.hog(images), ops.hog_tokens(images, 16)
    assert tokens.shape == (1, 6, 72)
    token = tokens[0, 3].view(2, 9, 2, 2)  # second row, second column of patches
    assert torch.equal(token, features[0, :, :, 2:4, 2:4])


def test_mask_of_a_grid_and_of_other_types() -> None:
    images = integers(torch.uint8, 2, 1, 32, 32)
    mask = torch.tensor([[[1, 0], [0, 1]], [[0, 0], [1, 0]]])
    expected = ops.hog_tokens(images) * mask.flatten(1)[..., None]
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float32):
        assert torch.equal(ops.hog_tokens(images, mask=mask.to(dtype)), expected)


def test_images_that_require_grad_are_detached() -> None:
    images = torch.randn(1, 1, 16, 16, requires_grad=True)
    assert not ops.hog(images).requires_grad
    assert not ops.hog_tokens(images).requires_grad


IMAGES = torch.zeros(2, 3, 32, 32)
BAD_CALLS = {
    "not a tensor": (lambda: ops.hog([1, 2]), TypeError, "images is a list; expected a tensor"),
    "dtype": (
        lambda: ops.hog(IMAGES.int()),
        TypeError,
        "images is torch.int32; accepted are uint8",
    ),
    "dimensions": (lambda: ops.hog(IMAGES[0]), ValueError, r"shape \(3, 32, 32\); expected \[B, C"),
    "size": (
        lambda: ops.hog(IMAGES[..., :30]),
        ValueError,
        r"32 x 30; .* multiples of cell_size \(8\)",
    ),
    "too small": (lambda: ops.hog(IMAGES[..., :1], cell_size=1), ValueError, "at least 2"),
    "nbins": (lambda: ops.hog(IMAGES, nbins=0), ValueError, "nbins is 0; expected 1 or more"),
    "many bins": (
        lambda: ops.hog(IMAGES, nbins=181),
        ValueError,
        "nbins is 181; accepted are 1 to 180",
    ),
    "nbins type": (
        lambda: ops.hog(IMAGES, nbins=9.0),
        TypeError,
        r"nbins is 9.0 \(float\); expected",
    ),
    "cell": (lambda: ops.hog(IMAGES, cell_size=-8), ValueError, "cell_size is -8"),
    "window": (
        lambda: ops.hog(IMAGES, gaussian_window=1),
        ValueError,
        "gaussian_window is 1; accepted",
    ),
    "wide window": (lambda: ops.hog(IMAGES, gaussian_window=513), ValueError, "accepted are 0"),
    "eps": (lambda: ops.hog(IMAGES, eps=-1.0), ValueError, "eps is -1.0; expected 0 or more"),
    "patch": (
        lambda: ops.hog_tokens(IMAGES, 12),
        ValueError,
        "patch_size is 12; it must be a multiple",
    ),
    "patch size": (lambda: ops.hog_tokens(IMAGES, 24), ValueError, "divide height and width"),
    "both": (
        lambda: ops.hog_tokens(
            IMAGES, mask=torch.zeros(2, 4), ids=torch.zeros(2, 1, dtype=torch.long)
        ),
        ValueError,
        "choose one",
    ),
    "mask shape": (
        lambda: ops.hog_tokens(IMAGES, mask=torch.zeros(2, 5)),
        ValueError,
        r"mask has shape \(2, 5\); expected \(2, 4\) or \(2, 2, 2\)",
    ),
    "mask type": (lambda: ops.hog_tokens(IMAGES, mask=[1]), TypeError, "mask is a list"),
    "ids type": (
        lambda: ops.hog_tokens(IMAGES, ids=torch.zeros(2, 1)),
        TypeError,
        "ids is torch.float32",
    ),
    "ids shape": (
        lambda: ops.hog_tokens(IMAGES, ids=torch.zeros(3, 1, dtype=torch.long)),
        ValueError,
        r"ids has shape \(3, 1\); expected \[2, K\]",
    ),
    "ids range": (
        lambda: ops.hog_tokens(IMAGES, ids=torch.tensor([[0], [4]])),
        ValueError,
        r"ids are in 0 \.\. 4; expected 0 \.\. 3",
    ),
    "device": (
        lambda: ops.hog_tokens(IMAGES, mask=torch.zeros(2, 4, device="meta")),
        ValueError,
        "mask is on meta, images on cpu",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_input_is_named(case: str) -> None:
    call, error, message = BAD_CALLS[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", ["compiled", "emulated"])
def test_second_fence(name: str) -> None:
    """Who calls the op itself, past the checks, gets an error and no crash."""
    call = OPS["hog_tokens"].overload
    with serving(name, "hog_tokens"):
        for ids in (torch.tensor([[0], [4]]), torch.tensor([[0], [-1]])):
            if name == "emulated":  # as on a GPU, see below
                continue
            with pytest.raises(RuntimeError, match="ids out of range"):
                call(IMAGES, 16, 9, 8, 0, 1e-12, None, ids)
        with pytest.raises(RuntimeError, match="cell_size must divide"):
            call(IMAGES[..., :30], 10, 9, 8, 0, 1e-12)
        with pytest.raises(RuntimeError, match="nbins out of range"):
            call(IMAGES, 16, 1000, 8, 0, 1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
@pytest.mark.parametrize("cell", [4, 8])
def test_ids_out_of_range_as_on_a_gpu(dtype: torch.dtype, cell: int) -> None:
    """A token of NaN each, in its place; the others are as without."""
    images = integers(dtype, 2, 3, 32, 48)
    ids = torch.tensor([[0, 6, -1, 5], [1 << 40, 2, 3, -(1 << 40)]])
    bad = torch.tensor([[False, True, True, False], [True, False, False, True]])
    call = OPS["hog_tokens"].overload
    with serving("emulated", "hog_tokens"):
        tokens = call(images, 16, 9, cell, 0, 1e-12, None, ids)
    truth = ops.hog_tokens(images, cell_size=cell, ids=ids.where(~bad, 0))
    assert torch.equal(tokens.isnan().all(dim=-1), bad)
    assert (tokens - truth)[~bad].abs().max() < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["compiled", "triton"])
def test_ids_out_of_range_on_a_gpu(name: str) -> None:
    with serving(name, "hog_tokens", "cuda"):
        tokens = ops.hog_tokens(IMAGES.cuda(), ids=torch.tensor([[0, 4], [-1, 3]]).cuda())
    assert torch.equal(
        tokens.isnan().all(dim=-1).cpu(), torch.tensor([[False, True], [True, False]])
    )


@pytest.mark.skipif(not native.ops().handle, reason="nothing is compiled")
def test_memory_beyond_the_output_is_on_the_stack() -> None:
    """The kernel allocates its output and nothing else."""
    images = integers(torch.uint8, 8, 3, 64, 64)
    with torch.profiler.profile(profile_memory=True) as profile:
        output = ops.hog(images)
    allocated = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    assert allocated <= output.nbytes + 64
    assert backends.owner(OPS["hog"], "cpu") == "compiled" or ssl_fast.explain("hog").forced
