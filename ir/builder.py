"""Builds functions: type rules, constant folding and hash-consing on insertion.

Because every op passes through ``Builder.emit``, a ``Func`` is well typed and
free of common subexpressions by construction, and unreachable ops are dropped
when it is closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from symgrad.ir.errors import InternalError, Loc, user_location
from symgrad.ir.facts import derive_facts
from symgrad.ir.graph import Func, Op, Region, Value, insertion
from symgrad.ir.opdef import Array, OpDef, lookup
from symgrad.ir.types import TensorType, type_of_array

FOLD_LIMIT = 32
"""Largest number of elements of a dense constant; larger arrays become parameters."""


class Builder:
    """Collects ops in SSA order.  As a context manager it is where operators on
    values emit to."""

    def __init__(self, *, locations: bool = True) -> None:
        self._params: list[Value] = []
        self._names: set[str] = set()
        self._ops: list[Op] = []
        self._known: dict[Any, Op] = {}
        self._track = locations
        self._loc: Loc | None = None

    @classmethod
    def resuming(cls, func: Func) -> Builder:
        """A builder that goes on where a function was closed, with its values."""
        builder = cls(locations=False)
        builder._params, builder._ops = list(func.params), list(func.ops)
        builder._names = {p.name for p in func.params}
        return builder

    # -- parameters and constants ------------------------------------------

    def param(self, type: TensorType, name: str = "") -> Value:
        """Adds a parameter; a missing or taken name gets a number."""
        unique, n = name or f"p{len(self._params)}", 1
        while unique in self._names:
            unique, n = f"{name or 'p'}_{n}", n + 1
        self._names.add(unique)
        value = Value(type, name=unique)
        self._params.append(value)
        return value

    def param_like(self, value: Value, name: str = "") -> Value:
        """A parameter that stands for a value: of its type, and as much is known of it."""
        param = self.param(value.type, name)
        param.facts = value.facts
        return param

    def constant(self, value: Any, type: TensorType | None = None) -> Value:
        """A constant of ``type``: one number for every element, or a small array."""
        array = np.asarray(value, dtype=type.dtype.numpy if type else None)
        type = type or type_of_array(array)
        if array.ndim and array.size and (array == array.flat[0]).all():
            flat = array.reshape(-1)
            if len({repr(x) for x in flat[:FOLD_LIMIT]}) == 1:  # tells 0.0 from -0.0
                array = flat[0]
        payload = array.item() if array.ndim == 0 else tuple(array.reshape(-1).tolist())
        result: Value = self.emit("constant", value=payload, type=type)
        return result

    def operand_like(self, number: float, like: Value) -> Value:
        """A Python number as a constant of another value's type."""
        return self.constant(number, like.type)

    # -- insertion -----------------------------------------------------------

    def emit(
        self,
        name: str,
        *operands: Value,
        loc: Loc | None = None,
        regions: tuple[Region, ...] = (),
        **attrs: Any,
    ) -> Any:
        """Inserts an op and returns its result (a tuple when it has several).

        Returns an existing or folded value where that is the same.  Raises
        ``ShapeError``, ``DTypeError`` or ``UsageError`` from the op's type rule.
        """
        opdef = lookup(name)
        return self._insert(opdef, operands, opdef.bind_attrs(attrs), regions, loc)

    def copy(self, op: Op, operands: Sequence[Value]) -> Any:
        """Inserts an op of another function with new operands and its location."""
        new, types = tuple(operands), None
        if not op.opdef.is_uniform:  # else its type rule costs nothing
            if all(a.type is b.type for a, b in zip(new, op.operands, strict=True)):
                types = tuple([v.type for v in op.results])
        outer, self._loc = self._loc, op.loc or self._loc
        inserted = self._insert(op.opdef, new, op.attrs, op.regions, self._loc, types)
        self._loc = outer
        return inserted

    def _insert(
        self,
        opdef: OpDef,
        operands: tuple[Value, ...],
        attrs: Mapping[str, Any],
        regions: tuple[Region, ...],
        loc: Loc | None,
        types: tuple[TensorType, ...] | None = None,
    ) -> Any:
        """Inserts an op with complete attributes; runs its type rule unless ``types`` are known."""
        key = self._key(opdef, operands, attrs, regions)
        known = self._known.get(key)
        if known is not None:
            return known.results[0] if len(known.results) == 1 else known.results
        if types is None:
            region = regions[0] if regions else None
            types = opdef.result_types([v.type for v in operands], attrs, region)
        if (folded := self._fold(opdef, operands, attrs, types, regions)) is not None:
            return folded
        if loc is None:
            loc = self._loc or (user_location() if self._track else None)
        op = self._append(opdef, operands, attrs, types, regions=regions, loc=loc)
        if key is not None:
            self._known[key] = op
        return op.results[0] if len(types) == 1 else op.results

    def _append(
        self,
        opdef: OpDef,
        operands: tuple[Value, ...],
        attrs: Mapping[str, Any],
        types: tuple[TensorType, ...],
        *,
        regions: tuple[Region, ...],
        loc: Loc | None,
    ) -> Op:
        """A new op at the end; a builder that keeps its ops elsewhere overrides this."""
        op = Op(opdef, operands, attrs, types, regions=regions, loc=loc, seq=len(self._ops))
        derive_facts(op)
        self._ops.append(op)
        return op

    def at(self, loc: Loc | None) -> _At:
        """Ops inserted within are attributed to ``loc``."""
        return _At(self, loc)

    @staticmethod
    def _key(
        opdef: OpDef, operands: tuple[Value, ...], attrs: Mapping[str, Any], regions: Any
    ) -> Any:
        name = opdef.name
        if name == "constant":  # repr tells 0.0 from -0.0 and equates nan with nan
            return name, repr(attrs["value"]), attrs["type"]
        if name == "identity":
            return None
        ids = [id(v) for v in operands]
        if regions:  # what is copied keeps its regions
            return (name, *ids, *attrs.values(), *map(id, regions))
        if opdef.commutative:
            ids.sort()
        return (name, *ids, *attrs.values()) if attrs else (name, *ids)

    def _fold(
        self,
        opdef: OpDef,
        operands: tuple[Value, ...],
        attrs: Mapping[str, Any],
        types: tuple[TensorType, ...],
        regions: tuple[Region, ...],
    ) -> Value | None:
        if opdef.fold_rule is not None:
            with self:
                folded: Value | None = opdef.fold_rule(*operands, **attrs)
            if folded is not None:
                return folded
        if len(types) != 1 or opdef.evaluate_rule is None or not operands or regions:
            return None
        for v in operands:
            if v.op is None or v.op.name != "constant":
                return None
        if opdef.name == "identity":  # stays apart even from the constant it names
            return None
        constants = [constant_value(v) for v in operands]
        if opdef.elementwise and all(c.ndim == 0 for c in constants if c is not None):
            shape: tuple[int, ...] = ()  # every operand is one number: so is the result
        elif types[0].size <= FOLD_LIMIT and all(v.type.size <= FOLD_LIMIT for v in operands):
            shape = types[0].shape
            constants = [
                np.broadcast_to(c, v.shape)
                for c, v in zip(constants, operands, strict=True)
                if c is not None
            ]
        else:
            return None
        with np.errstate(all="ignore"):
            value = opdef.evaluate_rule(*constants, **attrs)
        return self.constant(np.asarray(value).reshape(shape), types[0])

    # -- closing ---------------------------------------------------------------

    def build(self, results: Sequence[Value], name: str = "main") -> Func:
        """The function with these results; ops they do not need are dropped."""
        return Func(name, tuple(self._params), self.ops_behind(results), tuple(results))

    def region(self, params: Sequence[Value], results: Sequence[Value]) -> Region:
        """Everything built so far as a region with these parameters."""
        return Region(tuple(params), self.ops_behind(results), tuple(results))

    def ops_behind(self, results: Iterable[Value]) -> tuple[Op, ...]:
        """All ops built so far that these values depend on, in order."""
        needed = {id(v.op) for v in results if v.op}
        kept = []
        for op in reversed(self._ops):
            if id(op) in needed:
                kept.append(op)
                needed.update(id(v.op) for v in op.operands if v.op)
        kept.reverse()
        return tuple(kept)

    def __enter__(self) -> Builder:
        insertion.stack.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        if insertion.stack.pop() is not self:
            raise InternalError("builders were closed out of order")


