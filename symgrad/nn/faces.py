"""One definition of a function for arrays, traced values and tensors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from symgrad.ir import dtype_of
from symgrad.ir.errors import DTypeError, ShapeError, UsageError
from symgrad.numpy.core import traced
from symgrad.tensors import Tensor
from symgrad.tensors.apply import INPUTS, apply, write
from symgrad.tensors.halves import common_half, rounded
from symgrad.tensors.methods import in_place_node
from symgrad.tensors.plans import remembered
from symgrad.tensors.recorded import Unknown, array_of, contents_of
from symgrad.tracer import Tracer

F = TypeVar("F", bound=Callable[..., Any])


class FitError(ShapeError, RuntimeError):
    """Operand shapes that do not fit, where torch raises ``RuntimeError``."""


class TypeFitError(DTypeError, RuntimeError):
    """Operand dtypes that do not fit, where torch raises ``RuntimeError``."""


Name = str | Callable[[dict[str, Any]], str]


def for_tensors(
    name: Name,
    *,
    saves: str | tuple[str, ...] = INPUTS,
    state: tuple[str, ...] = (),
    views: bool = False,
    wide: bool = True,
    several: bool = False,
) -> Callable[[F], F]:
    """Makes a function on arrays and traced values one on tensors too, ``grad_fn`` ``name``.

    Where torch's name depends on the arguments, ``name`` is a function of them.  ``saves``
    says which operands the derivative reads, as in ``tensors.apply``, or names them: writing
    to one of these before the backward pass is an error.  Of a tuple of results the first is
    differentiable; the others are state, and tensors named in ``state`` take them over.  With
    ``several`` all are differentiable.  For ``views`` and ``wide`` see ``tensors.apply``.  An
    argument ``inplace`` of the function asks that the result be written into its first operand.
    """

    def declare(function: F) -> F:
        parameters = inspect.signature(function).parameters
        names, defaults = tuple(parameters), {n: p.default for n, p in parameters.items()}
        place = names.index("inplace") if "inplace" in names else None
        recorded = _positional(function)

        def computing(args: Sequence[Any], kwargs: dict[str, Any]) -> Callable[..., Any]:
            given = (*args, *kwargs.values())
            types = [x._value.type for x in given if isinstance(x, Tracer)]
            half = common_half(types) if wide and not views else None
            return function if half is None else rounded(function, half)

        @remembered
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = None
            operands = (*args, *kwargs.values())
            if any(isinstance(x, Tensor) for x in operands):
                given = _bound(names, defaults, args, kwargs)
                if any(isinstance(x, Tracer) for x in operands):
                    if given is not None and _chosen(given, names, state):
                        raise UsageError(
                            f"{function.__name__.strip('_')}: {' and '.join(state)} change, and "
                            "are tensors that the compiled function captures but cannot store; "
                            "pass them as arguments and return them"
                        )
                    args = tuple(map(_captured, args))
                    kwargs = {key: _captured(x) for key, x in kwargs.items()}
                    given = None
            if given is None:  # no tensors, or arguments that do not fit, which raises
                result = computing(args, kwargs)(*args, **kwargs)
            else:
                shown = name if isinstance(name, str) else name(_named(names, given))
                read = saves if isinstance(saves, str) else _chosen(given, names, saves)
                takers = None if several else [given[names.index(n)] for n in state]
                result = apply(
                    shown, recorded, given, saves=read, state=takers, views=views, wide=wide
                )
            if place is not None:
                if args[place] if len(args) > place else kwargs.get("inplace", False):
                    return _written(args[0] if args else kwargs[names[0]], result)
            return result

        return call  # type: ignore[return-value]

    return declare


def _captured(x: Any) -> Any:
    return traced(x) if isinstance(x, Tensor) else x


def _bound(
    names: Sequence[str], defaults: dict[str, Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Any, ...] | None:
    """All arguments in the order of the parameters, or ``None`` if they do not fit these."""
    rest = names[len(args) :]
    given = (*args, *[kwargs.get(n, defaults[n]) for n in rest])
    fit = len(given) == len(names) and all(n in rest for n in kwargs)
    return given if fit and not any(x is inspect.Parameter.empty for x in given) else None


def _named(names: Sequence[str], given: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, given, strict=True))


def _chosen(
    given: Sequence[Any], names: Sequence[str], chosen: Sequence[str]
) -> tuple[Tensor, ...]:
    pairs = _named(names, given).items()
    return tuple(x for name, x in pairs if name in chosen and isinstance(x, Tensor))


def _positional(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with all its arguments by position."""
    parameters = inspect.signature(function).parameters.values()
    options = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    if not options:
        return function
    count = len(parameters) - len(options)
    return lambda *args: function(*args[:count], **dict(zip(options, args[count:], strict=True)))


def _written(x: Any, result: Any) -> Any:
    """``result``, put into ``x``.

    The derivative is that of the values before, which the recording keeps.
    """
    if isinstance(x, Tensor):
        if result._node is not None:
            result._node.saved = ()
            result._node = in_place_node(result._node)
        return write(x, result)
    if isinstance(x, Tracer):
        x.assign(result, "inplace")
    else:
        x[...] = result
    return x


def kind_of(x: Any) -> str:
    """The kind of elements, by NumPy's letter: ``f`` for real numbers, ``i`` for integers."""
    return dtype_of(x._dtype if isinstance(x, Tensor) else x.dtype).kind


def known_array(x: Any) -> Any:
    """The array of a tensor that is computed, or of an array; ``None`` if it is not known."""
    if isinstance(x, np.ndarray):
        return x
    contents = contents_of(x._value()) if isinstance(x, Tensor) else None
    return None if contents is None or isinstance(contents, Unknown) else array_of(contents)


def computed_array(x: Any) -> Any:
    """As ``known_array``, but a tensor that is not computed yet is computed for it."""
    return x._array() if isinstance(x, Tensor) else known_array(x)
