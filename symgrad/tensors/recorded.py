"""What the recorder makes: values, and the operations that they come from.

A recorded operation is a *region*, the IR of what it computes, applied to operands.  It is
owned by the values that need it, so the graph of a dropped tensor is freed with it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from symgrad.bounded import Bounded
from symgrad.ir import TensorType, Value
from symgrad.ir.errors import UsageError
from symgrad.ir.graph import TAME, Op, Region
from symgrad.ir.opdef import Array, OpDef
from symgrad.ir.types import type_of_array
from symgrad.tensors.standing import let_go

if TYPE_CHECKING:  # compiling is imported when something is compiled
    from symgrad.codegen.runtime.resident import Resident

ATOM_LIMIT = 4096
"""Regions of a single op kept."""

Contents: TypeAlias = Union[Array, "Resident", "Unknown"]
"""What a value holds: an array, or what a program left in a form of its own.

Never written to, but by a program that is given it to reuse.
"""


def array_of(contents: Contents) -> Array:
    """Contents as an array, not to be written to."""
    return contents if isinstance(contents, np.ndarray) else contents.array


class Unknown:
    """What stands for contents that nobody can see: ``reason`` tells who tries it why."""

    __slots__ = ("_reason",)

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def refuse(self) -> Any:
        """Raises ``UsageError``."""
        raise UsageError(self._reason)

    array = memory = property(refuse)
    """As ``Resident`` has."""

    def copy(self) -> Any:
        """As arrays have."""
        return self.refuse()

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.refuse()


def _count(x: object) -> int:
    return sys.getrefcount(x)


_PROBE = [object()]
_OWN = _count(_PROBE[0]) - 1
"""What counting adds to the count, which differs between Python's versions."""


def references(x: object) -> int:
    """How many variables, attributes and containers refer to an object."""
    return sys.getrefcount(x) - _OWN


def references_each(objects: list[Any]) -> list[int]:
    """How many variables, attributes and other containers refer to each item of a list."""
    return [count - _LISTED for count in map(sys.getrefcount, objects)]


_LISTED = next(map(sys.getrefcount, _PROBE))


def are_shared(leaves: Sequence[Recorded]) -> list[bool]:
    """Whether anything but the leaf itself refers to the contents of each, or to the array that
    these lie in."""
    if leaves:
        let_go()
    contents: list[Any] = [leaf.contents for leaf in leaves]
    inner = [None if isinstance(c, np.ndarray) else c.memory for c in contents]
    return [
        outside > 1 or (array is not None and others > 1)
        for outside, others, array in zip(
            references_each(contents), references_each(inner), inner, strict=True
        )
    ]


class Recorded(Value):
    """A value of the recorder: an array, or the result of a recorded op.

    An array is a *leaf*: its contents are known and it comes from nowhere.  A result becomes one,
    too, when it is known and its op is let go of.
    """

    __slots__ = ("__weakref__", "contents")

    op: PendingOp | None
    contents: Contents | None
    """What it holds, once that is known."""
    name = ""

    def __init__(self, type: TensorType, op: PendingOp | None, index: int) -> None:
        self.type = type
        self.op = op
        self.index = index
        self.contents = None

    @property
    def facts(self) -> int:  # type: ignore[override]
        """Those of a parameter, or of any op's result."""
        return TAME if self.op is None else 0


def leaf_of(contents: Contents, type: TensorType | None = None) -> Recorded:
    """A leaf that holds these."""
    made = Recorded(type_of_array(array_of(contents)) if type is None else type, None, 0)
    made.contents = contents
    return made


def contents_of(value: Value) -> Contents | None:
    """The contents of a value of the recorder, if it has been computed."""
    return value.contents  # type: ignore[attr-defined, no-any-return]


def is_known(value: Value) -> bool:
    """Whether a value of the recorder has been computed."""
    return value.contents is not None  # type: ignore[attr-defined]


def ends_a_graph(value: Value) -> bool:
    """Whether no derivative passes through a value of the recorder."""
    if value.op is None:
        return True
    maker = value.op.region.results[value.index].op  # type: ignore[attr-defined]
    return maker is not None and maker.name == "stop_gradient"


CALL = OpDef("call", lambda *operands, region: tuple(v.type for v in region.results))
"""What a recorded op is called that has several ops in its region.

It is not in the table of ops, for no function that is built has one.
"""


class PendingOp(Op):
    """A recorded op: a region applied to operands.

    Values hold the op that makes them.  The op does not hold them: without cycles a graph
    is gone, and the arrays it started from are free, when the last tensor lets go of it.
    ``results`` is empty, therefore, except while a sweep passes through the op.
    """

    __slots__ = ("depth", "mates", "region")

    loc = None
    mates: Sequence[weakref.ref[Any]]
    """The tensors made by the same backward pass: whoever looks at one wants all."""

    def __init__(self, region: Region, operands: tuple[Value, ...], seq: int) -> None:
        self.region, self.operands, self.seq, self.results = region, operands, seq, ()
        self.mates = ()
        depth = 0
        value: Any
        for value in operands:
            if value.contents is None and value.op.depth > depth:
                depth = value.op.depth
        self.depth = depth + 1

    @property
    def opdef(self) -> OpDef:  # type: ignore[override]
        """That of the only op of an atom, else ``CALL``."""
        return self.region.ops[0].opdef if isinstance(self.region, Atom) else CALL

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the op definition."""
        return self.opdef.name

    @property
    def attrs(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Attributes of the only op of an atom."""
        return self.region.ops[0].attrs if isinstance(self.region, Atom) else {}

    @property
    def regions(self) -> tuple[Region, ...]:  # type: ignore[override]
        """Regions of the only op of an atom, else the region itself."""
        return self.region.ops[0].regions if isinstance(self.region, Atom) else (self.region,)


_atoms: Bounded[Atom] = Bounded(ATOM_LIMIT)


class Atom(Region):
    """A region of a single op, on its parameters and with its results as they are."""

    __slots__ = ()


def atom(
    opdef: OpDef,
    operands: Sequence[TensorType],
    attrs: Mapping[str, Any],
    regions: tuple[Region, ...] = (),
    types: tuple[TensorType, ...] | None = None,
) -> Region:
    """The region of one op on operands of given types; there is one for all that are alike."""
    # The repr of a constant tells 0.0 from -0.0 and makes nan equal to itself.
    value = repr(attrs["value"]) if opdef.name == "constant" else None
    rest = attrs["type"] if value else tuple(attrs.values())
    key = opdef.name, value, rest, regions, tuple(operands)
    known = _atoms.get(key)
    if known is None:
        if types is None:
            types = opdef.result_types(operands, attrs, regions[0] if regions else None)
        params = tuple([Value(t) for t in operands])
        op = Op(opdef, params, attrs, types, regions=regions)
        known = _atoms[key] = Atom(params, (op,), op.results)
    return known


def shared_region(region: Region) -> Region:
    """The one region for all operations of a single op that are alike, or ``region`` itself."""
    (only,) = region.ops if len(region.ops) == 1 else (None,)
    if only is None or only.operands != region.params or only.results != region.results:
        return region
    types = tuple(v.type for v in only.results)
    return atom(only.opdef, [v.type for v in only.operands], only.attrs, only.regions, types)
