"""The benchmark's machinery, without timing anything: turns, ratios, agreement."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def test_worker_answers_each_request() -> None:
    options = {"chain": "gelu", "dtype": "f32", "size": 17}
    job = {"side": "numpy", "kind": "chain", "options": options, "threads": 1}
    found = subprocess.run(
        [sys.executable, FOLDER / "worker.py", json.dumps(job)],
        input="0.001\n0.001\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, *rounds = map(json.loads, found.stdout.splitlines())
    import cases

    expected = np.linalg.norm(cases.gelu(*cases.chain_inputs("f32", 17)))
    assert first["value"] == pytest.approx(expected)
    assert first["version"] == f"NumPy {np.__version__}"
    assert len(rounds) == 2
    assert all(len(r["samples"]) >= 3 and r["peak_memory"] > 1 << 20 for r in rounds)


def test_ratio_and_agreement() -> None:
    from results import Result, disagreement, ratio

    ours = Result("c", "symgrad", [1.0, 2.0, 4.0], 1.0, {"value": 2.0})
    other = Result("c", "torch", [3.0, 4.0, 12.0], 2.5, {"value": 2.001})
    assert ratio(ours, other) == 3
    assert ratio(ours, other, least=True) == 2.5
    assert ratio(ours, Result("c", "torch")) is None
    assert not disagreement(ours, other)
    assert disagreement(ours, Result("c", "torch", first={"value": 2.01}))
    assert disagreement(ours, Result("c", "torch", first={"value": float("nan")}))


def test_resnet18_inputs_have_torchvision_names() -> None:
    from cases import CASES, weight
    from references import resnet18_shapes

    assert len({case.name for case in CASES}) == len(CASES)
    for name, shape in resnet18_shapes(1000):
        array = weight(name, shape)
        assert array.dtype == np.float32
        assert array.shape == shape


SMALL = {"n": 30, "size": 64, "batch": 1, "length": 9, "width": 24}


def test_every_case_runs_on_our_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a case is built of still exists; on small inputs, and without a peer."""
    import cases
    import on_symgrad

    monkeypatch.setattr(cases, "uniform", _shrunk(cases.uniform))
    kinds = {case.kind: dict(case.options) for case in cases.CASES if case.measure != "import"}
    for kind, options in kinds.items():
        small = {k: SMALL.get(k, v) for k, v in options.items()}
        if kind == "chain":
            small = options | {"size": 100}
        value = on_symgrad.value(getattr(on_symgrad, kind)(**small)())
        assert np.isfinite(value), kind


def _shrunk(uniform: Callable[..., Any]) -> Callable[..., Any]:
    """As ``uniform``, with at most a thousand options."""

    def small(key: str, shape: tuple[int, ...], *rest: Any) -> Any:
        return uniform(key, (1000,) if shape == (1_000_000,) else shape, *rest)

    return small
