"""Replacing functions of a library and putting them back, on a library written for it."""

import functools
import importlib
import sys
import textwrap

import pytest

from ssl_fast.integrations.patching import Patches, Place, fingerprint

LIBRARY = """
    import torch

    def double(x):
        return 2 * x

    class Layer:
        def forward(self, x):
            return double(x)

        @staticmethod
        def shape(x):
            return (x,)

        @torch.no_grad()
        def frozen(self, x):
            return x

    class Child(Layer):
        pass
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    (tmp_path / "toylibrary.py").write_text(textwrap.dedent(LIBRARY))
    (tmp_path / "toyuser.py").write_text("from toylibrary import double\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("toylibrary")
    for name in ("toylibrary", "toyuser"):
        sys.modules.pop(name, None)


def patches_of(library, *paths, **relies_on):
    patches = Patches("toylibrary", ("toylibrary",), "pip install toylibrary")
    for path in paths:
        place = Place(f"toylibrary:{path}")
        known = fingerprint(getattr(place.get(), "__func__", place.get()))

        @patches.replaces(place.path, known, gain="is negative", **relies_on)
        def negative(original, *args):
            return (patches.correct, -args[-1], original(*args))

    return patches


def test_methods_are_replaced_and_put_back(library):
    patches = patches_of(library, "Layer.forward", "Layer.shape", "Layer.frozen")
    layer, before = library.Child(), dict(vars(library.Layer))
    patches.enable(quiet=True)
    assert layer.forward(3) == (False, -3, 6)
    assert library.Layer.shape(3) == (False, -3, (3,))
    assert layer.frozen(3) == (False, -3, 3)
    assert library.Layer.forward.__name__ == "forward"
    patches.disable()
    assert dict(vars(library.Layer)) == before
    assert layer.forward(3) == 6


def test_a_function_is_replaced_wherever_it_was_imported(library):
    user = importlib.import_module("toyuser")
    with patches_of(library, "double").enable(quiet=True):
        assert user.double(3) == library.double(3) == (False, -3, 6)
        assert library.Layer().forward(3) == (False, -3, 6)
    assert user.double(3) == library.double(3) == 6


def test_contexts_bring_back_what_was(library):
    patches = patches_of(library, "double")
    patches.enable(quiet=True)
    with patches.disable():
        assert library.double(3) == 6
        with patches.enable(correct=True, quiet=True):
            assert library.double(3) == (True, -3, 6)
        assert library.double(3) == 6
    assert library.double(3) == (False, -3, 6)
    patches.disable()
    patches.disable()
    assert not patches.enabled


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda library: setattr(library.Layer, "forward", lambda self, x: x),
            "none of the versions",
        ),
        (lambda library: delattr(library.Layer, "forward"), "no forward of its own"),
        (lambda library: delattr(library, "Layer"), "no attribute 'Layer'"),
        (lambda library: setattr(library.Layer, "forward", len), "cannot be read"),
        (
            lambda library: setattr(
                library.Layer, "forward", functools.wraps(library.Layer.forward)(lambda self, x: 0)
            ),
            "is wrapped by",
        ),
        (lambda library: setattr(library, "double", lambda x: 3 * x), "double is none"),
    ],
)
def test_what_is_not_known_is_left_with_the_reason(library, capsys, change, reason):
    known = {"toylibrary:double": (fingerprint(library.double),)}
    patches = patches_of(library, "Layer.forward", relies_on=known)
    change(library)
    forward = vars(getattr(library, "Layer", library)).get("forward")
    patches.enable()
    assert vars(getattr(library, "Layer", library)).get("forward") is forward
    assert reason in patches.outcomes[0].refusal
    assert reason in capsys.readouterr().out
    assert not patches.enabled


def test_the_report_is_printed_once_and_by_one_process(library, capsys, monkeypatch):
    patches = patches_of(library, "double")
    patches.enable()
    patches.enable()
    out = capsys.readouterr().out
    assert out.count("\n") == 2
    assert "replaces 1 of 1 functions in toylibrary" in out
    assert "replaced double: is negative" in out
    patches.enable(correct=True)
    assert "the right gradients" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    other = patches_of(library, "Layer.shape")
    other.enable()
    assert capsys.readouterr().out == ""
    assert "replaced Layer.shape" in other.report()
    other.disable()
    patches.disable()


def test_what_others_put_there_since_stays(library):
    patches = patches_of(library, "double")
    patches.enable(quiet=True)
    library.double = abs
    patches.disable()
    assert library.double is abs


def test_a_missing_library_names_its_installation():
    patches = Patches("no_such_library", ("no_such_library",), "pip install no_such_library")
    with pytest.raises(ImportError, match="pip install no_such_library"):
        patches.enable()


def test_known_are_those_in_place_and_those_they_rely_on(library):
    shape = {"toylibrary:Layer.shape": (fingerprint(library.Layer.shape),)}
    patches = patches_of(library, "Layer.forward", relies_on=shape)
    before = library.Layer.forward
    assert not patches.knows(before)
    with patches.enable(quiet=True):
        assert patches.knows(library.Child.forward)
        assert patches.knows(library.Layer.shape)
        assert not patches.knows(library.Layer.frozen)
        assert not patches.knows(before)
    assert not patches.knows(library.Layer.shape)
