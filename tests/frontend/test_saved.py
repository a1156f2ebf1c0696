"""Compiled functions in files: another process runs them without tracing or compiling."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from symgrad.codegen import archive, jit, programs
from symgrad.codegen.runtime.resident import Resident
from symgrad.codegen.target import Target
from symgrad.ir.errors import UsageError

import symgrad as sg
from symgrad import nn
from symgrad.tensors.recorded import contents_of
from symgrad.tracing import emit

ROOM = np.random.default_rng(6).standard_normal


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "f.sgc"


def reloaded(function: Any, file: Path) -> Any:
    function.save(file)
    return sg.load_compiled(file)


def test_signatures_containers_constants_and_static_arguments(file: Path) -> None:
    def f(x: Any, power: int, *, more: Any = None) -> Any:
        y = x["a"][0] ** power + x["b"]
        return {"y": y if more is None else y + more, "power": power, "rest": (None, [y.sum()])}

    compiled = sg.jit(f, static_argnums=1)
    a, b = ROOM((3, 4)), ROOM(4)
    calls: list[Any] = [
        (({"a": [a], "b": b}, 2), {}),
        (({"a": [a], "b": b}, 3), {}),
        (({"a": [a.astype(np.float32)], "b": 1.5}, 2), {}),
        (({"a": [a], "b": b}, 2), {"more": b}),
    ]
    expected = [compiled(*args, **kwargs) for args, kwargs in calls]
    loaded = reloaded(compiled, file)
    assert repr(loaded) == "<symgrad function f, loaded>"
    for (args, kwargs), wanted in zip(calls, expected, strict=True):
        got = loaded(*args, **kwargs)
        np.testing.assert_array_equal(got["y"], wanted["y"], strict=True)
        np.testing.assert_array_equal(got["rest"][1][0], wanted["rest"][1][0])
        assert got["power"] == wanted["power"] and got["rest"][0] is None
    for args in (({"a": [a], "b": b}, 4), ({"a": a, "b": b}, 2), ({"a": [a], "b": a}, 2)):
        with pytest.raises(UsageError, match=r"f was saved for \(f64\[3,4\], f64\[4\]; .*\), but"):
            loaded(*args)


def test_flat_arguments_and_single_results(file: Path) -> None:
    f = sg.value_and_grad(lambda x: np.sum(np.sin(x) ** 2))
    x = ROOM(7)
    value, slope = f(x)
    loaded = reloaded(f, file)
    got = loaded(x)
    assert got[0] == value
    np.testing.assert_array_equal(got[1], slope)
    g = reloaded(sg_called(sg.jit(lambda x, n: x * n), x, 3), file)
    np.testing.assert_array_equal(g(x, 3), x * 3)


def sg_called(function: Any, *args: Any) -> Any:
    function(*args)
    return function


def test_transforms_and_other_traces_pass_through(file: Path) -> None:
    f = sg.jit(lambda x, w: np.sum(np.tanh(x * w)))
    x, w = ROOM(5), ROOM(5)
    f(x, w)
    loaded = reloaded(f, file)
    np.testing.assert_allclose(sg.grad(loaded)(x, w), sg.grad(f)(x, w), rtol=1e-14)
    np.testing.assert_allclose(sg.hessian(loaded)(x, w), sg.hessian(f)(x, w), rtol=1e-12)
    with pytest.raises(UsageError, match="was saved for"):
        sg.grad(loaded)(ROOM(6), ROOM(6))


def test_captures_are_saved_as_they_are(file: Path) -> None:
    w, scale = ROOM(40), np.float32(3)
    f = sg.jit(lambda x: x * w * scale)
    x = ROOM(40)
    expected = f(x)
    loaded = reloaded(f, file)
    w[:] = 0
    np.testing.assert_array_equal(loaded(x), expected)
    assert not f(x).any()


def test_models_and_steps_on_tensors(file: Path) -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Tanh(), nn.Flatten())
    infer, x = sg.jit(model), sg.tensor(ROOM((1, 16, 6, 6)).astype(np.float32))
    with sg.no_grad():
        wanted = infer(x)
        loaded = reloaded(infer, file)
        np.testing.assert_array_equal(loaded(x).numpy(), wanted.numpy())
    weight = next(c for c in next(iter(loaded._programs.values()))._captured if c.ndim == 4)
    assert isinstance(contents_of(weight._value()), Resident)
    y = sg.tensor(x.numpy(), requires_grad=True)
    z = sg.tensor(x.numpy(), requires_grad=True)
    (loaded(y) ** 2).sum().backward()
    (model(z) ** 2).sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), z.grad.numpy(), rtol=1e-3, atol=1e-5)

    step = sg.jit(lambda s, x: (s["w"] + x, {"w": s["w"] * 2.0}), donate_argnums=0)
    step({"w": sg.ones(9)}, sg.ones(9))
    loaded = reloaded(step, file)
    state = {"w": sg.ones(9)}
    first, after = loaded(state, sg.ones(9))
    assert first.tolist() == after["w"].tolist() == [2.0] * 9
    with pytest.raises(UsageError, match="was donated"):
        state["w"].tolist()


def test_another_process_needs_no_compiler(file: Path) -> None:
    f = sg.jit(lambda x: np.exp(x).sum(axis=0) * 2)
    x = np.linspace(0, 1, 12).reshape(3, 4)
    expected = f(x)
    f.save(file)
    code = f"""
