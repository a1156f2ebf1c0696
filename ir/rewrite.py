"""Rewriting: rules by op name, applied to every op as it is inserted.

``rewrite`` takes a function through a builder that tries the rules on each op before
it keeps it.  Operands are in final form by then, and what a rule emits goes through
the same builder, so one sweep reaches the fixed point.  Ops that nothing changes are
shared with the old function, as all ops are immutable: only what changes is made anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from symgrad.ir.builder import Builder, inline
from symgrad.ir.facts import derive_facts
from symgrad.ir.graph import Func, Op, Region, Value
from symgrad.ir.opdef import OpDef
from symgrad.ir.record import record
from symgrad.ir.types import TensorType


@record
class Rule:
    """``apply(op, *operands)`` gives replacement value(s), or ``None`` for no match.

    ``op`` is a candidate that is not inserted yet: it tells attributes and result types.
    A rule must not emit what another rule, or itself, turns back.
    """

    heads: tuple[str, ...]
    apply: Callable[..., Any]

    @property
    def name(self) -> str:
        """Left side and outcome, as ``mul_one``."""
        return self.apply.__name__

    @property
    def identity(self) -> str:
        """The identity the rule applies, from its docstring."""
        return (self.apply.__doc__ or "").strip()


def rule(*heads: str) -> Callable[[Callable[..., Any]], Rule]:
    """Declares a rewrite of the ops named ``heads``."""
    return lambda apply: Rule(heads, apply)


def rewrite(func: Func, rules: Sequence[Rule], hits: Counter[str] | None = None) -> Func:
    """``func`` with every rule applied wherever it matches; ``hits`` counts them by name."""
    builder = _Rewriter(rules, hits if hits is not None else Counter())
    return builder.build(builder.sweep(func), func.name)


class _Rewriter(Builder):
    """A builder in whose hands no op stays that a rule replaces."""

    def __init__(self, rules: Sequence[Rule], hits: Counter[str]) -> None:
        super().__init__(locations=False)
        self._hits = hits
        self._rules: dict[str, list[Rule]] = {}
        for one in rules:
            for head in one.heads:
                self._rules.setdefault(head, []).append(one)

    def sweep(self, func: Func) -> list[Value]:
        """Takes over a function with its parameters; gives its results as they are now."""
        self._params.extend(func.params)
        replaced: dict[int, Value] = {}
        with self:
            for op in func.ops:
                operands = tuple([replaced.get(id(v), v) for v in op.operands])
                self._loc = op.loc
                made = self._take(op) if operands == op.operands else self._renew(op, operands)
                if made is not op.results:
                    results = made if isinstance(made, tuple) else (made,)
                    replaced.update((id(v), r) for v, r in zip(op.results, results, strict=True))
        self._loc = None
        return [replaced.get(id(v), v) for v in func.results]

    def _renew(self, op: Op, operands: tuple[Value, ...]) -> Any:
        """An op whose operands were replaced by others of their types."""
        types = tuple([v.type for v in op.results])
        folded = super()._fold(op.opdef, operands, op.attrs, types, op.regions)
        if folded is not None:
            return folded
        new = Op(
            op.opdef, operands, op.attrs, types,
            regions=op.regions, loc=op.loc, seq=len(self._ops),
        )  # fmt: skip
        derive_facts(new)
        return self._take(new)

    def _take(self, op: Op) -> tuple[Value, ...] | Value:
        """An op that nothing is folded in any more: itself, or what a rule makes of it."""
        key = self._key(op.opdef, op.operands, op.attrs, op.regions)
        known = self._known.get(key)
        if known is not None:
            return known.results
        replacement: tuple[Value, ...] | Value | None = self._replacement(op, op.operands)
        if replacement is not None:
            return replacement
        self._ops.append(op)
        if key is not None:
            self._known[key] = op
        return op.results

    def _fold(
        self,
        opdef: OpDef,
        operands: tuple[Value, ...],
        attrs: Mapping[str, Any],
        types: tuple[TensorType, ...],
        regions: tuple[Region, ...],
    ) -> Any:
        folded = super()._fold(opdef, operands, attrs, types, regions)
        if folded is not None or opdef.name not in self._rules:
            return folded
        with self:
            return self._replacement(Op(opdef, operands, attrs, types, regions=regions), operands)

    def _replacement(self, op: Op, operands: tuple[Value, ...]) -> Any:
        """What the first rule that matches makes of an op, else ``None``."""
        for one in self._rules.get(op.name, ()):
            replacement = one.apply(op, *operands)
            if replacement is not None:
                self._hits[one.name] += 1
                return replacement
        return None


def rewrite_region(region: Region, rules: Sequence[Rule]) -> Region:
    """A region with every rule applied wherever it matches."""
    builder = _Rewriter(rules, Counter())
    params = region_params(builder, region)
    return builder.region(params, inline(builder, region, params))


def region_params(builder: Builder, region: Region) -> list[Value]:
    """Parameters in ``builder`` like those of a region, with what is known of them."""
    return [builder.param_like(p) for p in region.params]
