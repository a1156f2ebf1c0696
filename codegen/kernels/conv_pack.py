"""Packs convolution weights: plain ``OIHW`` to blocked and back, and transposed.

Everything is made of three small functions over one *block pair*, the
``[kh][kw][b][16]`` matrix of 16 output and b input channels: ``gather`` reads it
from plain weights, ``scatter`` writes it there, ``transpose`` turns a 16 x 16 tap
round.  Data moves by vectors and changes direction in registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.blocked import BLOCK, Weights
from symgrad.codegen.registers import Int, Reg, bytes_of, lanes_of, vec
from symgrad.codegen.target import Target
from symgrad.ir.record import record

PACKING = 0.3
"""Cycles that gathering or transposing one weight takes."""


def _lanes(k: Emitter, scalar: str) -> int:
    """Rows and columns of the squares that are transposed in registers.

    A bigger square takes fewer shuffles per element, but memory is slower than
    both and LLVM spends most of a packing kernel's compile time on shuffles.
    """
    return min(8, k.target.lanes(bytes_of(scalar)))


def transpose(k: Emitter, rows: Sequence[Reg]) -> list[Reg]:
    """Transposes squares of n x n lanes: the n vectors are one of them, or several in a row.

    n is a power of two.  Swaps off-diagonal blocks of half the size, then of a quarter, and
    so on.
    """
    rows, n, lanes = list(rows), len(rows), range(lanes_of(rows[0].type))
    distance = n // 2
    while distance:
        low = [len(lanes) + i - distance if i & distance else i for i in lanes]
        high = [len(lanes) + i if i & distance else i + distance for i in lanes]
        for i in range(n):
            if not i & distance:
                a, b = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = k.shuffle(a, b, low), k.shuffle(a, b, high)
        distance //= 2
    return rows


@contextmanager
def _squares(k: Emitter, weights: Weights, lanes: int) -> Iterator[tuple[Int, Int]]:
    """Loops over the square tiles of a block pair, 16 outputs x (I, kh, kw) flattened.

    The last tile of a row overlaps the one before, if need be.
    """
    columns = weights.block * weights.taps
    with k.loop(0, BLOCK, lanes) as row, k.loop(0, columns, lanes) as column:
        yield row, k.min(column, columns - lanes)


def _positions(k: Emitter, name: str, weights: Weights) -> Reg:
    """Table: where element (i, kh, kw), flattened, of a row goes in a block pair."""
    flat = range(weights.block * weights.taps)
    rows = (f % weights.taps * weights.block + f // weights.taps for f in flat)
    return k.constant_table(f"{name}_positions", "i64", [str(BLOCK * row) for row in rows])


@contextmanager
def _elements(k: Emitter, weights: Weights) -> Iterator[tuple[Int, Int]]:
    """Loops over a block pair; yields the offsets in plain weights and in the block."""
    assert weights.strides is not None
    _, si, sh, sw = weights.strides
    height, width = weights.kernel
    with k.loop(0, height) as h, k.loop(0, width) as w, k.loop(0, weights.block) as i:
        plain = k.add(k.add(k.mul(i, si), k.mul(h, sh)), k.mul(w, sw))
        tap = k.add(k.mul(h, width), w)
        yield plain, k.mul(k.add(k.mul(tap, weights.block), i), BLOCK)


def emit_gather(k: Emitter, name: str, weights: Weights) -> None:
    """Emits ``void name(ptr plain, ptr block)``, both at the block pair's first element."""
    assert weights.strides is not None
    scalar, stride = weights.scalar, weights.strides[0]
    lanes = _lanes(k, scalar)
    vector = vec(scalar, lanes)
    with k.function(name, ["ptr", "ptr"], internal=True) as (plain, block):
        if weights.is_flat and weights.block * weights.taps >= lanes:
            positions = _positions(k, name, weights)
            with _squares(k, weights, lanes) as (row, column):
                source = k.gep(plain, k.add(k.mul(row, stride), column), scalar)
                rows = [k.load(vector, k.gep(source, r * stride, scalar)) for r in range(lanes)]
                target = k.gep(block, row, scalar)
                table = k.gep(positions, column, "i64")
                for r, value in enumerate(transpose(k, rows)):
                    position = k.load("i64", k.gep(table, r, "i64"))
                    k.store(value, k.gep(target, position, scalar))
        else:
            with _elements(k, weights) as (source_at, target_at), k.loop(0, BLOCK) as o:
                at = k.add(source_at, k.mul(o, stride))
                value = k.load(scalar, k.gep(plain, at, scalar))
                k.store(value, k.gep(block, k.add(target_at, o), scalar))


