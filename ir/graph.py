"""Values, operations and functions: immutable once built.

A pass makes a new ``Func`` through a ``Builder``; nothing here is ever changed
in place, so there are no use lists to maintain and nothing to erase.  ``Value``
has Python's operators for the adjoint rules and expansions, which work inside
an open builder: they go through the one-slot hook ``insertion``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from symgrad.ir.errors import InternalError, Loc
from symgrad.ir.types import TensorType

if TYPE_CHECKING:
    from symgrad.ir.opdef import OpDef


class _Emits(Protocol):
    def emit(self, name: str, *operands: Any, **attrs: Any) -> Any: ...

    def constant(self, value: Any, type: TensorType | None = None) -> Value: ...

    def operand_like(self, number: float, like: Value) -> Value: ...


class _Insertion(threading.local):
    """Where operators on values emit: the innermost open builder of this thread."""

    stack: list[_Emits]

    def __init__(self) -> None:
        self.stack = []

    @property
    def builder(self) -> _Emits:
        if not self.stack:
            raise InternalError("an IR operation was used outside `with builder:`")
        return self.stack[-1]


insertion = _Insertion()

TAME, NONNEGATIVE, POSITIVE, NONPOSITIVE = 1, 2, 4, 8
"""Bits of ``Value.facts``; see ``ir/facts.py``."""


class Value:
    """One SSA value: a function's parameter (``op is None``) or a result of an op."""

    __slots__ = ("facts", "index", "name", "op", "type")

    def __init__(
        self, type: TensorType, op: Op | None = None, index: int = 0, name: str = ""
    ) -> None:
        self.type = type
        self.op = op
        self.index = index
        self.name = name
        self.facts = TAME if op is None else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return self.type.shape

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.type.shape)

    def __repr__(self) -> str:
        source = self.op.name if self.op else f"%{self.name}"
        return f"<{self.type} {source}>"

    def _binary(self, name: str, other: Value | float, *, swap: bool = False) -> Value:
        builder = insertion.builder
        right = other if isinstance(other, Value) else builder.operand_like(other, self)
        result: Value = builder.emit(name, right, self) if swap else builder.emit(name, self, right)
        return result

    def __add__(self, other: Value | float) -> Value:
        return self._binary("add", other)

    def __radd__(self, other: float) -> Value:
        return self._binary("add", other, swap=True)

    def __sub__(self, other: Value | float) -> Value:
        return self._binary("sub", other)

    def __rsub__(self, other: float) -> Value:
        return self._binary("sub", other, swap=True)

    def __mul__(self, other: Value | float) -> Value:
        return self._binary("mul", other)

    def __rmul__(self, other: float) -> Value:
        return self._binary("mul", other, swap=True)

    def __truediv__(self, other: Value | float) -> Value:
        return self._binary("div", other)

    def __rtruediv__(self, other: float) -> Value:
        return self._binary("div", other, swap=True)

    def __neg__(self) -> Value:
        result: Value = insertion.builder.emit("neg", self)
        return result


class Op:
    """One operation: its definition, operands, attributes, regions and results."""

    __slots__ = ("attrs", "loc", "name", "opdef", "operands", "regions", "results", "seq")

    def __init__(
        self,
        opdef: OpDef,
        operands: tuple[Value, ...],
        attrs: Mapping[str, Any],
        types: tuple[TensorType, ...],
        *,
        regions: tuple[Region, ...] = (),
        loc: Loc | None = None,
        seq: int = 0,
    ) -> None:
        self.opdef = opdef
        self.name = opdef.name
        self.operands = operands
        self.attrs = attrs
        self.regions = regions
        if len(types) == 1:
            self.results: tuple[Value, ...] = (Value(types[0], self),)
        else:
            self.results = tuple([Value(t, self, i) for i, t in enumerate(types)])
        self.loc = loc
        self.seq = seq
        """Position in the builder that made the op: operands come from smaller ones."""

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    def __repr__(self) -> str:
        return f"<op {self.name}>"


class Region:
    """A block of ops with parameters and results of its own, inside an op."""

    __slots__ = ("ops", "params", "results")

    def __init__(
        self, params: tuple[Value, ...], ops: tuple[Op, ...], results: tuple[Value, ...]
    ) -> None:
        self.params = params
        self.ops = ops
        self.results = results


class Func(Region):
    """A whole function in SSA form.  Equal to another when their texts are."""

    __slots__ = ("_text", "name")

    render: ClassVar[Callable[..., str]]
    """How a function becomes text; ``printer`` fills it in."""

    def __init__(
        self,
        name: str,
        params: tuple[Value, ...],
        ops: tuple[Op, ...],
        results: tuple[Value, ...],
    ) -> None:
        super().__init__(params, ops, results)
        self.name = name
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The canonical text without locations; the function's identity."""
        if self._text is None:
            self._text = Func.render(self, locations=False)
        return self._text

    @property
    def param_types(self) -> tuple[TensorType, ...]:
        """Types of the parameters."""
        return tuple(p.type for p in self.params)

    @property
    def result_types(self) -> tuple[TensorType, ...]:
        """Types of the results."""
        return tuple(r.type for r in self.results)

    def walk(self) -> Iterator[Op]:
        """Every op, those in regions included, outer ones first."""
        yield from _walk(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Func) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return Func.render(self)

    __repr__ = __str__


def _walk(region: Region) -> Iterator[Op]:
    for op in region.ops:
        yield op
        for inner in op.regions:
            yield from _walk(inner)


def scalar_constant(value: Value) -> Any:
    """The Python number that every element of a constant is, else ``None``."""
    if value.op is None or value.op.name != "constant":
        return None
    payload = value.op.attrs["value"]
    return None if isinstance(payload, tuple) else payload
