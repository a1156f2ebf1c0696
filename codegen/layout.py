"""Chooses which values live channel-blocked, and how wide their halos are.

Convolutions with direct kernels want their activations blocked.  Values that
elementwise ops and pooling connect share one layout, so a whole network of
convolutions, normalisations and activations stays blocked and is converted only
at its edges: the function's parameters and results, and ops that only take plain
operands.
"""

from __future__ import annotations

from collections.abc import Iterator

from symgrad.codegen.kernels.blocked import BLOCK
from symgrad.codegen.storage import Halo
from symgrad.ir.graph import Func, Op, Value
from symgrad.ir.types import TensorType

_NO_HALO: Halo = ((0, 0), (0, 0))
_POOLING = (
    "window_max",
    "window_sum",
    "window_sum_grad",
    "window_max_scatter",
    "window_max_gather",
)


class Layouts:
    """The layout decisions for one function."""

    def __init__(self, func: Func) -> None:
        self._parent: dict[int, int] = {}
        self._halos: dict[int, Halo] = {}
        wanted: list[Value] = []
        for op in func.ops:
            for value, halo in demands(op):
                if value.shape[1] % BLOCK == 0:
                    wanted.append(value)
                before = self._halos.get(id(value), _NO_HALO)
                self._halos[id(value)] = widest(before, halo)
            self._connect(op)
        roots = {self._find(id(v)) for v in wanted}
        self._blocked = {
            id(v)
            for op in func.ops
            for v in op.results
            if id(v) in self._parent and self._find(id(v)) in roots
        }

    def halo_of(self, value: Value) -> Halo | None:
        """The halo of a value that lives blocked; ``None`` for one that lives plain."""
        if id(value) not in self._blocked:
            return None
        return self._halos.get(id(value), _NO_HALO)

    def halo(self, value: Value, needed: Halo) -> Halo:
        """The halo for a blocked copy: what any consumer of the value needs."""
        return widest(self._halos.get(id(value), _NO_HALO), needed)

    def is_blocked(self, op: Op) -> bool:
        """Whether a fused op runs over the blocked iteration space."""
        if len(op.attrs["space"]) != 4:
            return False
        return any(id(v) in self._blocked for v in _over_space(op))

    def _connect(self, op: Op) -> None:
        if op.name == "fused":
            group = list(_over_space(op))
        elif op.name in _POOLING or op.name in _CONVOLUTIONS:
            group = [v for v in (*op.operands, *op.results) if _may_block(v.type)]
            if op.name in _CONVOLUTIONS:
                for value in group:  # demands alone decide; operands need not agree
                    self._find(id(value))
                return
        else:
            return
        for value in group[1:]:
            self._parent[self._find(id(value))] = self._find(id(group[0]))

    def _find(self, key: int) -> int:
        root = key
        while self._parent.setdefault(root, root) != root:
            root = self._parent[root]
        while self._parent[key] != root:
            self._parent[key], key = root, self._parent[key]
        return root


def _may_block(type: TensorType) -> bool:
    return type.rank == 4 and type.shape[1] % BLOCK == 0 and type.dtype.kind in "bf"


def _over_space(op: Op) -> Iterator[Value]:
    """Operands and results of a fused op that cover its whole space in order."""
    space = op.attrs["space"]
    for value, axes in zip(op.operands, op.attrs["maps"], strict=True):
        if axes == tuple(range(len(space))) and _may_block(value.type):
            yield value
    for value, how in zip(op.results, op.attrs["reduce"], strict=True):
        if how is None and _may_block(value.type):
            yield value


def widest(a: Halo, b: Halo) -> Halo:
    """A halo that serves two consumers."""
    return tuple((max(x[0], y[0]), max(x[1], y[1])) for x, y in zip(a, b, strict=True))


# -- what convolutions demand ------------------------------------------------------

_CONVOLUTIONS = ("conv", "conv_input_grad", "conv_weight_grad")


def demands(op: Op) -> list[tuple[Value, Halo]]:
    """Values a direct convolution takes or gives blocked, with the halos it reads."""
    if op.name not in _CONVOLUTIONS or refusal(op) is not None:
        return []
    if op.name == "conv":
        x, w = op.operands
        return [(x, forward_halo(op, x.shape[2:], w.shape[2:])), (op.result, _NO_HALO)]
    if op.name == "conv_input_grad":
        dy, w = op.operands
        return [(dy, backward_halo(op, dy.shape[2:], w.shape[2:])), (op.result, _NO_HALO)]
    x, dy = op.operands
    return [(x, forward_halo(op, x.shape[2:], op.attrs["kernel"])), (dy, _NO_HALO)]


def channels(op: Op) -> tuple[int, int]:
    """Input and output channels of a convolution or one of its gradients."""
    if op.name == "conv":
        return op.operands[0].shape[1], op.result.shape[1]
    if op.name == "conv_input_grad":
        return op.result.shape[1], op.operands[0].shape[1]
    return op.operands[0].shape[1], op.operands[1].shape[1]


def refusal(op: Op) -> str | None:
    """Why the direct blocked kernels cannot run a convolution, if so."""
    inputs, outputs = channels(op)
    groups = op.attrs["groups"]
    x = op.operands[0]
    if x.rank != 4:
        return f"the direct kernels take two spatial axes, not {x.rank - 2}"
    if x.type.dtype.name not in ("f32", "f64"):
        return f"the direct kernels compute in f32 or f64, not {x.type.dtype}"
    if any(d != 1 for d in op.attrs["lhs_dilation"]):
        return "the direct kernels do not take a dilated input"
    if outputs // groups % BLOCK:
        return f"{outputs // groups} output channels per group do not fill blocks of {BLOCK}"
    if inputs // groups % BLOCK and not (
        groups == 1 and inputs < BLOCK and op.name != "conv_input_grad"
    ):
        return f"{inputs // groups} input channels per group do not fill blocks of {BLOCK}"
    if 0 in (v.type.size for v in (*op.operands, op.result)):
        return "the operands are empty"
    return None


def forward_halo(op: Op, size: tuple[int, ...], kernel: tuple[int, ...]) -> Halo:
    """Zeros that windows of the forward convolution reach around its input."""
    out = op.result.shape[2:] if op.name == "conv" else op.operands[1].shape[2:]
    attrs = op.attrs
    return tuple(
        (low, max(0, (m - 1) * s + (k - 1) * d + 1 - low - n))
        for (low, _), m, s, k, d, n in zip(
            attrs["padding"], out, attrs["stride"], kernel, attrs["dilation"], size, strict=True
        )
    )


def backward_halo(op: Op, size: tuple[int, ...], kernel: tuple[int, ...]) -> Halo:
    """Zeros around the output's cotangent that the gradient to the input reaches."""
    attrs = op.attrs
    return tuple(
        (max(0, -(-((k - 1) * d - low) // s)), max(0, (n - 1 + low) // s - (m - 1)))
        for (low, _), m, s, k, d, n in zip(
            attrs["padding"], size, attrs["stride"], kernel, attrs["dilation"],
            attrs["spatial"], strict=True,
        )
    )  # fmt: skip
