"""Convolutions whose operands lie plain.

Their channels, axes or dtype keep them from blocked activations.  Kernels that gather what
they need (depthwise, implicit matrix products) take such operands as they are; the blocked
kernels take copies that are made to fit (``conv_fit``), which pays where there is much to
compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from symgrad.codegen.access import Access, Epilogue, row_major
from symgrad.codegen.kernels import Lowering, depthwise, implicit_gemm
from symgrad.codegen.kernels.gemm import GemmSpec
from symgrad.codegen.kernels.implicit_gemm import Convolution
from symgrad.codegen.lowering import conv_fit
from symgrad.codegen.lowering.conv_choice import (
    Candidate,
    Kernels,
    Setting,
    cheapest,
    fitted,
    nominal_work,
)
from symgrad.codegen.lowering.conv_fit import Problem
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.target import Target
from symgrad.ir.graph import Op


def on_plain_operands(scope: Scope, op: Op, reason: str) -> None:
    """A convolution with whatever kernels cost least; ``reason`` is why it is not blocked."""
    conv = _convolution(op)
    threads = scope.threads_for(**nominal_work(op))
    setting = Setting(scope.target, threads, scope.conv_precision)
    found, refused = [_gathering(scope, op, conv, threads)], [f"blocked: {reason}"]
    fitting, why = _fitted(scope, op, conv, setting)
    if fitting:
        found.append(fitting)
    else:
        refused.append(f"blocked copies: {why}")
    cheapest(scope, found, refused).lower()


# -- kernels that gather -----------------------------------------------------


def _gathering(scope: Scope, op: Op, conv: Convolution, threads: int) -> Candidate[None]:
    """The kernels that take operands of any strides."""
    target, bytes = scope.target, max(4, op.result.type.dtype.bytes)
    suits = depthwise.suits_input_grad if op.name == "conv_input_grad" else depthwise.suits
    lower = partial(_run_gathering, scope, op, conv, threads)
    if suits(conv):
        return Candidate("depthwise", depthwise.cycles(conv, bytes, target, threads), lower)
    dense = [Access(v.type.dtype.name, row_major(v.shape)) for v in (*op.operands, op.result)]
    product = _product(op, conv, (dense[0], dense[1], dense[2]), None)
    return Candidate("implicit GEMM", implicit_gemm.cycles(product, target, threads), lower)


def _run_gathering(scope: Scope, op: Op, conv: Convolution, threads: int) -> None:
    left, right = (scope.plain(v) for v in op.operands)
    fused = scope.epilogue(op)
    result = scope.allocate(fused.result if fused else op.result)
    epilogue = fused.build(scope, result) if fused else None
    accesses = left.access, right.access, result.access
    lowering = _lower_gathering(op, conv, accesses, epilogue, scope.target, threads)
    operands = [right, left, *(fused.storages if fused else ())]  # the image comes second
    written = fused.written if fused else ()
    scope.run(lowering, operands, [result], written=written, **nominal_work(op))


def _lower_gathering(
    op: Op,
    conv: Convolution,
    accesses: tuple[Access, Access, Access],
    epilogue: Epilogue | None,
    target: Target,
    threads: int,
) -> Lowering:
    first, second, result = accesses
    if op.name == "conv" and depthwise.suits(conv):
        return depthwise.lower_depthwise(depthwise.forward(conv, *accesses, epilogue))
    if op.name == "conv_input_grad" and depthwise.suits_input_grad(conv):
        return depthwise.lower_depthwise(depthwise.input_grad(conv, *accesses))
    if op.name == "conv_weight_grad" and depthwise.suits(conv):
        grad = depthwise.forward(conv, first, result, second)
        return depthwise.lower_depthwise_weight_grad(grad)
    return implicit_gemm.lower_implicit(_product(op, conv, accesses, epilogue), target, threads)


def _product(
    op: Op,
    conv: Convolution,
    accesses: tuple[Access, Access, Access],
    epilogue: Epilogue | None,
) -> GemmSpec:
    if op.name == "conv":
        return implicit_gemm.forward(conv, *accesses, epilogue)
    build = {"conv_input_grad": implicit_gemm.input_grad}.get(op.name, implicit_gemm.weight_grad)
    return build(conv, *accesses)


# -- blocked kernels on copies -----------------------------------------------


def _fitted(
    scope: Scope, op: Op, conv: Convolution, setting: Setting
) -> tuple[Candidate[None] | None, str]:
    """The blocked kernels with the copies that they need, or why there are none."""
    if reason := conv_fit.refusal(op, setting.precision):
        return None, reason
    problems = conv_fit.problems(op, conv)
    if not problems:
        return None, "some planes of the result meet no tap"
    parts = [(problem, fitted(setting, problem)) for problem in problems]
    cycles = sum(part.cycles for _, part in parts)
    cycles += sum(
        conv_fit.copy_cycles(problem, setting.target, setting.threads) for problem in problems
    )
    name = f"{parts[0][1].name} on blocked copies"
    return Candidate(name, cycles, partial(_run_fitted, scope, op, parts)), ""


def _run_fitted(scope: Scope, op: Op, parts: Sequence[tuple[Problem, Kernels]]) -> None:
    """Copies the operands, runs the kernels of each problem, and copies the results back."""
    sources = [scope.plain(v) for v in op.operands]
    result = scope.allocate(op.result)
    share: dict[str, Any] = {name: amount / len(parts) for name, amount in nominal_work(op).items()}
    for problem, kernels in parts:
        fit = conv_fit.Fit(scope, problem)
        if op.name == "conv_weight_grad":
            x, dy = (fit.filled(side, s) for side, s in zip("xy", sources, strict=True))
            dw = fit.weight_result(result)
            scope.run(kernels.lower(), [x, dy], [dw], **share)
            fit.return_weights(dw, result)
        else:
            given, made = ("x", "y") if op.name == "conv" else ("y", "x")
            operands = [fit.filled(given, sources[0]), fit.weights(scope.dense(op.operands[1]))]
            fitted_result = fit.empty(made)
            scope.run(kernels.lower(), operands, [fitted_result], **share)
            fit.returned(made, fitted_result, result)
    if (fused := scope.epilogue(op)) and fused.op:
        scope.lower(fused.op)


def _convolution(op: Op) -> Convolution:
    """The geometry of a convolution, the forward op's for its gradients too."""
    attrs, (first, second) = op.attrs, op.operands
    x, w, y = {
        "conv": (first, second, op.result),
        "conv_input_grad": (op.result, second, first),
        "conv_weight_grad": (first, op.result, second),
    }[op.name]
    return Convolution(
        images=x.shape[0],
        inputs=x.shape[1],
        outputs=y.shape[1],
        size=x.shape[2:],
        kernel=w.shape[2:],
        out=y.shape[2:],
        stride=attrs["stride"],
        low=tuple(low for low, _ in attrs["padding"]),
        dilation=attrs["dilation"],
        lhs_dilation=attrs["lhs_dilation"],
        groups=attrs["groups"],
    )
