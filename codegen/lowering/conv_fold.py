"""Strided convolutions of few channels as convolutions of more channels without a stride.

Pixels whose places are equal modulo the stride s become channels: where a window of k taps
moved by s pixels of c channels, one of about k / s taps moves by one pixel of s^2 c channels.
Nothing but x and the weights changes its form, and both are small where a network begins, at
which this aims: kernels without a stride know algorithms that those with one do not, and
vectors of three channels become vectors of twelve.

Along an axis with padding p, ``y[i] = sum over t of w[t] x[s i + t - p]``.  With
``t - p = s u + r`` and ``0 <= r < s`` the sum is one over u and r.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

from symgrad.codegen.access import Access, row_major
from symgrad.codegen.kernels import fold_pixels
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Pair, Weights
from symgrad.codegen.kernels.fold_pixels import FoldSpec, lower_fold
from symgrad.codegen.layout import channels
from symgrad.codegen.lowering.conv_fit import Piece, copy_piece
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.registers import bytes_of
from symgrad.codegen.storage import Buffer, Storage
from symgrad.codegen.target import Target
from symgrad.ir.builder import Builder
from symgrad.ir.graph import Op, Value
from symgrad.ir.record import record
from symgrad.ir.types import DTYPES, TensorType

Pair4 = tuple[int, int, int, int]
CALL = 4000.0
"""Cycles of a kernel call beside its work."""


@record
class Run:
    """Consecutive places along an axis: ``taps`` from ``tap`` on, with so many remainders from
    ``remainder`` on of each; the first is the axis' own place ``start``."""

    start: int
    tap: int
    taps: int
    remainder: int
    remainders: int


def runs(first: int, count: int, stride: int) -> Iterator[Run]:
    """Cuts ``count`` places from the ``first`` on where they begin or end amid a stride."""
    at, end = first, first + count
    while at < end:
        tap, remainder = divmod(at, stride)
        taps = (end - at) // stride if remainder == 0 and end - at >= stride else 1
        remainders = min(stride - remainder, end - at)
        yield Run(at - first, tap, taps, remainder, remainders)
        at += taps * remainders if remainder == 0 else remainders


