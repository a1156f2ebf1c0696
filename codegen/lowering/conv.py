"""Convolutions and their gradients on blocked activations.

Those that cannot have them go to ``conv_plain``.
"""

from __future__ import annotations

from symgrad.codegen.kernels.blocked import Blocked, Weights
from symgrad.codegen.layout import backward_halo, forward_halo, refusal
from symgrad.codegen.lowering.conv_choice import (
    Setting,
    best_of,
    candidates,
    convolution,
    gradient_candidates,
    nominal_work,
    weight_gradient,
)
from symgrad.codegen.lowering.conv_fold import Fold, fold
from symgrad.codegen.lowering.conv_plain import on_plain_operands
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import Halo, Storage, channel_blocked
from symgrad.ir.graph import Op, Value

FOLDED = "folded pixels"
NO_HALO: Halo = ((0, 0), (0, 0))


def _weights(scope: Scope, w: Value) -> tuple[Storage, Weights]:
    """Where the weights lie: blocked if they live so, else row-major."""
    home = scope.storage(w)
    if home.weights is not None:
        return home, home.weights
    home = scope.dense(w)
    kernel = (w.shape[2], w.shape[3])
    offset = home.access.offset  # of a slice of a larger array
    return home, Weights.plain(w.type.dtype.name, w.shape[0], w.shape[1], kernel, offset)


def _blocked(storage: Storage) -> Blocked:
    assert storage.blocked is not None
    return storage.blocked


@lowers("conv")
def conv(scope: Scope, op: Op) -> None:
    """The forward convolution with its epilogue."""
    if reason := refusal(op):
        on_plain_operands(scope, op, reason)
        return
    x, w = op.operands
    weights, plain = _weights(scope, w)
    if folded := _folded(scope, op, plain):
        source = scope.form(x, folded, lambda: folded.filled(scope, x))
        weights = folded.folded_weights(scope, weights)
        _run(scope, op, source, weights, folded.weights, folded.op(op.name))
        return
    source = scope.blocked(x, forward_halo(op, x.shape[2:], w.shape[2:]))
    _run(scope, op, source, weights, plain)


def _folded(scope: Scope, op: Op, weights: Weights) -> Fold | None:
    """The form on folded pixels, where the estimates are in its favour."""
    found, x = fold(op), op.operands[0]
    if found is None or scope.storage(x).tiling is not None:
        return None
    y = op.result if op.name == "conv" else op.operands[1]
    halo = forward_halo(op, x.shape[2:], weights.kernel)
    as_it_is, out = (_blocked(channel_blocked(v.type, h)) for v, h in ((x, halo), (y, NO_HALO)))
    compare = candidates if op.name == "conv" else gradient_candidates
    setting = Setting.of(scope)
    direct, _ = compare(setting, op, as_it_is, out, weights)
    others, _ = compare(setting, found.op(op.name), found.source, out, found.weights)
    cycles = best_of(others).cycles + found.cycles(scope.target, scope.threads)
    return found if cycles < best_of(direct).cycles else None


@lowers("conv_input_grad")
def conv_input_grad(scope: Scope, op: Op) -> None:
    """The same kernel on the output's cotangent, with transposed weights."""
    if reason := refusal(op):
        on_plain_operands(scope, op, reason)
        return
    dy, w = op.operands
    source = scope.blocked(dy, backward_halo(op, dy.shape[2:], w.shape[2:]))
    weights, plain = _weights(scope, w)
    _run(scope, op, source, weights, plain)


def _run(
    scope: Scope,
    op: Op,
    source: Storage,
    weights: Storage,
    plain: Weights,
    folded: Op | None = None,
) -> None:
    """A convolution or its gradient to the input on blocked activations, with its epilogue.

    ``folded`` is what is computed instead, if that is another convolution.
    """
    fused = scope.epilogue(op)
    result = scope.allocate(fused.result if fused else op.result, plain=False)
    epilogue = fused.build(scope, result, result.tiling) if fused else None
    work = nominal_work(op)
    parallel = scope.threads_for(**work) > 1
    if fused and fused.sums:
        fused.sums.parallel = parallel
    scope.run(
        convolution(
            scope,
            folded or op,
            _blocked(source),
            _blocked(result),
            plain,
            epilogue,
            FOLDED if folded else "",
        ),
        [source, weights, *(fused.storages if fused else ())],
        [result],
        written=fused.written if fused else (),
        parallel=parallel,
        **work,
    )


@lowers("conv_weight_grad")
def conv_weight_grad(scope: Scope, op: Op) -> None:
    """Sums over pixels, one register tile of weights at a time."""
    if reason := refusal(op):
        on_plain_operands(scope, op, reason)
        return
    x, dy = op.operands
    outputs, inputs, *kernel = op.result.shape
    plain = Weights.plain(x.type.dtype.name, outputs, inputs, (kernel[0], kernel[1]))
    if folded := _folded(scope, op, plain):
        _folded_weight_grad(scope, op, folded)
        return
    source = scope.blocked(x, forward_halo(op, x.shape[2:], op.attrs["kernel"]))
    cotangent = scope.blocked(dy, NO_HALO)
    fused = scope.epilogue(op)
    made = fused.result if fused else op.result
    result = scope.allocate(made, plain=not scope.layouts.is_weights(made))
    epilogue = fused.build(scope, result, result.tiling) if fused else None
    work = nominal_work(op)
    if fused:
        work["bytes"] += sum(s.buffer.bytes for s in fused.storages)
    scope.run(
        weight_gradient(
            scope, op, _blocked(source), _blocked(cotangent), result.weights or plain, epilogue
        ),
        [source, cotangent, *(fused.storages if fused else ())],
        [result],
        written=fused.written if fused else (),
        in_place=fused.in_place(source, cotangent, result=result) if fused else (),
        **work,
    )


def _folded_weight_grad(scope: Scope, op: Op, folded: Fold) -> None:
    """The gradient on folded pixels, which are few weights; then what was to follow it."""
    x, dy = op.operands
    source = scope.form(x, folded, lambda: folded.filled(scope, x))
    cotangent = scope.blocked(dy, NO_HALO)
    made = folded.empty_weights()
    lowering = weight_gradient(
        scope, folded.op(op.name), _blocked(source), _blocked(cotangent), folded.weights, None,
        FOLDED,
    )  # fmt: skip
    scope.run(lowering, [source, cotangent], [made], **nominal_work(op))
    result = scope.allocate(op.result, plain=not scope.layouts.is_weights(op.result))
    folded.unfold_weights(scope, made, result)
    if (fused := scope.epilogue(op)) and fused.op:
        scope.lower(fused.op)
