"""Recurrent networks: a cell that takes the elements of a sequence, one step at a time.

What a step makes of its input alone is done for all steps at once, as one product; the rest is
one loop (the op ``scan``), which gives the values of its gates so that its derivative need not
compute them again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import symgrad.numpy as snp
from symgrad.api import jit
from symgrad.api_loops import scan
from symgrad.nn.faces import for_tensors
from symgrad.tracing import current_trace, emit

Array = Any
State = tuple[Array, ...]
"""``(h,)``, or ``(h, c)`` of an LSTM; each ``[batch, size]``."""

GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}
"""Rows of a cell's weights, in sizes of its state."""


def _product(x: Array, weight: Array) -> Array:
    """``x @ weight.T``"""
    inner = {"lhs_contract": (x.ndim - 1,), "rhs_contract": (1,)}
    return emit("dot_general", x, weight, **inner)


def _with(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + bias


def _cut(x: Array, parts: int) -> list[Array]:
    """Equal parts along the last axis."""
    size = x.shape[-1] // parts
    return [x[..., i * size : (i + 1) * size] for i in range(parts)]


def _sigmoid(x: Array) -> Array:
    return emit("sigmoid", x)


# Each cell is what it makes of its input, ``prepare(x, w_ih, b_ih, b_hh)``, and a step from that
# and the state: ``step(state, prepared, w_hh, b_hh, w_hr)`` gives the next state and values that
# a derivative wants to know.

Step = Callable[[State, Array, Array, Array | None, Array | None], tuple[State, Any]]


def _prepared(x: Array, w_ih: Array, b_ih: Array | None, b_hh: Array | None) -> Array:
    return _with(_with(_product(x, w_ih), b_ih), b_hh)


def _plain_step(activation: Callable[[Array], Array]) -> Step:
    """``h' = activation(x w_ih^T + b_ih + h w_hh^T + b_hh)``."""

    def step(
        state: State, x: Array, w_hh: Array, b_hh: Array | None, w_hr: Array | None
    ) -> tuple[State, Any]:
        (h,) = state
        return (activation(x + _product(h, w_hh)),), ()

    return step


def _lstm_step(
    state: State, x: Array, w_hh: Array, b_hh: Array | None, w_hr: Array | None
) -> tuple[State, Any]:
    """``c' = f c + i g`` and ``h' = o tanh(c')``, which ``w_hr`` may project to fewer numbers.

    S. Hochreiter and J. Schmidhuber, "Long short-term memory" (1997); F. Gers et al. (2000);
    H. Sak et al., "Long short-term memory recurrent neural network architectures" (2014).
    """
    h, c = state
    i, f, g, o = _cut(x + _product(h, w_hh), 4)
    i, f, g, o = _sigmoid(i), _sigmoid(f), snp.tanh(g), _sigmoid(o)
    c = f * c + i * g
    shown = snp.tanh(c)
    h = o * shown
    return (h if w_hr is None else _product(h, w_hr), c), (i, f, g, o, shown)


def _gru_prepared(x: Array, w_ih: Array, b_ih: Array | None, b_hh: Array | None) -> Array:
    y = _with(_product(x, w_ih), b_ih)
    if b_hh is None:
        return y
    size = b_hh.shape[0] // 3  # the new value's bias is within its gate
    return y + snp.concatenate([b_hh[: 2 * size], snp.zeros((size,), dtype=b_hh.dtype)])


def _gru_step(
    state: State, x: Array, w_hh: Array, b_hh: Array | None, w_hr: Array | None
) -> tuple[State, Any]:
    """``h' = (1 - z) n + z h`` with ``n = tanh(x w_in^T + b_in + r (h w_hn^T + b_hn))``.

    K. Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014).
    """
    (h,) = state
    (xr, xz, xn), (hr, hz, hn) = _cut(x, 3), _cut(_product(h, w_hh), 3)
    r, z = _sigmoid(xr + hr), _sigmoid(xz + hz)
    hn = _with(hn, None if b_hh is None else b_hh[-h.shape[-1] :])
    n = snp.tanh(xn + r * hn)
    return (n + z * (h - n),), (r, z, n, hn)


_CELLS: dict[str, tuple[Callable[..., Array], Step]] = {
    "RNN_TANH": (_prepared, _plain_step(snp.tanh)),
    "RNN_RELU": (_prepared, _plain_step(lambda x: emit("relu", x))),
    "LSTM": (_prepared, _lstm_step),
    "GRU": (_gru_prepared, _gru_step),
}


def _begun(
    mode: str, x: Array, h: Array | None, c: Array | None, size: int, projected: int
) -> State:
    """The state that a layer begins with: zeros unless given."""
    sizes = [projected, size] if mode == "LSTM" else [size]
    given = zip((h, c), sizes, strict=False)
    return tuple(
        snp.zeros((*x.shape[:-1], width), dtype=x.dtype) if s is None else s for s, width in given
    )


def _layer(
    x: Array, h: Array | None, c: Array | None, w_ih: Array, w_hh: Array, b_ih: Array | None,
    b_hh: Array | None, w_hr: Array | None, valid: Array | None, mode: str, reverse: bool,
) -> tuple[Array, ...]:  # fmt: skip
    prepare, step = _CELLS[mode]
    size = w_hh.shape[0] // GATES[mode]

    def advance(state: State, now: tuple[Array, Array | None]) -> tuple[State, Any]:
        following, known = step(state, now[0], w_hh, b_hh, w_hr)
        if now[1] is not None:
            ends = snp.expand_dims(now[1], -1)
            kept = zip(following, state, strict=True)
            return tuple(snp.where(ends, new, old) for new, old in kept), (following[0], known)
        return following, (following[0], known)

    begun = _begun(mode, x[0], h, c, size, size if w_hr is None else w_hr.shape[0])
    last, (ys, _) = scan(advance, begun, (prepare(x, w_ih, b_ih, b_hh), valid), reverse=reverse)
    return (ys, *last)


@functools.lru_cache(maxsize=64)
def _on_arrays(mode: str, reverse: bool) -> Callable[..., Any]:
    run: Callable[..., Any] = jit(functools.partial(_layer, mode=mode, reverse=reverse))
    return run


def _cell_name(given: dict[str, Any]) -> str:
    if given["x"].ndim == 1:
        return "SqueezeBackward1"
    return {"LSTM": "MulBackward0", "GRU": "AddBackward0", "RNN_RELU": "ReluBackward0"}.get(
        given["mode"], "TanhBackward0"
    )


@for_tensors("StackBackward0", several=True)
def run_layer(
    x: Array, h: Array | None, c: Array | None, w_ih: Array, w_hh: Array, b_ih: Array | None,
    b_hh: Array | None, w_hr: Array | None, valid: Array | None, mode: str, reverse: bool,
) -> tuple[Array, ...]:  # fmt: skip
    """A layer in one direction: the outputs ``[T, B, size]`` and the last state.

    ``x`` is ``[T, B, in]``; where ``valid`` ``[T, B]`` is false, the state stays as it is.
    """
    if current_trace() is None:
        found: tuple[Array, ...] = _on_arrays(mode, reverse)(
            x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, valid
        )
        return found
    return _layer(x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, valid, mode, reverse)


@for_tensors("CatBackward0")
def join_directions(forth: Array, back: Array) -> Array:
    """The outputs of both directions side by side."""
    return snp.concatenate([forth, back], axis=-1)


@for_tensors(_cell_name, several=True)
def run_cell(
    x: Array, h: Array | None, c: Array | None, w_ih: Array, w_hh: Array, b_ih: Array | None,
    b_hh: Array | None, mode: str,
) -> tuple[Array, ...]:  # fmt: skip
    """One step: the next state, for ``x`` ``[..., in]``."""
    prepare, step = _CELLS[mode]
    size = w_hh.shape[0] // GATES[mode]
    state, _ = step(_begun(mode, x, h, c, size, size), prepare(x, w_ih, b_ih, b_hh), w_hh, b_hh,
                    None)  # fmt: skip
    return state
