"""What `init_cfg` can ask for, in the words of mmengine's configs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .loading import load_pretrained

InitCfg = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


def split_init_cfg(init_cfg: InitCfg) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The configs of an init_cfg in order: (those that draw or fill, those that load).

    Raises:
        TypeError: if it is neither a dict, nor a list of dicts, nor None.
        ValueError: for an unknown type.
    """
    listed = [] if init_cfg is None else [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg
    if not isinstance(listed, (list, tuple)):
        got = type(init_cfg).__name__
        raise TypeError(f"init_cfg is a {got}; expected a dict, a list of dicts or None")
    fill: list[dict[str, Any]] = []
    load: list[dict[str, Any]] = []
    for cfg in listed:
        if not isinstance(cfg, Mapping):
            raise TypeError(f"init_cfg has a {type(cfg).__name__} in its list; expected dicts")
        kind = cfg.get("type")
        if kind != "Pretrained" and kind not in _FILL:
            accepted = ", ".join([*_FILL, "Pretrained"])
            raise ValueError(f"init_cfg has type {kind!r}; accepted are {accepted}")
        (load if kind == "Pretrained" else fill).append(dict(cfg))
    return fill, load


def initialize(module: nn.Module, cfg: Mapping[str, Any]) -> None:
    """Initialises the layers of a module that one config names.

    Args:
        cfg: dict(type="Pretrained", checkpoint=..., prefix=None) loads weights. The other types
            are Constant (val), Normal (mean, std), TruncNormal (mean, std, a, b), Uniform (a, b),
            Xavier (gain, distribution) and Kaiming (a, mode, nonlinearity, distribution), with
            `layer`, the name or names of the classes whose weights are meant (or of a class that
            they derive from directly), and `bias` (0), or `bias_prob` for the bias that gives this
            probability under a sigmoid. Upstream takes a config without `layer` and does nothing.

    Raises:
        ValueError: without `layer`, or for an option that the type does not have.
    """
    options = dict(cfg)
    kind = options.pop("type")
    if kind == "Pretrained":
        _call(kind, load_pretrained, module, **options)
        return
    layer, bias = options.pop("layer", None), options.pop("bias", 0)
    if (probability := options.pop("bias_prob", None)) is not None:
        bias = -math.log((1 - probability) / probability)
    if not layer:
        raise ValueError(f"init_cfg of type {kind} has no layer: name the classes it is for")
    layers = {layer} if isinstance(layer, str) else set(layer)
    for part in module.modules():
        classes = (type(part), *type(part).__bases__)
        if layers.isdisjoint(each.__name__ for each in classes):
            continue
        if isinstance(weight := getattr(part, "weight", None), Tensor):
            _call(kind, _FILL[kind], weight, **options)
        if isinstance(shift := getattr(part, "bias", None), Tensor):
            nn.init.constant_(shift, bias)


def _call(kind: str, function: Callable[..., Any], *args: Any, **options: Any) -> None:
    try:
        function(*args, **options)
    except TypeError as error:
        raise ValueError(f"init_cfg of type {kind} has options {options}: {error}") from error


def _xavier(weight: Tensor, gain: float = 1.0, distribution: str = "normal") -> None:
    _choose(distribution, nn.init.xavier_normal_, nn.init.xavier_uniform_)(weight, gain)


def _kaiming(
    weight: Tensor,
    a: float = 0.0,
    mode: Any = "fan_out",
    nonlinearity: Any = "relu",
    distribution: str = "normal",
) -> None:
    fill = _choose(distribution, nn.init.kaiming_normal_, nn.init.kaiming_uniform_)
    fill(weight, a, mode, nonlinearity)


def _choose(distribution: str, normal: Any, uniform: Any) -> Callable[..., Tensor]:
    if distribution not in ("normal", "uniform"):
        raise ValueError(f"distribution is {distribution!r}; accepted are 'normal' and 'uniform'")
    return normal if distribution == "normal" else uniform


_FILL: dict[str, Callable[..., Any]] = {
    "Constant": nn.init.constant_,
    "Normal": nn.init.normal_,
    "TruncNormal": nn.init.trunc_normal_,
    "Uniform": nn.init.uniform_,
    "Xavier": _xavier,
    "Kaiming": _kaiming,
}