@record
class Axis:
    """A spatial axis of the convolution."""

    size: int
    out: int
    kernel: int
    padding: int
    stride: int

    @property
    def low(self) -> int:
        """Padding of the folded axis."""
        return -(self.padding // -self.stride)

    @property
    def taps(self) -> int:
        """Taps on the folded axis."""
        return (self.kernel - 1 - self.padding) // self.stride + self.low + 1

    @property
    def folded(self) -> int:
        """Size of the folded axis, without what no window reaches."""
        return min(-(-self.size // self.stride), self.out + self.taps - 1 - self.low)

    @property
    def high(self) -> int:
        """Padding behind the folded axis."""
        return self.out + self.taps - 1 - self.low - self.folded

    @property
    def used(self) -> int:
        """Pixels, from the first on, that some window reaches."""
        return min(self.size, self.stride * self.folded)

    def pixels(self) -> list[Run]:
        """Where the pixels go."""
        return list(runs(0, self.used, self.stride))

    def weights(self) -> list[Run]:
        """Where the taps go."""
        return list(runs(-self.padding % self.stride, self.kernel, self.stride))


@record
class Fold:
    """A convolution, or its gradient to the weights, on folded pixels."""

    dtype: str
    images: int
    channels: int
    outputs: int
    axes: tuple[Axis, Axis]

    @property
    def folded_channels(self) -> int:
        """Channels of a folded pixel."""
        return prod(axis.stride for axis in self.axes) * self.channels

    @property
    def weights(self) -> Weights:
        """Where folded weights lie."""
        taps = [axis.taps for axis in self.axes]
        return Weights.blocked(self.dtype, (self.outputs, self.folded_channels, *taps))

    @property
    def source(self) -> Blocked:
        """Where folded pixels lie: each in a block of its own, whole vectors."""
        down, across = self.axes
        halo = (down.low, down.high), (across.low, across.high)
        shape = (self.images, self.folded_channels, down.folded, across.folded)
        return Blocked.dense(self.dtype, shape, halo, BLOCK)

    def cycles(self, target: Target, threads: int) -> float:
        """Estimated time of the copies, more than a convolution has without folding."""
        shape = (self.images, self.channels, *(axis.size for axis in self.axes))
        pixels = self._pixels(Access(self.dtype, row_major(shape)))
        copies = 1 + prod(len(axis.weights()) for axis in self.axes)
        return fold_pixels.cycles(pixels, target, threads) + copies * CALL

    def op(self, name: str) -> Op:
        """The convolution, or its gradient, of folded operands."""
        down, across = self.axes
        shapes = {
            "x": self.source.shape,
            "w": (self.outputs, self.folded_channels, down.taps, across.taps),
            "y": (self.images, self.outputs, down.out, across.out),
        }
        attrs: dict[str, Any] = {
            "stride": (1, 1), "padding": ((down.low, down.high), (across.low, across.high)),
            "dilation": (1, 1), "lhs_dilation": (1, 1), "groups": 1,
        }  # fmt: skip
        if name == "conv_weight_grad":
            attrs["kernel"] = down.taps, across.taps
        builder = Builder(locations=False)
        operands = [
            builder.param(TensorType(DTYPES[self.dtype], shapes[which]))
            for which in ("xw" if name == "conv" else "xy")
        ]
        made: Op | None = builder.emit(name, *operands, **attrs).op
        assert made is not None
        return made

    def filled(self, scope: Scope, value: Value) -> Storage:
        """Folded pixels of a plain value, with zeros around."""
        layout = self.source
        buffer = Buffer(layout.elements * bytes_of(layout.scalar), pool=(self, "pixels"))
        target = Storage(buffer, layout.shape, layout.access, layout)
        source = scope.plain(value)
        pixels = self._pixels(source.access)
        if pixels.refusal() is None:
            moved = float(value.type.bytes + buffer.bytes)
            scope.run(lower_fold(pixels), [source], [target], bytes=moved)
            return target
        image, channel, row, pixel = source.access.strides
        frame, _, *steps = layout.strides
        for down, across in product(*(axis.pixels() for axis in self.axes)):
            extents, (plain, shift), (fitted, to) = self._piece(
                (down, across), (row, pixel), (steps[0], steps[1]), 1
            )
            piece = Piece(
                (self.images, *extents, self.channels), (image, *plain, channel),
                source.access.offset + shift, (frame, *fitted, 1), layout.offset + to,
            )  # fmt: skip
            copy_piece(scope, piece, source, target, label="fold")
        return target

    def _pixels(self, access: Access) -> FoldSpec:
        """What one kernel does where a plain value's rows are contiguous."""
        down, across = self.axes
        return FoldSpec(access, self.channels, (down.used, across.used), down.stride, self.source)

    def folded_weights(self, scope: Scope, source: Storage) -> Storage:
        """The folded form of weights, with zeros for taps added."""
        target = self.empty_weights()
        target.buffer.pool = (self, "weights")
        for piece in self._weight_pieces(source):
            copy_piece(scope, piece, source, target, label="fold")
        return target

    def empty_weights(self) -> Storage:
        """A buffer for folded weights."""
        layout = self.weights
        shape = (self.outputs, self.folded_channels, *layout.kernel)
        buffer = Buffer(layout.elements * bytes_of(layout.scalar))
        return Storage(buffer, shape, layout.access, weights=layout)

    def unfold_weights(self, scope: Scope, source: Storage, result: Storage) -> None:
        """Copies folded weights to where they belong."""
        for piece in self._weight_pieces(result):
            copy_piece(scope, piece, result, source, back=True, label="unfold")

    def _weight_pieces(self, home: Storage) -> Iterator[Piece]:
        """The copies from weights that lie plain or blocked."""
        if home.weights is None:
            output, channel, row, column = home.access.strides
            outer, lane = BLOCK * output, output
        else:
            outer, _, row, column, channel, lane = home.access.strides
        to_outer, _, *steps, to_channel, to_lane = self.weights.access.strides
        for down, across in product(*(axis.weights() for axis in self.axes)):
            extents, (plain, shift), (fitted, to) = self._piece(
                (down, across), (row, column), (steps[0], steps[1]), to_channel
            )
            yield Piece(
                (self.outputs // BLOCK, *extents, self.channels, BLOCK),
                (outer, *plain, channel, lane), home.access.offset + shift,
                (to_outer, *fitted, to_channel, to_lane), to,
            )  # fmt: skip

    def _piece(
        self, along: tuple[Run, Run], plain: Pair, fitted: Pair, channel: int
    ) -> tuple[Pair4, tuple[Pair4, int], tuple[Pair4, int]]:
        """Extents of runs along both axes, and strides and offset on either side.

        ``plain`` and ``fitted`` are the distances of rows and of pixels, ``channel`` of the
        folded channels.
        """
        stride = self.axes[0].stride
        down, across = along
        row, pixel = stride * self.channels * channel, self.channels * channel
        extents = down.taps, down.remainders, across.taps, across.remainders
        strides = stride * plain[0], plain[0], stride * plain[1], plain[1]
        folded = fitted[0], row, fitted[1], pixel
        shift = down.start * plain[0] + across.start * plain[1]
        to = down.tap * fitted[0] + across.tap * fitted[1]
        to += down.remainder * row + across.remainder * pixel
        return extents, (strides, shift), (folded, to)


def fold(op: Op) -> Fold | None:
    """How to fold a convolution or its gradient to the weights, where that may pay.

    The pixels of a square of strides must fill no more than a block of channels.
    """
    attrs = op.attrs
    inputs, outputs = channels(op)
    stride = attrs["stride"][0]
    plain = set(attrs["dilation"]) == {1} and attrs["groups"] == 1
    if op.name == "conv_input_grad" or not plain:
        return None
    if set(attrs["stride"]) != {stride} or stride == 1 or stride**2 * inputs > BLOCK:
        return None
    x, other = op.operands
    y, kernel = (op.result, other.shape[2:]) if op.name == "conv" else (other, attrs["kernel"])
    down, across = (
        Axis(n, m, k, low, stride)
        for n, m, k, (low, _) in zip(
            x.shape[2:], y.shape[2:], kernel, attrs["padding"], strict=True
        )
    )
    return Fold(x.type.dtype.name, x.shape[0], inputs, outputs, (down, across))
