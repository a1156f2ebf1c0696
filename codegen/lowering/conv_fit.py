"""Convolutions that blocked kernels do not take as they are, made to fit.

A convolution over one to three spatial axes, of any channels and groups, is one of two axes
and whole blocks of channels on copies of its operands:

- A missing axis has size 1.
- A kernel of d planes over c channels is one of a single plane over d c channels: each frame
  (an image's output plane) lists the input planes it sees as *slots* of channels.  For the
  gradient to the input it lists planes of dy; with a stride, planes of equal remainder see
  equal taps, and each remainder is a *problem* of its own.
- Groups of few channels are joined; weights between different groups are 0, and so is what
  fills up blocks.

The copies pay where the product is large: the choice between these kernels and the implicit
matrix product is one of cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd, prod
from typing import Any

from symgrad.codegen.access import Access, row_major
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Pair
from symgrad.codegen.kernels.implicit_gemm import Convolution
from symgrad.codegen.kernels.loop_nest import LoopSpec, Output, identity_body
from symgrad.codegen.layout import backward_halo, channels, forward_halo
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import Buffer, Storage
from symgrad.codegen.target import Target
from symgrad.ir.builder import Builder
from symgrad.ir.graph import Op
from symgrad.ir.record import record
from symgrad.ir.types import TensorType

MOST_COMPUTED = 8
"""How much more than needed joined groups may compute, most of it with zeros."""


@record
class Piece:
    """A nest of a copy between a plain array and its fitted form; strides of both."""

    extents: tuple[int, ...]
    plain: tuple[int, ...]
    plain_offset: int
    fitted: tuple[int, ...]
    fitted_offset: int


@record
class Slot:
    """Frames ``low <= f < high`` see plane ``first + step * f`` in a slot of channels."""

    low: int
    high: int
    first: int
    step: int


@record
class Frames:
    """Activations as images of one plane: ``[images * frames, groups * slots * span, H, W]``."""

    images: int
    frames: int
    groups: int
    channels: int
    """Of one group."""
    plane: tuple[int, int]
    slots: tuple[Slot, ...]
    span: int
    """Channels of a slot, filled up."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the fitted form."""
        channels = self.groups * len(self.slots) * self.span
        return (self.images * self.frames, channels, *self.plane)

    @property
    def elements(self) -> int:
        """Elements that are copied."""
        seen = sum(max(0, s.high - s.low) for s in self.slots)
        return self.images * seen * self.groups * self.channels * prod(self.plane)

    def pieces(self, plain: Access, layout: Blocked) -> Iterator[Piece]:
        """The copy from or to an array with strides of image, channel, plane, row, pixel."""
        image, channel, depth, row, pixel = plain.strides
        frame, block, *rest = layout.strides
        lanes = min(layout.block, self.span)
        whole, left = divmod(self.channels, lanes)
        group = len(self.slots) * self.span // layout.block * block
        for number, slot in enumerate(self.slots):
            at, lane = divmod(number * self.span, layout.block)
            start = plain.offset + (slot.first + slot.step * slot.low) * depth
            to = layout.offset + slot.low * frame + at * block + lane
            for skipped, blocks, width in ((0, whole, lanes), (whole, 1, left)):
                extents = (self.images, slot.high - slot.low, self.groups, blocks, *self.plane)
                if width and min(extents) > 0:
                    yield Piece(
                        (*extents, width),
                        (image, slot.step * depth, self.channels * channel, lanes * channel,
                         row, pixel, channel),
                        start + skipped * lanes * channel,
                        (self.frames * frame, frame, group, block, *rest, 1),
                        to + skipped * block,
                    )  # fmt: skip


