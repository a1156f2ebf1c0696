"""What a fused loop nest computes: accesses, a scalar region, and where results go."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from symgrad.codegen.access import Access
from symgrad.codegen.kernels.reduce import COMBINE
from symgrad.ir.record import record

if TYPE_CHECKING:
    from symgrad.ir.graph import Region


@record
class Indirect(Access):
    """An access that is moved by values known only at run time.

    For each ``(n, limit, stride)`` of ``along`` the element lies ``stride`` times the
    value of input ``n``, clamped to ``0..limit``, further on.  Gathers and slices at
    run-time positions are inputs of this kind; an output of this kind must not
    write one element twice.
    """

    along: tuple[tuple[int, int, int], ...] = ()


@record
class Output:
    """Where a result of the body goes: to memory, or into a reduction over ``axes``.

    A reducing output's access has stride 0 along ``axes``.  ``reduce`` is one of
    ``sum prod max min any all``; ``max`` and ``min`` propagate nan.
    """

    access: Access
    reduce: str | None = None
    axes: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class LoopSpec:
    """One loop nest: ``body`` at every point of ``extents``.

    ``body`` is a region over scalars with one parameter per input and one result
    per output.  An output may alias an input of identical access.  ``threads`` is
    the team that the schedule has in mind; the result is right for any.  With
    ``split = (axis, parts)`` a reduced axis is cut into parts whose results are
    kept apart: the stride of reducing outputs along it then counts parts.  A ``flat``
    nest has one contiguous axis whose extent is read at run time, from an i64 behind
    the other buffers; ``extents`` then only guides the schedule.
    """

    extents: tuple[int, ...]
    inputs: tuple[Access, ...]
    body: Region
    outputs: tuple[Output, ...]
    threads: int = 1
    split: tuple[int, int] | None = None
    flat: bool = False
    _key: Any = field(init=False, repr=False)
    _hash: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        accesses = (*self.inputs, *(o.access for o in self.outputs))
        if any(len(a.strides) != len(self.extents) for a in accesses):
            raise ValueError(f"loop nest over {self.extents}: an access has another rank")
        if (len(self.body.params), len(self.body.results)) != (len(self.inputs), len(self.outputs)):
            raise ValueError("loop nest: the body's parameters and results do not fit")
        if unknown := {o.reduce for o in self.outputs if o.reduce} - set(COMBINE):
            raise ValueError(f"loop nest: unknown reductions {sorted(unknown)}")
        if len({frozenset(o.axes) for o in self.outputs if o.reduce}) > 1:
            raise NotImplementedError(
                "loop nest: results are reduced over different axes; compute them in nests of "
                "their own"
            )
        key = self.extents, self.inputs, region_key(self.body), self.outputs, self.threads
        object.__setattr__(self, "_key", (*key, self.split, self.flat))
        object.__setattr__(self, "_hash", hash(self._key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoopSpec) and self._hash == other._hash and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that the reducing outputs reduce over."""
        return next((o.axes for o in self.outputs if o.reduce), ())

    @property
    def split_axis(self) -> int | None:
        """The axis that is cut into parts."""
        return self.split[0] if self.split else None


@functools.lru_cache(maxsize=4096)
def region_key(region: Region) -> tuple[Any, ...]:
    """A hashable value, equal for regions of equal text."""
    numbers = {id(p): n for n, p in enumerate(region.params)}
    ops = []
    for op in region.ops:
        operands = tuple([numbers[id(v)] for v in op.operands])
        ops.append((op.name, operands, repr(sorted(op.attrs.items())) if op.attrs else ""))
        for result in op.results:
            numbers[id(result)] = len(numbers)
    params = tuple(p.type.dtype.name for p in region.params)
    return params, tuple(ops), tuple(numbers[id(v)] for v in region.results)


def identity_body(*dtypes: str, results: int | None = None) -> Region:
    """The region that passes its (first ``results``) values on: a copy."""
    from symgrad.ir.graph import Region, Value
    from symgrad.ir.types import DTYPES, TensorType

    values = tuple(Value(TensorType(DTYPES[d]), name=f"x{i}") for i, d in enumerate(dtypes))
    return Region(values, (), values[:results])
