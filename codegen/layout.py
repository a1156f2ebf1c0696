"""Chooses which values live blocked, and how wide the halos of activations are.

Convolutions with direct kernels want their activations and weights blocked.  Values that
elementwise ops and pooling connect share one layout, so a whole network of
convolutions, normalisations and activations stays blocked and is converted only
at its edges: the function's parameters and results, and ops that only take plain
operands.  Weights live blocked where nothing needs converting at all: if every
parameter and result among the values they are connected with (their momentum, say) is
state whose layout the program may choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from symgrad.codegen.kernels.blocked import BLOCK, channel_tiling, lane_group, weight_tiling
from symgrad.codegen.runtime.resident import STATELESS, Form, State, TiledForm
from symgrad.codegen.storage import (
    Buffer,
    Halo,
    Storage,
    blocked_weights,
    channel_blocked,
    dense,
)
from symgrad.codegen.tiling import Tiling
from symgrad.ir.graph import Func, Op, Value

_NO_HALO: Halo = ((0, 0), (0, 0))
_POOLING = (
    "window_max",
    "window_sum",
    "window_sum_grad",
    "window_max_scatter",
    "window_max_gather",
)
_SAME_VALUE = ("identity", "stop_gradient")


class Layouts:
    """The layout decisions for one function."""

    def __init__(self, func: Func, state: State = STATELESS) -> None:
        self._parent: dict[int, int] = {}
        self._halos: dict[int, Halo] = {}
        activations: list[Value] = []
        weights: list[Value] = []
        for op in func.ops:
            for value, halo in demands(op):
                if value.shape[1] % BLOCK == 0:
                    activations.append(value)
                before = self._halos.get(id(value), _NO_HALO)
                self._halos[id(value)] = widest(before, halo)
            weights += weight_demands(op)
            self._connect(op)
        made = [v for op in func.ops for v in op.results]
        roots = {self._find(id(v)) for v in activations}
        self._blocked = self._members(made, roots, _are_activations)
        roots = {self._find(id(v)) for v in weights} - roots
        roots &= {self._find(id(v)) for v in state.chosen(func)}
        roots -= {self._find(id(v)) for v in state.given(func)}
        self._weights = self._members([*func.params, *made], roots, _are_weights)

    def _members(
        self, values: list[Value], roots: set[int], fits: Callable[[Value], bool]
    ) -> frozenset[int]:
        known = (v for v in values if id(v) in self._parent and fits(v))
        return frozenset(id(v) for v in known if self._find(id(v)) in roots)

    def storage(self, value: Value) -> Storage:
        """A new arena buffer for a value, in the layout chosen for it."""
        if id(value) in self._blocked:
            return channel_blocked(value.type, self._halos.get(id(value), _NO_HALO))
        return self.edge(value, Buffer(value.type.bytes))

    def edge(self, value: Value, buffer: Buffer) -> Storage:
        """How a parameter or result lies in the caller's memory: plain, but for state."""
        return (blocked_weights if self.is_weights(value) else dense)(value.type, buffer)

    def is_weights(self, value: Value) -> bool:
        """Whether a value lives in the blocked layout of weights."""
        return id(value) in self._weights

    def form(self, value: Value) -> Form | None:
        """The form in which a parameter or result lies in the caller's memory."""
        return TiledForm(value.type, weight_tiling(value.shape)) if self.is_weights(value) else None

    def halo(self, value: Value, needed: Halo) -> Halo:
        """The halo for a blocked copy: what any consumer of the value needs."""
        return widest(self._halos.get(id(value), _NO_HALO), needed)

    def tiling(self, op: Op) -> Tiling | None:
        """The iteration space of a fused op that runs over a blocked layout."""
        values = list(_over_space(op))
        if any(id(v) in self._blocked for v in values):
            return channel_tiling(op.attrs["space"])
        if any(id(v) in self._weights for v in values):
            return weight_tiling(op.attrs["space"])
        return None

    def _connect(self, op: Op) -> None:
        if op.name == "fused":
            group = list(_over_space(op))
        elif op.name in _POOLING or op.name in _SAME_VALUE:
            group = [v for v in (*op.operands, *op.results) if _may_block(v)]
        else:
            return  # demands alone decide on what convolutions take; it need not agree
        for value in group[1:]:
            self._parent[self._find(id(value))] = self._find(id(group[0]))

    def _find(self, key: int) -> int:
        root = key
        while self._parent.setdefault(root, root) != root:
            root = self._parent[root]
        while self._parent[key] != root:
            self._parent[key], key = root, self._parent[key]
        return root


def _may_block(value: Value) -> bool:
    return value.rank == 4 and value.type.dtype.kind in "bf"


def _are_activations(value: Value) -> bool:
    return _may_block(value) and value.shape[1] % BLOCK == 0


def _are_weights(value: Value) -> bool:
    inputs = value.shape[1] if _may_block(value) else 0
    blocks = inputs % BLOCK == 0 or inputs < BLOCK
    return inputs > 0 and blocks and value.shape[0] % BLOCK == 0


def _over_space(op: Op) -> Iterator[Value]:
    """Operands and results of a fused op that cover its whole space in order."""
    space = op.attrs["space"]
    for value, axes in zip(op.operands, op.attrs["maps"], strict=True):
        if axes == tuple(range(len(space))) and _may_block(value):
            yield value
    for value, how in zip(op.results, op.attrs["reduce"], strict=True):
        if how is None and _may_block(value):
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


def weight_demands(op: Op) -> list[Value]:
    """Values that a direct convolution takes or gives as blocked weights."""
    if op.name not in _CONVOLUTIONS or refusal(op) is not None:
        return []
    return [op.result if op.name == "conv_weight_grad" else op.operands[1]]


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
    if 0 in (v.type.size for v in (*op.operands, op.result)):
        return "the operands are empty"
    if lane_group(inputs, outputs, groups):
        return None
    if outputs // groups % BLOCK:
        return f"{outputs // groups} output channels per group do not fill blocks of {BLOCK}"
    if inputs // groups % BLOCK and not (
        groups == 1 and inputs < BLOCK and op.name != "conv_input_grad"
    ):
        return f"{inputs // groups} input channels per group do not fill blocks of {BLOCK}"
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