@record
class Taps:
    """Weights ``[groups * rows, columns, kh, kw]`` of joined groups, slots on one side."""

    groups: int
    joined: int
    """Groups of the convolution in one group."""
    outputs: int
    inputs: int
    """Of one group of the convolution."""
    rows: int
    columns: int
    plane: tuple[int, int]
    first: int
    spacing: int
    """The slots' taps along the third axis."""
    slots: int
    slot_rows: int
    slot_columns: int
    """Distance of slots in the fitted form."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the fitted form."""
        return (self.groups * self.rows, self.columns, *self.plane)

    @property
    def is_plain(self) -> bool:
        """Whether the fitted form lies in memory just as the weights do."""
        whole = self.rows == self.outputs and self.columns == self.inputs
        return self.joined == self.slots == 1 and whole

    def piece(self, plain: Access) -> Piece:
        """The copy from or to an array with strides of output, input, plane, row, column."""
        output, channel, depth, *steps = plain.strides
        taps = prod(self.plane)
        row = self.columns * taps
        return Piece(
            (self.groups, self.joined, self.outputs, self.inputs, self.slots, *self.plane),
            (self.joined * self.outputs * output, self.outputs * output, output, channel,
             self.spacing * depth, *steps),
            plain.offset + self.first * depth,
            (self.rows * row, self.outputs * row + self.inputs * taps, row, taps,
             self.slot_rows * row + self.slot_columns * taps, self.plane[1], 1),
            0,
        )  # fmt: skip


@record
class Problem:
    """A fitted convolution: ``op`` over two axes, and where its operands come from."""

    op: Op
    x: Frames
    w: Taps
    y: Frames

    @property
    def copied(self) -> int:
        """Elements that are copied there and back."""
        weights = 0 if self.w.is_plain else 2 * prod(self.w.shape)
        return self.x.elements + self.y.elements + weights


