"""Reverse-mode differentiation: a sweep over the IR that emits more IR.

The sweep owns what every rule would otherwise repeat: which ops lie between the
inputs and the outputs, adding up cotangents, leaving out zero ones, attributing
the new ops to the user's line.  Only reverse rules exist; ``jvp`` is the adjoint of
the adjoint, which is linear in its cotangent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from symgrad.ir.builder import Builder
from symgrad.ir.errors import DifferentiationError
from symgrad.ir.graph import Func, Op, Value


def pull_back(
    builder: Builder,
    outputs: Sequence[Value],
    cotangents: Sequence[Value | None],
    inputs: Sequence[Value],
    visit: Callable[[Value, Value], Value] | None = None,
) -> list[Value | None]:
    """Cotangents of ``inputs`` given those of ``outputs``, emitted into ``builder``.

    ``None`` stands for a cotangent of zero.  An input must be a distinct value (a
    parameter or an ``identity``): whatever flows through it counts.  ``visit`` sees each
    op's result with its whole cotangent and says what flows on instead.  Raises
    ``DifferentiationError`` where a needed op has no adjoint.
    """
    totals: dict[int, Value] = {}
    wanted = {id(v) for v in inputs}
    path = _ops_between(inputs, outputs)
    with builder:
        for value, ct in zip(outputs, cotangents, strict=True):
            if ct is not None:
                totals[id(value)] = totals[id(value)] + ct if id(value) in totals else ct
        seen: set[int] = set()
        for op in sorted(path, key=lambda op: op.seq, reverse=True):
            if visit is not None:
                for v in op.results:
                    if id(v) in totals:
                        totals[id(v)] = visit(v, totals[id(v)])
                        seen.add(id(v))
            cts = [totals.get(id(v)) for v in op.results]
            if any(ct is not None for ct in cts):
                with builder.at(op.loc):
                    _pull_through(op, cts, path, wanted, totals)
        if visit is not None:  # what makes an input is not on the way
            for v in inputs:
                if id(v) in totals and id(v) not in seen:
                    totals[id(v)] = visit(v, totals[id(v)])
                    seen.add(id(v))
        return [totals.get(id(v)) for v in inputs]


def _pull_through(
    op: Op,
    cts: list[Value | None],
    path: set[Op],
    wanted: set[int],
    totals: dict[int, Value],
) -> None:
    if op.opdef.adjoint_rule is None:
        if op.opdef.differentiable is False:
            return
        raise DifferentiationError(f"{op.name} has no adjoint rule", loc=op.loc)
    many = len(op.results) > 1
    result = op.results if many else op.results[0]
    contributions = op.opdef.adjoint_rule(cts if many else cts[0], result, *op.operands, **op.attrs)
    if len(contributions) != len(op.operands):
        raise DifferentiationError(
            f"{op.name}: the adjoint rule gave {len(contributions)} cotangents "
            f"for {len(op.operands)} operands",
            loc=op.loc,
        )
    for index, (operand, part) in enumerate(zip(op.operands, contributions, strict=True)):
        reaches = id(operand) in wanted or (operand.op is not None and operand.op in path)
        if part is None or not reaches or not op.opdef.is_differentiable(index):
            continue
        if part.type != operand.type:
            raise DifferentiationError(
                f"{op.name}: cotangent {part.type} for operand {index} of type {operand.type}",
                loc=op.loc,
            )
        total = totals.get(id(operand))
        totals[id(operand)] = part if total is None else total + part


def _ops_between(inputs: Sequence[Value], outputs: Iterable[Value]) -> set[Op]:
    """Ops that depend on an input through differentiable operands and feed an output."""
    needed: set[Op] = set()
    stack = [v.op for v in outputs if v.op is not None]
    while stack:
        op = stack.pop()
        if op not in needed:
            needed.add(op)
            stack.extend(v.op for v in op.operands if v.op is not None)
    wanted = {id(v) for v in inputs}
    reached: set[Op] = set()
    for op in sorted(needed, key=lambda op: op.seq):
        for index, value in enumerate(op.operands):
            depends = id(value) in wanted or value.op in reached
            if depends and value.type.dtype.is_inexact and op.opdef.is_differentiable(index):
                reached.add(op)
                break
    return reached


def depends(outputs: Sequence[Value], inputs: Sequence[Value]) -> bool:
    """Whether any output has a derivative with respect to any input."""
    wanted = {id(v) for v in inputs}
    return any(id(v) in wanted for v in outputs) or bool(_ops_between(inputs, outputs))


def value_and_grad(func: Func, wrt: Sequence[int] = (0,)) -> Func:
    """The results of ``func`` followed by the gradient of its first with respect to
    the parameters ``wrt``, as one function.

    Raises ``DifferentiationError`` unless the first result is a floating scalar.
    """
    from symgrad.ir.builder import inline

    builder = Builder(locations=False)
    params = [builder.param_like(p, p.name) for p in func.params]
    results = inline(builder, func, params)
    out = results[0]
    if out.shape or not out.type.dtype.is_float:
        raise DifferentiationError(
            f"the gradient needs a scalar floating result, @{func.name} returns {out.type}; "
            "sum it or use a Jacobian"
        )
    inputs = [params[i] for i in wrt]
    grads = pull_back(builder, [out], [builder.constant(1, out.type)], inputs)
    filled = [g or builder.constant(0, v.type) for g, v in zip(grads, inputs, strict=True)]
    return builder.build([*results, *filled], f"{func.name}_grad")
