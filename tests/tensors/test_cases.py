"""The table of expressions (``expressions.py``) against what PyTorch gave for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad.tensors import NAMES, record

sys.path.insert(0, str(Path(__file__).parent))
import expressions as cases

with np.load(Path(__file__).parents[1] / "data" / "tensor_cases.npz") as _file:
    NUMBERS = _file["numbers"].astype(np.float64)
    RECORDED: dict[str, Any] = json.loads(_file["index"].tobytes())

RAISING = [case for case in RECORDED if case.startswith("!")]
VALUES = [case for case in RECORDED if not case.startswith("!")]
SAMPLE = 8
"""One case of so many also runs compiled."""
TOLERANCE = {"bfloat16": 5e-2, "float16": 2e-2, "float32": 2e-4}


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Hundreds of little programs: most are interpreted, which other tests compare with code."""
    if "compiled" not in request.node.name:
        monkeypatch.setenv("SYMGRAD_BACKEND", "interp")
    record.PROGRAMS.forget()


def _evaluate(case: str, dtype: str) -> tuple[dict[str, Any], list[Any]]:
    torch.manual_seed(0)
    names = cases.tensors(torch, dtype)
    return names, cases.flat(torch, eval(case, {"torch": torch, **names}))


def _numbers(start: int, shape: Any) -> Any:
    size = int(np.prod(shape))
    return NUMBERS[start : start + size].reshape(shape)


def _array(tensor: Any) -> Any:
    return np.asarray(tensor.detach().tolist(), np.float64).reshape(tuple(tensor.shape))


def _close(actual: Any, expected: Any, what: str, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance, err_msg=what)


def _weighted(parts: Any) -> Any:
    terms = [
        (t.double() * torch.from_numpy(cases.weights(tuple(t.shape), i))).sum()
        for i, t in enumerate(parts)
        if isinstance(t, torch.Tensor) and t.requires_grad
    ]
    return sum(terms[1:], terms[0]) if terms else None


def _check_gradients(case: str, names: dict[str, Any], parts: Any, orders: Any) -> None:
    total = _weighted(parts)
    for order, recorded in enumerate(orders, 1):
        leaves = {n: t for n, t in names.items() if t.requires_grad}
        found = torch.autograd.grad(
            total, list(leaves.values()), create_graph=True, allow_unused=True
        )
        named = dict(zip(leaves, found, strict=True))
        for name, gradient in named.items():
            got = np.zeros(leaves[name].shape) if gradient is None else _array(gradient)
            start = recorded.get(name)
            wanted = 0 * got if start is None else _numbers(start, got.shape)
            _close(got, wanted, f"order {order} by {name}", 2e-6 * 10 ** (order - 1))
        total = _weighted(named[n] for n in recorded)
        if total is None:
            return


@pytest.mark.parametrize("case", VALUES)
def test_values_and_gradients(case: str) -> None:
    _check(case)


@pytest.mark.parametrize("case", VALUES[::SAMPLE])
def test_compiled(case: str) -> None:
    _check(case)


def _check(case: str) -> None:
    recorded = RECORDED[case]
    _evaluate(case, "float64")  # from now on it is recorded from templates and plans
    names, parts = _evaluate(case, "float64")
    assert len(parts) == len(recorded["results"])
    for part, line in zip(parts, recorded["results"], strict=True):
        if not isinstance(line, list):
            assert repr(part) == line
            continue
        dtype, shape, start, node = line
        assert part.dtype.name == dtype
        assert list(part.shape) == shape
        _close(_array(part), _numbers(start, shape), "values")
        assert (None if part.grad_fn is None else part.grad_fn.name()) == node
    _check_gradients(case, names, parts, recorded["gradients"])


TYPED = [case for case in VALUES if "float32" in RECORDED[case]]


@pytest.mark.parametrize("case", TYPED)
def test_types(case: str) -> None:
    for dtype in cases.PROFILES[1:]:
        if dtype not in RECORDED[case]:
            continue
        _, parts = _evaluate(case, dtype)
        for number, (part, line) in enumerate(zip(parts, RECORDED[case][dtype], strict=True)):
            if not isinstance(line, list):
                assert repr(part) == line
                continue
            name, shape, start, _ = line
            assert (part.dtype.name, list(part.shape)) == (name, shape), dtype
            got = cases.checksum(_array(part), number)
            _close(got, NUMBERS[start], dtype, TOLERANCE.get(dtype, 1e-4))


@pytest.mark.parametrize("case", RAISING)
def test_errors(case: str) -> None:
    name, text = RECORDED[case]["error"]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        _evaluate(case[1:], "float64")
    assert (type(caught.value).__name__, str(caught.value)) == (name, text)


EXEMPT_NAMES = set(
    """no_grad enable_grad inference_mode set_grad_enabled from_numpy from_dlpack
frombuffer dtype compile autocast use_deterministic_algorithms set_float32_matmul_precision
are_deterministic_algorithms_enabled get_float32_matmul_precision""".split()
)
EXEMPT_METHODS = set(
    "backward grad_fn of_array of_value register_post_accumulate_grad_hook set_ pin_memory".split()
)


def _used() -> tuple[set[str], set[str]]:
    functions: set[str] = set()
    methods: set[str] = set()
    for case in cases.CASES:
        more = cases.mentioned(case)
        functions |= more[0]
        methods |= more[1]
    return functions, methods


def test_every_name_has_a_case() -> None:
    functions, _ = _used()
    nested = {f"{m}.{n}" for m in ("special", "linalg") for n in vars(NAMES[m])}
    public = {n for n in NAMES if not n.startswith("_")} - {"special", "linalg"} | nested
    assert sorted(public - functions - EXEMPT_NAMES) == []


def test_every_method_has_a_case() -> None:
    functions, methods = _used()
    public = {n for n in dir(torch.Tensor) if not n.startswith("_")}
    assert sorted(public - methods - functions - EXEMPT_METHODS) == []
