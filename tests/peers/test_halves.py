"""Half types live against PyTorch: every expression of the table and every recorded layer.

An operation that is one operation of PyTorch's, too, gives the same number; where PyTorch
rounds in the middle, or we do not, results are as near as its own roundings are.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import optree
import pytest
from references import ModuleCase, module_cases, module_cotangent, module_values

import symgrad as sg
from symgrad.tensors import record

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")
sys.path.insert(0, str(Path(__file__).parents[1] / "tensors"))
import expressions as cases  # noqa: E402

HALVES = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Half types and the largest relative error of rounding to them."""
ROUGHLY = (
    "logit", "ndtr(", "trapz", "trapezoid", "log_softmax", "chain_matmul", "matrix_power",
    "index_add", "addmm", "addbmm",
)  # fmt: skip
"""Compositions that PyTorch rounds in the middle; errors are relative to the largest result."""
DEEP = ("Transformer",)
KINKED = "nn.TransformerDecoder("
"""Near a kink of relu: in float64, inputs changed by a part in 500 change gradients by three
quarters.  Compared in the finer type only."""
ROUGH_ULPS, DEEP_ULPS = 8, 40
NAMED = set(cases.SHAPES_OF)
EXPRESSIONS = [
    case
    for case in cases.CASES
    if not case.startswith("!") and NAMED & set(compile(case, "", "eval").co_names)
]


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of little programs; that compiled ones compute alike is tested elsewhere."""
    monkeypatch.setenv("SYMGRAD_BACKEND", "interp")
    record.PROGRAMS.forget()


def values(x: Any) -> Any:
    return np.asarray(x.detach().tolist(), np.float64).reshape(tuple(x.shape))


def close(actual: Any, expected: Any, bound: float, relative_to_all: float = 0.0) -> None:
    assert (str(actual.dtype), tuple(actual.shape)) == (str(expected.dtype), tuple(expected.shape))
    x, y = values(actual), values(expected)
    finite = np.where(np.isfinite(y), np.abs(y), 0)
    least = bound * relative_to_all * np.max(finite, initial=0)
    np.testing.assert_allclose(x, y, bound, max(least, 1e-30))


def evaluated(module: Any, case: str, dtype: str) -> tuple[list[Any], list[Any]]:
    module.manual_seed(0)
    given = {}
    for name, array in cases.inputs("float32").items():
        given[name] = module.tensor(array.tolist())
        if name in NAMED:
            given[name] = given[name].to(getattr(module, dtype)).requires_grad_()
    result = eval(case, {"torch": module, **given})
    return [t for t in given.values() if t.requires_grad], cases.flat(module, result)


def total(module: Any, parts: list[Any]) -> Any:
    weighted = [
        (t.double() * module.tensor(cases.weights(tuple(t.shape), i))).sum()
        for i, t in enumerate(parts)
        if isinstance(t, module.Tensor) and t.requires_grad
    ]
    return sum(weighted[1:], weighted[0]) if weighted else None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", HALVES)
def test_expressions(dtype: str) -> None:
    ulp, seen, same = 2 * HALVES[dtype], 0, 0
    for case in EXPRESSIONS:
        try:
            leaves, expected = evaluated(torch, case, dtype)
            peer = total(torch, expected)
            gradients = peer is not None and torch.autograd.grad(peer, leaves, allow_unused=True)
        except (RuntimeError, NotImplementedError, TypeError):
            continue
        own, parts = evaluated(sg, case, dtype)
        rough = case in cases.layer_expressions.CASES or any(name in case for name in ROUGHLY)
        bound, scale = (ROUGH_ULPS * ulp, 1.0) if rough else (ulp * 1.05, 0.0)
        for part, wanted in zip(parts, expected, strict=True):
            if not isinstance(wanted, torch.Tensor):
                assert repr(part) == repr(wanted), case
                continue
            try:
                close(part, wanted, bound, scale)
            except AssertionError as error:
                raise AssertionError(f"{case}: {error}") from None
            seen += 1
            same += np.array_equal(values(part), values(wanted), equal_nan=True)
        found = gradients and sg.autograd.grad(total(sg, parts), own, allow_unused=True)
        for gradient, wanted in zip(found or (), gradients or (), strict=True):
            if gradient is None or wanted is None or wanted.is_sparse:
                continue
            try:
                close(gradient, wanted, ROUGH_ULPS * ulp, 1.0)
            except (AssertionError, RuntimeError) as error:
                if "unallocated storage" not in str(error):  # PyTorch's zeros without memory
                    raise AssertionError(f"gradient of {case}: {error}") from None
    assert seen > 800
    assert same > 0.93 * seen


def trained(module: Any, case: ModuleCase, dtype: Any) -> dict[str, Any]:
    """Outputs, gradients and buffers of a layer after a backward pass."""
    layer = eval(case.expression, {"nn": module.nn, "OrderedDict": OrderedDict}).to(dtype)
    state, inputs = module_values(case.expression, case.state, case.shapes)

    def tensor(x: Any) -> Any:
        kind = dtype if x.dtype.kind == "f" else module.int64
        return module.tensor(x.tolist()).to(kind).reshape(x.shape)

    layer.load_state_dict({k: tensor(v) for k, v in state.items()})
    given = [tensor(x) for x in inputs]
    for x in given:
        x.requires_grad_(x.is_floating_point())
    made = layer(*given)
    outputs: list[Any] = optree.tree_leaves(made)
    parts = [(y * tensor(module_cotangent(tuple(y.shape)))).sum() for y in outputs]
    module.stack(parts).sum().backward()
    named = {
        **{f"output {i}": y for i, y in enumerate(outputs)},
        **{f"gradient of {k}": p.grad for k, p in layer.named_parameters()},
        **{f"buffer {k}": b for k, b in layer.named_buffers()},
        **{f"gradient of input {i}": x.grad for i, x in enumerate(given)},
    }
    return {k: v for k, v in named.items() if v is not None}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", HALVES)
def test_layers(dtype: str) -> None:
    for case in module_cases():
        if not case.shapes or (dtype == "bfloat16" and KINKED in case.expression):
            continue
        try:
            expected = trained(torch, case, getattr(torch, dtype))
        except NotImplementedError:  # PyTorch has no kernel for the type
            continue
        actual = trained(sg, case, getattr(sg, dtype))
        ulps = DEEP_ULPS if any(name in case.expression for name in DEEP) else ROUGH_ULPS
        for name, wanted in expected.items():
            try:
                close(actual[name], wanted, ulps * HALVES[dtype], 1.0)
            except AssertionError as error:
                raise AssertionError(f"{name} of {case.expression}: {error}") from None
