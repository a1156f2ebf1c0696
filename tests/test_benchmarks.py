"""The benchmark's machinery, without timing anything: turns, ratios, agreement."""

from __future__ import annotations

import ast
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
    assert first["norms"] == pytest.approx([expected])
    assert first["version"] == f"NumPy {np.__version__}"
    assert len(rounds) == 2
    assert all(len(r["samples"]) >= 3 and r["peak_memory"] > 1 << 20 for r in rounds)


def test_ratio_and_agreement() -> None:
    from results import Result, disagreement, ratio

    ours = Result("c", "symgrad", [1.0, 2.0, 4.0], 1.0, {"norms": [7.0, 2.0]})
    other = Result("c", "torch", [3.0, 4.0, 12.0], 2.5, {"norms": [7.0, 2.001]})
    assert ratio(ours, other) == 3
    assert ratio(ours, other, least=True) == 2.5
    assert ratio(ours, Result("c", "torch")) is None
    assert not disagreement(ours, other)
    for norms in ([7.0, 2.01], [7.0, float("nan")], [7.0]):
        assert disagreement(ours, Result("c", "torch", first={"norms": norms}))


def test_goals_are_judged_against_the_side_they_name() -> None:
    from goals import AtLeast, AtMost, Verdict, verdicts
    from results import Result

    least = {"symgrad": 1.0, "torch": 3.0, "torch compile": 2.5, "jax": 2.0}
    results = [Result("c", side, [9.0], value) for side, value in least.items()]
    results[0].first["warm_start"] = 0.5
    goals = (
        AtLeast(2.5), AtLeast(3, "jax"), AtLeast(1, "numba"), AtMost(0.9), AtMost(0.5, warm=True),
    )  # fmt: skip
    assert verdicts(goals, results, "start") == [
        Verdict("torch compile", "≥ 2.5×", met=True),
        Verdict("jax", "≥ 3×", met=False),
        Verdict("symgrad", "≤ 900 ms", met=False),
        Verdict("symgrad", "≤ 500 ms again", met=True),
    ]
    assert verdicts((AtMost(0.1, "jax"),), results, "import")[0].met
    assert verdicts(goals, [Result("c", "symgrad", error="no"), *results[1:]], "start") == []


def test_every_side_has_its_part_of_every_case() -> None:
    """The peers need not be there to see that their files define what the cases ask for."""
    import cases

    defined: dict[str, set[str]] = {}
    for case in cases.CASES:
        for library in {side.split()[0] for side in case.sides if case.measure != "import"}:
            if library not in defined:
                tree = ast.parse((FOLDER / f"on_{library}.py").read_text())
                names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
                aliases = (node.targets for node in tree.body if isinstance(node, ast.Assign))
                defined[library] = names | {ast.unparse(t) for targets in aliases for t in targets}
            assert case.kind in defined[library], (case.name, library)
            assert {"version", "set_up", "arrays"} <= defined[library]


def test_sides_that_are_missing_are_named() -> None:
    from argparse import Namespace

    from compare import missing_sides

    sides = {"symgrad", "symgrad 1 thread", "numpy", "numpy compile", "nowhere 1"}
    found = missing_sides(sides, Namespace(peers_python=sys.executable, quick=True))
    assert found.keys() == {"numpy compile", "nowhere 1"}
    assert found["nowhere 1"] == "nowhere is not installed"


def test_resnet18_inputs_have_torchvision_names() -> None:
    from cases import CASES, weight
    from references import resnet18_shapes

    assert len({case.name for case in CASES}) == len(CASES)
    for name, shape in resnet18_shapes(1000):
        array = weight(name, shape)
        assert array.dtype == np.float32
        assert array.shape == shape


SMALL = {
    "n": 30, "size": 64, "batch": 1, "length": 9, "width": 24, "a": (5, 7), "b": (7, 3), "d": 3,
    "k": 4, "channels": 16, "cameras": 2, "points": 5, "observations": 9, "layers": 1,
}  # fmt: skip


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
        found = on_symgrad.arrays(getattr(on_symgrad, kind)(**small)())
        assert found and all(np.isfinite(array).all() for array in found), kind


def _shrunk(uniform: Callable[..., Any]) -> Callable[..., Any]:
    """As ``uniform``, with at most a thousand options."""

    def small(key: str, shape: tuple[int, ...], *rest: Any) -> Any:
        return uniform(key, (1000,) if shape == (1_000_000,) else shape, *rest)

    return small
