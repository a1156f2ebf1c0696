"""L-BFGS against recorded PyTorch: parameters, losses and how often the closure was called."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from references import optim_cases, optim_loss, optim_start

import symgrad as torch
from symgrad import optim

CASES = optim_cases("descents")


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMGRAD_BACKEND", "interp")


def made(options: dict[str, Any]) -> tuple[list[Any], Any, Any]:
    """Parameters, the optimiser, and its closure."""
    params = [torch.tensor(x.astype(float), requires_grad=True) for x in optim_start()]
    optimizer = optim.LBFGS(params, **options)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = optim_loss(*params)
        loss.backward()
        return loss

    return params, optimizer, closure


def check(params: list[Any], optimizer: Any, loss: Any, expected: dict[str, Any]) -> None:
    np.testing.assert_allclose(loss.item(), expected["loss"], 1e-9, 1e-12)
    for p, values in zip(params, expected["params"], strict=True):
        np.testing.assert_allclose(p.tolist(), values, 1e-7, 1e-9)
    state = optimizer.state[params[0]]
    assert [state["func_evals"], state["n_iter"]] == expected["counts"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["options"]))
def test_steps_are_torchs(case: dict[str, Any]) -> None:
    params, optimizer, closure = made(case["options"])
    assert repr(optimizer) == case["repr"]
    for expected in case["steps"]:
        check(params, optimizer, optimizer.step(closure), expected)


def test_goes_on_from_a_saved_state() -> None:
    case = CASES[0]
    params, optimizer, closure = made(case["options"])
    optimizer.step(closure)
    others, other, closure = made(case["options"])
    for new, old in zip(others, params, strict=True):
        new.data = old.detach().clone()
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    check(others, other, other.step(closure), case["steps"][1])


def test_a_search_ends_where_wolfes_conditions_hold() -> None:
    from symgrad.optim.lbfgs import CURVATURE, SUFFICIENT, _Point, strong_wolfe

    for wave in (0.0, 0.3, 3.0):
        for t in (1e-3, 0.1, 1.0, 30.0):

            def point(t: float, wave: float = wave) -> _Point:
                loss = (t - 2) ** 2 + wave * math.sin(5 * t)
                slope = 2 * (t - 2) + 5 * wave * math.cos(5 * t)
                return _Point(t, loss, np.array([slope]), slope)

            start = point(0.0)
            if start.slope >= 0:
                continue
            found = strong_wolfe(point, start, t, 1.0, 25)
            assert found.loss <= start.loss + SUFFICIENT * found.t * start.slope
            assert abs(found.slope) <= -CURVATURE * start.slope


def test_refusals() -> None:
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    with pytest.raises(ValueError, match=r"LBFGS doesn't support per-parameter options \(param"):
        optim.LBFGS([{"params": [a]}, {"params": [b]}])
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        optim.LBFGS([a], lr=-1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'closure'"):
        optim.LBFGS([a]).step()
    _, optimizer, closure = made({"line_search_fn": "armijo"})
    with pytest.raises(RuntimeError, match="only 'strong_wolfe' is supported"):
        optimizer.step(closure)
