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


SMALL = """
func @f(%x: {t}[{n}], %s: {t}[], %i: i64[], %m: bool[{n}], %c: {t}[2], %z: {t}[{l}]) -> ({results}) {{
  {names} = scan %c, %x, %s, %i, %m, %z {{consts=1, carries=4, length={l}, reverse={reverse}}} {{
    (%c: {t}[2], %a: {t}[{n}], %s: {t}[], %i: i64[], %m: bool[{n}], %e: {t}[]):
    %0: {t}[1] = slice %c {{start=(1,), stop=(2,), step=(1,)}}
    %1: {t}[] = reshape %0 {{shape=()}}
    %2: {t}[{n}] = reverse %a {{axes=(0,)}}
    %3: {t}[{n}] = sin %2
    %4: {t}[{n}] = broadcast_to %s {{shape=({n},), axes=()}}
    %5: {t}[{n}] = add %3, %4
    %6: {t}[{n}] = select %m, %5, %a
    %7: {t}[] = reduce_sum %6 {{axes=(0,)}}
    %8: {t}[] = mul %7, %1
    %9: {t}[] = add %8, %e
    %10: {t}[] = tanh %9
    %11: i64[] = constant 3
    %12: i64[] = add %i, %11
    %13: bool[{n}] = lt %6, %4
    yield %6, %10, %12, %13, %10
  }}
  return {returned}
}}
"""  # noqa: E501


@pytest.mark.parametrize("points", [1, 3, 5, 8, 17])
@pytest.mark.parametrize("length", [0, 1, 2, 7])
@pytest.mark.parametrize("kept", [False, True])
def test_small_state_in_registers(points: int, length: int, kept: bool) -> None:
    """A state of four parts, the wider of which is in memory where a vector is too short."""
    for dtype, reverse in (("f64", False), ("f32", True), ("f16", False)):
        array = f"{dtype}[{points}]"
        state = [array, f"{dtype}[]", "i64[]", f"bool[{points}]"]
        types = [*state, f"{dtype}[{length}]"]
        types += [t.replace("[", f"[{length},").replace(",]", "]") for t in state]
        count = 9 if kept else 5
        func = parse(
            SMALL.format(
                t=dtype, n=points, l=length, reverse=reverse,
                names=", ".join(f"%r{i}: {t}" for i, t in enumerate(types)),
                results=", ".join(types[:count]),
                returned=", ".join(f"%r{i}" for i in range(count)),
            )
        )  # fmt: skip
        call = loop_of(func, 2)
        local = [carry.is_local for carry in call.phase.spec.carries]
        width = lower(optimize(func)).target.vector_bytes
        assert local == [carry.bytes <= width for carry in call.phase.spec.carries]
        args = [np.array(7) if p.type.dtype.name == "i64" else x
                for p, x in zip(func.params, inputs(func), strict=True)]  # fmt: skip
        executable = compile_func(optimize(func), threads=2)
        rtol = {"f64": 1e-13, "f32": 1e-5, "f16": 1e-2}[dtype]
        for _ in range(2):
            for got, expected in zip(executable(args), interpret(func, args), strict=True):
                np.testing.assert_allclose(
                    np.asarray(got, "f8"), np.asarray(expected, "f8"), rtol=rtol, atol=rtol
                )
