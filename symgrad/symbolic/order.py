"""The subexpressions of some expressions in the order of computing, each once.

SymPy's expressions share parts freely, and its own walks visit a shared part once for every
way that leads to it: that takes exponential time where this takes linear time.  What has no
value by itself, such as a derivative or a sum over a range, is replaced by what SymPy makes of
it.  Parts without arguments are constants, kept exact until they meet what is none: only then
are they rounded, once.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import sympy
from sympy.core.expr import Expr
from sympy.matrices.expressions.matexpr import MatrixElement, MatrixExpr

from symgrad.ir.errors import UnsupportedError, UsageError
from symgrad.symbolic.table import LOGIC, MATRICES, NUMBERS, RELATIONS

MAX_TERMS = 1000
"""Terms that a sum or product over a range may have: each is computed by itself."""
_DIGITS = 30
_SHOWN = 200
_ELEMENTS = (MatrixElement, sympy.Indexed)
COMPUTED = (
    *NUMBERS, *RELATIONS, *LOGIC, *MATRICES, sympy.MatrixBase, sympy.Add, sympy.Mul, sympy.Pow,
    sympy.Piecewise, *_ELEMENTS,
)  # fmt: skip
_OWN_MATRICES = (sympy.MatrixSymbol, sympy.MatrixBase, *MATRICES)


class Order:
    """What to compute for ``roots``, given values of ``arguments``.

    Raises ``UsageError`` for symbols that are no arguments, ``UnsupportedError`` for what has
    no counterpart.
    """

    def __init__(self, roots: Sequence[Any], arguments: Collection[Any]) -> None:
        self.computed: list[Any] = []
        """Expressions that depend on an argument, after all that they need."""
        self.replaced: dict[Any, Any] = {}
        """What stands for derivatives, sums and the like."""
        self._roots = roots
        self._arguments = arguments
        self._constants: set[Any] = set()
        self._numbers: dict[Any, float | bool] = {}
        for root in roots:
            self._visit(root)
        for e in (*self.computed, *roots):
            self._round_constants(e)

    def parts(self, e: Any) -> Sequence[Any]:
        """The expressions whose values are operands of this one."""
        if e in self.replaced:
            return (self.replaced[e],)
        if isinstance(e, sympy.Piecewise):
            return [part for pair in e.args for part in pair.args]
        if isinstance(e, sympy.MatrixBase):
            return list(e.flat())
        return list(e.args[:1] if isinstance(e, _ELEMENTS) else e.args)

    @property
    def length(self) -> int:
        """How many parts the expressions have when all that is shared is written out."""
        lengths: dict[Any, int] = {}
        for e in self.computed:
            parts = () if e in self._arguments else self.parts(e)
            lengths[e] = 1 + sum(lengths.get(part, 1) for part in parts)
        return sum(lengths.get(root, 1) for root in self._roots)

    def number(self, e: Any) -> float | bool | None:
        """The value of a constant, rounded to the nearest; ``None`` for what is none."""
        return self._numbers.get(e)

    def coefficient(self, e: Any) -> float:
        """All that is constant in a sum or product as one number."""
        return self._numbers[_coefficient(e, self._constants)]

    def variables(self, e: Any) -> list[Any]:
        """The parts of a sum or product that are no constants."""
        return [part for part in e.args if part not in self._constants]

    # -- the walk --------------------------------------------------------------------------

    def _visit(self, root: Any) -> None:
        seen = {*self.computed, *self._constants}
        stack = [root]
        while stack:
            e = stack[-1]
            if e in seen:
                stack.pop()
                continue
            if e not in self._arguments and e not in self.replaced:
                self._replace(e)
            parts = () if e in self._arguments else self.parts(e)
            if missing := [part for part in parts if part not in seen]:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            seen.add(e)
            self._enter(e, parts)

    def _enter(self, e: Any, parts: Sequence[Any]) -> None:
        if e in self._arguments:
            self.computed.append(e)
        elif isinstance(e, sympy.Symbol | sympy.MatrixSymbol | sympy.IndexedBase | sympy.Dummy):
            raise self._unknown(e)
        elif isinstance(e, sympy.core.function.AppliedUndef):
            raise UnsupportedError(
                f"from_sympy: {e.func} in {_short(e)} has no formula; put one in with "
                f".subs(...), or make {_short(e)} an argument"
            )
        elif isinstance(e, _ELEMENTS) and not all(i.is_Integer for i in e.args[1:]):
            raise UnsupportedError(
                f"from_sympy: the indices in {_short(e)} must be numbers; put them in with "
                ".subs(...)"
            )
        elif all(part in self._constants for part in parts) and not getattr(e, "is_Matrix", False):
            self._constants.add(e)
        elif e in self.replaced or isinstance(e, COMPUTED):
            self.computed.append(e)
        else:
            raise _unsupported(e)

    def _unknown(self, e: Any) -> UsageError:
        listed = ", ".join(map(str, self._arguments))
        twin = [a for a in self._arguments if str(a) == str(e)]
        reason = (
            f"{e} in the expression has other assumptions than the argument {e} (they are "
            "different symbols to SymPy); make both with the same ones"
            if twin else f"{e} is no argument; the arguments are ({listed}): add it, or put a "
            "number in with .subs(...)"
        )  # fmt: skip
        return UsageError(f"from_sympy: {reason}")

    # -- constants -------------------------------------------------------------------------

    def _round_constants(self, e: Any) -> None:
        if e in self._constants:
            self._numbers[e] = _rounded(e)
            return
        if type(e) in (sympy.Add, sympy.Mul) and e not in self._arguments:  # MatMul is a Mul, too
            constant = _coefficient(e, self._constants)
            self._numbers[constant] = _rounded(constant)
        elif e not in self._arguments:
            skip_exponent = isinstance(e, sympy.Pow) and e.exp.is_Rational
            for part in self.parts(e)[:1] if skip_exponent else self.parts(e):
                if part in self._constants:
                    self._numbers[part] = _rounded(part)

    # -- what SymPy works out --------------------------------------------------------------

    def _replace(self, e: Any) -> None:
        for kind, work_out in _WORKED_OUT.items():
            if isinstance(e, kind):
                self.replaced[e] = work_out(e)
                return
        if isinstance(e, MatrixExpr) and not isinstance(e, _OWN_MATRICES):
            self.replaced[e] = e.as_explicit()


def _coefficient(e: Any, constants: Collection[Any]) -> Any:
    return e.func(*(part for part in e.args if part in constants))


def _rounded(e: Any) -> float | bool:
    """A constant as the nearest float, or as a truth value."""
    if isinstance(e, sympy.logic.boolalg.Boolean):
        return bool(e)
    if e.is_Rational:
        return int(e.p) / int(e.q)
    value = sympy.N(e, _DIGITS)
    if not value.is_comparable and value not in (sympy.oo, -sympy.oo, sympy.nan):
        raise UnsupportedError(
            f"from_sympy: the constant {_short(e)} is no real number, but functions here are real; "
            "bring the expression into real form, as .rewrite(sympy.cos), sympy.re(...) or "
            "sympy.expand_complex(...) may do"
        )
    return float(value)


def _short(e: Any) -> str:
    if sum(1 for _ in itertools.islice(sympy.preorder_traversal(e), _SHOWN)) == _SHOWN:
        return f"{type(e).__name__}(...)"  # with shared parts, the text may have no end
    text = str(e)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unsupported(e: Any) -> UnsupportedError:
    name = type(e).__name__
    known = [kind.__name__ for kind in COMPUTED]
    close = ", ".join(difflib.get_close_matches(name, known, 3, 0.6))
    nearest = f"; nearest supported: {close}" if close else ""
    return UnsupportedError(
        f"from_sympy: {name} in {_short(e)} has no counterpart here{nearest}. Bring it into "
        "elementary functions, as .rewrite(...), .doit() or a series may do, or make it an argument"
    )


# -- derivatives, integrals, ranges --------------------------------------------------------


def _done(e: Any) -> Any:
    """What SymPy makes of a derivative or integral, all symbols being real numbers."""
    real = {s: sympy.Dummy(s.name, real=True) for s in e.free_symbols
            if isinstance(s, sympy.Symbol) and s.is_real is None}  # fmt: skip
    done = e.xreplace(real).doit().xreplace({new: old for old, new in real.items()})
    if type(done) is type(e) and done == e:
        raise UnsupportedError(
            f"from_sympy: SymPy cannot work out {_short(e)}; give a closed form, or make it an "
            "argument"
        )
    return done


def _over_range(combine: Callable[..., Any]) -> Callable[[Any], Any]:
    def work_out(e: Any) -> Any:
        terms = list(_terms(e, e.function, e.limits))
        return combine(*terms)

    return work_out


def _terms(e: Any, term: Any, limits: Sequence[Any]) -> Iterator[Any]:
    """The terms of a sum or product; its last limits are the outermost."""
    if not limits:
        yield term
        return
    *inner, (index, first, last) = limits
    if not (first.is_Integer and last.is_Integer and last >= first - 1):
        raise UnsupportedError(
            f"from_sympy: the range of {_short(e)} must have whole numbers as bounds, the lower "
            "one first; put numbers in with .subs(...), or try .doit() for a closed form"
        )
    if last - first >= MAX_TERMS:
        raise UnsupportedError(
            f"from_sympy: {_short(e)} has {last - first + 1} terms, more than {MAX_TERMS}; try "
            ".doit() for a closed form, or sum over an array argument with NumPy"
        )
    for i in range(int(first), int(last) + 1):
        bounds = [sympy.Tuple(*limit).subs(index, i) for limit in inner]
        yield from _terms(e, term.subs(index, i), bounds)


_WORKED_OUT: dict[type[Expr], Callable[[Any], Any]] = {
    sympy.Derivative: _done,
    sympy.Integral: _done,
    sympy.Subs: _done,
    sympy.Limit: _done,
    sympy.Sum: _over_range(sympy.Add),
    sympy.Product: _over_range(sympy.Mul),
    sympy.Contains: lambda e: e.args[1].as_relational(e.args[0]),
}
