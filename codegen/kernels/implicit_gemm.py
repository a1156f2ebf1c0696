"""Convolutions of any kind as matrix products.

The patches of the image that meet each tap of the kernel form one operand.  They
are never stored: the product gathers them, with zeros for the padding, while it
packs its panels.  That takes any number of spatial axes, any stride, padding,
dilation and grouping, and any channel count; the direct kernels are faster where
they apply.

The patches are operand B of every product here: the kernels' first argument is the
weight (or ``dy``), their second the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import ceil, gcd, prod

from symgrad.codegen.access import MEMORY_TYPES, Access, Epilogue
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels import Lowering, Phase
from symgrad.codegen.kernels.gemm import GemmSpec, lower_gemm
from symgrad.codegen.kernels.matrix import PaddedAccess, Window
from symgrad.codegen.kernels.tally import Tally
from symgrad.codegen.registers import Int, Reg, bytes_of
from symgrad.codegen.target import Target
from symgrad.ir.record import record

Axes = tuple[int, ...]

GATHER = 30
"""Cycles to gather a vector of patches whose elements are no neighbours in memory."""
RUN = 5
"""Cycles to load, place and store one whose elements are."""


@record
class Convolution:
    """A convolution's sizes and attributes, those of the forward op for its gradients too.

    Spatial axes are those of the input ``size``, the ``kernel`` and the output ``out``;
    ``low`` is the padding before each axis (that behind it follows from ``out``).
    """

    images: int
    inputs: int
    outputs: int
    size: Axes
    kernel: Axes
    out: Axes
    stride: Axes
    low: Axes
    dilation: Axes
    lhs_dilation: Axes
    groups: int = 1

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)


def forward(
    conv: Convolution, x: Access, w: Access, y: Access, epilogue: Epilogue | None = None
) -> GemmSpec:
    """``y = conv(x, w)`` as weights times patches, per image and group.

    ``x`` is an access over ``(images, inputs, *size)``, ``w`` over ``(outputs, inputs /
    groups, *kernel)``, ``y`` and the epilogue's operands over ``(images, outputs, *out)``.
    """
    windows = _windows(
        x, conv.size, (3, 0), (conv.dilation, conv.stride), [-n for n in conv.low],
        conv.lhs_dilation,
    )  # fmt: skip
    channels = _split(x, conv.inputs // conv.groups)
    patches = Access(x.dtype, (*channels, *(0,) * (2 * conv.rank)), x.offset)
    weights = _split(w, conv.outputs // conv.groups, axis=0)
    return GemmSpec(
        batch=(conv.images, conv.groups),
        m=(conv.outputs // conv.groups,),
        n=conv.out,
        k=(conv.inputs // conv.groups, *conv.kernel),
        a=replace(w, strides=(0, *weights, *w.strides[1:])),
        b=PaddedAccess(patches, windows),
        c=replace(y, strides=(*_split(y, conv.outputs // conv.groups), *y.strides[2:])),
        epilogue=epilogue and GroupedEpilogue(epilogue, conv.outputs // conv.groups),
    )


def input_grad(conv: Convolution, dy: Access, w: Access, dx: Access) -> GemmSpec:
    """The cotangent of ``x``: transposed weights times patches of ``dy``.

    Input position ``i`` meets tap ``t`` in the output position ``(i * lhs_dilation + low
    - t * dilation) / stride``, where that is whole.
    """
    windows = _windows(
        dy, conv.out, (3, 0), ([-n for n in conv.dilation], conv.lhs_dilation), conv.low,
        conv.stride,
    )  # fmt: skip
    channels = _split(dy, conv.outputs // conv.groups)
    patches = Access(dy.dtype, (*channels, *(0,) * (2 * conv.rank)), dy.offset)
    group, output = _split(w, conv.outputs // conv.groups, axis=0)
    return GemmSpec(
        batch=(conv.images, conv.groups),
        m=(conv.inputs // conv.groups,),
        n=conv.size,
        k=(conv.outputs // conv.groups, *conv.kernel),
        a=replace(w, strides=(0, group, w.strides[1], output, *w.strides[2:])),
        b=PaddedAccess(patches, windows),
        c=replace(dx, strides=(*_split(dx, conv.inputs // conv.groups), *dx.strides[2:])),
    )


def weight_grad(conv: Convolution, x: Access, dy: Access, dw: Access) -> GemmSpec:
    """The cotangent of ``w``: ``dy`` times patches of ``x``, summed over images and pixels."""
    windows = _windows(
        x, conv.size, (2, 1), (conv.stride, conv.dilation), [-n for n in conv.low],
        conv.lhs_dilation,
    )  # fmt: skip
    flat = (0,) * conv.rank
    image, group, channel = _split(x, conv.inputs // conv.groups)
    patches = Access(x.dtype, (group, image, *flat, channel, *flat), x.offset)
    y_image, y_group, output = _split(dy, conv.outputs // conv.groups)
    return GemmSpec(
        batch=(conv.groups,),
        m=(conv.outputs // conv.groups,),
        n=(conv.inputs // conv.groups, *conv.kernel),
        k=(conv.images, *conv.out),
        a=replace(dy, strides=(y_group, output, y_image, *dy.strides[2:])),
        b=PaddedAccess(patches, windows),
        c=replace(dw, strides=(*_split(dw, conv.outputs // conv.groups, axis=0), *dw.strides[1:])),
    )


def lower_implicit(spec: GemmSpec, target: Target, threads: int) -> Lowering:
    """The kernels of ``forward``, ``input_grad`` or ``weight_grad``, buffers as for a product.

    Where the patches are dilated, most taps of a pixel meet no element.  The pixels
    that meet the same taps lie on a grid; each grid is a product without dilation.
    """
    phases: list[Phase] = []
    temporaries: list[int] = []
    buffers = 3 + (len(spec.epilogue.operands) if spec.epilogue else 0)
    for part in residue_classes(spec):
        lowering = lower_gemm(part, target, threads)
        for phase in lowering.phases:
            moved = (i if i < buffers else i + len(temporaries) for i in phase.buffers)
            phases.append(replace(phase, buffers=tuple(moved)))
        temporaries += lowering.temporaries
    return Lowering(tuple(phases), tuple(temporaries))


def cycles(spec: GemmSpec, target: Target, threads: int) -> float:
    """Estimated time of the slowest of some threads: products, and gathering the patches."""
    return sum(_part_cycles(part, target) for part in residue_classes(spec)) / threads


def _part_cycles(spec: GemmSpec, target: Target) -> float:
    lanes = target.lanes(bytes_of(MEMORY_TYPES[spec.accumulator]))
    rows, depth = prod(spec.m), prod(spec.k)
    vectors = ceil(prod(spec.n) / lanes)
    # A few rows make a tile that loads more than it multiplies.
    products = max(rows, 4) * (1.1 + 2 / rows) / target.vector_ports
    pack = RUN + GATHER * _scattered(spec, lanes)
    return prod(spec.batch) * depth * vectors * (products + pack)


def _scattered(spec: GemmSpec, lanes: int) -> float:
    """The part of the patches' vectors whose elements are no neighbours in memory."""
    assert isinstance(spec.b, PaddedAccess)
    inner = spec.b.windows[-1]
    across = len(spec.batch) + len(spec.k) + len(spec.n) - 1
    if inner.dilation != 1 or inner.steps[across] != 1 or inner.stride != 1:
        return 1.0
    if prod(spec.k[1:]) == 1 and inner.origin == 0:
        return 0.0
    # Rows of patches end within vectors, and reach over the image's edges.
    return min(1.0, 1.5 * (lanes - 1) / spec.n[-1])