def emit_scatter(k: Emitter, name: str, weights: Weights) -> None:
    """Emits ``void name(ptr block, ptr out)``: a block pair to where it belongs.

    Plain weights get rows of vectors, blocked ones a copy.
    """
    scalar = weights.scalar
    lanes = _lanes(k, scalar)
    vector = vec(scalar, lanes)
    with k.function(name, ["ptr", "ptr"], internal=True) as (block, out):
        if weights.strides is None:
            with k.loop(0, weights.matrix, lanes) as at:
                k.store(k.load(vector, k.gep(block, at, scalar)), k.gep(out, at, scalar))
        elif weights.is_flat and weights.block * weights.taps >= lanes:
            stride = weights.strides[0]
            positions = _positions(k, name, weights)
            with _squares(k, weights, lanes) as (row, column):
                source = k.gep(block, row, scalar)
                table = k.gep(positions, column, "i64")
                rows = []
                for r in range(lanes):
                    position = k.load("i64", k.gep(table, r, "i64"))
                    rows.append(k.load(vector, k.gep(source, position, scalar)))
                target = k.gep(out, k.add(k.mul(row, stride), column), scalar)
                for r, value in enumerate(transpose(k, rows)):
                    k.store(value, k.gep(target, r * stride, scalar))
        else:
            with _elements(k, weights) as (target_at, source_at), k.loop(0, BLOCK) as o:
                to = k.add(target_at, k.mul(o, weights.strides[0]))
                value = k.load(scalar, k.gep(block, k.add(source_at, o), scalar))
                k.store(value, k.gep(out, to, scalar))


def _emit_transpose(k: Emitter, name: str, scalar: str) -> None:
    """Emits ``void name(ptr source, ptr target)`` for one 16 x 16 matrix."""
    lanes = _lanes(k, scalar)
    vector = vec(scalar, lanes)
    with (
        k.function(name, ["ptr", "ptr"], internal=True) as (source, target),
        k.loop(0, BLOCK, lanes) as row,
        k.loop(0, BLOCK, lanes) as column,
    ):
        first = k.gep(source, k.add(k.mul(row, BLOCK), column), scalar)
        rows = [k.load(vector, k.gep(first, r * BLOCK, scalar)) for r in range(lanes)]
        first = k.gep(target, k.add(k.mul(column, BLOCK), row), scalar)
        for r, value in enumerate(transpose(k, rows)):
            k.store(value, k.gep(first, r * BLOCK, scalar))


def weight_block(k: Emitter, weights: Weights, base: Reg, out_block: Int, in_block: Int) -> Reg:
    """Address of a block pair's first element."""
    if weights.strides is None:
        index = k.add(k.mul(out_block, weights.blocks[1]), in_block)
        return k.gep(base, k.mul(index, weights.matrix), weights.scalar)
    so, si, _, _ = weights.strides
    row, column = k.mul(out_block, BLOCK * so), k.mul(in_block, weights.block * si)
    return k.gep(base, k.add(k.add(row, column), weights.offset), weights.scalar)


