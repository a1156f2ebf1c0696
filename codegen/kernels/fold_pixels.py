"""Folds pixels: squares of stride x stride pixels of a plain image become channels.

Pixels of a row lie side by side, those of one channel apart from the next channel's: a run of
folded pixels is the transpose of the runs that they are made of.  It passes through registers
in square tiles, and memory sees whole vectors only.
"""

from __future__ import annotations

from symgrad.codegen.access import Access
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.blocked import BLOCK, Blocked, Pair
from symgrad.codegen.kernels.lanes import transpose
from symgrad.codegen.registers import Int, Reg, bytes_of, vec
from symgrad.codegen.target import Target
from symgrad.ir.record import record


@record
class FoldSpec:
    """Pixel (h, w) of channel c becomes channel ``((h % s) s + w % s) C + c`` of (h / s, w / s).

    Arguments: x, y.  Channels of y that get nothing are set to 0; its halo is left alone.
    """

    x: Access
    """Over image, channel, row and pixel; pixels of a row lie side by side."""
    channels: int
    size: Pair
    """Rows and columns of x that are folded."""
    stride: int
    y: Blocked
    """The folded pixels, each a whole vector of ``BLOCK`` elements."""

    def refusal(self) -> str | None:
        """Why this kernel cannot fold them, if so."""
        if self.x.strides[3] != 1:
            return "pixels of a row do not lie side by side"
        if self.stride**2 * self.channels > BLOCK:
            return f"a square of pixels has more than {BLOCK} channels"
        if not self.y.fills_vectors:
            return "folded pixels are no whole vectors"
        return None


def _lanes(spec: FoldSpec, target: Target) -> int:
    return min(BLOCK, target.lanes(bytes_of(spec.y.scalar)))


def cycles(spec: FoldSpec, target: Target, threads: int) -> float:
    """Estimated time of the slowest of some threads: shuffles, and memory."""
    lanes, squared = _lanes(spec, target), spec.stride**2 * spec.channels
    size = bytes_of(spec.y.scalar)
    pixels = spec.y.shape[0] * spec.y.shape[2] * spec.y.shape[3]
    transposes = BLOCK * (lanes.bit_length() - 1)
    moved = (squared + 2 * BLOCK) * size  # lines that are written come before
    shuffled = (squared + transposes) / lanes / target.vector_ports
    return pixels * max(shuffled, moved * target.cycles_per_byte(pixels * moved)) / threads


def _emit_row(k: Emitter, name: str, spec: FoldSpec, rows: int) -> None:
    """Emits ``void name(ptr x, ptr y)``: a row of y from so many rows of x."""
    y, stride, scalar = spec.y, spec.stride, spec.y.scalar
    lanes = _lanes(spec, k.target)
    run = stride * lanes  # pixels of x in a tile
    wide, pixel = vec(scalar, run), y.strides[3]
    _, channel, row, _ = spec.x.strides

    with k.function(name, ["ptr", "ptr"], internal=True, attributes="noinline") as (x_row, y_row):

        def tile(number: Int, columns: int, pixels: int) -> None:
            """Folds the first ``columns`` pixels of a run into the first ``pixels`` of y's."""
            source = k.gep(x_row, k.mul(number, run), scalar)
            target = k.gep(y_row, k.mul(number, lanes * pixel), scalar)
            vectors: list[Reg] = [k.zero(vec(scalar, lanes))] * BLOCK
            for r in range(rows):
                for c in range(spec.channels):
                    at = k.gep(source, r * row + c * channel, scalar)
                    if columns == run:
                        values = k.load(wide, at)
                    else:
                        values = k.masked_load(wide, at, k.lane_mask(columns, run))
                    for phase in range(stride):
                        place = (r * stride + phase) * spec.channels + c
                        vectors[place] = k.shuffle(values, values, range(phase, run, stride))
            for lane in range(0, BLOCK, lanes):
                folded = transpose(k, vectors[lane : lane + lanes])
                for n, value in enumerate(folded[:pixels]):
                    k.store(value, k.gep(target, n * pixel + lane, scalar))

        whole = spec.size[1] // run
        with k.loop(0, whole) as number:
            tile(number, run, lanes)
        if rest := y.shape[3] - whole * lanes:
            tile(whole, spec.size[1] - whole * run, rest)


def emit_fold(k: Emitter, name: str, spec: FoldSpec) -> None:
    """Emits the kernel; its tasks are rows of y.  Raises ``ValueError`` where ``refusal`` says
    why."""
    if reason := spec.refusal():
        raise ValueError(f"folded pixels: {reason}")
    y, scalar = spec.y, spec.y.scalar
    whole, rest = divmod(spec.size[0], spec.stride)
    for rows in filter(None, (whole and spec.stride, rest)):
        _emit_row(k, f"{name}_row{rows}", spec, rows)
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        x_base, y_base = (k.load("ptr", k.gep(args, i, "ptr")) for i in range(2))
        x_base, y_base = k.gep(x_base, spec.x.offset, scalar), k.gep(y_base, y.offset, scalar)

        def row(image: Int, number: Int, rows: int) -> None:
            from_ = k.add(
                k.mul(image, spec.x.strides[0]), k.mul(number, spec.stride * spec.x.strides[2])
            )
            to = k.add(k.mul(image, y.strides[0]), k.mul(number, y.strides[2]))
            place = [k.gep(x_base, from_, scalar), k.gep(y_base, to, scalar)]
            k.call(f"{name}_row{rows}", "void", place)

        with k.loop(*k.slice(y.shape[0] * y.shape[2], tid, nth)) as task:
            image, number = k.divmod(task, y.shape[2])
            if whole:
                with k.if_(k.icmp("slt", k.as_reg(number), whole)):
                    row(image, number, spec.stride)
            if rest:
                with k.if_(k.icmp("sge", k.as_reg(number), whole)):
                    row(image, number, rest)


def lower_fold(spec: FoldSpec) -> Lowering:
    """The kernel with operand x and result y."""
    return Lowering((Phase("fold", emit_fold, spec, (0, 1)),))
