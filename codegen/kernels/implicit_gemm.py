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
from dataclasses import dataclass, replace

from symgrad.codegen.access import Access, Epilogue
from symgrad.codegen.emitter import Emitter, Int, Reg
from symgrad.codegen.kernels.gemm import GemmSpec
from symgrad.codegen.kernels.matrix import PaddedAccess, Window

Axes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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

    def emit(
        self,
        k: Emitter,
        accumulator: Reg,
        bases: Sequence[Reg],
        point: Sequence[Int],
        mask: Reg | None,
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
