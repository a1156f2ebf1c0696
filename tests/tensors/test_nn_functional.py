"""``nn.functional`` on tensors against recorded PyTorch layers: values, gradients, names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from references import LayerCase, layer_cases, layer_ops

import symgrad as torch
from symgrad.nn import functional as F

CASES = [case for op in layer_ops() if hasattr(F, op) for case in layer_cases(op)]
DIFFERENT = {"scaled_dot_product_attention", "bilinear"}
"""Functions whose ``grad_fn`` has another name than torch's."""


pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")


def close(actual: Any, expected: np.ndarray[Any, Any], bound: float = 1e-11) -> None:
    scale = float(np.max(np.abs(expected), initial=1))
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=bound, atol=bound * scale)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.name}")
def test_values_and_gradients(case: LayerCase) -> None:
    inputs = {
        k: torch.tensor(v.astype(np.float64) if v.dtype.kind == "f" else v)
        for k, v in case.inputs.items()
    }
    for name in case.gradients:
        inputs[name].requires_grad_()
    if case.op in ("batch_norm", "instance_norm"):
        inputs = {"running_mean": None, "running_var": None, **inputs}
    output = getattr(F, case.op)(**inputs, **case.attrs)
    close(output, case.output)
    for name, expected in case.updated.items():
        close(inputs[name], expected)
        assert not inputs[name].requires_grad
    if case.op not in DIFFERENT and case.attrs.get("mode") != "circular":
        assert output.grad_fn.name() == case.grad_fn
    output.backward(torch.tensor(case.cotangent))
    for name, expected in case.gradients.items():
        # torch's derivative of hardsigmoid multiplies by a float32 1/6
        close(inputs[name].grad, expected, 1e-7 if case.op == "hardsigmoid" else 1e-11)
