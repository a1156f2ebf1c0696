"""What a loop leaves for its derivative: as much as makes the two of them do the least.

Each step of a derivative's loop begins with the step itself, computed again from the state that
it began with.  The first loop had all that in its hands.  It may leave any of it, or what the
derivative makes of it before cotangents come in, as an array over time:

    y[t + 1] = sin(x c[t] + y[t])                       leaves y
    ct[t]    = ct[t + 1] cos(x c[t] + y[t])

    y[t + 1] = sin(a),  k[t] = cos(a),  a = x c[t] + y[t]     leaves k
    ct[t]    = ct[t + 1] k[t]

An array over time costs, too: it is written and read again.  Each value is left, or computed
again from others that are there, or not needed any more; the least sum of both costs is a
minimum cut.  Where nothing is cheaper all stays as it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from symgrad.ir.builder import Builder, inline
from symgrad.ir.graph import Func, Op, Value
from symgrad.ir.ops.control import recalling
from symgrad.ir.passes import op_cost
from symgrad.ir.passes.linear_loops import is_scalar_work
from symgrad.ir.passes.min_cut import Network
from symgrad.ir.rewrite import region_params

LEFT = 20.0
"""Cycles for each vector of an array over time that is written and read again.  It mostly leaves
the caches in between: a function costs less, and so a step is to leave what took several."""
MAX_OPS = 500
"""Common ops up to which a cut is looked for."""


def leave_residuals(func: Func) -> Func:
    """``func`` with what its loops leave for each other chosen so.

    Loops over numbers alone stay: what they compute again they compute for all steps at once
    (see ``linear_loops``).
    """
    uses = Counter(v for op in func.ops for v in op.operands)
    uses.update(func.results)
    for first, second in _pairs(func):
        common = _Common(first, second, uses)
        if left := common.worth_leaving():
            return leave_residuals(_rebuilt(func, common, left))
    return func


def _pairs(func: Func) -> Iterator[tuple[Op, Op]]:
    """Loops of as many steps, of which the second reads for each step what the first has left."""
    for second in func.ops:
        if second.name != "scan" or is_scalar_work(second.regions[0]):
            continue
        for first in dict.fromkeys(v.op for v in _each(second)):
            if first and first.name == "scan" and first.attrs["length"] == second.attrs["length"]:
                yield first, second


def _each(loop: Op) -> Sequence[Value]:
    """The arrays of which each step of a loop takes an element."""
    return loop.operands[loop.attrs["consts"] + loop.attrs["carries"] :]


class _Common:
    """What steps of the ``second`` loop compute of nothing but what those of the ``first`` see."""

    def __init__(self, first: Op, second: Op, uses: Counter[Value]) -> None:
        self.first, self.second = first, second
        (region,) = first.regions
        self.body = Builder(locations=False)
        """The first loop's body, with the common values in it."""
        self.params = region_params(self.body, region)
        self.results = inline(self.body, region, self.params)
        self.inside: dict[Value, Value] = {}
        """The common values, and as what they are in ``body``."""
        self.price: dict[Value, float] = {}
        """What it costs to leave them, as far as they differ from step to step."""
        self.saved: dict[Op, float] = {}
        """What it saves the second loop not to compute those."""
        self.arrays = self._arrays()
        """Arrays over time that there are in any case, by what each step has of them in
        ``body``."""
        self._find_params(uses)
        self._find_ops(set(self.body.ops_behind(self.results)))

    def _arrays(self) -> dict[Value, Value]:
        consts, carries = self.first.attrs["consts"], self.first.attrs["carries"]
        state, each = self.params[consts : consts + carries], self.params[consts + carries :]
        inside = [*each, *self.results[carries:], *state]
        return dict(zip(inside, (*_each(self.first), *self.first.results[carries:]), strict=True))

    def _find_params(self, uses: Counter[Value]) -> None:
        first, second = self.first, self.second
        params, consts = second.regions[0].params, second.attrs["consts"]
        fixed = dict(zip(first.operands[: first.attrs["consts"]], self.params, strict=False))
        for param, operand in zip(params[:consts], second.operands, strict=False):
            if operand in fixed:
                self.inside[param] = fixed[operand]
        over_time = {array: inside for inside, array in self.arrays.items()}
        each = _each(second)
        for param, array in zip(params[len(params) - len(each) :], each, strict=True):
            if array not in over_time:
                continue
            self.inside[param], self.price[param] = over_time[array], 0
            if array.op is first and uses[array] == 1:  # there for this alone
                self.price[param] = LEFT * param.type.bytes
                del self.arrays[over_time[array]]

    def _find_ops(self, known: set[Op]) -> None:
        """``known`` are those that the first loop computes anyway."""
        functions = {(op.name, op.operands) for op in known}
        for op in self.second.regions[0].ops:
            if not all(v in self.inside for v in op.operands):
                continue
            operands = tuple([self.inside[v] for v in op.operands])
            made = self.body.copy(op, operands)
            made = made if isinstance(made, tuple) else (made,)
            self.inside.update(zip(op.results, made, strict=True))
            if not any(v in self.price for v in op.operands):
                continue
            cycles = 0.0  # an op that the first loop has to do instead saves nothing
            if all(v.op is None or v.op in known for v in made):
                cycles = op_cost.cycles(op)
            elif (op_cost.PAIRS.get(op.name), operands) in functions:
                cycles = op_cost.cycles(op) - op_cost.BESIDE
            self.saved[op] = cycles * sum(v.type.bytes for v in made)
            for v, inside in zip(op.results, made, strict=True):
                self.price[v] = 0 if inside in self.arrays else LEFT * v.type.bytes

    def worth_leaving(self) -> list[Value]:
        """What the second loop's body had better be given: where the least cut is.

        On the source's side are the values that the second loop does without, and the ops that
        it does not run.
        """
        if len(self.saved) > MAX_OPS:
            return []
        network: Network[Value | Op | str] = Network()
        for value, price in self.price.items():
            network.add(value.op or "source", value, price)
        for op, saved in self.saved.items():
            network.add("source", op, saved)
            for operand in op.operands:
                if operand in self.price:
                    network.add(operand, op, math.inf)  # run it, and its operands must be there
        (region,) = self.second.regions
        others = (v for op in region.ops if op not in self.saved for v in op.operands)
        for value in (*others, *region.results):
            if value in self.price:
                network.add(value, "sink", math.inf)
        missing = network.cut("source", "sink")
        return [v for v in self.price if v.op in missing and v not in missing]


