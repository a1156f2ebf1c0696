"""Rewrites sums of products so that they take fewer multiplications."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import sympy


def factored(e: Any) -> Any:
    """The expression with the most frequent factors of every sum pulled out, greedily.

    a x + b x + c y -> x (a + b) + c y, over and over: what a person does by hand.  Numbers
    stay in their terms.
    """
    return _bottom_up(e, _factored_sum)


def distributed(e: Any, is_constant: Callable[[Any], bool]) -> Any:
    """The expression with constants multiplied into sums whose terms all have one.

    c (1 + d x) -> c + (c d) x, where c d is a number in the end; a sign goes where it
    costs nothing: -(x - y) -> y - x.
    """
    return _bottom_up(e, lambda s: s, lambda p: _distributed_product(p, is_constant))


def _bottom_up(
    e: Any, on_sum: Callable[[Any], Any], on_product: Callable[[Any], Any] = lambda p: p
) -> Any:
    if not e.args:
        return e
    new = e.func(*(_bottom_up(a, on_sum, on_product) for a in e.args))
    if new.is_Add:
        return on_sum(new)
    return on_product(new) if new.is_Mul else new


def _powers(term: Any) -> dict[Any, Any]:
    """Factors of a term that are no numbers, with their positive integer powers."""
    found = {}
    for base, power in term.as_powers_dict().items():
        if not base.is_number and power.is_Integer and power > 0:
            found[base] = power
    return found


def _factored_sum(e: Any) -> Any:
    terms = sympy.Add.make_args(e)
    counts: Counter[Any] = Counter()
    for term in terms:
        counts.update(_powers(term).keys())
    frequent = [(n, f.count_ops(), sympy.default_sort_key(f), f) for f, n in counts.items()]
    if not frequent or (best := max(frequent, key=lambda item: item[:2]))[0] < 2:
        return e
    factor = min((f for f in frequent if f[:2] == best[:2]), key=lambda item: item[2])[3]
    have = [t for t in terms if factor in _powers(t)]
    power = min(_powers(t)[factor] for t in have)
    rest = [t for t in terms if factor not in _powers(t)]
    inner = _factored_sum(sympy.Add(*(t / factor**power for t in have)))
    outer = factor**power * inner
    return outer + _factored_sum(sympy.Add(*rest)) if rest else outer


def _distributed_product(e: Any, is_constant: Callable[[Any], bool]) -> Any:
    constants = [a for a in e.args if is_constant(a)]
    number = sympy.Mul(*constants)
    for total in (a for a in e.args if a.is_Add):
        negative = sum(t.could_extract_minus_sign() for t in total.args)
        absorbs = number == -1 and 2 * negative >= len(total.args)
        if absorbs or (constants and all(_has_constant(t, is_constant) for t in total.args)):
            rest = (a for a in e.args if a not in constants and a is not total)
            return sympy.Mul(*rest, sympy.Add(*(number * t for t in total.args)))
    return e


def _has_constant(term: Any, is_constant: Callable[[Any], bool]) -> bool:
    factors = sympy.Mul.make_args(term)
    return is_constant(term) or any(is_constant(f) and abs(f) != 1 for f in factors)
