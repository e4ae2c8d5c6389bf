"""The registry that turns config dicts into modules."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from torch import nn

from .._compat import import_timm, import_torchvision

T = TypeVar("T", bound=Callable[..., Any])
SCOPE = "ssl_fast"


class Registry:
    """Classes by name, and how a config dict becomes an instance of one.

    Beside registered names a `type` may be a class, or a name in the scope of another library:
    "timm.<name>" for `timm.create_model`, without a classifier unless `num_classes` asks for one,
    and "torchvision.<name>" for `torchvision.models.get_model`. A dict inside a config is built by
    the class that gets it.

    Once mmpretrain has been imported, its registry is asked too, by mmengine's rules (default
    scope, "mmpretrain.<name>", "mmengine.<name>", paths of classes). Some names are in both, so
    that order matters:

    - a name with a scope is what the scope says, "ssl_fast.<name>" is ours alone;
    - a plain name is ours first and mmpretrain's otherwise, so that components of our methods, and
      of what derives from these, are ours;
    - in a model that derives from none of our methods it is mmpretrain's first: a subclass of
      `BaseSelfSupervisor` written for mmpretrain gets the components that its configs mean.
    """

    def __init__(self) -> None:
        self._classes: dict[str, Callable[..., Any]] = {}

    def register(
        self,
        target: Any = None,
        *,
        name: str | Iterable[str] | None = None,
        force: bool = False,
    ) -> Any:
        """Registers a class or function: `@MODELS.register` or `@MODELS.register(name=...)`.

        Args:
            target: what to register; None when called as a decorator with arguments.
            name: the name or names; None for the target's own.
            force: whether to replace what has the name already.

        Returns:
            The target, or a decorator.

        Raises:
            ValueError: for a name that is taken.
            TypeError: for a target that cannot be called.
        """
        if target is None:
            return lambda later: self._add(later, name, force)
        return self._add(target, name, force)

    def register_module(
        self,
        name: Any = None,
        force: bool = False,
        module: Any = None,
    ) -> Any:
        """`register`, with the name and the arguments that it has in mmengine."""
        if module is None and callable(name):  # @MODELS.register_module, without parentheses
            name, module = None, name
        return self.register(module, name=name, force=force)

    def _add(self, target: T, name: str | Iterable[str] | None, force: bool) -> T:
        if not callable(target):
            raise TypeError(f"cannot register {target!r}; expected a class or a function")
        names = [target.__name__] if name is None else [name] if isinstance(name, str) else name
        for each in names:
            known = self._classes.get(each, target)
            if known is not target and not force:
                where = f"{known.__module__}.{known.__qualname__}"
                raise ValueError(f"{each!r} is registered already, for {where}; see force=True")
            self._classes[each] = target
        return target

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def get(self, name: str) -> Callable[..., Any]:
        """The class or function that has this name.

        Raises:
            ValueError: for an unknown name, with the nearest ones.
        """
        if name not in self._classes:
            scopes = " and ".join(f"{scope}.<name>" for scope in _SCOPES)
            raise ValueError(
                f"{name!r} is not registered{nearest(name, self._classes)}; models of other "
                f"libraries are {scopes}"
            )
        return self._classes[name]

    def build(self, cfg: Mapping[str, Any] | nn.Module, owner: type | None = None) -> Any:
        """An instance of `cfg["type"]`, made with the other items as keyword arguments.

        Args:
            cfg: stays as it is; a module is returned as it is.
            owner: class of the model that the instance becomes part of, if it is one.

        Raises:
            TypeError: if cfg is neither, or if the class does not take the arguments.
            ValueError: without a type, for an unknown one, or if the class rejects an argument.
                Errors from the class begin with the type.
            ImportError: if the library of a scope is missing, with what to install.
        """
        if isinstance(cfg, nn.Module):
            return cfg
        if not isinstance(cfg, Mapping):
            raise TypeError(f"cfg is a {type(cfg).__name__}; expected a dict or an nn.Module")
        if "type" not in cfg:
            raise ValueError(f"cfg has no 'type', only {', '.join(map(str, cfg)) or 'no items'}")
        kind = cfg["type"]
        options = {key: value for key, value in cfg.items() if key != "type"}
        if isinstance(kind, str):
            scope, _, name = kind.partition(".")
            if scope in _SCOPES and kind not in self:
                return _call(kind, _SCOPES[scope], name, **options)
            return _call(kind, self._find(kind, owner), **options)
        if not callable(kind):
            raise TypeError(f"type is a {type(kind).__name__}; expected a name or a class")
        return _call(getattr(kind, "__name__", repr(kind)), kind, **options)

    def _find(self, name: str, owner: type | None) -> Callable[..., Any]:
        """What a name stands for: ours or mmpretrain's, in the order that the class says."""
        plain = name.removeprefix(f"{SCOPE}.")
        if plain != name:
            return self.get(plain)
        ours = owner is None or any(base in self._classes.values() for base in owner.__mro__)
        if ours and name in self:
            return self.get(name)
        return _in_mmpretrain(name) or self.get(name)


def _in_mmpretrain(name: str) -> Callable[..., Any] | None:
    """The class that mmpretrain means by a name, if it has been imported and knows one."""
    registry = sys.modules.get("mmpretrain.registry")
    if registry is None:
        return None
    with registry.MODELS.switch_scope_and_registry(None) as models:  # that of the default scope
        try:
            found: Callable[..., Any] | None = models.get(name)
        except RuntimeError:  # what mmengine raises for names that it cannot even look for
            return None
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """What an error about an unknown name adds: "; nearest are ...", or nothing."""
    # Without regard to case, as that is often all that is wrong.
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=5, cutoff=0.5)
    return f"; nearest are {', '.join(by_lower[each] for each in found)}" if found else ""


def _call(_kind: str, _target: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls a target; what it raises about its arguments begins with the type that was built."""
    try:
        return _target(*args, **options)
    except (TypeError, ValueError) as error:
        # Their subclasses may need other arguments than a text.
        if type(error) not in (TypeError, ValueError):
            raise
        raise type(error)(f"{_kind}: {error}{_accepted(_target, args, options)}") from error


def _accepted(target: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> str:
    """The target's arguments, if those given do not fit them."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # built-in classes may have none
        return ""
    try:
        signature.bind(*args, **options)
    except TypeError:
        return f"; it takes ({', '.join(signature.parameters)})"
    return ""


def _timm(name: str, **options: Any) -> nn.Module:
    import_timm()
    from .backbones import timm_model

    return timm_model(name, **options)


def _torchvision(name: str, **options: Any) -> nn.Module:
    models = import_torchvision().models
    if name not in models.list_models():
        raise ValueError(f"torchvision has no such model{nearest(name, models.list_models())}")
    return models.get_model(name, **options)


_SCOPES: dict[str, Callable[..., nn.Module]] = {"timm": _timm, "torchvision": _torchvision}

MODELS = Registry()
