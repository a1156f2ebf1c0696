"""Record optimisers and schedules with PyTorch: ``python tests/record/optim_cases.py``.

An optimiser's case is its name and options: kept are the parameters after each of
``references.OPTIM_STEPS`` steps along the gradient of ``references.optim_loss``, its text and
its state.  A schedule's case is an expression of ``o``, the optimiser, and ``S``, the module
of schedules: kept are the learning rates and momenta of the first epochs.  All of it is in
``tests/data/optim_cases.json``.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.optim import lr_scheduler, swa_utils

sys.path.insert(0, str(Path(__file__).parents[1]))
import references as R

ADAM = [{}, {"lr": 0.1, "weight_decay": 0.1}, {"betas": (0.5, 0.9), "eps": 1e-3},
        {"maximize": True, "lr": 0.05}]  # fmt: skip
CASES: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}, {"momentum": 0.9, "nesterov": True},
            {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
            {"lr": 0.05, "maximize": True}],
    "Adam": [*ADAM, {"amsgrad": True, "lr": 0.3}],
    "AdamW": [*ADAM, {"amsgrad": True, "lr": 0.3}],
    "Adamax": ADAM,
    "NAdam": [*ADAM, {"decoupled_weight_decay": True, "weight_decay": 0.1, "lr": 0.1},
              {"momentum_decay": 0.1}],
    "RAdam": [*ADAM, {"decoupled_weight_decay": True, "weight_decay": 0.1, "lr": 0.1}],
    "RMSprop": [{}, {"lr": 0.1, "alpha": 0.9, "weight_decay": 0.1},
                {"momentum": 0.9, "centered": True}, {"maximize": True}],
    "Adagrad": [{}, {"lr": 0.1, "lr_decay": 0.5, "initial_accumulator_value": 0.3},
                {"weight_decay": 0.1, "maximize": True}],
    "Adadelta": [{}, {"lr": 0.5, "rho": 0.5, "weight_decay": 0.1}, {"maximize": True}],
    "Rprop": [{}, {"lr": 0.05, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.06)},
              {"maximize": True}],
    "ASGD": [{}, {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 2, "weight_decay": 0.1},
             {"maximize": True}],
}  # fmt: skip
LBFGS: list[dict[str, Any]] = [
    {"max_iter": 4}, {"lr": 0.1, "history_size": 2, "max_iter": 6}, {"max_eval": 3},
    {"line_search_fn": "strong_wolfe", "max_iter": 5},
    {"line_search_fn": "strong_wolfe", "lr": 40.0, "max_iter": 2},
    {"line_search_fn": "strong_wolfe", "history_size": 3},
]  # fmt: skip
SCHEDULES = [
    "W.SWALR(o, 0.05)", "W.SWALR(o, [0.7, 0.1], 4, 'linear')", "W.SWALR(o, 0.2, 0)",
    "S.LambdaLR(o, lambda e: 0.9 ** e)", "S.LambdaLR(o, [lambda e: 1 / (1 + e), lambda e: 2.0])",
    "S.MultiplicativeLR(o, lambda e: 0.8)", "S.StepLR(o, 3)", "S.StepLR(o, 2, gamma=0.5)",
    "S.MultiStepLR(o, [2, 5, 5, 7], 0.3)", "S.ConstantLR(o)", "S.ConstantLR(o, 0.5, 3)",
    "S.LinearLR(o)", "S.LinearLR(o, 1.0, 0.1, 8)", "S.ExponentialLR(o, 0.7)",
    "S.CosineAnnealingLR(o, 5)", "S.CosineAnnealingLR(o, 4, eta_min=0.01)",
    "S.CosineAnnealingWarmRestarts(o, 3)", "S.CosineAnnealingWarmRestarts(o, 2, 2, 0.01)",
    "S.OneCycleLR(o, 1.0, 14)", "S.OneCycleLR(o, [1.0, 2.0], epochs=4, steps_per_epoch=4)",
    "S.OneCycleLR(o, 0.5, 15, three_phase=True, anneal_strategy='linear')",
    "S.CyclicLR(o, 0.1, 1.0, 3)", "S.CyclicLR(o, 0.1, 1.0, 2, 3, mode='triangular2')",
    "S.CyclicLR(o, 0.1, 1.0, 4, mode='exp_range', gamma=0.9, cycle_momentum=False)",
    "S.PolynomialLR(o)", "S.PolynomialLR(o, 8, 2.0)",
    "S.SequentialLR(o, [S.ConstantLR(o, 0.1, 3), S.ExponentialLR(o, 0.9)], [3])",
    "S.SequentialLR(o, [S.LinearLR(o, 0.5, total_iters=4), S.CosineAnnealingLR(o, 6)], [4])",
    "S.SequentialLR(o, [S.StepLR(o, 2), S.StepLR(o, 1), S.ConstantLR(o)], [3, 5])",
    "S.ChainedScheduler([S.ConstantLR(o, 0.1, 3), S.ExponentialLR(o, 0.9)])",
    "S.ReduceLROnPlateau(o, patience=1)", "S.ReduceLROnPlateau(o, 'max', 0.5, 0, cooldown=2)",
    "S.ReduceLROnPlateau(o, factor=0.2, patience=0, threshold=0.4, threshold_mode='abs', "
    "min_lr=[0.05, 0.1])",
]  # fmt: skip


def trajectory(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The case of an optimiser."""
    params = [torch.tensor(x, requires_grad=True) for x in R.optim_start()]
    optimizer = getattr(torch.optim, name)(params, **options)
    steps = []
    for _ in range(R.OPTIM_STEPS):
        optimizer.zero_grad()
        R.optim_loss(*params).backward()
        optimizer.step()
        steps.append([p.tolist() for p in params])
    state = optimizer.state_dict()
    state["state"] = {
        i: {k: v.tolist() for k, v in values.items()} for i, values in state["state"].items()
    }
    return {"name": name, "options": options, "steps": steps, "repr": repr(optimizer),
            "state": state}  # fmt: skip


