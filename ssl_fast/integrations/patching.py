"""Functions of another library replaced by ours, one by one, and put back.

A replacement stands in for a function only while that function is one that was read and tested
against: its source, and that of what it relies on, must be known. What is not known stays as it is,
with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])
MISSING = object()


def fingerprint(function: Any) -> str:
    """Twelve hexadecimal digits of a function's or class's source, white space apart."""
    return _fingerprint(inspect.unwrap(function))


@functools.lru_cache(maxsize=1024)  # finding a source takes milliseconds, at every `enable`
def _fingerprint(function: Any) -> str:
    source = "".join(inspect.getsource(function).split())
    return hashlib.sha256(source.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Place:
    """Where an attribute lies: "package.module:Class.method" or "package.module:function"."""

    path: str

    def owner(self) -> Any:
        """The class or module that has the attribute; ImportError, AttributeError if missing."""
        module, _, names = self.path.partition(":")
        found = importlib.import_module(module)
        for name in names.split(".")[:-1]:
            found = getattr(found, name)
        return found

    @property
    def name(self) -> str:
        """The attribute's own name."""
        return self.path.partition(":")[2].rpartition(".")[2]

    def get(self) -> Any:
        """What lies there itself, a static method as such; inherited ones are not there."""
        owner = self.owner()
        if self.name not in vars(owner):
            raise AttributeError(f"{owner.__name__} has no {self.name} of its own")
        return vars(owner)[self.name]


@dataclass(frozen=True)
class Patch:
    """One function and what replaces it.

    Attributes:
        place: of the function.
        replacement: called with the original first, then with the function's arguments, so that it
            can hand on what it does not serve.
        known: fingerprints of the sources that it was tested against.
        relies_on: fingerprints of other functions whose work it does too, by their place.
        gain: what it brings, in a few words.
    """

    place: Place
    replacement: Callable[..., Any]
    known: tuple[str, ...]
    relies_on: Mapping[str, tuple[str, ...]]
    gain: str

    def refusal(self) -> str:
        """Why the function must stay as it is; empty if it may be replaced."""
        for place, known in {self.place.path: self.known, **self.relies_on}.items():
            short = place.partition(":")[2]
            try:
                function = _function(Place(place).get())
                stranger = _stranger(function, Place(place).owner())
                found = fingerprint(function)
            except (ImportError, AttributeError) as error:
                return f"{short} is not there ({error})"
            except (OSError, TypeError):
                return f"the source of {short} cannot be read"
            if stranger:
                return f"{short} is wrapped by {stranger}"
            if found not in known:
                return f"{short} is none of the versions known ({found})"
        return ""

    def wrapped(self, original: Any) -> Any:
        """What takes the place of `original`: a function, or a static method if that is one."""
        function = _function(original)
        replacement = self.replacement

        @functools.wraps(function)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return replacement(function, *args, **kwargs)

        return type(original)(replaced) if _is_wrapped_method(original) else replaced


@dataclass(frozen=True)
class Outcome:
    """What became of one patch: `refusal` is empty where the function was replaced."""

    place: str
    gain: str
    refusal: str