class _At:
    """The context of ``Builder.at``: a class, as it is entered for every op of every pass."""

    __slots__ = ("_builder", "_loc", "_outer")

    def __init__(self, builder: Builder, loc: Loc | None) -> None:
        self._builder, self._loc = builder, loc

    def __enter__(self) -> None:
        self._outer = self._builder._loc
        self._builder._loc = self._loc or self._outer

    def __exit__(self, *exc: object) -> None:
        self._builder._loc = self._outer


def constant_value(value: Value) -> Array | None:
    """The number or array a value is known to be: 0-d where all elements agree."""
    if value.op is None or value.op.name != "constant":
        return None
    payload, dtype = value.op.attrs["value"], value.type.dtype.numpy
    if isinstance(payload, tuple):
        return np.array(payload, dtype).reshape(value.shape)
    return np.asarray(payload, dtype)


def inline(builder: Builder, body: Region, arguments: Sequence[Value]) -> list[Value]:
    """Copies a function's or region's ops into ``builder``; returns its results there."""
    mapping = dict(zip(map(id, body.params), arguments, strict=True))
    for op in body.ops:
        new = builder.copy(op, [mapping[id(v)] for v in op.operands])
        news = new if isinstance(new, tuple) else (new,)
        mapping.update((id(old), value) for old, value in zip(op.results, news, strict=True))
    return [mapping[id(v)] for v in body.results]
