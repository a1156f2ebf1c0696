"""Learning-rate schedules against recorded PyTorch, from the start and resumed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from references import MEASURES, optim_cases

import symgrad as torch
from symgrad import optim
from symgrad.optim import lr_scheduler, swa_utils

CASES = optim_cases("schedules")


def made(expression: str) -> tuple[Any, Any]:
    params = [torch.ones(1, requires_grad=True) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.5}]
    optimizer = optim.SGD(groups, lr=0.3, momentum=0.9)
    return optimizer, eval(expression, {"S": lr_scheduler, "W": swa_utils, "o": optimizer})


def follow(case: dict[str, Any], optimizer: Any, scheduler: Any, epochs: range) -> None:
    for epoch in epochs:
        rates = [g["lr"] for g in optimizer.param_groups]
        np.testing.assert_allclose(rates, case["rates"][epoch], rtol=1e-12, atol=1e-15)
        momenta = [g["momentum"] for g in optimizer.param_groups]
        np.testing.assert_allclose(momenta, case["momenta"][epoch], rtol=1e-12)
        scheduler.step(*([MEASURES[epoch]] if "Plateau" in case["expression"] else []))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["expression"])
def test_rates(case: dict[str, Any]) -> None:
    optimizer, scheduler = made(case["expression"])
    follow(case, optimizer, scheduler, range(len(MEASURES)))
    np.testing.assert_allclose(scheduler.get_last_lr(), case["last"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["expression"])
def test_resumed(case: dict[str, Any]) -> None:
    optimizer, scheduler = made(case["expression"])
    follow(case, optimizer, scheduler, range(6))
    other, resumed = made(case["expression"])
    state = scheduler.state_dict()
    if "MultiStep" not in case["expression"]:  # a Counter has numbers for keys
        state = json.loads(json.dumps(state))
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(state)
    follow(case, other, resumed, range(6, len(MEASURES)))


def test_all_schedules_are_recorded() -> None:
    text = " ".join(case["expression"] for case in CASES)
    assert {n for n in lr_scheduler.__all__ if f"S.{n}(" not in text} == {"LRScheduler"}
