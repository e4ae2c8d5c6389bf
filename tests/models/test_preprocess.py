"""The preprocessors against numbers worked out by hand."""

import collections
import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_fast.models import SelfSupDataPreprocessor, TwoNormDataPreprocessor

# One image of 1 x 2 pixels with channels 10 20, 30 40, 50 60.
IMAGE = torch.tensor([[[[10, 20]], [[30, 40]], [[50, 60]]]], dtype=torch.uint8)
MEAN, STD = [10.0, 20.0, 30.0], [5.0, 10.0, 20.0]
NORMALISED = torch.tensor([[[[0.0, 2.0]], [[1.0, 2.0]], [[1.0, 1.5]]]])
FLIPPED = torch.tensor([[[[8.0, 10.0]], [[1.0, 2.0]], [[-1.0, -0.5]]]])


def prepare(inputs, **options):
    return SelfSupDataPreprocessor(**options)({"inputs": inputs})["inputs"]


def same(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_every_dtype_is_normalised_to_float32(dtype):
    images = IMAGE.to(dtype)
    before = images.clone()
    same(prepare(images, mean=MEAN, std=STD), NORMALISED)
    same(prepare(images), IMAGE.float())
    same(images, before)


@pytest.mark.parametrize("flag", ["to_rgb", "bgr_to_rgb", "rgb_to_bgr"])
def test_any_flag_reverses_channels_before_the_statistics(flag):
    same(prepare(IMAGE, mean=MEAN, std=STD, **{flag: True}), FLIPPED)


def test_one_number_serves_all_channels():
    same(prepare(IMAGE, mean=[10], std=STD)[0, :, 0, 0], torch.tensor([0.0, 2.0, 2.0]))
    same(prepare(IMAGE[:, :1], mean=[10], std=[5]), torch.tensor([[[[0.0, 2.0]]]]))


def test_other_numbers_of_channels():
    four = torch.cat([IMAGE, IMAGE[:, :1]], dim=1)
    options = {"mean": [*MEAN, 0], "std": [*STD, 10]}
    same(prepare(four, **options)[:, 3], torch.tensor([[[1.0, 2.0]]]))
    same(prepare(IMAGE[:, :1], to_rgb=True), IMAGE[:, :1].float())
    with pytest.raises(ValueError, match=r"images have 4 channels; to_rgb.* take 3"):
        prepare(four, to_rgb=True)


def test_padding_is_at_the_bottom_and_right_of_normalised_images():
    padded = prepare(IMAGE, mean=MEAN, std=STD, pad_size_divisor=3, pad_value=-7)
    assert padded.shape == (1, 3, 3, 3)
    same(padded[..., :1, :2], NORMALISED)
    padded[..., :1, :2] = -7
    assert padded.eq(-7).all()
    assert prepare(IMAGE, pad_size_divisor=1).shape == IMAGE.shape
    assert prepare(torch.ones(1, 1, 4, 6), pad_size_divisor=2).shape == (1, 1, 4, 6)


def test_views_of_several_sizes_in_a_list_or_tuple():
    for inputs in ([IMAGE, IMAGE[..., :1]], (IMAGE, IMAGE[..., :1])):
        views = prepare(inputs, mean=MEAN, std=STD)
        assert type(views) is list
        same(views[0], NORMALISED)
        same(views[1], NORMALISED[..., :1])


def test_data_in_any_order_with_or_without_samples():
    preprocessor = SelfSupDataPreprocessor()
    samples = {"seed": 3, "sample_ids": torch.tensor([4])}
    result = preprocessor({"data_samples": samples, "inputs": IMAGE}, True)
    same(result["inputs"], IMAGE.float())
    assert result["data_samples"] == samples
    assert preprocessor({"inputs": IMAGE})["data_samples"] is None


def test_uint8_may_stay_uint8():
    options = {"mean": MEAN, "std": STD, "to_rgb": True, "keep_uint8": True}
    preprocessor = SelfSupDataPreprocessor(pad_size_divisor=2, pad_value=9, **options)
    kept = preprocessor({"inputs": IMAGE})["inputs"]
    assert kept.dtype == torch.uint8
    assert kept[0, :, 0].tolist() == [[50, 60], [30, 40], [10, 20]]
    assert kept[0, :, 1].eq(9).all()
    same(preprocessor.normalize(kept[:, :, :1]), FLIPPED)
    # Floats are normalised all the same.
    same(preprocessor({"inputs": IMAGE.float()})["inputs"][..., :1, :], FLIPPED)


def test_normalize_without_statistics_is_the_identity():
    preprocessor = SelfSupDataPreprocessor()
    same(preprocessor.normalize(IMAGE), IMAGE.float())
    assert preprocessor.mean.flatten().tolist() == [0.0]
    assert preprocessor.std.flatten().tolist() == [1.0]


def test_statistics_are_columns_in_float32_and_not_in_the_state_dict():
    preprocessor = SelfSupDataPreprocessor([123.675, 0, 0], STD)
    assert preprocessor.mean.shape == preprocessor.std.shape == (3, 1, 1)
    assert preprocessor.state_dict() == {}
    for moved in (preprocessor.half(), preprocessor.bfloat16(), preprocessor.double()):
        assert moved.mean.dtype == torch.float32
        same(moved.mean[0, 0, 0], torch.tensor(123.675))
    same(preprocessor.to_empty(device="cpu").mean[0, 0, 0], torch.tensor(123.675))


def test_an_outer_module_in_bfloat16_keeps_them_too():
    outer = nn.Sequential(SelfSupDataPreprocessor(MEAN, STD)).to(torch.bfloat16)
    same(outer[0]({"inputs": IMAGE})["inputs"], NORMALISED)


def test_two_statistics():
    options = {"second_mean": [10.0], "second_std": [-5.0], "mean": MEAN, "std": STD}
    preprocessor = TwoNormDataPreprocessor(**options)
    first, second = preprocessor({"inputs": [IMAGE, IMAGE[..., :1]]})["inputs"]
    same(first, NORMALISED)
    same(second[0, :, 0, 0], torch.tensor([0.0, -4.0, -8.0]))
    assert preprocessor.second_mean.shape == (1, 1, 1)
    assert preprocessor.state_dict() == {}
    kept = TwoNormDataPreprocessor(keep_uint8=True, to_rgb=True, **options)
    first, second = kept({"inputs": (IMAGE, IMAGE)})["inputs"]
    same(second, IMAGE.flip(1))
    same(kept.normalize(second, 1)[0, :, 0, 0], torch.tensor([-8.0, -4.0, 0.0]))


def test_the_second_view_is_normalised_without_a_first_mean():
    preprocessor = TwoNormDataPreprocessor(second_mean=[10], second_std=[5])
    first, second = preprocessor({"inputs": [IMAGE, IMAGE]})["inputs"]
    same(first, IMAGE.float())
    same(second[0, 0, 0], torch.tensor([0.0, 2.0]))


class Sample:
    """An object that moves as mmengine's elements do: into a new one."""

    def __init__(self, **fields):
        self.__dict__.update(fields)

    def to(self, *args, **options):
        moved = {name: value.to(*args, **options) for name, value in vars(self).items()}
        return type(self)(**moved)


class CountCopies(TorchDispatchMode):
    copies = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.copies += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def test_masks_of_samples_travel_in_one_copy():
    preprocessor = SelfSupDataPreprocessor().to("meta")
    assert preprocessor.device == torch.device("meta")
    samples = [Sample(mask=torch.ones(2, 2)), Sample(mask=torch.ones(2, 2))]
    with CountCopies() as count:
        moved = preprocessor._cast_samples(samples)
    assert count.copies == 1
    assert [sample.mask.device.type for sample in moved] == ["meta", "meta"]
    assert [sample.mask.device.type for sample in samples] == ["cpu", "cpu"]


def test_masks_keep_their_values_and_other_fields_move():
    preprocessor = SelfSupDataPreprocessor()
    preprocessor.register_buffer("mean", preprocessor.mean.to("meta"), persistent=False)
    label = torch.tensor(1)
    (moved,) = preprocessor._cast_samples([Sample(mask=torch.ones(2), label=label)])
    assert moved.label.device.type == moved.mask.device.type == "meta"
    samples = [Sample(mask=torch.tensor([1, 0])), Sample(mask=torch.tensor([0, 1]))]
    on_cpu = SelfSupDataPreprocessor()({"inputs": IMAGE, "data_samples": samples})["data_samples"]
    assert [sample.mask.tolist() for sample in on_cpu] == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    "samples",
    [
        [Sample(mask=torch.ones(2)), Sample(mask=torch.ones(3))],
        [Sample(mask=torch.ones(2)), Sample()],
        (Sample(), Sample()),
        [],
        {"mask": torch.ones(2, 2), "seed": 1},
    ],
)
def test_other_samples_move_one_by_one(samples):
    moved = SelfSupDataPreprocessor().to("meta")._cast_samples(samples)
    assert type(moved) is type(samples)
    found = (
        moved.values() if isinstance(moved, dict) else [vars(each).get("mask") for each in moved]
    )
    assert all(mask.is_meta for mask in found if isinstance(mask, torch.Tensor))