def descent(options: dict[str, Any]) -> dict[str, Any]:
    """The case of an L-BFGS: a few steps in float64, with how often the loss was asked for."""
    params = [torch.tensor(x.astype(float), requires_grad=True) for x in R.optim_start()]
    optimizer = torch.optim.LBFGS(params, **options)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = R.optim_loss(*params)
        loss.backward()
        return loss

    steps = []
    for _ in range(3):
        loss = optimizer.step(closure).item()
        state = optimizer.state[params[0]]
        counts = [state["func_evals"], state["n_iter"]]
        steps.append({"loss": loss, "params": [p.tolist() for p in params], "counts": counts})
    return {"options": options, "steps": steps, "repr": repr(optimizer), "state": sorted(state)}


def schedule(expression: str) -> dict[str, Any]:
    """The case of a schedule."""
    params = [torch.ones(1, requires_grad=True) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.5}]
    o = torch.optim.SGD(groups, lr=0.3, momentum=0.9)
    scheduler = eval(expression, {"S": lr_scheduler, "W": swa_utils, "o": o})
    rates, momenta = [], []
    for epoch in range(R.SCHEDULE_EPOCHS):
        rates.append([g["lr"] for g in o.param_groups])
        momenta.append([g["momentum"] for g in o.param_groups])
        o.step()
        measured = (R.MEASURES[epoch],) if "Plateau" in expression else ()
        scheduler.step(*measured)
    last = scheduler.get_last_lr()
    return {"expression": expression, "rates": rates, "momenta": momenta, "last": last}


def main() -> None:
    warnings.simplefilter("ignore")
    record = {
        "optimizers": [trajectory(n, o) for n, options in CASES.items() for o in options],
        "descents": [descent(options) for options in LBFGS],
        "schedules": [schedule(expression) for expression in SCHEDULES],
    }
    path = R.DATA / "optim_cases.json"
    path.write_text(json.dumps(record))
    print(f"{path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
