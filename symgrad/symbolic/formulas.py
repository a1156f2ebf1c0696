"""``from_sympy``: what ``lambdify`` does, with derivatives, compiled."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sympy

from symgrad import tree
from symgrad.api import jit
from symgrad.api_function import Function
from symgrad.ir.errors import DTypeError, ShapeError, UsageError
from symgrad.numpy.core import astype, result_type, traced
from symgrad.symbolic.emit import Emission
from symgrad.symbolic.order import Order
from symgrad.tracer import Tracer

_SHOWN = 1000
"""Parts of expressions that are still shown as text."""


def from_sympy(exprs: Any, args: Any) -> Function:
    """SymPy expressions as a compiled function of arrays.

    ``exprs`` is an expression, a matrix or array of them, a truth value such as ``x < y``, or a
    nested container of these, whose structure the result has; text is read by ``sympify``.
    ``args`` says what the function takes, in order: one entry or a list of entries, each

    - a symbol (or what stands for one, as ``q(t)`` or ``q(t).diff(t)``): a number or array;
      such arguments broadcast, and every expression's result has their common shape;
    - a list, tuple or matrix of symbols: one array with that many elements along its first axes;
    - a ``MatrixSymbol`` or ``IndexedBase``: an array of its shape.

    Text names symbols: ``from_sympy("sin(x) * y", "x y")``.  A matrix gives an array
    ``[rows, columns, ...]``.  Floating arguments decide the dtype; integers count as f64.
    Functions are real: where SymPy's value is complex, the result is nan, as in NumPy.

    Raises ``UsageError`` for symbols that are no arguments, ``UnsupportedError`` for functions
    without a counterpart and for complex constants.
    """
    return jit(Formulas(exprs, args))  # type: ignore[no-any-return]


class Formulas:
    """Expressions of arguments; called on tracers, it leaves their ops in the trace."""

    def __init__(self, exprs: Any, args: Any) -> None:
        self._arguments = _entries(args)
        atoms = [atom for entry in self._arguments for atom in _atoms(entry)]
        if len(set(atoms)) != len(atoms):
            twice = next(a for a in atoms if atoms.count(a) > 1)
            raise UsageError(f"from_sympy: {twice} is an argument twice")
        symbols = {str(a): a for a in atoms if isinstance(a, sympy.Symbol)}
        leaves, self._spec = tree.flatten(_plain(exprs))
        self._leaves = [_Leaf(x, symbols) for x in leaves]
        roots = [e for leaf in self._leaves for e in leaf.elements]
        self._order = Order(roots, dict.fromkeys(atoms))
        self.__name__ = "formula"
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
             for name in _names(self._arguments)]
        )  # fmt: skip
        names = ", ".join(_names(self._arguments))
        written = str(exprs) if self._order.length <= _SHOWN else "expressions of SymPy"
        self.__doc__ = f"{written} by ({names})"
        self.source_text = f"# {self.__doc__}\n"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self.__signature__.bind(*args, **kwargs).args
        known: dict[Any, Tracer] = {}
        shapes: list[tuple[int, ...]] = []
        for entry, x in zip(self._arguments, given, strict=True):
            for atom, value, broadcasts in _taken_apart(entry, x):
                known[atom] = value
                if broadcasts:
                    shapes.append(value.shape)
        dtype = result_type(*(x for x in known.values() if x.dtype != bool), 0.0)
        if dtype.kind != "f":
            raise DTypeError(f"from_sympy: functions here are real, but an argument is {dtype}")
        known = {a: x if x.dtype == bool else astype(x, dtype) for a, x in known.items()}
        try:
            shape = np.broadcast_shapes(*shapes)
        except ValueError:
            listed = ", ".join(f"{a} {list(x.shape)}" for a, x in known.items())
            raise ShapeError(
                f"from_sympy: the arguments do not broadcast: {listed}; sizes must agree from the "
                "last axis on or be 1"
            ) from None
        emission = Emission(self._order, known, dtype)
        return tree.unflatten(self._spec, [leaf.result(emission, shape) for leaf in self._leaves])


# -- arguments -----------------------------------------------------------------------------


def _entries(args: Any) -> list[Any]:
    if isinstance(args, str):
        args = sympy.symbols(args)
    several = isinstance(args, (list, tuple, sympy.Tuple))
    return [_entry(x) for x in (args if several else (args,))]


def _entry(x: Any) -> Any:
    """A symbol, or a list of entries or a matrix of symbols."""
    if isinstance(x, str):
        x = sympy.symbols(x)
    if isinstance(x, (list, tuple, sympy.Tuple)):
        return [_entry(y) for y in x]
    if isinstance(x, (sympy.MatrixBase, sympy.NDimArray)):
        return sympy.Array(x)
    kinds = (sympy.Expr, sympy.MatrixSymbol, sympy.logic.boolalg.Boolean)
    if not isinstance(x, kinds) or getattr(x, "is_number", False):
        raise UsageError(f"from_sympy: {x!r} cannot be an argument; give symbols, or lists of them")
    if getattr(x, "is_real", None) is False and not isinstance(x, sympy.MatrixSymbol):
        raise UsageError(f"from_sympy: {x} is assumed not to be real, but functions here are")
    return x


def _atoms(entry: Any) -> Iterator[Any]:
    if isinstance(entry, list):
        for x in entry:
            yield from _atoms(x)
    elif isinstance(entry, sympy.NDimArray):
        yield from sympy.flatten(entry)
    else:
        yield entry


def _taken_apart(entry: Any, x: Any) -> Iterator[tuple[Any, Tracer, bool]]:
    """The symbols of an argument with their values, and whether these broadcast."""
    if isinstance(entry, list):
        count = len(x) if isinstance(x, (list, tuple)) else (traced(x).shape or (None,))[0]
        if count != len(entry):
            raise ShapeError(
                f"from_sympy: the argument ({', '.join(map(str, entry))}) needs {len(entry)} "
                f"elements along its first axis, got {'a number' if count is None else count}"
            )
        for i, part in enumerate(entry):
            yield from _taken_apart(part, x[i])
        return
    array = traced(x)
    if isinstance(entry, sympy.NDimArray):
        shape = tuple(map(int, entry.shape))
        if array.shape[: len(shape)] != shape:
            raise _misfit(entry, shape, array)
        for place in np.ndindex(shape):
            yield entry[place], array[place], True
    elif isinstance(entry, sympy.MatrixSymbol):
        shape = tuple(map(int, entry.shape))
        if array.shape == shape[:1] and shape[1] == 1:
            array = array.reshape(shape)
        if array.shape != shape:
            raise _misfit(entry, shape, array)
        yield entry, array, False
    else:
        yield entry, array, not isinstance(entry, sympy.IndexedBase)


def _misfit(entry: Any, shape: Sequence[int], array: Tracer) -> ShapeError:
    return ShapeError(
        f"from_sympy: the argument {entry} has shape {list(shape)}, got {array.value.type}; "
        "run over a batch with symgrad.vmap"
    )


def _names(arguments: Sequence[Any]) -> list[str]:
    """Names of parameters: those of the symbols where Python takes them."""
    names: list[str] = []
    for i, entry in enumerate(arguments):
        name = str(getattr(entry, "name", "")) or f"arg{i}"
        fits = name.isidentifier() and not keyword.iskeyword(name) and name not in names
        names.append(name if fits else f"arg{i}")
    return names


# -- results -------------------------------------------------------------------------------


def _plain(exprs: Any) -> Any:
    """SymPy's tuples and lists of matrices as Python's."""
    if isinstance(exprs, sympy.Tuple):
        return tuple(map(_plain, exprs))
    return exprs


class _Leaf:
    """One expression of the result, or an array of them."""

    def __init__(self, x: Any, names: dict[str, Any]) -> None:
        self.shape: tuple[int, ...] | None = None
        if isinstance(x, (sympy.MatrixBase, sympy.NDimArray, np.ndarray)):
            self.shape = tuple(map(int, x.shape))
            flat = x.flat if isinstance(x, np.ndarray) else sympy.flatten(x)
            self.elements = [sympy.sympify(e) for e in flat]
            return
        try:
            e = sympy.sympify(x, locals=names)
        except (sympy.SympifyError, TypeError, SyntaxError):
            raise UsageError(f"from_sympy: {x!r} is no expression") from None
        if not isinstance(e, (sympy.Expr, sympy.MatrixExpr, sympy.logic.boolalg.Boolean)):
            raise UsageError(f"from_sympy: {x!r} is no expression but a {type(e).__name__}")
        self.elements = [e]

    def result(self, emission: Emission, shape: tuple[int, ...]) -> Any:
        """The value, stretched to the common shape of the arguments."""
        values = [emission.result(e) for e in self.elements]
        if isinstance(self.elements[0] if values else None, sympy.MatrixExpr):
            return values[0]
        spread = [np.broadcast_to(x, shape).copy() for x in values]
        if self.shape is None:
            return spread[0]
        return np.stack(spread).reshape(*self.shape, *shape)