class Patches:
    """All that is replaced in one library, on and off together.

    Args:
        library: its name, as imported.
        distributions: names under which package indexes have it, for its version.

    Attributes:
        correct: whether results are to be the right ones where the library's are not. Replacements
            read it when they are called.
    """

    def __init__(self, library: str, distributions: Sequence[str], install: str) -> None:
        self.library, self.distributions, self.install = library, distributions, install
        self.correct = False
        self._patches: list[Patch] = []
        self._saved: list[tuple[Any, str, Any, Any]] = []
        self._known: list[Any] = []
        self._outcomes: list[Outcome] = []
        self._told: set[str] = set()

    def replaces(
        self,
        place: str,
        *known: str,
        gain: str,
        relies_on: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Callable[[F], F]:
        """A decorator: the function below is the replacement for what lies at `place`."""

        def add(replacement: F) -> F:
            self._patches.append(Patch(Place(place), replacement, known, relies_on or {}, gain))
            return replacement

        return add

    @property
    def enabled(self) -> bool:
        """Whether replacements are in place."""
        return bool(self._saved)

    def knows(self, function: Any) -> bool:
        """Whether `function` is one of ours in place, or one of those that ours rely on.

        For a replacement that does the work of other methods: it may, if they are known, which
        those of a subclass, or of whoever replaced them since, are not.
        """
        return any(function is known for known in self._known)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What the last `enable` did, patch by patch."""
        return tuple(self._outcomes)

    def enable(self, *, correct: bool = False, quiet: bool = False) -> Restore:
        """Replaces every function that is known; see the library's module for what that is.

        Args:
            correct: see `Patches.correct`.
            quiet: whether not to print what was replaced. It is printed once.

        Returns:
            A context manager whose exit brings back the state before this call. It need not be
            used: the replacements stay until `disable`.

        Raises:
            ImportError: if the library is not installed, with the command that installs it.
        """
        before = Restore(self)
        try:
            importlib.import_module(self.library)
        except ModuleNotFoundError as error:
            if error.name != self.library:
                raise
            raise ImportError(
                f"{self.library} is not installed; install it with {self.install}"
            ) from error
        self._put_back()
        self.correct = correct
        self._outcomes = []
        # All are judged before the first is replaced: patches rely on each other's originals.
        judged = [(patch, patch.refusal()) for patch in self._patches]
        taken = [patch for patch, refusal in judged if not refusal]
        self._known = [_function(Place(p).get()) for patch in taken for p in patch.relies_on]
        for patch, refusal in judged:
            if not refusal:
                self._replace(patch)
            self._outcomes.append(Outcome(patch.place.path, patch.gain, refusal))
        report = self.report()
        if not quiet and report not in self._told and os.environ.get("RANK", "0") == "0":
            self._told.add(report)
            print(report, flush=True)
        return before

    def disable(self) -> Restore:
        """Puts every original back; returns what `enable` does."""
        before = Restore(self)
        self._put_back()
        return before

    def report(self) -> str:
        """What is replaced and what is not, with the reasons, a line each."""
        replaced = [outcome for outcome in self._outcomes if not outcome.refusal]
        mode = ", with the right gradients and laws in place of its own" if self.correct else ""
        lines = [
            f"ssl_fast replaces {len(replaced)} of {len(self._outcomes)} functions in "
            f"{self.library} {self.version()}{mode}"
        ]
        for outcome in self._outcomes:
            name = outcome.place.partition(":")[2]
            lines.append(
                f"  left     {name}: {outcome.refusal}"
                if outcome.refusal
                else f"  replaced {name}: {outcome.gain}"
            )
        return "\n".join(lines)

    def version(self) -> str:
        """Of the library, under the first of its names that is installed."""
        for name in self.distributions:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return importlib.metadata.version(name)
        return "of unknown version"

    def _replace(self, patch: Patch) -> None:
        original = patch.place.get()
        replaced = patch.wrapped(original)
        self._known.append(_function(replaced))
        for owner, name in self._holders(patch.place, original):
            self._saved.append((owner, name, original, replaced))
            setattr(owner, name, replaced)

    def _holders(self, place: Place, original: Any) -> Iterator[tuple[Any, str]]:
        """Its owner; for a function of a module also all who imported it by name."""
        owner = place.owner()
        yield owner, place.name
        if inspect.isclass(owner):
            return
        for module in list(sys.modules.values()):
            for name, value in list(getattr(module, "__dict__", {}).items()):
                if value is original and (module is not owner or name != place.name):
                    yield module, name

    def _put_back(self) -> None:
        for owner, name, original, replaced in reversed(self._saved):
            # Whoever put something else there since keeps it.
            if _is(replaced, vars(owner).get(name, MISSING)):
                setattr(owner, name, original)
        self._saved.clear()
        self._known = []
        self._outcomes = []


class Restore(contextlib.AbstractContextManager["Restore"]):
    """Brings back the state in which patches were when this was made."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._enabled, self._correct = patches.enabled, patches.correct

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._enabled:
            self._patches.enable(correct=self._correct, quiet=True)
        else:
            self._patches.disable()


def _stranger(function: Any, owner: Any) -> str:
    """The file of whoever wrapped a function but torch and its own library; else empty."""
    library = sys.modules[(owner.__module__ if inspect.isclass(owner) else owner.__name__)]
    root = sys.modules[library.__name__.partition(".")[0]]
    folders = (_folder(torch), _folder(root))
    while hasattr(function, "__wrapped__"):
        file = function.__code__.co_filename
        if file != __file__ and not file.startswith(folders):
            return str(file)
        function = function.__wrapped__
    return ""


def _is(replaced: Any, value: Any) -> bool:
    """Whether a value is what was put there, or torch's wrapper of it.

    An optimiser's class gets such a one around its `step` when its first instance is made.
    """
    while value is not replaced and hasattr(value, "__wrapped__"):
        code = getattr(value, "__code__", None)
        if code is None or not code.co_filename.startswith(_folder(torch)):
            return False
        value = value.__wrapped__
    return value is replaced


def _folder(module: Any) -> str:
    return str(Path(module.__file__ or "").parent)


def _is_wrapped_method(value: Any) -> bool:
    return isinstance(value, staticmethod | classmethod)


def _function(value: Any) -> Any:
    return value.__func__ if _is_wrapped_method(value) else value
