"""An order of a region's ops in which long computations begin as soon as they can.

A derivative comes behind the function: in ``sin(sin(x))`` the cosines behind both sines.  Over
many points that does not matter, for the next ones are on their way meanwhile.  A single point
takes as long as its longest chain only if the processor meets early what does not hang on it.
"""

from __future__ import annotations

from collections import deque

from symgrad.codegen.kernels.loop_schedule import is_math
from symgrad.ir.graph import Op, Region


def begun_early(region: Region) -> Region:
    """The region with every transcendental op as soon as its operands are there."""
    missing: dict[int, int] = {}
    readers: dict[int, list[Op]] = {}
    ready: deque[Op] = deque()
    made = {id(p) for p in region.params}
    for op in filter(is_math, region.ops):
        waits = {id(v) for v in op.operands} - made
        missing[id(op)] = len(waits)
        for value in waits:
            readers.setdefault(value, []).append(op)
        if not waits:
            ready.append(op)
    order: dict[int, Op] = {}

    def place(op: Op) -> None:
        order[id(op)] = op
        for value in op.results:
            for reader in readers.get(id(value), ()):
                missing[id(reader)] -= 1
                if not missing[id(reader)]:
                    ready.append(reader)

    def begin() -> None:
        while ready:
            if id(first := ready.popleft()) not in order:
                place(first)

    begin()
    for op in region.ops:
        if id(op) not in order:
            place(op)
            begin()
    return Region(region.params, tuple(order.values()), region.results)
