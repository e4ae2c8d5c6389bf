"""HOGGenerator against upstream's law, written here once more from plain torch ops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssl_fast import ops
from ssl_fast.nn import HOGGenerator

SOBEL = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])


def gaussian(side):
    offsets = torch.arange(side).float() - (side - 1) / 2
    axis = torch.exp(-0.5 * (offsets / (side // 2)) ** 2)
    return torch.outer(axis, axis) / torch.outer(axis, axis).sum()


def law_features(images, nbins=9, pool=8, window=16):
    """Upstream's features in the dtype of the images: [B, C, nbins, H // pool, W // pool]."""
    channels = images.shape[1]
    kernel = SOBEL.to(images).expand(channels, 1, 3, 3)
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    gx = F.conv2d(padded, kernel, groups=channels)
    gy = F.conv2d(padded, kernel.transpose(2, 3), groups=channels)
    magnitude = torch.hypot(gx, gy)
    if window:
        repeats = (images.shape[2] // window, images.shape[3] // window)
        magnitude = magnitude * gaussian(window).to(images).repeat(repeats)
    bins = (torch.atan2(gx, gy) / math.pi * nbins).floor().long() % nbins
    votes = magnitude.new_zeros(*gx.shape[:2], nbins, *gx.shape[2:])
    votes.scatter_add_(2, bins[:, :, None], magnitude[:, :, None])
    cells = votes.unfold(3, pool, pool).unfold(4, pool, pool).sum(dim=(-2, -1))
    return F.normalize(cells, dim=2)


def law_tokens(features):
    """Upstream's layout, which divides a row of cells by 14."""
    u = features.shape[-1] // 14
    grid = features.flatten(1, 2).permute(0, 2, 3, 1)
    return grid.unfold(1, u, u).unfold(2, u, u).flatten(1, 2).flatten(2)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def assert_nearly_all_equal(ours, law):
    """A pixel on the edge of a bin may fall to the other side: 1 in 10,000 values."""
    assert ours.shape == law.shape
    assert (ours - law).abs().le(1e-5).double().mean() >= 0.9999


def test_random_images_give_upstreams_numbers():
    images = randn(4, 3, 224, 224)
    ours = HOGGenerator()(images)
    assert ours.shape == (4, 196, 108)
    assert ours.dtype == torch.float32
    assert_nearly_all_equal(ours, law_tokens(law_features(images)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_integer_images_give_the_float64_law(dtype):
    images = integers(2, 3, 224, 224)
    law = law_tokens(law_features(images.double()))
    ours = HOGGenerator()(images.to(dtype))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), law, rtol=0, atol=1e-6)


def test_float64_stays_float64():
    images = randn(1, 3, 112, 112).double()
    ours = HOGGenerator()(images)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, law_tokens(law_features(images)), rtol=0, atol=1e-7)


# Also grids of which upstream's 14 is only the divisor: 16, 20 and 8 rows.
@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (112, 112, {}),
        (128, 128, {}),
        (320, 320, {}),
        (448, 448, {"nbins": 12}),
        (64, 128, {"gaussian_window": 0}),
        (84, 84, {"pool": 3, "gaussian_window": 12, "nbins": 6}),
        (56, 56, {"pool": 4, "gaussian_window": 7, "nbins": 18}),
    ],
)
def test_every_size_that_works_upstream(height, width, options):
    images = integers(1, 3, height, width)
    generator = HOGGenerator(**options)
    law = law_features(images.double(), generator.nbins, generator.pool, generator.gaussian_window)
    torch.testing.assert_close(generator(images).double(), law_tokens(law), rtol=0, atol=1e-6)
    assert generator.unfold_size == law.shape[-1] // 14


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels):
    images = integers(1, channels, 112, 112)
    law = law_tokens(law_features(images.double()))
    torch.testing.assert_close(HOGGenerator()(images).double(), law, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "grid"), [(232, 232, "29 x 29"), (96, 96, "12 x 12"), (120, 224, "15 x 28")]
)
def test_grids_that_upstream_cuts_or_refuses(height, width, grid):
    images = integers(1, 3, height, width)
    with pytest.raises(ValueError, match=f"{grid} cells.*pass patch_size"):
        HOGGenerator()(images)
    tokens = HOGGenerator(patch_size=8)(images)
    assert tokens.shape == (1, height * width // 64, 27)


def test_patch_size_makes_any_grid():
    images = integers(2, 3, 96, 192)
    generator = HOGGenerator(patch_size=32)
    tokens = generator(images)
    assert tokens.shape == (2, 18, 3 * 9 * 16)
    assert generator.unfold_size == 4
    features = law_features(images.double())
    torch.testing.assert_close(generator.out.double(), features, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"12 x 13 cells.*patch_size 32"):
        generator(integers(1, 3, 96, 104))


def upstream_state(window=16):
    state = {"weight_x": SOBEL.repeat(3, 1, 1, 1), "weight_y": SOBEL.t().repeat(3, 1, 1, 1)}
    return {**state, "gaussian_kernel": gaussian(window)} if window else state


@pytest.mark.parametrize("window", [16, 8, 0])
def test_state_dict_is_upstreams(window):
    generator, upstream = HOGGenerator(gaussian_window=window), upstream_state(window)
    ours = generator.state_dict()
    assert list(ours) == list(upstream)
    for name, value in upstream.items():
        assert ours[name].dtype == value.dtype
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=0)
    generator.load_state_dict(upstream, strict=True)


