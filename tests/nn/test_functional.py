"""Every function of ``nn.functional`` against recorded PyTorch results: value, gradients
and updated statistics, eager and compiled, in both precisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from references import LayerCase, layer_cases, layer_ops

import symgrad as sg
from symgrad.nn import functional as F

Array = np.ndarray[Any, Any]
CASES = [case for op in layer_ops() if hasattr(F, op) for case in layer_cases(op)]
TOLERANCE = {np.float64: 1e-11, np.float32: 1e-5}
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
IMPRECISE = {"hardsigmoid": 1e-7}  # torch multiplies by a float32 1/6


def label(case: LayerCase) -> str:
    return f"{case.op}-{case.name}"


def arguments(case: LayerCase, dtype: type) -> tuple[dict[str, Array], dict[str, Array]]:
    """The case's inputs in a precision: those with a gradient, and the others."""
    inputs = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in case.inputs.items()}
    learned = {name: inputs.pop(name) for name in case.gradients}
    return learned, inputs


def call(case: LayerCase, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Output and statistics, which norms update in place."""
    if case.op not in ("batch_norm", "instance_norm"):
        return getattr(F, case.op)(**inputs, **case.attrs), {}
    statistics: dict[str, Any] = {"running_mean": None, "running_var": None}
    statistics |= {k: v.copy() for k, v in inputs.items() if k in statistics}
    output = getattr(F, case.op)(**{**inputs, **statistics}, **case.attrs)
    return output, {k: v for k, v in statistics.items() if v is not None}


def assert_close(actual: Any, expected: Array, dtype: type, bound: float = 0) -> None:
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    bound = max(TOLERANCE[dtype], bound)
    scale = float(np.max(np.abs(expected), initial=1))
    np.testing.assert_allclose(actual, expected, rtol=bound, atol=bound * scale)


def test_all_functions_are_recorded() -> None:
    exempt = {"flatten", "unflatten", "one_hot"}  # reshapes, and integers
    exempt |= {name for name in F.__all__ if "dropout" in name}  # random: see test_dropout
    exempt |= {"gumbel_softmax"}  # random, too
    exempt |= {name for name in F.__all__ if name.endswith("_")}  # see test_in_place
    exempt |= {"multi_head_attention_forward"}  # see test_modules
    assert set(F.__all__) - exempt <= set(layer_ops())


@pytest.mark.parametrize("case", CASES, ids=label)
def test_eager(case: LayerCase) -> None:
    for dtype in TOLERANCE:
        learned, fixed = arguments(case, dtype)
        output, updated = call(case, learned | fixed)
        assert_close(np.asarray(output), case.output, dtype)
        for name, value in updated.items():
            assert_close(np.asarray(value), case.updated[name], dtype)


def loss_of(case: LayerCase, dtype: type) -> Callable[..., Any]:
    """``sum(cotangent * output)``, with output and statistics beside it."""
    cotangent = case.cotangent.astype(dtype)

    def loss(learned: dict[str, Any], fixed: dict[str, Any]) -> Any:
        output, updated = call(case, learned | fixed)
        return sg.numpy.sum(output * cotangent), (output, updated)

    return loss


@pytest.mark.parametrize("case", CASES, ids=label)
def test_compiled_with_gradients(case: LayerCase) -> None:
    for dtype in TOLERANCE:
        learned, fixed = arguments(case, dtype)
        step = sg.jit(sg.value_and_grad(loss_of(case, dtype), has_aux=True))
        (_, (output, updated)), gradients = step(learned, fixed)
        assert_close(output, case.output, dtype)
        for name, value in updated.items():
            assert_close(value, case.updated[name], dtype)
        for name, expected in case.gradients.items():
            assert_close(gradients[name], expected, dtype, IMPRECISE.get(case.op, 0))