import numpy as np, symgrad as sg
import symgrad.codegen.lowering.scope as scope
scope.Scope.lower = None
f = sg.load_compiled({str(file)!r})
print(f(np.linspace(0, 1, 12).reshape(3, 4)).tolist())
"""
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"SYMGRAD_CACHE_DIR": "off"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    np.testing.assert_array_equal(json.loads(found.stdout), expected)


@pytest.mark.parametrize("cache", ["off", None])
def test_saving_does_not_depend_on_the_cache(
    cache: str | None, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", cache or str(tmp_path / "cache"))
    f = sg_called(sg.jit(lambda x: np.cos(x) + 0.125), ROOM(33))
    loaded = reloaded(f, file)
    np.testing.assert_array_equal(loaded(np.ones(33)), f(np.ones(33)))


def test_what_cannot_be_saved_or_loaded_says_so(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = sg.jit(lambda x: x + 1)
    with pytest.raises(UsageError, match="not compiled for any arguments"):
        f.save(file)
    f.compile(np.ones(3))
    f.save(file)
    solve = sg_called(sg.jit(lambda x: emit("pinv", x, rtol=1e-15)), np.eye(2))
    with pytest.raises(UsageError, match="calls back into Python"):
        solve.save(file.with_name("g"))
    named = sg_called(sg.jit(lambda x, t: x + 1, static_argnums=1), np.ones(2), frozenset())
    with pytest.raises(UsageError, match="static argument"):
        named.save(file.with_name("g"))

    blob = file.read_bytes()
    file.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(UsageError, match="is damaged"):
        sg.load_compiled(file)
    file.write_bytes(b"PK" + blob)
    with pytest.raises(UsageError, match="no compiled function"):
        sg.load_compiled(file)
    file.write_bytes(blob)
    with monkeypatch.context() as patch:
        patch.setattr(programs, "compiler", lambda: "another")
        with pytest.raises(UsageError, match=r"f.sgc: .*another version of symgrad"):
            sg.load_compiled(file)
    with monkeypatch.context() as patch:
        patch.setattr(archive.Target, "host", lambda: Target.named("avx2"))
        with pytest.raises(UsageError, match=r"was compiled for Target\(.*and this machine is"):
            sg.load_compiled(file)
    assert jit.stored_objects([]) == {}
    np.testing.assert_array_equal(sg.load_compiled(file)(np.ones(3)), np.full(3, 2.0))