def test_attributes():
    generator = HOGGenerator(6, 4, 8)
    assert (generator.nbins, generator.pool, generator.gaussian_window) == (6, 4, 8)
    tokens = generator(integers(2, 3, 112, 112))
    assert (generator.h, generator.w, generator.unfold_size) == (112, 112, 2)
    assert generator.out.shape == (2, 3, 6, 28, 28)
    assert torch.equal(generator._reshape(generator.out), tokens)
    assert torch.equal(generator.out, ops.hog(integers(2, 3, 112, 112), 6, 4, 8))
    assert not list(generator.parameters())


def test_reshape_of_a_subclass_is_called():
    class Video(HOGGenerator):
        def _reshape(self, hog_feat):
            assert hog_feat.shape == (1, 3, 9, 8, 8)
            self.unfold_size = 8
            return hog_feat.sum()

    images = integers(1, 3, 64, 64)  # a size that the usual layout refuses
    generator = Video()
    features = law_features(images.double())
    torch.testing.assert_close(generator(images).double(), features.sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(generator.out.double(), features, rtol=0, atol=1e-6)
    assert (generator.h, generator.w, generator.unfold_size) == (64, 64, 8)
    with pytest.raises(ValueError, match="_reshape of its own"):
        generator(images, ids=torch.zeros(1, 1, dtype=torch.int64))


def test_reshape_of_a_subclass_may_call_upstreams():
    class Doubled(HOGGenerator):
        def _reshape(self, hog_feat):
            return 2 * super()._reshape(hog_feat)

    images = integers(1, 3, 112, 112)
    assert torch.equal(Doubled()(images), 2 * HOGGenerator()(images))


def test_forward_of_a_subclass_may_set_out():
    class Own(HOGGenerator):
        def forward(self, x):
            self.out = [F.conv2d(x, self.weight_x, groups=3) * self.pi]
            return self.out

    generator = Own()
    assert generator(randn(1, 3, 8, 8)) is generator.out


def test_mask_and_ids():
    images = integers(2, 3, 224, 224)
    generator = HOGGenerator()
    tokens = generator(images)
    mask = randn(2, 14, 14) > 0
    masked = generator(images, mask=mask)
    assert torch.equal(masked, torch.where(mask.flatten(1)[..., None], tokens, 0))
    assert torch.equal(generator._reshape(generator.out), masked)
    ids = torch.tensor([[3, 195], [0, 7]])
    assert torch.equal(generator(images, ids=ids), tokens[torch.arange(2)[:, None], ids])
    with pytest.raises(RuntimeError, match="ids"):
        _ = generator.out


def test_no_gradient_and_float32_under_autocast():
    images = randn(1, 3, 112, 112)
    generator = HOGGenerator()
    expected = generator(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = generator(images.requires_grad_())
    assert not tokens.requires_grad
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("override", [False, True])
def test_compiles_in_one_graph(override):
    class Own(HOGGenerator):
        def _reshape(self, hog_feat):
            return hog_feat.mean(dim=1)

    images = integers(2, 3, 112, 112)
    generator = Own() if override else HOGGenerator()
    expected = generator(images)
    torch._dynamo.reset()
    compiled = torch.compile(generator, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert torch.equal(compiled(images), expected)
    assert generator.out.shape == (2, 3, 9, 14, 14)


def test_empty_batch():
    generator = HOGGenerator()
    assert generator(torch.zeros(0, 3, 224, 224)).shape == (0, 196, 108)
    assert generator.out.shape == (0, 3, 9, 28, 28)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"nbins": 0}, ValueError, "nbins is 0"),
        ({"nbins": 181}, ValueError, "1 to 180"),
        ({"nbins": 9.0}, TypeError, "nbins is 9.0"),
        ({"pool": -8}, ValueError, "pool is -8"),
        ({"pool": "8"}, TypeError, "pool is '8'"),
        ({"gaussian_window": 1}, ValueError, "2 to 512"),
        ({"gaussian_window": None}, TypeError, "gaussian_window is None"),
        ({"patch_size": 12}, ValueError, "multiple of pool"),
        ({"patch_size": 16.0}, TypeError, "patch_size is 16.0"),
    ],
)
def test_bad_options(options, error, text):
    with pytest.raises(error, match=text):
        HOGGenerator(**options)


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (np.zeros((1, 3, 224, 224)), TypeError, "ndarray"),
        (torch.zeros(3, 224, 224), ValueError, r"\(3, 224, 224\)"),
        (torch.zeros(1, 3, 225, 224), ValueError, r"225 x 224.*multiples of pool \(8\)"),
        (torch.zeros(1, 3, 0, 0), ValueError, "0 x 0"),
        (torch.zeros(1, 3, 224, 224, dtype=torch.int32), TypeError, "int32"),
    ],
)
def test_bad_images(images, error, text):
    with pytest.raises(error, match=text):
        HOGGenerator()(images)


