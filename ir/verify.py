"""Checks that a ``Func`` is well formed by running its type rules once more."""

from __future__ import annotations

from symgrad.ir.errors import SymgradError, VerifyError
from symgrad.ir.graph import Func, Op, Region
from symgrad.ir.opdef import REGISTRY


def verify(func: Func) -> Func:
    """Returns ``func``; raises ``VerifyError`` naming the first offending op.

    Checked: operands are defined before use, definitions are registered, attributes
    are complete and result types are what the type rules say.
    """
    _verify_body(func, func.name)
    return func


def _verify_body(body: Region, where: str) -> None:
    defined = {id(p) for p in body.params}
    for position, op in enumerate(body.ops):
        at = f"{where}: op {position} ({op.name})"
        for value in op.operands:
            if id(value) not in defined:
                raise VerifyError(f"{at} uses a value before its definition", loc=op.loc)
        _verify_op(op, at)
        defined.update(id(v) for v in op.results)
    for value in body.results:
        if id(value) not in defined:
            raise VerifyError(f"{where}: returns a value that is not defined")


def _verify_op(op: Op, at: str) -> None:
    if REGISTRY.get(op.name) is not op.opdef:
        raise VerifyError(f"{at} has no registered definition", loc=op.loc)
    region = op.regions[0] if op.regions else None
    try:
        attrs = op.opdef.bind_attrs(op.attrs)
        types = op.opdef.result_types([v.type for v in op.operands], attrs, region)
    except SymgradError as error:
        raise VerifyError(f"{at} does not type-check: {error.message}", loc=op.loc) from error
    if types != tuple(v.type for v in op.results):
        raise VerifyError(f"{at} has types {[v.type for v in op.results]}, its rule says {types}")
    for region in op.regions:
        _verify_body(region, at)
