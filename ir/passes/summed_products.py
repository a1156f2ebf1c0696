"""Sums of products over the steps of a loop: one product, after the loop.

A matrix that all steps multiply by gets its cotangent from every one of them.  In the loop's
derivative that is a sum to which each step adds a product, often a thin one:

    total += a[t] b[t]        the whole sum passes through memory in every step
    total  = [a[0] ... ] [b[0] ...]      one product, contracted over the steps as well

So a step leaves its factors, where it need not have them anyway, and nothing waits for the sum.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from symgrad.ir.builder import Builder
from symgrad.ir.graph import Op, Region, Value
from symgrad.ir.ops.elementwise import add
from symgrad.ir.ops.linalg import dot_general
from symgrad.ir.record import record
from symgrad.ir.rewrite import region_params

_MOVEMENT = ("transpose", "reshape")
"""What may be done to a product before it is added: the same is done to the sum of products."""

Loop = Callable[[Builder, Region, list[Value], list[bool], dict[str, Any]], Sequence[Value | None]]
"""Emits a ``scan`` by body, operands, which results are wanted, and attributes."""


def sum_products_at_once(
    builder: Builder, region: Region, operands: Sequence[Value], wanted: Sequence[bool],
    attrs: Mapping[str, Any], loop: Loop,
) -> list[Value | None] | None:  # fmt: skip
    """The results of a ``scan`` without such sums in its state; ``None`` where it has none.

    ``attrs`` are those of the op; ``wanted`` tells which of its results are used, others may be
    ``None``; ``loop`` emits what is left of it.
    """
    consts, carries = attrs["consts"], attrs["carries"]
    first, kept = consts + carries, len(region.results)
    found = _sums(region, consts, carries, wanted[kept:])
    if not found:
        return None
    inner = Builder(locations=False)
    copies = dict(zip(region.params, region_params(inner, region), strict=True))
    for op in region.ops:
        made = inner.copy(op, [copies[v] for v in op.operands])
        copies.update(zip(op.results, made if isinstance(made, tuple) else (made,), strict=True))
    state = [i for i in range(carries) if i not in found or found[i].rest]
    each = {p: operands[first + i] for i, p in enumerate(region.params[first:])}
    gives = list(region.results[carries:])
    factors = [v for total in found.values() for p in total.products for v in p.operands]
    gives += [v for v in dict.fromkeys(factors) if v not in each and v not in gives]
    with inner:
        after = [
            functools.reduce(add, [copies[v] for v in (region.params[consts + i], *found[i].rest)])
            if i in found
            else copies[region.results[i]]
            for i in state
        ]
    chosen = [*range(consts), *(consts + i for i in state), *range(first, len(operands))]
    body = inner.region(
        [copies[region.params[i]] for i in chosen], [*after, *(copies[v] for v in gives)]
    )
    asked = [wanted[i] for i in state]
    asked += [(carries + j < kept and wanted[carries + j]) or v in factors
              for j, v in enumerate(gives)]  # fmt: skip
    asked += [wanted[kept + i] for i in state]
    left = {**attrs, "carries": len(state)}
    values = loop(builder, body, [operands[i] for i in chosen], asked, left)

    results: list[Value | None] = [None] * len(wanted)
    for place, i in enumerate(state):
        results[i] = values[place]
        results[kept + i] = values[len(state) + len(gives) + place]
    given = zip(gives, values[len(state) :], strict=False)
    stacked = each | {v: array for v, array in given if array is not None}
    results[carries:kept] = values[len(state) :][: kept - carries]
    with builder:
        for i, total in found.items():
            result = results[i] if total.rest else operands[consts + i]
            for product in total.products:
                part = product.over_all_steps(stacked)
                result = part if result is None else result + part
            results[i] = result
    return results


@record
class _Product:
    """A product that is added up, and what is done to it before."""

    op: Op
    moves: tuple[Op, ...]

    @property
    def operands(self) -> tuple[Value, ...]:
        return self.op.operands

    def over_all_steps(self, stacked: Mapping[Value, Value]) -> Value:
        """The sum of the products of all steps; factors are ``stacked`` along a first axis."""
        later = {name: tuple(a + 1 for a in axes) for name, axes in self.op.attrs.items()}
        for side in ("lhs_contract", "rhs_contract"):
            later[side] = (0, *later[side])
        result: Value = dot_general(*(stacked[v] for v in self.operands), **later)
        for move in self.moves:
            result = move.opdef(result, **move.attrs)
        return result


@record
class _Sum:
    """What a step adds to a part of the state: products, and the ``rest``."""

    products: tuple[_Product, ...]
    rest: tuple[Value, ...]


def _sums(region: Region, consts: int, carries: int, asked: Sequence[bool]) -> dict[int, _Sum]:
    """The sums of products among the state, which nobody looks at on the way."""
    uses = Counter(v for op in region.ops for v in op.operands)
    uses.update(region.results)
    fixed = _fixed(region, consts)
    given = {*region.params[consts + carries :], *region.results[carries:]}
    found: dict[int, _Sum] = {}
    for i in range(carries):
        before, after = region.params[consts + i], region.results[i]
        if asked[i] or uses[before] != 1 or not after.type.dtype.is_inexact:
            continue
        terms = _terms(after, uses)
        if sum(v is before for v in terms) != 1:
            continue
        products, rest = list[_Product](), list[Value]()
        for v in terms:
            if v is before:
                continue
            product = _product(v, uses)
            if product and not fixed & set(product.operands) and _pays(product, given, after):
                products.append(product)
            else:
                rest.append(v)
        if products:
            found[i] = _Sum(tuple(products), tuple(rest))
    return found


def _pays(product: _Product, given: set[Value], total: Value) -> bool:
    """Whether its factors, as far as steps do not take or give them anyway, are no more to write
    and read again than the sum."""
    new = {v for v in product.operands if v not in given}
    return sum(v.type.bytes for v in new) <= total.type.bytes


def _fixed(region: Region, consts: int) -> set[Value]:
    """The values that are the same in all steps."""
    fixed = set(region.params[:consts])
    for op in region.ops:
        if all(v in fixed for v in op.operands):
            fixed.update(op.results)
    return fixed


def _terms(value: Value, uses: Counter[Value]) -> list[Value]:
    """What ``value``, which is used once, is the sum of."""
    op = value.op
    if op is None or op.name != "add" or uses[value] != 1:
        return [value]
    return [term for v in op.operands for term in _terms(v, uses)]


def _product(value: Value, uses: Counter[Value]) -> _Product | None:
    """``value`` as a product that serves nothing else."""
    moves: list[Op] = []
    while value.op is not None and uses[value] == 1:
        if value.op.name == "dot_general":
            return _Product(value.op, tuple(reversed(moves)))
        if value.op.name not in _MOVEMENT:
            return None
        moves.append(value.op)
        (value,) = value.op.operands
    return None
