"""``nn.functional`` on tensors against recorded PyTorch layers: values, gradients, names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from references import LayerCase, layer_cases, layer_ops

import symgrad as torch
from symgrad.nn import functional as F

CASES = [case for op in layer_ops() if hasattr(F, op) for case in layer_cases(op)]
NAMES = {"relu": "ReluBackward0", "conv2d": "ConvolutionBackward0", "linear": "AddmmBackward0",
         "max_pool2d": "MaxPool2DWithIndicesBackward0",
         "batch_norm": "NativeBatchNormBackward0"}  # fmt: skip


def close(actual: Any, expected: np.ndarray[Any, Any]) -> None:
    scale = float(np.max(np.abs(expected), initial=1))
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-11, atol=1e-11 * scale)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.name}")
def test_values_and_gradients(case: LayerCase) -> None:
    inputs = {
        k: torch.tensor(v.astype(np.float64) if v.dtype.kind == "f" else v)
        for k, v in case.inputs.items()
    }
    for name in case.gradients:
        inputs[name].requires_grad_()
    attrs = {"axis" if k == "dim" else k: v for k, v in case.attrs.items()}
    x = inputs.pop("input")
    if case.op == "batch_norm":
        statistics = {"running_mean": None, "running_var": None, **inputs}
        output, mean, variance = F.batch_norm(x, **statistics, **attrs)
        for name, value in zip(("running_mean", "running_var"), (mean, variance), strict=True):
            if name in case.updated:
                close(value, case.updated[name])
                assert not value.requires_grad
    else:
        output = getattr(F, case.op)(x, **inputs, **attrs)
    close(output, case.output)
    if case.op in NAMES:
        assert output.grad_fn.name() == NAMES[case.op]
    output.backward(torch.tensor(case.cotangent))
    for name, expected in case.gradients.items():
        close((x if name == "input" else inputs[name]).grad, expected)