def _rebuilt(func: Func, common: _Common, left: list[Value]) -> Func:
    """``func`` with values ``left`` by the first of two loops for the second."""
    first, second, inside = common.first, common.second, [common.inside[v] for v in left]
    builder = Builder.resuming(func)
    more = [v for v in dict.fromkeys(inside) if v not in common.arrays]
    begin, end = len(common.results), len(common.results) + len(more)
    with builder.at(first.loc):
        region = common.body.region(common.params, [*common.results, *more])
        results = builder.emit("scan", *first.operands, regions=(region,), **first.attrs)
    new = dict(zip(first.results, (*results[:begin], *results[end:]), strict=True))
    arrays = {v: new.get(array, array) for v, array in common.arrays.items()}
    arrays.update(zip(more, results[begin:end], strict=True))
    gave = {v: arrays[i] for v, i in zip(left, inside, strict=True)}
    region, taken = recalling(second.regions[0], gave)
    for op in func.ops:
        if not any(v in new for v in op.operands):
            continue
        operands = [new.get(v, v) for v in op.operands]
        with builder.at(op.loc):
            if op is second:
                made = builder.emit("scan", *operands, *taken, regions=(region,), **op.attrs)
            else:
                made = builder.copy(op, operands)
        new.update(zip(op.results, made if isinstance(made, tuple) else (made,), strict=True))
    return builder.build([new.get(v, v) for v in func.results], func.name)