def picture_of(image):
    """The picture of a [H, W] image, as seen in one cell in the middle, 8 x 8."""
    generator = HOGGenerator(gaussian_window=0)
    generator(image.expand(1, 3, *image.shape).contiguous())
    picture = generator.generate_hog_image(generator.out)
    assert picture.shape == image.shape
    assert 0 <= picture.min() <= picture.max() <= 255
    return picture[56:64, 56:64]


def test_a_picture_follows_the_edges():
    step = torch.zeros(112, 112)
    step[:, 60:] = 255  # an edge from top to bottom, through the middle of a cell
    upright = picture_of(step)
    assert (upright == 255).sum() == 8
    assert (upright.max(axis=0) == 255).sum() == 1
    flat = picture_of(step.t())  # the bin from 0 to 20 degrees is drawn at 10
    assert (flat.max(axis=0) == 255).all()
    assert 1 <= (flat.max(axis=1) == 255).sum() <= 3
    rows, columns = torch.meshgrid(torch.arange(112), torch.arange(112), indexing="ij")
    falling = picture_of((rows > columns) * 255.0)  # from the top left to the bottom right
    places = np.argwhere(falling == 255)
    assert np.corrcoef(places.T)[0, 1] > 0.8
    rising = picture_of((rows + columns > 119) * 255.0)
    assert np.corrcoef(np.argwhere(rising == 255).T)[0, 1] < -0.8


def test_pictures_of_zeros_and_of_nan():
    generator = HOGGenerator()
    features = torch.zeros(1, 3, 9, 4, 6)
    assert not generator.generate_hog_image(features).any()
    features[0, 0, 0, 0, 0] = math.nan
    picture = generator.generate_hog_image(features)
    assert picture.shape == (32, 48)
    assert not picture.any()


@pytest.mark.parametrize("shape", [(2, 3, 9, 28, 28), (1, 1, 9, 4, 4), (1, 3, 8, 4, 4), (3, 9, 4)])
def test_pictures_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(1, 3, 9, h, w\)"):
        HOGGenerator().generate_hog_image(torch.zeros(shape))
    with pytest.raises(TypeError, match="ndarray"):
        HOGGenerator().generate_hog_image(np.zeros((1, 3, 9, 4, 4)))


@pytest.mark.parametrize("size", [112, 224, 256])
def test_the_class_of_mmpretrain(size):
    pytest.importorskip("mmpretrain", exc_type=ImportError)
    try:
        from mmpretrain.models.selfsup import maskfeat
    except Exception as error:  # a dependency of its own may be broken in many ways
        pytest.skip(f"mmpretrain does not import: {error}")
    theirs, ours = maskfeat.HOGGenerator(), HOGGenerator()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = randn(2, 3, size, size)
    assert_nearly_all_equal(ours(images), theirs(images))
    assert_nearly_all_equal(ours.out, theirs.out)
    for name in ("h", "w", "unfold_size", "nbins", "pool", "gaussian_window"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert_nearly_all_equal(ours._reshape(theirs.out), theirs._reshape(theirs.out))


def test_out_is_that_of_the_last_call() -> None:
    """Also after a subclass, or a user, has put something else there."""
    generator = HOGGenerator(patch_size=16)
    assert not hasattr(generator, "out")
    generator.out = torch.zeros(1)
    images = torch.rand(1, 3, 32, 32)
    generator(images)
    assert torch.equal(generator.out, ops.hog(images, gaussian_window=16))
