"""Convolutions and their gradients: direct kernels on blocked activations where they
apply, implicit matrix products for everything else."""

from __future__ import annotations

from math import prod
from typing import Any

from symgrad.codegen.access import Access, Epilogue
from symgrad.codegen.kernels import (
    Lowering,
    depthwise,
    implicit_gemm,
)
from symgrad.codegen.kernels.blocked import Blocked, Weights
from symgrad.codegen.layout import backward_halo, channels, forward_halo, refusal
from symgrad.codegen.lowering.conv_choice import convolution, weight_gradient
from symgrad.codegen.lowering.rules import lowers
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.storage import Storage
from symgrad.codegen.target import Target
from symgrad.ir.graph import Op, Value


def _work(op: Op, weight: Value | None) -> dict[str, Any]:
    """Nominal flops and bytes of a convolution or one of its gradients."""
    values = (*op.operands, op.result)
    kernel = (weight or op.result).shape[2:]
    inputs, outputs = channels(op)
    output = {"conv": op.result, "conv_input_grad": op.operands[0]}.get(op.name, op.operands[1])
    spatial = output.shape[2:]
    points = op.operands[0].shape[0] * prod(spatial)
    flops = 2.0 * points * inputs * outputs * prod(kernel) / op.attrs["groups"]
    return {"flops": flops, "bytes": float(sum(v.type.bytes for v in values))}


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
        scope.choose("implicit GEMM", reason)
        implicit(scope, op)
        return
    x, w = op.operands
    source = scope.blocked(x, forward_halo(op, x.shape[2:], w.shape[2:]))
    weights, plain = _weights(scope, w)
    fused = scope.epilogue(op)
    result = scope.allocate(fused.result if fused else op.result, plain=False)
    epilogue = fused.build(scope, result, result.tiling) if fused else None
    scope.run(
        convolution(scope, op, _blocked(source), _blocked(result), plain, epilogue),
        [source, weights, *(fused.storages if fused else ())],
        [result],
        written=fused.written if fused else (),
        **_work(op, w),
    )


@lowers("conv_input_grad")
def conv_input_grad(scope: Scope, op: Op) -> None:
    """The same kernel on the output's cotangent, with transposed weights."""
    if reason := refusal(op):
        scope.choose("implicit GEMM", reason)
        implicit(scope, op)
        return
    dy, w = op.operands
    source = scope.blocked(dy, backward_halo(op, dy.shape[2:], w.shape[2:]))
    weights, plain = _weights(scope, w)
    result = scope.allocate(op.result, plain=False)
    lowering = convolution(scope, op, _blocked(source), _blocked(result), plain, None)
    scope.run(lowering, [source, weights], [result], **_work(op, w))


@lowers("conv_weight_grad")
def conv_weight_grad(scope: Scope, op: Op) -> None:
    """Sums over pixels, one register tile of weights at a time."""
    if reason := refusal(op):
        scope.choose("implicit GEMM", reason)
        implicit(scope, op)
        return
    x, dy = op.operands
    source = scope.blocked(x, forward_halo(op, x.shape[2:], op.attrs["kernel"]))
    cotangent = scope.blocked(dy, ((0, 0), (0, 0)))
    fused = scope.epilogue(op)
    made = fused.result if fused else op.result
    result = scope.allocate(made, plain=not scope.layouts.is_weights(made))
    outputs, inputs, *kernel = op.result.shape
    plain = Weights.plain(x.type.dtype.name, outputs, inputs, (kernel[0], kernel[1]))
    epilogue = fused.build(scope, result, result.tiling) if fused else None
    work = _work(op, None)
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


def implicit(scope: Scope, op: Op) -> None:
    """Any convolution: depthwise, or as a matrix product that gathers its patches."""
    left, right = (scope.plain(v) for v in op.operands)
    fused = scope.epilogue(op)
    result = scope.allocate(fused.result if fused else op.result)
    epilogue = fused.build(scope, result) if fused else None
    work = _work(op, op.operands[1] if op.name != "conv_weight_grad" else None)
    threads = scope.threads_for(work["flops"], work["bytes"])
    accesses = left.access, right.access, result.access
    lowering = _lower_implicit(op, accesses, epilogue, scope.target, threads)
    operands = [right, left, *(fused.storages if fused else ())]  # the image comes second
    scope.run(lowering, operands, [result], written=fused.written if fused else (), **work)


def _lower_implicit(
    op: Op,
    accesses: tuple[Access, Access, Access],
    epilogue: Epilogue | None,
    target: Target,
    threads: int,
) -> Lowering:
    first, second, result = accesses
    if op.name == "conv":
        x, w = op.operands
        conv = _convolution(op, x, w, op.result)
        if depthwise.suits(conv):
            return depthwise.lower_depthwise(depthwise.forward(conv, *accesses, epilogue))
        spec = implicit_gemm.forward(conv, *accesses, epilogue)
    elif op.name == "conv_input_grad":
        dy, w = op.operands
        conv = _convolution(op, op.result, w, dy)
        if depthwise.suits_input_grad(conv):
            return depthwise.lower_depthwise(depthwise.input_grad(conv, *accesses))
        spec = implicit_gemm.input_grad(conv, *accesses)
    else:
        x, dy = op.operands
        conv = _convolution(op, x, op.result, dy)
        if depthwise.suits(conv):
            grad = depthwise.forward(conv, first, result, second)
            return depthwise.lower_depthwise_weight_grad(grad)
        spec = implicit_gemm.weight_grad(conv, *accesses)
    return implicit_gemm.lower_implicit(spec, target, threads)


def _convolution(op: Op, x: Value, w: Value, y: Value) -> implicit_gemm.Convolution:
    """The geometry of a convolution, from the forward op's input, weight and output."""
    attrs = op.attrs
    return implicit_gemm.Convolution(
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
