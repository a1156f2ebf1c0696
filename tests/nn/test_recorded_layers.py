"""Every layer against PyTorch: recorded outputs, gradients and running statistics, f64.

All cases run through the interpreter, which shows that the layers and the adjoint rules are
right; a share of them runs compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from references import LayerCase, layer_cases
from symgrad.ir import interpret

import symgrad as sg
from symgrad import tree
from symgrad.api_function import Constant
from symgrad.nn import functional as F

Arrays = Mapping[str, Any]
EVERY = 6
"""One case in so many runs compiled as well."""


def convolution(name: str) -> Callable[..., Any]:
    function = getattr(F, name)
    return lambda x, options: function(x["input"], x["weight"], x.get("bias"), **options)


def pooling(name: str) -> Callable[..., Any]:
    return lambda x, options: getattr(F, name)(x["input"], **options)


def batch_norm(x: Arrays, options: Arrays) -> Any:
    names = ("input", "running_mean", "running_var", "weight", "bias")
    return F.batch_norm(*(x.get(name) for name in names), **options)


def cross_entropy(x: Arrays, options: Arrays) -> Any:
    return F.cross_entropy(x["input"], x["target"], x.get("weight"), **options)


def softmax(name: str) -> Callable[..., Any]:
    return lambda x, options: getattr(F, name)(x["input"], options["dim"])


CALLS: dict[str, Callable[[Arrays, Arrays], Any]] = {
    **{name: convolution(name) for name in ("conv1d", "conv2d", "conv3d")},
    **{name: pooling(name) for name in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")},
    **{name: pooling(name) for name in ("relu", "sigmoid", "tanh", "silu", "softplus", "gelu")},
    **{name: softmax(name) for name in ("softmax", "log_softmax")},
    "linear": lambda x, _: F.linear(x["input"], x["weight"], x.get("bias")),
    "batch_norm": batch_norm,
    "cross_entropy": cross_entropy,
    "mse_loss": lambda x, options: F.mse_loss(x["input"], x["target"], **options),
}
BUFFERS = ("running_mean", "running_var")
CASES = [case for op in CALLS for case in layer_cases(op)]


def step(case: LayerCase) -> tuple[Callable[..., Any], Arrays, Arrays]:
    """``(output and buffers, gradients)`` of a case as a function of learned and fixed inputs."""
    learned = {k: v for k, v in case.inputs.items() if k in case.gradients}
    fixed = {k: v for k, v in case.inputs.items() if k not in learned}
    fixed["cotangent"] = case.cotangent

    def weighted(learned: Arrays, fixed: Arrays) -> tuple[Any, Any]:
        results = CALLS[case.op]({**learned, **fixed}, case.attrs)
        output, *buffers = results if isinstance(results, tuple) else (results,)
        return (output * fixed["cotangent"]).sum(), (output, buffers)

    return sg.value_and_grad(weighted, has_aux=True), learned, fixed


def interpreted(function: Any, *args: Any) -> Any:
    """What ``function`` returns, computed by the IR's reference semantics."""
    traced = function.traced(*args)
    hidden = [capture.current() for capture in traced.captures]
    results = interpret(traced.func, [*tree.flatten(args)[0], *hidden])
    leaves = [x.value if isinstance(x, Constant) else results[x] for x in traced.outputs]
    return tree.unflatten(traced.spec, leaves)


def compare(case: LayerCase, output: Any, buffers: Any, gradients: Arrays) -> None:
    tolerance = {"rtol": 1e-11, "atol": 1e-11}
    assert np.shape(output) == case.output.shape
    np.testing.assert_allclose(output, case.output, **tolerance)
    for name, expected in case.gradients.items():
        np.testing.assert_allclose(gradients[name], expected, **tolerance, err_msg=name)
    for name, found in zip(BUFFERS, buffers, strict=False):
        if name in case.updated:
            np.testing.assert_allclose(found, case.updated[name], **tolerance, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case}")
def test_interpreted(case: LayerCase) -> None:
    function, *inputs = step(case)
    (_, (output, buffers)), gradients = interpreted(function, *inputs)
    compare(case, output, buffers, gradients)


@pytest.mark.parametrize("case", CASES[::EVERY], ids=lambda case: f"{case.op}-{case}")
def test_compiled(case: LayerCase) -> None:
    function, *inputs = step(case)
    (_, (output, buffers)), gradients = sg.jit(function)(*inputs)
    compare(case, output, buffers, gradients)
