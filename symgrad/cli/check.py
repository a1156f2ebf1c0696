"""``symgrad check``: the compiled gradient against derivatives found in other ways.

The references evaluate the function itself, op by op from the op table's own definitions, in
three number systems: float64 (central differences of sixth order), complex (the imaginary
part after a tiny imaginary step) and mpmath with 50 digits (central differences, whose error
is then far below any rounding).  A number system that cannot evaluate some op says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import typer

from symgrad.cli.derivative import (
    contracted,
    differentiate,
    parameters,
    primal_of_order,
    with_directions,
)
from symgrad.cli.execute import execute
from symgrad.cli.exits import MISMATCH
from symgrad.cli.target import Subject
from symgrad.ir import Func, Op
from symgrad.ir.interp import evaluate
from symgrad.ir.opdef import Array

ELEMENTS = 24
"""Elements of a parameter that are checked, chosen at random."""
DIGITS = 50
_STENCIL = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
_NOT_ANALYTIC = ("abs", "sign")


class NotPossibleError(Exception):
    """Why a number system cannot evaluate the function."""


def check(subject: Subject, wrt: str | None, order: int, tolerance: float) -> None:
    """Prints the largest differences; exits with 3 when one exceeds the tolerance.

    The difference is relative to the derivative, at least 1.  Results of lower precision than
    float64 are allowed a thousand times their rounding error.
    """
    func = contracted(subject.own)
    numbers = parameters(func, wrt)
    primal = primal_of_order(func, numbers, order)
    values = with_directions(primal, subject.values)
    compiled = execute(differentiate(func, wrt, order), values)[-len(numbers) :]
    failed = False
    typer.echo(f"{'parameter':<20} {'elements':>10}  {'reference':<22} {'difference':>10}")
    for number, gradient in zip(numbers, compiled, strict=True):
        parameter = primal.params[number]
        precision = 1e3 * float(np.finfo(parameter.type.dtype.numpy).eps)
        chosen = _some(parameter.type.size)
        for name, derivative in METHODS.items():
            label = f"%{parameter.name}: {parameter.type}"
            line = f"{label:<20} {len(chosen):>4}/{parameter.type.size:<5}  {name:<22}"
            try:
                slopes = [derivative(primal, values, number, i) for i in chosen]
            except NotPossibleError as reason:
                typer.echo(f"{line} {'-':>10}  not possible: {reason}")
                continue
            found = np.asarray(gradient, np.float64).reshape(-1)[chosen]
            difference = _difference(found, np.array(slopes, np.float64))
            good = difference <= max(tolerance, precision)
            failed |= not good
            typer.echo(f"{line} {difference:>10.1e}  {'ok' if good else 'MISMATCH'}")
    if failed:
        typer.echo("symgrad: the gradient differs from its reference", err=True)
        raise typer.Exit(MISMATCH)


def _some(size: int) -> list[int]:
    if size <= ELEMENTS:
        return list(range(size))
    return sorted(np.random.default_rng(0).choice(size, ELEMENTS, replace=False).tolist())


def _difference(found: Array, reference: Array) -> float:
    """The largest relative difference; nan where only one side is nan."""
    both = np.isnan(found) & np.isnan(reference)
    errors = np.abs(found - reference) / np.maximum(1, np.abs(reference))
    return float(np.max(np.where(both, 0, errors), initial=0))


# -- derivatives -------------------------------------------------------------------------------


def _by_differences(func: Func, values: Sequence[Any], number: int, element: int) -> float:
    step = 1e-3 * max(1.0, abs(float(np.asarray(values[number]).reshape(-1)[element])))
    total = 0.0
    for k, weight in _STENCIL:
        for side in (k, -k):
            moved = _moved(values, number, element, np.float64(side * step), np.float64)
            total += weight * (1 if side > 0 else -1) * float(_first(func, moved, _float64_op))
    return total / step


def _by_complex_step(func: Func, values: Sequence[Any], number: int, element: int) -> float:
    step = 1e-40
    moved = _moved(values, number, element, np.complex128(1j * step), np.complex128)
    return float(np.imag(_first(func, moved, _complex_op))) / step


def _by_mpmath(func: Func, values: Sequence[Any], number: int, element: int) -> float:
    import mpmath

    with mpmath.workdps(DIGITS):
        step = mpmath.mpf(10) ** (-DIGITS // 3)
        ahead, behind = (
            _first(func, _moved(values, number, element, side * step, object), _mpmath_op)
            for side in (1, -1)
        )
        return float((ahead - behind) / (2 * step))


METHODS: dict[str, Callable[[Func, Sequence[Any], int, int], float]] = {
    "finite differences": _by_differences,
    "complex step": _by_complex_step,
    f"mpmath, {DIGITS} digits": _by_mpmath,
}


def _moved(values: Sequence[Any], number: int, element: int, step: Any, dtype: Any) -> list[Array]:
    """The values in a number system, one element of one of them moved by ``step``."""
    arrays = [_lifted(np.asarray(x), dtype) for x in values]
    arrays[number] = arrays[number].copy()
    arrays[number].reshape(-1)[element] += step
    return arrays


def _lifted(x: Array, dtype: Any) -> Array:
    """Floats in another number system, everything else as it is."""
    if x.dtype.kind != "f":
        return x
    if dtype is not object:
        return x.astype(dtype)
    import mpmath

    return np.asarray(np.frompyfunc(lambda v: mpmath.mpf(float(v)), 1, 1)(x), object)


# -- number systems ----------------------------------------------------------------------------


def _first(func: Func, values: Sequence[Array], apply: Callable[..., Any]) -> Any:
    """The first result of the function with every op evaluated by ``apply``."""
    env: dict[int, Any] = dict(zip(map(id, func.params), values, strict=True))
    with np.errstate(all="ignore"):
        for op in func.ops:
            try:
                results = apply(op, [env[id(v)] for v in op.operands])
            except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
                raise NotPossibleError(f"{op.name}: {error}") from None
            env.update((id(v), np.asarray(x)) for v, x in zip(op.results, results, strict=True))
    return env[id(func.results[0])].item()


def _float64_op(op: Op, operands: Sequence[Array]) -> Sequence[Any]:
    if op.name == "convert" and op.result.type.dtype.is_float and operands[0].dtype.kind == "f":
        return operands
    return [_lifted(x, np.float64) for x in evaluate(op, operands)]


def _complex_op(op: Op, operands: Sequence[Array]) -> Sequence[Any]:
    if op.opdef.elementwise and any(x.dtype.kind == "c" for x in operands):
        if "c" not in op.opdef.kinds or op.name in _NOT_ANALYTIC:
            raise NotPossibleError(f"{op.name} is not analytic")
    return [_lifted(x, np.complex128) for x in evaluate(op, operands)]


def _mpmath_op(op: Op, operands: Sequence[Array]) -> Sequence[Any]:
    formula = op.opdef.sympy
    if op.name == "select":
        return [np.where(operands[0].astype(bool), operands[1], operands[2])]
    if not op.opdef.elementwise or all(x.dtype != object for x in operands):
        return [_lifted(x, object) for x in evaluate(op, operands)]
    if formula is None:
        raise NotPossibleError(f"{op.name} has no formula")
    names = ("x", "y", "z")[: len(operands)]
    function = eval(f"lambda {', '.join(names)}: {formula}", _mpmath_names())
    result = np.frompyfunc(function, len(operands), 1)(*operands)
    return [np.asarray(result, bool if op.result.type.dtype.kind == "b" else object)]


def _mpmath_names() -> dict[str, Any]:
    """What the formulas of the op table call, in mpmath."""
    import mpmath

    own = {
        "Abs": abs,
        "Max": max,
        "Min": min,
        "ceiling": mpmath.ceil,
        "Eq": lambda x, y: x == y,
        "Ne": lambda x, y: x != y,
        "Not": lambda x: not x,
    }
    return {**vars(mpmath), **own}
