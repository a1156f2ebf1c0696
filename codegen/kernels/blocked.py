"""The channel-blocked layouts of convolutions.

Activations are ``[N][C/b][H][W][b]`` with zeros in a halo around every plane, so
that windows may reach over the edge; the b channels of a block fill whole
vectors on every machine (b = 16, or b = C in a first layer of fewer channels).
Weights are ``[O/16][I/b][kh][kw][b][16]``: one vector of output channels per
input channel and tap, in the order a convolution reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from symgrad.codegen.access import MEMORY_TYPES, Access, row_major
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Int
from symgrad.codegen.tiling import Tiling
from symgrad.ir.record import record

BLOCK = 16
"""Channels of a block: one AVX-512 vector of f32, whole vectors everywhere else."""

Pair = tuple[int, int]
"""One number for the vertical and one for the horizontal axis."""


def channel_block(channels: int) -> int:
    """The block size that a tensor of so many channels is laid out in."""
    return channels if channels < BLOCK else BLOCK


def lane_group(inputs: int, outputs: int, groups: int) -> int | None:
    """Channels of one group where groups are runs of lanes: a block of outputs then sees
    the block of inputs of the same number only.  None where they are not."""
    size = outputs // groups
    fits = inputs == outputs and outputs % BLOCK == 0 and size < BLOCK
    return size if fits and BLOCK % size == 0 else None


def channel_tiling(shape: Sequence[int]) -> Tiling:
    """The dimensions (N, C/b, H, W, b) of activations [N, C, H, W]."""
    spatial = [(axis, 1) for axis in range(2, len(shape))]
    return Tiling.blocks(shape, [(0, 1), (1, channel_block(shape[1])), *spatial, (1, 1)])


def weight_tiling(shape: Sequence[int]) -> Tiling:
    """The dimensions (O/16, I/b, kh, kw, b, 16) of weights [O, I, kh, kw]."""
    spatial = [(axis, 1) for axis in range(2, len(shape))]
    order = [(0, BLOCK), (1, channel_block(shape[1])), *spatial, (1, 1), (0, 1)]
    return Tiling.blocks(shape, order)


@record
class Blocked:
    """Where the activations of a convolution lie.

    ``strides`` are those of image, channel block, row and pixel, in elements;
    ``offset`` is the element of the first pixel.  ``halo`` counts the zeros around
    each plane: (top, bottom), (left, right).
    """

    dtype: str
    shape: tuple[int, int, int, int]
    """Images, channels, height, width."""
    strides: tuple[int, int, int, int]
    offset: int = 0
    halo: tuple[Pair, Pair] = ((0, 0), (0, 0))

    @staticmethod
    def dense(
        dtype: str,
        shape: tuple[int, int, int, int],
        halo: tuple[Pair, Pair] = ((0, 0), (0, 0)),
        pitch: int | None = None,
    ) -> Blocked:
        """A buffer of its own: planes and their halos without gaps.

        ``pitch`` is the distance of pixels, if they are further apart than a block's channels.
        """
        _, channels, *plane = shape
        block = channel_block(channels)
        pitch = pitch or block
        height, width = (size + sum(h) for size, h in zip(plane, halo, strict=True))
        row = width * pitch
        blocks = -(-channels // block)
        strides = (blocks * height * row, height * row, row, pitch)
        return Blocked(dtype, shape, strides, halo[0][0] * row + halo[1][0] * pitch, halo)

    @property
    def block(self) -> int:
        """Channels of one block."""
        return channel_block(self.shape[1])

    @property
    def fills_vectors(self) -> bool:
        """Whether a pixel of a block may be read as whole vectors of ``BLOCK`` elements.

        What lies behind fewer channels than these may be anything.
        """
        return self.strides[3] == BLOCK

    @property
    def blocks(self) -> int:
        """Blocks of channels."""
        return self.shape[1] // self.block

    @property
    def elements(self) -> int:
        """Size of a buffer that holds a dense layout, halo included."""
        return self.shape[0] * self.strides[0]

    @property
    def buffer_shape(self) -> tuple[int, ...]:
        """Array shape of a dense layout's buffer, halo included."""
        (top, bottom), (left, right) = self.halo
        n, _, height, width = self.shape
        return (n, self.blocks, top + height + bottom, left + width + right, self.strides[3])

    @property
    def tiling(self) -> Tiling:
        """The dimensions (N, C/b, H, W, b)."""
        return channel_tiling(self.shape)

    @property
    def access(self) -> Access:
        """The elements over the physical space (N, C/b, H, W, b)."""
        return Access(self.dtype, (*self.strides, 1), self.offset)

    @property
    def scalar(self) -> str:
        """LLVM type of one element."""
        return MEMORY_TYPES[self.dtype]

    def refusal(self) -> str | None:
        """Why convolutions cannot use this tensor in place, if so."""
        if self.dtype not in ("f32", "f64"):
            return f"direct convolution computes in f32 or f64, not {self.dtype}"
        if self.shape[1] % self.block:
            return f"{self.shape[1]} channels do not fill blocks of {BLOCK}"
        return None


