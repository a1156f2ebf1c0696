"""Loops whose points the threads share: against the interpreter, whatever the number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import compile_func
from symgrad.codegen.kernels.repeat import RepeatSpec
from symgrad.codegen.lower import lower
from symgrad.ir import Func, interpret, parse
from symgrad.ir.passes import optimize

TEXT = """
func @f(%x: {t}[{n}], %y: {t}[{n}], %m: bool[{n}], %c: {t}[{l}], %z: {t}[{l},{n}]) -> ({results}) {{
  {names} = scan %x, %y, %m, %c, %z {{consts=1, carries=2, length={l}, reverse={reverse}}} {{
    (%a: {t}[{n}], %b: {t}[{n}], %m: bool[{n}], %d: {t}[], %e: {t}[{n}]):
    %0: {t}[{n}] = broadcast_to %d {{shape=({n},), axes=()}}
    %1: {t}[{n}] = mul %b, %0
    %2: {t}[{n}] = add %1, %a
    %3: {t}[{n}] = add %2, %e
    %4: {t}[{n}] = sin %3
    %5: {t}[{n}] = select %m, %4, %e
    %6: bool[{n}] = lt %5, %a
    %7: {t}[{n}] = mul %5, %e
    yield %5, %6, %7
  }}
  return {returned}
}}
"""


def program(dtype: str, points: int, length: int, *, reverse: bool, kept: bool) -> Func:
    array = f"{dtype}[{points}]"
    types = [array, f"bool[{points}]", f"{dtype}[{length},{points}]"]
    types += [f"{dtype}[{length},{points}]", f"bool[{length},{points}]"]
    names = ", ".join(f"%r{i}: {t}" for i, t in enumerate(types))
    count = 5 if kept else 3
    return parse(
        TEXT.format(
            t=dtype, n=points, l=length, reverse=reverse, names=names,
            results=", ".join(types[:count]), returned=", ".join(f"%r{i}" for i in range(count)),
        )
    )  # fmt: skip


def inputs(func: Func) -> list[Any]:
    rng = np.random.default_rng(1)
    return [
        rng.random(p.shape) < 0.5 if p.type.dtype.kind == "b"
        else rng.normal(size=p.shape).astype(p.type.dtype.numpy)
        for p in func.params
    ]  # fmt: skip


def loop_of(func: Func, threads: int) -> Any:
    calls = lower(optimize(func), threads=threads).calls
    return next(call for call in calls if isinstance(call.phase.spec, RepeatSpec))


@pytest.fixture
def always_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symgrad.codegen.lowering.scope.SERIAL_BELOW", 0.0)


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("points", [16, 63, 64, 201, 1000])
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("kept", [False, True])
def test_points_are_shared(points: int, threads: int, kept: bool) -> None:
    for dtype, length, reverse in (("f64", 5, False), ("f32", 4, True), ("f16", 1, False)):
        func = program(dtype, points, length, reverse=reverse, kept=kept)
        call = loop_of(func, threads)
        assert call.phase.spec.shared is not None
        assert call.parallel == (threads > 1)
        args = inputs(func)
        executable = compile_func(optimize(func), threads=threads)
        rtol = {"f64": 1e-13, "f32": 1e-5, "f16": 1e-2}[dtype]
        for _ in range(3):  # nothing of a run is left over
            for got, expected in zip(executable(args), interpret(func, args), strict=True):
                np.testing.assert_allclose(
                    np.asarray(got, "f8"), np.asarray(expected, "f8"), rtol=rtol, atol=rtol
                )


@pytest.mark.usefixtures("always_parallel")
def test_no_steps() -> None:
    func = program("f64", 130, 0, reverse=False, kept=True)
    args = inputs(func)
    found = compile_func(optimize(func), threads=3)(args)
    np.testing.assert_array_equal(found[0], args[1])
    np.testing.assert_array_equal(found[1], args[2])


MIXED = """
func @f(%x: f64[64]) -> (f64[64]) {{
  %0: f64[64], %1: f64[7,64] = scan %x {{consts=0, carries=1, length=7, reverse=False}} {{
    (%a: f64[64]):
    {step}
    yield %2
  }}
  return %0
}}
"""


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize(
    "step",
    [
        "%0: f64[64] = reverse %a {axes=(0,)}\n    %1: f64[64] = sin %0\n"
        "    %2: f64[64] = add %1, %a",
        "%0: f64[] = reduce_max %a {axes=(0,)}\n"
        "    %1: f64[64] = broadcast_to %0 {shape=(64,), axes=()}\n    %2: f64[64] = sin %1",
    ],
)
def test_a_body_that_mixes_points_runs_on_one_thread(step: str) -> None:
    func = parse(MIXED.format(step=step))
    call = loop_of(func, 3)
    assert call.phase.spec.shared is None
    assert not call.parallel
    args = inputs(func)
    (got,) = compile_func(optimize(func), threads=3)(args)
    np.testing.assert_allclose(got, interpret(func, args)[0], rtol=1e-12, atol=1e-12)