@record
class _Class:
    """Pixels along one axis that meet the same taps: pixel ``every * j + first + i``, for
    ``i < count`` and ``j < pixels``, meets taps ``spacing * u + tap + i``, ``u < taps``."""

    first: int
    count: int
    every: int
    pixels: int
    tap: int
    spacing: int
    taps: int
    origin: int
    """Index of the element that pixel ``first`` and tap ``tap`` meet."""


def _classes(
    window: Window, tap_step: int, pixel_step: int, taps: int, pixels: int
) -> list[_Class]:
    """The classes of an axis: residues of the pixel modulo the dilation, merged where alike."""
    every = window.dilation // gcd(pixel_step, window.dilation)
    spacing = window.dilation // gcd(tap_step, window.dilation)
    found: list[_Class] = []
    for first in range(min(every, pixels)):
        base = pixel_step * first + window.origin
        meeting = [
            t for t in range(min(spacing, taps)) if (base + tap_step * t) % window.dilation == 0
        ]
        tap = meeting[0] if meeting else 0
        origin = (base + tap_step * tap) // window.dilation if meeting else 0
        met = ceil((taps - tap) / spacing) if meeting else 0
        new = _Class(first, 1, every, ceil((pixels - first) / every), tap, spacing, met, origin)
        last = found[-1] if found else new
        after = last.first + last.count, last.tap + last.count * (met > 0)
        if found and replace(last, first=first, tap=tap, count=1) == new and after == (first, tap):
            found[-1] = replace(last, count=last.count + 1)
        else:
            found.append(new)
    return found


