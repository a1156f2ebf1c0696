"""Builders of networks by name, with torchvision's arguments: ``weights``, ``progress``."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from symgrad import io
from symgrad.ir.errors import UsageError
from symgrad.models.categories import COUNT
from symgrad.models.weights import WeightsEnum, enums
from symgrad.nn import Module

Builder = Callable[..., Any]
_BUILDERS: dict[str, Builder] = {}
_WEIGHTS: dict[str, type[WeightsEnum]] = {}
_FILES = (".pth", ".pt", ".safetensors")


def builder(weights_of: type[WeightsEnum], **fixed: Any) -> Callable[[Builder], Builder]:
    """Declares a function from a network's options to the network as a builder.

    The builder takes ``weights``, ``progress`` and torchvision's old ``pretrained`` besides.
    ``fixed`` are options that the network's name implies: they cannot be given others.
    """

    def declare(construct: Builder) -> Builder:
        name = construct.__name__

        @functools.wraps(construct)
        def build(
            weights: Any = None, progress: bool = True, *, pretrained: bool | None = None,
            **options: Any,
        ) -> Any:  # fmt: skip
            chosen = _chosen(name, weights_of, weights, pretrained)
            for option, value in fixed.items():
                _fix(options, option, value)
            if chosen is None:
                return construct(**options)
            return _with_weights(construct, options, chosen, progress=progress)

        signature = inspect.signature(build, follow_wrapped=False)
        build.__signature__ = signature  # type: ignore[attr-defined]
        build.__doc__ = f"{construct.__doc__}\n\n{_DOCUMENTATION.format(weights_of.__name__)}"
        _BUILDERS[name], _WEIGHTS[name] = build, weights_of
        return build

    return declare


_DOCUMENTATION = """\
    ``weights`` is a member of ``{0}`` or its name, a path to a .pth or .safetensors file, or
    ``None`` for random weights.  ``progress`` shows a bar while weights are downloaded;
    other arguments are those of the network's class."""


def _chosen(
    name: str, enum: type[WeightsEnum], weights: Any, pretrained: bool | None
) -> WeightsEnum | os.PathLike[str] | str | None:
    """What ``weights`` or ``pretrained`` stand for: a member of the enum, a path, or nothing."""
    if isinstance(weights, bool):  # the place where `pretrained` once was
        weights, pretrained = None, weights
    elif isinstance(weights, int):
        raise UsageError(f"{name}: weights={weights}; write num_classes={weights}")
    if pretrained is not None:
        first = next(iter(enum))
        meant = f"weights={first!r}" if pretrained else "weights=None"
        warnings.warn(
            f"{name}: 'pretrained' is deprecated, please use 'weights' instead. The current "
            f"behavior is equivalent to passing `{meant}`."
            + (f" The most up-to-date weights are {enum.__name__}.DEFAULT." if pretrained else ""),
            UserWarning,
            stacklevel=3,
        )
        return first if pretrained and weights is None else enum.verify(weights)
    if isinstance(weights, os.PathLike) or (isinstance(weights, str) and _is_path(weights)):
        return weights
    verified: WeightsEnum | None = enum.verify(weights)
    return verified


def _is_path(text: str) -> bool:
    return text.endswith(_FILES) or os.sep in text


def _with_weights(
    construct: Builder, options: dict[str, Any], chosen: Any, *, progress: bool
) -> Any:
    if isinstance(chosen, WeightsEnum):
        _fix(options, "num_classes", COUNT)
        model: Module = construct(**options)
        model.load_state_dict(chosen.get_state_dict(progress=progress, check_hash=True))
        return model
    state = io.state_dict(io.load(chosen))
    if "fc.bias" in state:
        options.setdefault("num_classes", len(state["fc.bias"]))
    model = construct(**options)
    model.load_state_dict(state)
    return model


def _fix(options: dict[str, Any], name: str, value: Any) -> None:
    if options.setdefault(name, value) != value:
        raise ValueError(
            f"The parameter '{name}' expected value {value} but got {options[name]} instead."
        )


# -- names ---------------------------------------------------------------------------------


def list_models(
    include: str | Iterable[str] | None = None, exclude: str | Iterable[str] | None = None
) -> list[str]:
    """Names of the networks there are, sorted: those matching ``include`` and not ``exclude``.

    Both are patterns as of file names, ``"resnet*"``, or several of them.
    """
    names = sorted(_BUILDERS)
    if include is not None:
        names = [n for n in names if _matches(n, include)]
    return [n for n in names if exclude is None or not _matches(n, exclude)]


def _matches(name: str, patterns: str | Iterable[str]) -> bool:
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in listed)


def get_model_builder(name: str) -> Builder:
    """The builder of a network's name.  Raises ``ValueError`` for an unknown one."""
    return _entry(_BUILDERS, name)  # type: ignore[no-any-return]


def get_model(name: str, **config: Any) -> Any:
    """The network of a name, made with ``config``.  Raises ``ValueError`` for an unknown name."""
    return get_model_builder(name)(**config)


def get_model_weights(name: Builder | str) -> type[WeightsEnum]:
    """The enum of a network's weights, by its name or builder."""
    return _entry(_WEIGHTS, name if isinstance(name, str) else name.__name__)  # type: ignore[no-any-return]


def _entry(table: Mapping[str, Any], name: str) -> Any:
    found = table.get(name.lower())
    if found is None:
        raise ValueError(f"Unknown model {name.lower()}")
    return found


def get_weight(name: str) -> WeightsEnum:
    """The member of an enum by its full name, ``"ResNet50_Weights.IMAGENET1K_V1"``."""
    enum_name, dot, member = name.partition(".")
    if not dot or "." in member:
        raise ValueError(f"Invalid weight name provided: '{name}'.")
    found = {enum.__name__: enum for enum in enums()}.get(enum_name)
    if found is None:
        raise ValueError(
            f"The weight enum '{enum_name}' for the specific method couldn't be retrieved."
        )
    return found[member]
