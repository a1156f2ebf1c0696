"""At which loop each value of a nest's body becomes known.

A value depends on the loops along which its operands move; its *level* is the
number of loops that must be entered before it can be computed, and computing it
there takes it out of all loops further in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from symgrad.codegen.access import Access
from symgrad.codegen.kernels.loop_spec import Indirect, LoopSpec

if TYPE_CHECKING:
    from symgrad.ir.graph import Op, Value

Loops = frozenset[int]


def summed_products(spec: LoopSpec) -> dict[int, Op]:
    """The multiplications that go nowhere but into a sum, by output: they become fma."""
    used = {id(v) for op in spec.body.ops for v in op.operands}
    products: dict[int, Op] = {}
    for n, (output, value) in enumerate(zip(spec.outputs, spec.body.results, strict=True)):
        is_float = value.type.dtype.name == output.access.dtype in ("f32", "f64")
        if output.reduce == "sum" and is_float and id(value) not in used:
            if value.op is not None and value.op.name == "mul":
                products[n] = value.op
    elsewhere = {id(v) for n, v in enumerate(spec.body.results) if n not in products}
    return {n: op for n, op in products.items() if id(op.results[0]) not in elsewhere}


def moved_by(access: Access) -> tuple[tuple[int, int, int], ...]:
    """Input, limit and stride of each run-time index that an access depends on."""
    along = access.along if isinstance(access, Indirect) else ()
    return tuple(each for each in along if each[2])


class Levels:
    """The analysis of a spec's body, for the accesses over its scheduled loops."""

    def __init__(self, spec: LoopSpec, inputs: Sequence[Access], outputs: Sequence[Access]) -> None:
        body, rank = spec.body, len(inputs[0].strides if inputs else outputs[0].strides)
        self.products = summed_products(spec)
        """Multiplications, by output, that the accumulators do."""
        self.constants: dict[int, Any] = {}
        """Values of the constants, by the value's id."""
        self.loads: list[list[int]] = [[] for _ in range(rank + 1)]
        """Inputs that become known at each level, indices before what they move."""
        self.ops: list[list[Op]] = [[] for _ in range(rank + 1)]
        """Ops that become known at each level, in order."""
        self._depends: dict[int, Loops] = {}
        self._last_use: dict[int, int] = {}

        indices = {n for a in (*inputs, *outputs) for n, _, _ in moved_by(a)}
        used = {id(v) for op in body.ops for v in op.operands} | set(map(id, body.results))
        for n in sorted(range(len(inputs)), key=lambda n: isinstance(inputs[n], Indirect)):
            movers = [body.params[i] for i, _, _ in moved_by(inputs[n])]
            own = frozenset(i for i, stride in enumerate(inputs[n].strides) if stride)
            level = self._define(body.params[n], own, movers)
            if n in indices or id(body.params[n]) in used:
                self.loads[level].append(n)
        for op in body.ops:
            (result,) = op.results
            level = self._define(result, frozenset(), op.operands)
            if op.name == "constant":
                self.constants[id(result)] = op.attrs["value"]
            elif op not in self.products.values():
                self.ops[level].append(op)
        movers = [body.params[i] for a in outputs for i, _, _ in moved_by(a)]
        factors = [v for op in self.products.values() for v in op.operands]
        for value in (*body.results, *movers, *factors):
            self._use(value, rank)

    def _define(self, value: Value, own: Loops, operands: Sequence[Value]) -> int:
        loops = own.union(*(self._depends[id(v)] for v in operands))
        self._depends[id(value)] = loops
        level = max(loops, default=-1) + 1
        for operand in operands:
            self._use(operand, level)
        return level

    def _use(self, value: Value, level: int) -> None:
        self._last_use[id(value)] = max(level, self._last_use.get(id(value), 0))

    def depends(self, value: Value) -> Loops:
        """The loops along which a value changes."""
        return self._depends[id(value)]

    def last_use(self, value_id: int) -> int:
        """The innermost level that needs a value."""
        return self._last_use[value_id]