def residue_classes(spec: GemmSpec) -> list[GemmSpec]:
    """Products without dilation that compute disjoint parts of ``spec``'s result.

    ``spec`` is one of ``forward`` or ``input_grad``; it is returned as it is if its
    windows are not dilated or it has an epilogue.
    """
    if not isinstance(spec.b, PaddedAccess) or isinstance(spec.a, PaddedAccess) or spec.epilogue:
        return [spec]
    windows, rank = spec.b.windows, len(spec.b.windows)
    if all(w.dilation == 1 for w in windows) or len(spec.n) != rank:
        return [spec]
    axes = [
        _classes(w, w.steps[3 + d], w.steps[3 + rank + d], spec.k[1 + d], spec.n[d])
        for d, w in enumerate(windows)
    ]
    return [_part(spec, spec.a, spec.b, parts) for parts in product(*axes)]


def _part(
    spec: GemmSpec, weights: Access, patches: PaddedAccess, parts: Sequence[_Class]
) -> GemmSpec:
    """The product of one class along each axis; ``count`` becomes dimensions of the batch."""
    flat = (0,) * len(parts)
    taps = list(zip(parts, weights.strides[4:], strict=True))
    pixels = list(zip(parts, spec.c.strides[3:], strict=True))
    windows = []
    for window, part in zip(patches.windows, parts, strict=True):
        tap_steps = [n * part.spacing // window.dilation for n in window.steps[3 : 3 + len(parts)]]
        pixel_steps = [n * part.every // window.dilation for n in window.steps[3 + len(parts) :]]
        steps = (0, 0, *flat, 0, *tap_steps, *pixel_steps)
        windows.append(replace(window, steps=steps, origin=part.origin, dilation=1))
    image, group, output, channel = weights.strides[:4]
    weights = replace(
        weights,
        strides=(
            *(image, group),
            *(stride if part.taps else 0 for part, stride in taps),
            *(output, channel),
            *(part.spacing * stride for part, stride in taps),
        ),
        offset=weights.offset + sum(part.tap * stride for part, stride in taps),
    )
    result = replace(
        spec.c,
        strides=(
            *spec.c.strides[:2],
            *(stride for _, stride in pixels),
            spec.c.strides[2],
            *(part.every * stride for part, stride in pixels),
        ),
        offset=spec.c.offset + sum(part.first * stride for part, stride in pixels),
    )
    access = patches.access
    strides = (*access.strides[:2], *flat, access.strides[2], *flat, *flat)
    return replace(
        spec,
        batch=(*spec.batch, *(part.count for part in parts)),
        n=tuple(part.pixels for part in parts),
        k=(spec.k[0], *(part.taps for part in parts)),
        a=weights,
        b=PaddedAccess(replace(access, strides=strides), tuple(windows)),
        c=result,
    )


@record
class GroupedEpilogue:
    """An epilogue over channels that a grouped convolution counts by group."""

    inner: Epilogue
    channels: int
    """Of one group."""

    @property
    def operands(self) -> tuple[Access, ...]:
        """The inner epilogue's, with the channel axis split."""
        return tuple(
            replace(a, strides=(*_split(a, self.channels), *a.strides[2:]))
            for a in self.inner.operands
        )

    @property
    def result_dtype(self) -> str:
        """IR dtype of what is stored."""
        return self.inner.result_dtype

    @property
    def tally(self) -> None:
        """Matrix products keep no sums."""
        return None

    def emit(
        self,
        k: Emitter,
        accumulator: Reg,
        bases: Sequence[Reg],
        point: Sequence[Int],
        mask: Reg | None,
        tally: Tally | None = None,
    ) -> Reg:
        """See ``access.Epilogue``."""
        image, group, channel, *pixel = point
        whole = k.add(k.mul(group, self.channels), channel)
        return self.inner.emit(k, accumulator, bases, (image, whole, *pixel), mask)


def _split(access: Access, channels: int, axis: int = 1) -> tuple[int, ...]:
    """Strides up to ``axis``, that one split into groups of ``channels``."""
    *outer, stride = access.strides[: axis + 1]
    return *outer, channels * stride, stride


def _windows(
    image: Access,
    size: Axes,
    gaps: tuple[int, int],
    steps: tuple[Sequence[int], Sequence[int]],
    origins: Sequence[int],
    dilation: Axes,
) -> tuple[Window, ...]:
    """A window per spatial axis of ``image``, moved by two axes of the iteration space.

    Those of axis ``d`` are the ``d``-th after a gap each; ``steps`` is how far they move.
    """
    rank = len(size)

    def moved(d: int) -> Axes:
        moves: list[int] = []
        for gap, step in zip(gaps, steps, strict=True):
            moves += [0] * gap + [step[axis] if axis == d else 0 for axis in range(rank)]
        return tuple(moves)

    return tuple(
        Window(moved(d), origins[d], size[d], image.strides[2 + d], dilation[d])
        for d in range(rank)
    )
