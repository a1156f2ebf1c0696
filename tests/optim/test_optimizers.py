"""Optimisers against recorded PyTorch: trajectories, texts, states, refusals."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from references import optim_cases, optim_loss, optim_start

import symgrad as torch
from symgrad import api_backend, optim

CASES = optim_cases("optimizers")
TOLERANCE = {"rtol": 3e-5, "atol": 3e-6}


def label(case: dict[str, Any]) -> str:
    return f"{case['name']}-{case['options']}"


def made(case: dict[str, Any]) -> tuple[list[Any], Any]:
    params = [torch.tensor(x, requires_grad=True) for x in optim_start()]
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in case["options"].items()}
    return params, getattr(optim, case["name"])(params, **options)


def step(optimizer: Any, params: list[Any]) -> None:
    optimizer.zero_grad()
    optim_loss(*params).backward()
    optimizer.step()


@pytest.mark.parametrize("case", CASES, ids=label)
def test_trajectory_text_and_state(case: dict[str, Any]) -> None:
    params, optimizer = made(case)
    assert repr(optimizer) == case["repr"]
    for expected in case["steps"]:
        step(optimizer, params)
        for p, values in zip(params, expected, strict=True):
            np.testing.assert_allclose(p.tolist(), values, **TOLERANCE)
    state = optimizer.state_dict()
    assert list(state) == ["state", "param_groups"]
    groups = [{k: list(v) if isinstance(v, tuple) else v for k, v in g.items()}
              for g in state["param_groups"]]  # fmt: skip
    assert groups == case["state"]["param_groups"]
    assert {str(number) for number in state["state"]} == set(case["state"]["state"])
    for number, values in case["state"]["state"].items():
        own = state["state"][int(number)]
        assert own.keys() == values.keys()
        for name, value in values.items():
            np.testing.assert_allclose(own[name].tolist(), value, **TOLERANCE)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_a_state_of_torchs_is_gone_on_from(case: dict[str, Any]) -> None:
    """From torch's state after all steps but the last, one more gives torch's last."""
    params, optimizer = made(case)
    for _ in case["steps"][:-1]:
        step(optimizer, params)
    saved = copy.deepcopy(optimizer.state_dict())
    others, other = made(case)
    for new, old in zip(others, params, strict=True):
        new.data = old.detach().clone()
    other.load_state_dict(saved)
    step(other, others)
    for p, values in zip(others, case["steps"][-1], strict=True):
        np.testing.assert_allclose(p.tolist(), values, **TOLERANCE)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_rule_alone_does_the_same(case: dict[str, Any]) -> None:
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in case["options"].items()}
    rule = getattr(optim, case["name"])(**options)
    params = dict(zip("ab", optim_start(), strict=True))
    state = rule.init(params)
    gradient = torch.grad(lambda p: optim_loss(p["a"], p["b"]))
    update = torch.jit(lambda p, s: rule.apply(p, gradient(p), s))
    for expected in case["steps"]:
        params, state = update(params, state)
        for name, values in zip("ab", expected, strict=True):
            assert params[name].dtype == np.float32
            np.testing.assert_allclose(params[name], values, **TOLERANCE)


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "NAdam"])
def test_schedules_and_steps_cost_no_program(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.tensor([1.0, -2.0], requires_grad=True)
    options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    optimizer = getattr(optim, name)([w], lr=0.1, **options)
    schedule: Any = optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    if name != "NAdam":
        schedule = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 20)  # cycles momentum, too

    def once() -> None:
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()
        schedule.step()

    once()
    once()
    compiled: list[Any] = []
    monkeypatch.setattr(api_backend, "compile_func", lambda *args, **_: compiled.append(args))
    for _ in range(6):
        once()
    assert not compiled


def test_refusals() -> None:
    w = torch.ones(2, requires_grad=True)
    for make, kind, text in [
        (lambda: optim.SGD([], lr=0.1), ValueError, "optimizer got an empty parameter list"),
        (lambda: optim.SGD(w, lr=0.1), TypeError, "but got torch.FloatTensor"),
        (lambda: optim.SGD([3]), TypeError, "can only optimize Tensors, but one of the params"),
        (lambda: optim.SGD([w * 2]), ValueError, "can't optimize a non-leaf Tensor"),
        (lambda: optim.SGD([w], lr=-1.0), ValueError, r"Invalid learning rate: -1\.0"),
        (lambda: optim.SGD([w], nesterov=True), ValueError, "Nesterov momentum requires a mom"),
        (lambda: optim.Adam([w], betas=(1.0, 0.9)), ValueError, "beta parameter at index 0: 1"),
        (lambda: optim.Adam([w], eps=-1), ValueError, "Invalid epsilon value: -1"),
        (lambda: optim.Adadelta([w], rho=3), ValueError, "Invalid rho value: 3"),
        (lambda: optim.SGD([w], foo=3), TypeError, "got an unexpected keyword argument 'foo'"),
        (lambda: optim.SGD([w], differentiable=True), NotImplementedError, "differentiable"),
        (lambda: optim.SGD([{"params": [w]}, {"params": [w]}]), ValueError, "in more than one"),
        (lambda: optim.SGD([{"params": {w}}]), TypeError, "organized in ordered collections"),
        (lambda: optim.SGD([w]).load_state_dict({"state": {}, "param_groups": []}),
         ValueError, "a different number of parameter groups"),
        (lambda: optim.SGD([w]).load_state_dict(
            {"state": {}, "param_groups": [{"params": [0, 1]}]}), ValueError, "doesn't match"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=text):
            make()


def test_groups_have_options_of_their_own() -> None:
    a, b, c = (torch.ones(2, requires_grad=True) for _ in range(3))
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.1)
    optimizer.add_param_group({"params": [("c", c)], "momentum": 0.9})
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.5, 0.1]
    assert optimizer.param_groups[2]["param_names"] == ["c"]
    (a.sum() + b.sum() + c.sum()).backward()
    optimizer.step()
    np.testing.assert_allclose([a.tolist()[0], b.tolist()[0], c.tolist()[0]], [0.9, 0.5, 0.9])
    assert isinstance(optimizer, optim.Optimizer) and isinstance(optimizer, optim.SGD)
    assert list(optimizer.state_dict()["state"]) == [2]


def test_closures_and_hooks() -> None:
    w = torch.tensor([2.0], requires_grad=True)
    optimizer, seen = optim.SGD([w], lr=0.25), []
    undo = optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("after"))

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 4
    undo()
    optimizer.step(closure)
    assert w.item() == 0.5 and seen == ["before", "after", "after"]
