"""The examples run, and find what they look for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def example(path: Path) -> ModuleType:
    """The module in a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example(path).main()
    assert capsys.readouterr().out


def test_curve_fit_is_exact_without_noise() -> None:
    module = example(ROOT / "examples" / "curve_fit.py")
    truth, t = np.array([2.0, 0.3, 4.0, 0.5]), np.linspace(0, 8, 400)
    found, _ = module.fit(t, module.model(truth, t), np.array([1.5, 0.2, 3.8, 0.0]))
    np.testing.assert_allclose(found, truth, rtol=1e-9)


def test_newton_converges_quadratically() -> None:
    module = example(ROOT / "examples" / "logistic_regression.py")
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 4))
    _, norms = module.newton(x, (x[:, 0] > 0.3 * rng.standard_normal(300)).astype(float))
    assert norms[-1] < 1e-12
    assert norms[-2] < 1e-5
