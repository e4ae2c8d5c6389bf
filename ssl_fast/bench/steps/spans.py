"""What the hot paths take of a step: of functions by name, with the gradients of what they did."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch.autograd import DeviceType, _get_sequence_nr
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from ... import ops

MARK = "ssl_fast: hot path"
GRADIENT = "autograd::engine::evaluate_function"


@dataclass(frozen=True)
class Edge:
    """A moment of a step: before or after a call of `owner.name`."""

    owner: Any
    name: str
    after: bool


@dataclass(frozen=True)
class Span:
    """A part of a step, between two moments."""

    begin: Edge
    end: Edge


def inside(owner: Any, name: str) -> Span:
    """From the call of a function until it returns."""
    return Span(Edge(owner, name, False), Edge(owner, name, True))


def before(owner: Any, name: str) -> Edge:
    return Edge(owner, name, False)


def after(owner: Any, name: str) -> Edge:
    return Edge(owner, name, True)


def of_our_ops() -> tuple[Span, ...]:
    """All functions of `ssl_fast.ops`, whoever serves them."""
    functions = [name for name in ops.__all__ if isinstance(getattr(ops, name), FunctionType)]
    return tuple(inside(ops, name) for name in functions)


class Marks:
    """Marks what lies in spans, in the profile and among the nodes of autograd.

    Attributes:
        nodes: first and last + 1 of the numbers that autograd gave to what happened in a span.
    """

    def __init__(self) -> None:
        self.nodes: list[tuple[int, int]] = []
        self._depth = 0
        self._first = 0
        self._record: Any = None

    def begin(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._first = _get_sequence_nr()
            self._record = record_function(MARK)
            self._record.__enter__()

    def end(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._record.__exit__(None, None, None)
            self.nodes.append((self._first, _get_sequence_nr()))

    def has(self, event: FunctionEvent) -> bool:
        """Whether the event is a span, or a gradient of what happened in one."""
        if event.device_type != DeviceType.CPU:
            return False
        if event.name == MARK:
            return True
        inside = any(first <= event.sequence_nr < end for first, end in self.nodes)
        return inside and event.name.startswith(GRADIENT)


@contextlib.contextmanager
def installed(spans: Sequence[Span], marks: Marks) -> Iterator[None]:
    """Within, the functions of the spans tell `marks` when they are called and when they return."""
    acts: dict[tuple[int, str], tuple[Any, list[Any], list[Any]]] = {}
    for span in spans:
        for edge, act in ((span.begin, marks.begin), (span.end, marks.end)):
            key = (id(edge.owner), edge.name)
            _, early, late = acts.setdefault(key, (edge.owner, [], []))
            (late if edge.after else early).append(act)
    with contextlib.ExitStack() as undo:
        for (_, name), (owner, early, late) in acts.items():
            undo.callback(_restorer(owner, name))
            setattr(owner, name, _telling(getattr(owner, name), early, late))
        yield


def _telling(
    function: Callable[..., Any],
    early: Sequence[Callable[[], None]],
    late: Sequence[Callable[[], None]],
) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        for act in early:
            act()
        result = function(*arguments, **options)
        for act in late:
            act()
        return result

    return wrapper


def _restorer(owner: Any, name: str) -> Callable[[], None]:
    if name in vars(owner):
        return functools.partial(setattr, owner, name, vars(owner)[name])
    return functools.partial(delattr, owner, name)  # a method: the class still has it


def share_of_step(step: Callable[[], Any], spans: Sequence[Span], device: str) -> float:
    """Share of a step in the spans and in their gradients, 0 to 1.

    On a GPU of the time of the kernels, on a CPU of the time of the step.
    """
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    marks = Marks()
    with installed(spans, marks), profile(activities=activities) as profiler:
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        total = 1e6 * (time.perf_counter() - start)
    events = list(profiler.events())
    hot = [event for event in events if marks.has(event)]
    if device == "cuda":
        roots = [e for e in events if e.cpu_parent is None and e.device_type == DeviceType.CPU]
        total = sum(event.device_time_total for event in roots)
        return sum(event.device_time_total for event in hot) / total
    return sum(event.cpu_time_total for event in hot) / total