def test_cast_data_goes_into_every_container():
    pair = collections.namedtuple("pair", "a b")
    data = {"list": [torch.ones(1)], "pair": pair(torch.ones(1), "text"), "none": None, "n": 3}
    cast = SelfSupDataPreprocessor().to("meta").cast_data(data)
    assert cast["list"][0].is_meta
    assert type(cast["pair"]) is pair
    assert cast["pair"].a.is_meta
    assert (cast["pair"].b, cast["none"], cast["n"]) == ("text", None, 3)


def test_non_blocking_reaches_the_copies():
    seen = []

    class Spy:
        def to(self, device, non_blocking):
            seen.append((device.type, non_blocking))

    SelfSupDataPreprocessor(non_blocking=True).cast_data([Spy()])
    SelfSupDataPreprocessor(non_blocking=None).cast_data([Spy()])
    assert seen == [("cpu", True), ("cpu", False)]


def test_gradients_pass_through():
    images = IMAGE.float().requires_grad_()
    prepare(images, mean=MEAN, std=STD).sum().backward()
    same(images.grad[0, :, 0, 0], 1 / torch.tensor(STD))


def test_copies_and_pickles():
    preprocessor = SelfSupDataPreprocessor(MEAN, STD)
    for twin in (copy.deepcopy(preprocessor), pickle.loads(pickle.dumps(preprocessor))):
        same(twin({"inputs": IMAGE})["inputs"], NORMALISED)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"mean": [1]}, ValueError, "mean is given and std is not; expected both or neither"),
        ({"std": [1]}, ValueError, "std is given and mean is not"),
        ({"mean": [1], "std": [0]}, ValueError, r"std is \[0\]; expected no zero"),
        ({"mean": [], "std": [1]}, ValueError, "mean is empty"),
        ({"mean": 127.5, "std": [1]}, TypeError, "mean is 127.5; expected a list of numbers"),
        ({"mean": [1, 2, 3], "std": [1, 2]}, ValueError, r"statistics have \[2, 3\] values"),
        (
            {"bgr_to_rgb": True, "rgb_to_bgr": True},
            ValueError,
            "bgr_to_rgb and rgb_to_bgr are both",
        ),
        ({"pad_size_divisor": 0}, ValueError, "pad_size_divisor is 0; expected 1 or more"),
        ({"pad_size_divisor": 1.5}, TypeError, "pad_size_divisor is 1.5"),
        ({"pad_value": -1, "keep_uint8": True}, ValueError, "pad_value is -1; with keep_uint8"),
        ({"pad_value": 0.5, "keep_uint8": True}, ValueError, "pad_value is 0.5; with keep_uint8"),
    ],
)
def test_options_that_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        SelfSupDataPreprocessor(**options)