def refusal(op: Op, precision: str) -> str | None:
    """Why a convolution cannot be made to fit, if so."""
    if op.result.type.dtype.name not in ("f32", "f64"):
        return f"it computes in f32 or f64, not {op.result.type.dtype}"
    if any(d != 1 for d in op.attrs["lhs_dilation"]):
        return "it does not take a dilated input"
    if 0 in (v.type.size for v in (*op.operands, op.result)):
        return "the operands are empty"
    if op.operands[0].rank > 5:
        return f"it takes up to three spatial axes, not {op.operands[0].rank - 2}"
    groups = op.attrs["groups"]
    if groups > 1 and precision == "high":
        return 'conv_precision is "high", which keeps groups apart'
    inputs, outputs = (count // groups for count in channels(op))
    joined = _joined(groups, inputs, outputs)
    computed = _whole(joined * inputs) * _whole(joined * outputs) // (joined * inputs * outputs)
    if joined > 1 and computed > MOST_COMPUTED:
        return f"{joined} groups joined are {computed} times as much to compute"
    return None


def _whole(channels: int) -> int:
    """Channels of the blocks that so many fill."""
    return -(-channels // BLOCK) * BLOCK


def problems(op: Op, conv: Convolution) -> list[Problem]:
    """What to compute instead; empty where some planes of a result meet no tap."""
    rank = conv.rank

    def three(values: Sequence[int], missing: int) -> tuple[int, int, int]:
        a, b, c = (*(missing,) * (3 - rank), *values)
        return a, b, c

    size, out, kernel = (three(v, 1) for v in (conv.size, conv.out, conv.kernel))
    stride, dilation, low = three(conv.stride, 1), three(conv.dilation, 1), three(conv.low, 0)
    inputs, outputs = conv.inputs // conv.groups, conv.outputs // conv.groups
    joined = _joined(conv.groups, inputs, outputs)
    groups = conv.groups // joined
    wide, high = joined * inputs, joined * outputs

    def frames(
        channels: int, plane: tuple[int, ...], count: int, slots: Sequence[Slot], narrow: bool
    ) -> Frames:
        span = channels if narrow else _whole(channels)
        _, height, width = plane
        return Frames(conv.images, count, groups, channels, (height, width), tuple(slots), span)

    def weights(x: Frames, y: Frames, first: int, spacing: int, slots: int) -> Taps:
        on_rows = len(y.slots) > 1
        return Taps(
            groups, joined, outputs, inputs, len(y.slots) * y.span, len(x.slots) * x.span,
            kernel[1:], first, spacing, slots, y.span if on_rows else 0, 0 if on_rows else x.span,
        )  # fmt: skip

    if op.name != "conv_input_grad":
        slots = [_slot(t * dilation[0] - low[0], stride[0], size[0], out[0])
                 for t in range(kernel[0])]  # fmt: skip
        narrow = groups == 1 and kernel[0] * wide < BLOCK
        x = frames(wide, size, out[0], slots, narrow)
        y = frames(high, out, out[0], [Slot(0, out[0], 0, 1)], narrow=False)
        w = weights(x, y, 0, 1, kernel[0])
        return [Problem(_fitted_op(op, x, w, y), x, w, y)]
    found = []
    spacing = stride[0] // gcd(dilation[0], stride[0])
    for remainder in range(min(stride[0], size[0])):
        count = -(-(size[0] - remainder) // stride[0])
        reached = [remainder + low[0] - t * dilation[0] for t in range(kernel[0])]
        taps = [t for t in range(kernel[0]) if reached[t] % stride[0] == 0]
        if not taps:
            return []
        slots = [_slot(reached[t] // stride[0], 1, out[0], count) for t in taps]
        own = Slot(0, count, remainder, stride[0])
        x = frames(wide, size, count, [own], narrow=False)
        y = frames(high, out, count, slots, narrow=False)
        w = weights(x, y, taps[0], spacing, len(taps))
        found.append(Problem(_fitted_op(op, x, w, y), x, w, y))
    return found


def _slot(first: int, step: int, planes: int, frames: int) -> Slot:
    """The frames for which ``first + step * f`` is a plane."""
    low = min(frames, max(0, -(first // step)))
    return Slot(low, max(low, min(frames, -((first - planes) // step))), first, step)


def _joined(groups: int, inputs: int, outputs: int) -> int:
    """How many groups to join so that least is computed."""

    def work(joined: int) -> int:
        return groups // joined * _whole(joined * inputs) * _whole(joined * outputs)

    return min((n for n in range(1, groups + 1) if groups % n == 0), key=lambda n: (work(n), n))


def _fitted_op(op: Op, x: Frames, w: Taps, y: Frames) -> Op:
    """The op over two axes."""
    attrs: dict[str, Any] = {"groups": x.groups}
    for name, missing in (("stride", 1), ("padding", (0, 0)), ("dilation", 1), ("lhs_dilation", 1)):
        attrs[name] = (missing, *op.attrs[name])[-2:]
    builder = Builder(locations=False)
    dtype = op.result.type.dtype
    shapes = {"conv": (x.shape, w.shape), "conv_input_grad": (y.shape, w.shape),
              "conv_weight_grad": (x.shape, y.shape)}[op.name]  # fmt: skip
    if op.name == "conv_input_grad":
        attrs["spatial"] = x.plane
    if op.name == "conv_weight_grad":
        attrs["kernel"] = w.plane
    operands = [builder.param(TensorType(dtype, shape)) for shape in shapes]
    made: Op | None = builder.emit(op.name, *operands, **attrs).op
    assert made is not None
    return made


# -- copies ----------------------------------------------------------------


PlaneHalo = tuple[Pair, Pair]


def halos(op: Op) -> tuple[PlaneHalo, PlaneHalo]:
    """The halos of a fitted convolution's input and output that the kernels read."""
    first, second = (v.shape[2:] for v in op.operands)
    none: PlaneHalo = ((0, 0), (0, 0))
    if op.name == "conv_input_grad":
        rows, columns = backward_halo(op, first, second)
        return none, (rows, columns)
    rows, columns = forward_halo(op, first, second if op.name == "conv" else op.attrs["kernel"])
    return (rows, columns), none


def copy_cycles(problem: Problem, target: Target, threads: int) -> float:
    """Estimated time of all copies: transposing squares in registers, and memory."""
    size = problem.op.result.type.dtype.bytes
    elements = problem.copied
    moved = target.cycles_per_byte(2 * size * elements)
    return elements * (0.5 + 2 * size * moved) / threads


@record
class Fit:
    """Emits the copies of one problem."""

    scope: Scope
    problem: Problem

    @property
    def dtype(self) -> str:
        """IR dtype of all operands."""
        return self.problem.op.result.type.dtype.name

    def empty(self, side: str) -> Storage:
        """A buffer for the fitted input or output, ``x`` or ``y``."""
        frames, halo = self._side(side)
        layout = Blocked.dense(self.dtype, frames.shape, halo)
        return Storage(self._buffer(layout.elements), frames.shape, layout.access, layout)

    def filled(self, side: str, source: Storage) -> Storage:
        """The same with a copy of ``source``, and 0 in the halo and in channels added."""
        frames, halo = self._side(side)
        target = self.empty(side)
        target.buffer.pool = (frames, halo, self.dtype)
        for piece in self._pieces(side, target, source):
            self._copy(piece, source, target, back=False)
        return target

    def returned(self, side: str, source: Storage, result: Storage) -> None:
        """Copies a fitted result to where it belongs."""
        for piece in self._pieces(side, source, result):
            self._copy(piece, source, result, back=True)

    def weights(self, source: Storage) -> Storage:
        """The fitted form of dense weights; between groups and in channels added it is 0."""
        taps = self.problem.w
        if taps.is_plain:
            return source
        target = self._weights()
        target.buffer.pool = (taps, self.dtype)
        self._copy(taps.piece(_spatial(source)), source, target, back=False)
        return target

    def weight_result(self, result: Storage) -> Storage:
        """Where the fitted weight gradient goes."""
        return result if self.problem.w.is_plain else self._weights()

    def return_weights(self, source: Storage, result: Storage) -> None:
        """Copies the fitted weight gradient to where it belongs."""
        if source is not result:
            self._copy(self.problem.w.piece(_spatial(result)), source, result, back=True)

    def _side(self, side: str) -> tuple[Frames, PlaneHalo]:
        x_halo, y_halo = halos(self.problem.op)
        return (self.problem.x, x_halo) if side == "x" else (self.problem.y, y_halo)

    def _pieces(self, side: str, fitted: Storage, plain: Storage) -> Iterator[Piece]:
        assert fitted.blocked is not None
        return self._side(side)[0].pieces(_spatial(plain), fitted.blocked)

    def _buffer(self, elements: int) -> Buffer:
        return Buffer(elements * self.problem.op.result.type.dtype.bytes)

    def _weights(self) -> Storage:
        shape = self.problem.w.shape
        return Storage(self._buffer(prod(shape)), shape, Access(self.dtype, row_major(shape)))

    def _copy(self, piece: Piece, source: Storage, target: Storage, *, back: bool) -> None:
        plain, fitted = (target, source) if back else (source, target)
        label = "unfit" if back else "fit"
        copy_piece(self.scope, piece, plain, fitted, back=back, label=label)


def copy_piece(
    scope: Scope, piece: Piece, plain: Storage, fitted: Storage, *, label: str, back: bool = False
) -> None:
    """Emits the copy of a piece from its plain to its fitted form, or back."""
    dtype = plain.access.dtype
    sides = [
        (Access(dtype, piece.plain, piece.plain_offset), plain),
        (Access(dtype, piece.fitted, piece.fitted_offset), fitted),
    ]
    (read, source), (written, target) = reversed(sides) if back else sides
    spec = LoopSpec(piece.extents, (read,), identity_body(dtype), (Output(written),))
    scope.loop(spec, [source], [target], label=label)


def _spatial(plain: Storage) -> Access:
    """A plain storage over image, channel and three spatial axes, missing ones in front."""
    first, second, *axes = plain.access.strides
    strides = (first, second, *(0,) * (3 - len(axes)), *axes)
    return Access(plain.access.dtype, strides, plain.access.offset)
