"""How a kernel finds the elements of its operands.

An ``Access`` maps a point of an iteration space to an element of a buffer by
strides; broadcasting is a stride of 0, a transpose a permutation of strides, a
slice an offset, a reversed axis a negative stride.  So shape operations cost
nothing: the planner turns them into accesses, and kernels just follow strides.

Iteration spaces are *physical*: a tensor in a channel-blocked layout has the
dimensions (N, C/b, H, W, b), a plain one just its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Int, Reg
from symgrad.ir.record import record

if TYPE_CHECKING:
    from symgrad.codegen.kernels.tally import Tally, TallySpec

MEMORY_TYPES = {
    "bool": "i8",
    "i8": "i8",
    "i16": "i16",
    "i32": "i32",
    "i64": "i64",
    "u8": "i8",
    "u16": "i16",
    "u32": "i32",
    "u64": "i64",
    "f16": "half",
    "bf16": "bfloat",
    "f32": "float",
    "f64": "double",
    "bf16x2": "i32",
}
"""LLVM type of one element in memory, by IR dtype name; a ``bf16x2`` is two neighbours
along a contraction, see ``gemm_pairs``."""

REGISTER_TYPES = {**MEMORY_TYPES, "bool": "i1", "f16": "float", "bf16": "float"}
"""LLVM type of one element in a register: half types compute in f32."""


@record
class Access:
    """Element ``p`` of an iteration space lies at ``offset + sum(p[d] * strides[d])``.

    ``dtype`` is the IR dtype's name (``"f32"``); offset and strides count elements.
    """

    dtype: str
    strides: tuple[int, ...]
    offset: int = 0

    def address(self, k: Emitter, base: Reg, point: Sequence[Int]) -> Reg:
        """Emits the address of the element at ``point``."""
        index: Int = self.offset
        for position, stride in zip(point, self.strides, strict=True):
            index = k.add(index, k.mul(position, stride))
        return k.gep(base, index, MEMORY_TYPES[self.dtype])


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a C-contiguous array."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


class Epilogue(Protocol):
    """What a matmul or convolution applies to its result before the store.

    Hashable and comparable: it is part of the kernel's identity.
    """

    @property
    def operands(self) -> tuple[Access, ...]:
        """Extra operands, over the iteration space of the kernel's output."""

    @property
    def result_dtype(self) -> str:
        """IR dtype of what is stored."""

    @property
    def tally(self) -> TallySpec | None:
        """What is summed over all positions, if anything; the threads' sums are then the
        last operand, and the kernel ends its tiles by ``tally.Finish``."""

    def emit(
        self,
        k: Emitter,
        accumulator: Reg,
        bases: Sequence[Reg],
        point: Sequence[Int],
        mask: Reg | None,
        tally: Tally | None = None,
    ) -> Reg:
        """Turns an accumulator vector into the vector to store.

        ``point`` is the physical output position of lane 0; lanes run along the
        last physical dimension.  ``bases`` are the operands' base pointers.  With
        a ``mask`` only its lanes may be touched in memory.  ``tally`` takes in the
        values that are summed.
        """