def test_two_norm_needs_second_statistics():
    with pytest.raises(ValueError, match="second_mean and second_std are needed"):
        TwoNormDataPreprocessor(second_mean=[1])


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ([{"inputs": IMAGE}], TypeError, "data is a list; expected a dict.*default_collate"),
        ({"images": IMAGE}, ValueError, "data has images; expected a dict with 'inputs'"),
        ({}, ValueError, "data has no items"),
        ({"inputs": IMAGE, "labels": 1}, ValueError, "data has inputs, labels"),
        ({"inputs": None}, TypeError, "view 0 of inputs is a NoneType"),
        ({"inputs": [IMAGE, IMAGE[0]]}, ValueError, r"view 1 of inputs has shape \(3, 1, 2\)"),
        ({"inputs": IMAGE.long()}, TypeError, "is torch.int64; accepted are uint8, float16"),
        ({"inputs": IMAGE[:, :2]}, ValueError, "mean has 3 values and images have 2 channels"),
    ],
)
def test_data_that_are_refused(data, error, text):
    with pytest.raises(error, match=text):
        SelfSupDataPreprocessor(MEAN, STD)(data)


@pytest.mark.parametrize(("inputs", "got"), [(IMAGE, "one tensor"), ([IMAGE] * 3, "3 views")])
def test_two_norm_takes_two_views(inputs, got):
    preprocessor = TwoNormDataPreprocessor(second_mean=[0], second_std=[1])
    with pytest.raises(ValueError, match=f"inputs are {got}; expected a list or tuple of two"):
        preprocessor({"inputs": inputs})