@record
class PackWeightsSpec:
    """Brings weights into the form a direct convolution reads.

    Without ``transposed``: plain ``[O][I][kh][kw]`` to ``[O/16][I/b][kh][kw][b][16]``.
    With it, for the gradient of the input: ``[I/16][parts][O/16][taps][16][16]``,
    lanes along I; each part has its own taps (kh, kw flattened, in the order they
    are wanted).  I and O then count within a group, groups outside.
    """

    source: Weights
    groups: int = 1
    transposed: bool = False
    parts: tuple[tuple[int, ...], ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether the weights lie in that form already."""
        return self.source.strides is None and not self.transposed

    @property
    def out_blocks(self) -> int:
        """Panels: blocks of what is the convolution's output channels."""
        outputs, inputs = self.source.blocks
        return self.groups * inputs if self.transposed else outputs

    @property
    def in_blocks(self) -> int:
        """Blocks that each panel sums over."""
        outputs, inputs = self.source.blocks
        return outputs // self.groups if self.transposed else inputs

    @property
    def taps(self) -> int:
        """Taps of all parts together."""
        return sum(map(len, self.parts)) if self.transposed else self.source.taps

    @property
    def panel(self) -> int:
        """Elements of one panel."""
        return self.in_blocks * self.taps * self.source.block * BLOCK

    @property
    def stage_bytes(self) -> int:
        """Room per thread for a block pair between gathering and transposing."""
        staged = self.transposed and self.source.strides is not None
        return self.source.matrix * bytes_of(self.source.scalar) if staged else 0

    def refusal(self) -> str | None:
        """Why these weights cannot be packed, if so."""
        w = self.source
        if w.outputs % BLOCK:
            return f"{w.outputs} output channels do not fill blocks of {BLOCK}"
        if w.inputs % w.block or (self.transposed and w.block != BLOCK):
            return f"{w.inputs} input channels do not fill blocks of {BLOCK}"
        if self.groups > 1 and (w.outputs // self.groups % BLOCK or w.block != BLOCK):
            return f"{self.groups} groups do not have whole blocks of {BLOCK} channels each"
        return None


def source_pair(k: Emitter, spec: PackWeightsSpec, base: Reg, out_block: Int, in_block: Int) -> Reg:
    """Address of the block pair of weights that one of a panel's comes from."""
    if not spec.transposed:
        return weight_block(k, spec.source, base, out_block, in_block)
    group, i = k.divmod(out_block, spec.source.blocks[1])
    o = k.add(k.mul(group, spec.in_blocks), in_block)
    return weight_block(k, spec.source, base, o, i)


def emit_pack_pair(k: Emitter, name: str, spec: PackWeightsSpec, *, fetches: bool = True) -> None:
    """Emits ``void name(ptr source, i64 out_block, i64 in_block, ptr panel, ptr stage)``.

    Writes one block pair of the panel of ``out_block``, and asks for the next one if it
    ``fetches``.
    """
    source = spec.source
    scalar, plain = source.scalar, source.strides is not None
    tile = BLOCK * BLOCK
    if plain:
        emit_gather(k, f"{name}_gather", source)
    if spec.transposed:
        _emit_transpose(k, f"{name}_transpose", scalar)
    with k.function(name, ["ptr", "i64", "i64", "ptr", "ptr"], internal=True) as params:
        base, out_block, in_block, panel, stage = params
        block = source_pair(k, spec, base, out_block, in_block)
        if not spec.transposed:
            target = k.gep(panel, k.mul(in_block, source.matrix), scalar)
            k.call(f"{name}_gather", "void", [block, target])
            return
        if plain:
            k.call(f"{name}_gather", "void", [block, stage])
            block = stage
        for number, part in enumerate(spec.parts):
            if not part:
                continue
            taps = k.constant_table(f"{name}_taps{number}", "i64", [str(tile * t) for t in part])
            target = k.gep(panel, k.mul(in_block, len(part) * tile), scalar)
            with k.loop(0, len(part)) as t:
                tap = k.load("i64", k.gep(taps, t, "i64"))
                for row in range(BLOCK if fetches and not plain else 0):
                    ahead = k.add(tap, source.matrix + row * BLOCK)
                    k.prefetch(k.gep(block, ahead, scalar), locality=2)
                args = [k.gep(block, tap, scalar), k.gep(target, k.mul(t, tile), scalar)]
                k.call(f"{name}_transpose", "void", args)
            panel = k.gep(panel, spec.in_blocks * len(part) * tile, scalar)


def pack_scratch_bytes(spec: PackWeightsSpec, target: Target, threads: int) -> int:
    """Scratch of the packing kernel: a stage for each thread."""
    return threads * spec.stage_bytes


def emit_pack_weights(k: Emitter, name: str, spec: PackWeightsSpec) -> None:
    """Emits the packing kernel; arguments: weights, packed weights, scratch if any."""
    if reason := spec.refusal():
        raise ValueError(f"pack weights: {reason}")
    scalar = spec.source.scalar
    emit_pack_pair(k, f"{name}_pair", spec)
    with k.function(name, ["ptr", "i64", "i64"]) as (args, tid, nth):
        source, packed = (k.load("ptr", k.gep(args, i, "ptr")) for i in range(2))
        stage = source
        if spec.stage_bytes:
            area = k.load("ptr", k.gep(args, 2, "ptr"))
            stage = k.gep(area, k.mul(tid, spec.stage_bytes), "i8")
        low, high = k.slice(spec.out_blocks * spec.in_blocks, tid, nth)
        with k.loop(low, high) as task:
            out_block, in_block = k.divmod(task, spec.in_blocks)
            panel = k.gep(packed, k.mul(out_block, spec.panel), scalar)
            pair = [source, k.as_reg(out_block), k.as_reg(in_block), panel, stage]
            k.call(f"{name}_pair", "void", pair)