@record
class Weights:
    """Where the weights ``[O][I/groups][kh][kw]`` of a convolution lie.

    ``strides`` are those of the four axes in elements, or ``None`` for the blocked
    layout; ``offset`` is the first element's place in its buffer.
    """

    dtype: str
    outputs: int
    inputs: int
    """Input channels of one group."""
    kernel: Pair
    strides: tuple[int, int, int, int] | None = None
    offset: int = 0

    @staticmethod
    def plain(dtype: str, outputs: int, inputs: int, kernel: Pair, offset: int = 0) -> Weights:
        """Row-major ``OIHW``."""
        taps = prod(kernel)
        strides = (inputs * taps, taps, kernel[1], 1)
        return Weights(dtype, outputs, inputs, kernel, strides, offset)

    @staticmethod
    def blocked(dtype: str, shape: Sequence[int]) -> Weights:
        """The layout that convolutions read in place."""
        outputs, inputs, *kernel = shape
        return Weights(dtype, outputs, inputs, (kernel[0], kernel[1]))

    @property
    def tiling(self) -> Tiling:
        """The dimensions of the blocked layout."""
        return weight_tiling((self.outputs, self.inputs, *self.kernel))

    @property
    def access(self) -> Access:
        """The elements of the blocked layout over its dimensions."""
        return Access(self.dtype, row_major(self.tiling.extents))

    @property
    def block(self) -> int:
        """Input channels of one block."""
        return channel_block(self.inputs)

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return prod(self.kernel)

    @property
    def matrix(self) -> int:
        """Elements of one block pair: ``[kh][kw][b][16]``."""
        return self.taps * self.block * BLOCK

    @property
    def blocks(self) -> Pair:
        """Blocks of output channels and of input channels."""
        return self.outputs // BLOCK, self.inputs // self.block

    @property
    def elements(self) -> int:
        """Number of weights."""
        return self.outputs * self.inputs * self.taps

    @property
    def is_flat(self) -> bool:
        """Whether (I, kh, kw) of one output channel lie in one row without gaps."""
        if self.strides is None:
            return False
        sizes = (self.inputs, *self.kernel)
        dense = (self.taps, self.kernel[1], 1)
        return all(
            size == 1 or stride == expected
            for size, stride, expected in zip(sizes, self.strides[1:], dense, strict=True)
        )

    @property
    def scalar(self) -> str:
        """LLVM type of one element."""
        return MEMORY_TYPES[self.dtype]


def reach(k: Emitter, first: Int, span: int, step: int, count: int, size: int) -> tuple[Int, Int]:
    """First and number of the t < count for which ``first + step * t`` hits [0, size).

    With a span, positions up to ``span`` further count as well.
    """
    last = k.add(first, span)
    low = k.udiv(k.max(k.sub(step - 1, last), 0), step)
    high = k.min(k.udiv(k.max(k.sub(size + step - 1, first), 0), step), count)
    return low, k.max(k.sub(high, low), 0)


def offset_of(k: Emitter, point: Sequence[Int], strides: Sequence[int]) -> Int:
    """The element at a point, from the first one on."""
    total: Int = 0
    for position, stride in zip(point, strides, strict=True):
        total = k.add(total, k.mul(position, stride))
    return total
