"""The registry: registering, building, scopes, and every error."""

import importlib.util
import re
import sys

import pytest
from torch import nn

from ssl_fast.models import MODELS
from ssl_fast.models.registry import Registry, nearest


class Part:
    def __init__(self, size, scale=1):
        self.size, self.scale = size, scale


def has(library):
    return importlib.util.find_spec(library) is not None


def test_every_way_to_register():
    registry = Registry()
    assert registry.register(Part) is Part
    assert registry.register(name="a")(Part) is Part
    assert registry.register(name=["b", "c"])(Part) is Part
    assert registry.register()(Part) is Part
    assert registry.register_module()(Part) is Part
    assert registry.register_module("d")(Part) is Part
    assert registry.register_module(Part) is Part
    assert registry.register_module(name="e", module=Part) is Part
    assert all(registry.get(name) is Part for name in ("Part", "a", "b", "c", "d", "e"))
    assert "a" in registry
    assert "z" not in registry


def test_a_name_is_taken_once():
    registry = Registry()
    registry.register(Part)
    with pytest.raises(ValueError, match=r"'Part' is registered already, for .*\.Part; see force"):
        registry.register(name="Part")(nn.Identity)
    assert registry.get("Part") is Part
    registry.register(name="Part", force=True)(nn.Identity)
    assert registry.get("Part") is nn.Identity


def test_only_what_can_be_called_is_registered():
    with pytest.raises(TypeError, match="cannot register 'Part'; expected a class or a function"):
        Registry().register("Part")


@pytest.mark.parametrize("kind", ["Part", Part])
def test_build_from_a_name_or_a_class(kind):
    registry = Registry()
    registry.register(Part)
    config = {"type": kind, "size": 3}
    part = registry.build(config)
    assert (type(part), part.size, part.scale) == (Part, 3, 1)
    assert config == {"type": kind, "size": 3}


def test_a_module_is_built_already():
    module = nn.Identity()
    assert Registry().build(module) is module


def test_what_cannot_be_built():
    registry = Registry()
    with pytest.raises(TypeError, match=r"cfg is a str; expected a dict or an nn\.Module"):
        registry.build("Part")
    with pytest.raises(ValueError, match="cfg has no 'type', only size, scale"):
        registry.build({"size": 1, "scale": 2})
    with pytest.raises(ValueError, match="cfg has no 'type', only no items"):
        registry.build({})
    with pytest.raises(TypeError, match="type is a int; expected a name or a class"):
        registry.build({"type": 3})


@pytest.mark.parametrize("name", ["HOGGenerater", "hoggenerator", "HOG_Generator"])
def test_an_unknown_name_lists_the_nearest(name):
    expected = f"'{name}' is not registered; nearest are HOGGenerator.*timm.<name>"
    with pytest.raises(ValueError, match=expected):
        MODELS.build({"type": name})


def test_nothing_near():
    assert nearest("zzzz", ["HOGGenerator"]) == ""
    with pytest.raises(ValueError, match="'zzzz' is not registered; models of other libraries"):
        MODELS.get("zzzz")


def test_wrong_arguments_name_the_type_and_what_it_takes():
    registry = Registry()
    registry.register(Part)
    with pytest.raises(TypeError, match=r"^Part: .*'length'; it takes \(size, scale\)$"):
        registry.build({"type": "Part", "length": 1})
    with pytest.raises(TypeError, match=r"^Part: .*'size'; it takes"):
        registry.build({"type": Part})


@pytest.mark.parametrize("error", [TypeError("bad"), ValueError("bad")])
def test_errors_of_a_constructor_name_the_type(error):
    def fails(size):
        raise error

    with pytest.raises(type(error), match=r"^fails: bad$"):
        Registry().build({"type": fails, "size": 1})


@pytest.mark.parametrize("error", [RuntimeError("bad"), UnicodeDecodeError("a", b"b", 0, 1, "c")])
def test_other_errors_stay_as_they_are(error):
    def fails():
        raise error

    with pytest.raises(type(error)) as caught:
        Registry().build({"type": fails})
    assert caught.value is error


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_names_the_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)  # Python's way to say that it is not there
    expected = re.escape('install it with pip install "ssl_fast[train]"')
    with pytest.raises(ImportError, match=expected):
        MODELS.build({"type": f"{library}.resnet18"})


@pytest.mark.skipif(not has("timm"), reason="needs timm")
def test_timm():
    options = {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 3}
    model = MODELS.build({"type": "timm.vit_tiny_patch16_224", **options})
    assert model.num_classes == 0
    assert MODELS.build({"type": "timm.resnet10t", "num_classes": 5}).num_classes == 5
    with pytest.raises(ValueError, match=r"timm\.resnet19.*nearest are .*resnet18"):
        MODELS.build({"type": "timm.resnet19"})
    with pytest.raises((TypeError, ValueError), match=r"timm\.resnet10t.*no_such_option"):
        MODELS.build({"type": "timm.resnet10t", "no_such_option": 1})


@pytest.mark.skipif(not has("torchvision"), reason="needs torchvision")
def test_torchvision():
    assert MODELS.build({"type": "torchvision.squeezenet1_1", "num_classes": 7}).num_classes == 7
    with pytest.raises(ValueError, match=r"torchvision\.resnet19: .*nearest are .*resnet18"):
        MODELS.build({"type": "torchvision.resnet19"})
    with pytest.raises(TypeError, match=r"^torchvision\.resnet18: .*no_such_option"):
        MODELS.build({"type": "torchvision.resnet18", "no_such_option": 1})


def test_our_own_scope():
    neck = MODELS.build({"type": "ssl_fast.LinearNeck", "in_channels": 2, "out_channels": 3})
    assert type(neck) is MODELS.get("LinearNeck")
    with pytest.raises(ValueError, match="'HOG' is not registered"):
        MODELS.build({"type": "ssl_fast.HOG"})
