"""At which loop each value of a nest's body becomes known.

A value depends on the loops along which its operands move; its *level* is the
number of loops that must be entered before it can be computed, and computing it
there takes it out of all loops further in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from symgrad.codegen.access import Access
from symgrad.codegen.kernels.loop_spec import Indirect

if TYPE_CHECKING:
    from symgrad.ir.graph import Op, Region, Value

Loops = frozenset[int]


def moved_by(access: Access) -> tuple[tuple[int, int, int], ...]:
    """Input, limit and stride of each run-time index of an access."""
    return access.along if isinstance(access, Indirect) else ()


class Levels:
    """The analysis of one body over ``rank`` loops."""

    def __init__(
        self, body: Region, inputs: Sequence[Access], outputs: Sequence[Access], rank: int
    ) -> None:
        self.rank = rank
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
            else:
                self.ops[level].append(op)
        movers = [body.params[i] for a in outputs for i, _, _ in moved_by(a)]
        for value in (*body.results, *movers):
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
