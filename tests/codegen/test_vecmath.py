"""Vector math against mpmath in units in the last place, and its special values.

Every function is compiled for three targets, one of them without FMA, with a
different number of lanes each time.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import mpmath as mp
import numpy as np
import pytest
from symgrad.codegen import vecmath
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Reg, vec
from symgrad.codegen.target import Target

import symgrad as sg
from tests.codegen.harness import TARGETS, target_named

Array = np.ndarray[Any, Any]
NUMPY = {"float": np.float32, "double": np.float64}
PRECISION = {"float": (24, -149), "double": (53, -1074)}
LANES = (1, 4, 8, 16)

Reference = Callable[..., Any]
# mpmath reference, what NumPy says of special values, largest error in f32 and f64
# (units in the last place), range of ordinary arguments
REAL: dict[str, tuple[Reference, Reference, float, float, tuple[float, ...]]] = {
    "exp": (mp.exp, np.exp, 1.1, 1.1, (-750, 720)),
    "exp2": (lambda x: mp.mpf(2) ** x, np.exp2, 1.1, 1.1, (-1080, 1030)),
    "expm1": (mp.expm1, np.expm1, 1.1, 1.4, (-45, 720)),
    "sigmoid": (
        lambda x: 1 / (1 + mp.exp(-x)), lambda x: 1 / (1 + np.exp(-x)), 1.8, 1.8, (-750, 40),
    ),
    "sinh": (mp.sinh, np.sinh, 0.8, 0.8, (-715, 715)),
    "cosh": (mp.cosh, np.cosh, 0.9, 0.9, (-715, 715)),
    "tanh": (mp.tanh, np.tanh, 1.5, 1.5, (-22, 22)),
    "log": (mp.log, np.log, 0.8, 0.8, (0, 100)),
    "log2": (lambda x: mp.log(x, 2), np.log2, 1.4, 1.0, (0, 100)),
    "log10": (mp.log10, np.log10, 1.2, 1.0, (0, 100)),
    "log1p": (mp.log1p, np.log1p, 0.9, 0.9, (-1, 100)),
    "asinh": (mp.asinh, np.arcsinh, 1.1, 1.0, (-100, 100)),
    "acosh": (mp.acosh, np.arccosh, 0.9, 1.0, (1, 100)),
    "atanh": (mp.atanh, np.arctanh, 1.0, 0.9, (-1, 1)),
    "sin": (mp.sin, np.sin, 0.51, 1.6, (-100, 100)),
    "cos": (mp.cos, np.cos, 0.51, 1.7, (-100, 100)),
    "tan": (mp.tan, np.tan, 0.51, 1.2, (-100, 100)),
    "asin": (mp.asin, np.arcsin, 1.2, 1.2, (-1, 1)),
    "acos": (mp.acos, np.arccos, 1.2, 1.2, (-1, 1)),
    "atan": (mp.atan, np.arctan, 1.3, 1.3, (-10, 10)),
    "erf": (mp.erf, np.vectorize(math.erf), 1.2, 1.7, (-7, 7)),
    "erfc": (mp.erfc, np.vectorize(math.erfc), 0.51, 1.1, (-7, 28)),
    "cbrt": (lambda x: mp.sign(x) * mp.cbrt(abs(x)), np.cbrt, 0.6, 0.7, (-100, 100)),
    "rsqrt": (lambda x: 1 / mp.sqrt(x), lambda x: 1 / np.sqrt(x), 1.5, 1.5, (0, 100)),
    "atan2": (mp.atan2, np.arctan2, 1.3, 1.3, (-10, 10, -10, 10)),
    "hypot": (mp.hypot, np.hypot, 0.51, 0.51, (-10, 10, -10, 10)),
    "pow": (mp.power, np.power, 0.51, 0.8, (0, 30, -20, 20)),
    "logaddexp": (
        lambda x, y: max(x, y) + mp.log1p(mp.exp(-abs(x - y))), np.logaddexp,
        1.5, 1.5, (0, 30, 0, 30),
    ),
}  # fmt: skip
EXACT: dict[str, Reference] = {
    "round": np.rint,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "fmod": np.fmod,
    "rem": np.remainder,
    "floor_div": np.floor_divide,
}
BINARY = {"atan2", "hypot", "pow", "logaddexp", "fmod", "rem", "floor_div"}


def compiled(
    target: Target, name: str, scalar: str, lanes: int, *, outline: bool = False,
    together: bool = False,
) -> Callable[..., Array]:  # fmt: skip
    """The function over arrays of a multiple of ``lanes`` elements; sine and cosine may be
    computed ``together``."""
    arity = 2 if name in BINARY else 1

    def value(k: Emitter, operands: list[Reg]) -> Reg:
        if together:
            pair = vecmath.emit_sin_and_cos(k, operands[0], outline=outline)
            return pair[("sin", "cos").index(name)]
        return vecmath.emit(k, name, operands, outline=outline)

    k = Emitter(target)
    params = ["ptr"] * (arity + 1) + ["i64"]
    with k.function("f", params) as (*bases, out, count), k.loop(0, count, lanes) as i:
        operands = [k.load(vec(scalar, lanes), k.gep(base, i, scalar)) for base in bases]
        k.store(value(k, operands), k.gep(out, i, scalar))
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=1
    )
    module = llvm.parse_assembly(k.module())
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (arity + 1), ctypes.c_int64)
    call = signature(engine.get_function_address("f"))

    def run(*arrays: Array) -> Array:
        size = -(-arrays[0].size // lanes) * lanes
        padded = [np.resize(a, size) for a in arrays]
        result = np.empty(size, NUMPY[scalar])
        call(*[a.ctypes.data for a in padded], result.ctypes.data, size)
        return result[: arrays[0].size]

    run.engine = engine  # type: ignore[attr-defined]  # keeps the code alive
    return run


def edges(scalar: str) -> Array:
    """Signed zeros, denormals, limits, infinities, nan, and numbers functions branch at."""
    info = np.finfo(NUMPY[scalar])
    values = [0.0, 0.25, 0.3466, 0.4142, 0.5, 0.625, 0.7071, 1.0, 1.4142, 1.5, 2, 2.5, 3, 4, 6]
    values += [math.pi / 4, math.pi / 2, math.pi, 9.01, 27.2, 88.72, 103.9, 709.78, 745.1]
    values += [1e5, 2.0**20, 1e7, 2.0**52, 1e16, 1e22, 1e30, 1e-4, 1e-9, 1e-17, 1e-30]
    limits = [info.max, info.tiny, info.smallest_subnormal, info.tiny / 3, info.eps, np.inf, np.nan]
    array = np.array(values + [float(v) for v in limits], NUMPY[scalar])
    with np.errstate(over="ignore"):
        near = [np.nextafter(array, NUMPY[scalar](t)) for t in (-np.inf, np.inf)]
    array = np.concatenate([array, *near])
    return np.concatenate([array, -array])


@functools.cache
def arguments(name: str, scalar: str) -> tuple[Array, ...]:
    """Random arguments over the function's range and all magnitudes, and the edges."""
    rng = np.random.default_rng(len(name))
    spans = REAL[name][4] if name in REAL else (-50.0, 50.0, -10.0, 10.0)
    columns = []
    for low, high in zip(spans[::2], spans[1::2], strict=True):
        linear = rng.uniform(low, high, 150)
        small = rng.uniform(low, high, 150) * 10.0 ** rng.uniform(-8, 0, 150)
        bits = rng.integers(0, 1 << (32 if scalar == "float" else 64), 100, dtype=np.uint64)
        raw = bits.astype(np.uint32).view(np.float32) if scalar == "float" else bits.view(float)
        ordinary = np.concatenate([linear, small]).astype(NUMPY[scalar])
        columns.append(np.concatenate([ordinary, np.where(np.isnan(raw), np.nan, raw)]))
    special = edges(scalar)
    if name not in BINARY:
        return (np.concatenate([columns[0], special]),)
    x, y = (grid.ravel() for grid in np.meshgrid(special[::3], special[1::3]))
    columns = columns if len(columns) == 2 else columns * 2
    return np.concatenate([columns[0], x]), np.concatenate([columns[1], y])


@functools.cache
def references(name: str, scalar: str) -> list[Any]:
    """mpmath's value at ordinary points, a float where a special value is due."""
    exact, numpy = REAL[name][:2]
    args = arguments(name, scalar)
    with np.errstate(all="ignore"), mp.workprec(120):
        special = numpy(*(a.astype(np.float64) for a in args))
        values: list[Any] = []
        for i, point in enumerate(zip(*args, strict=True)):
            value: Any = float(special[i])
            if all(math.isfinite(v) for v in point) and not math.isnan(value):
                with contextlib.suppress(ValueError, ZeroDivisionError, OverflowError):
                    number = exact(*(mp.mpf(float(v)) for v in point))
                    if isinstance(number, mp.mpf) and mp.isfinite(number) and number != 0:
                        value = -number if number * value < 0 else number  # mpmath has no -0
            values.append(value)
    return values


def error(got: float, want: Any, scalar: str) -> float:
    """Distance in units of the last place of ``want``; infinite where kind or sign differ."""
    if not mp.isfinite(want) or want == 0:
        same = got == want and math.copysign(1, got) == math.copysign(1, float(want))
        return 0.0 if same or (math.isnan(got) and mp.isnan(want)) else math.inf
    digits, lowest = PRECISION[scalar]
    unit = mp.mpf(2) ** max(mp.frexp(want)[1] - digits, lowest)
    limit = float(np.finfo(NUMPY[scalar]).max)
    if math.isinf(got):
        return 0.0 if abs(want) > limit - unit and (got > 0) == (want > 0) else math.inf
    return float(abs(mp.mpf(got) - want) / unit)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scalar", ["float", "double"])
def test_accuracy(target: str, scalar: str) -> None:
    machine = target_named(target)
    for number, (name, row) in enumerate(REAL.items()):
        lanes = LANES[(number + TARGETS.index(target)) % 4]
        got = compiled(machine, name, scalar, lanes)(*arguments(name, scalar))
        limit = row[2 if scalar == "float" else 3]
        for i, (y, want) in enumerate(zip(got, references(name, scalar), strict=True)):
            off = error(float(y), want, scalar)
            if name == "logaddexp" and math.isfinite(off):  # relative to the larger operand
                off = min(off, off * abs(float(want)) / max(abs(float(want)), 1.0))
            point = [float(a[i]) for a in arguments(name, scalar)]
            assert off <= limit, f"{name} {scalar} x{lanes}: {point} -> {y}, not {want}; {off} ulp"


@pytest.mark.parametrize("scalar", ["float", "double"])
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_accuracy_of_single_numbers(name: str, scalar: str) -> None:
    """Those that are small take a way of their own."""
    got = compiled(target_named(TARGETS[0]), name, scalar, 1)(*arguments(name, scalar))
    limit = REAL[name][2 if scalar == "float" else 3]
    for x, y, want in zip(*arguments(name, scalar), got, references(name, scalar), strict=True):
        assert error(float(y), want, scalar) <= limit, f"{name}({x}) -> {y}, not {want}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scalar", ["float", "double"])
@pytest.mark.parametrize("name", ["sin", "cos"])
@pytest.mark.parametrize("lanes", [1, 8])
def test_accuracy_of_sine_and_cosine_together(
    target: str, scalar: str, name: str, lanes: int
) -> None:
    machine, args = target_named(target), arguments(name, scalar)
    got = compiled(machine, name, scalar, lanes, together=True)(*args)
    limit = 0.501 if scalar == "float" else 0.8
    for x, y, want in zip(*args, got, references(name, scalar), strict=True):
        assert error(float(y), want, scalar) <= limit, f"{name}({x}) -> {y}, not {want}"
    outlined = compiled(machine, name, scalar, lanes, together=True, outline=True)(*args)
    np.testing.assert_array_equal(outlined, got)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_numbers_next_to_quarter_turns(target: str, name: str) -> None:
    """What is left of them has as many digits, of which the multiple of π/2 takes the leading."""
    machine, rng = target_named(target), np.random.default_rng(1)
    turns = np.floor(2.0 ** rng.uniform(0, 19.3, 150))
    with mp.workprec(120):
        near = np.array([float(mp.mpf(n) * mp.pi / 2) for n in turns])
        x = np.concatenate([near, -near, np.nextafter(near, 0), np.nextafter(near, np.inf)])
        wanted = [REAL[name][0](mp.mpf(float(v))) for v in x]
    for lanes, together in ((8, False), (8, True), (1, False), (1, True)):
        got = compiled(machine, name, "double", lanes, together=together)(x)
        for v, y, want in zip(x, got, wanted, strict=True):
            assert error(float(y), want, "double") <= REAL[name][3], f"{name}({v!r}) -> {y!r}"


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("size", [(), (67,)])
def test_a_region_takes_sine_and_cosine_together(dtype: str, size: tuple[int, ...]) -> None:
    x = np.resize(np.linspace(9, -9, 67), size).astype(dtype)
    f = sg.jit(lambda x: np.sin(x) * 2 + (np.cos(x) - np.cos(x * 2)))
    np.testing.assert_allclose(f(x), np.sin(x) * 2 + (np.cos(x) - np.cos(x * 2)), atol=1e-6)
    text = f.llvm(x)
    assert "call void @vecmath_reduce_1_" in text  # of x, to quarter turns
    assert "call void @vecmath_reduce_2_" in text  # of 2 x, to half turns


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scalar", ["float", "double"])
def test_exact_functions_equal_numpy(target: str, scalar: str) -> None:
    machine = target_named(target)
    for number, (name, numpy) in enumerate(EXACT.items()):
        args = arguments(name, scalar)
        if name not in BINARY:
            args = (np.concatenate([args[0], args[0] * NUMPY[scalar](0.5)]),)
        got = compiled(machine, name, scalar, LANES[number % 4])(*args)
        with np.errstate(all="ignore"):
            want = numpy(*args)
        np.testing.assert_array_equal(got, want, name)
        np.testing.assert_array_equal(
            np.signbit(got)[~np.isnan(want)], np.signbit(want)[~np.isnan(want)], name
        )


def test_every_function_is_tested() -> None:
    assert {*REAL, *EXACT} == set(vecmath.FUNCTIONS)


@pytest.mark.parametrize("name", ["sin", "pow", "exp"])
def test_outlined_equals_inlined(name: str) -> None:
    args = arguments(name, "double")
    inlined, outlined = (
        compiled(Target.host(), name, "double", 8, outline=outline)(*args)
        for outline in (False, True)
    )
    np.testing.assert_array_equal(outlined, inlined)


def test_outlined_code_stands_once() -> None:
    k = Emitter(Target.host())
    with k.function("f", ["<8 x float>"], "<8 x float>") as (x,):
        y = x
        for _ in range(5):
            y = vecmath.emit(k, "sin", [y], outline=True)
        k.line(f"ret {y.type} {y}")
    text = k.module()
    assert text.count("define internal <8 x float> @vecmath_sin_v8f32") == 1
    assert text.count("call <8 x float> @vecmath_sin_v8f32") == 5


def test_compiles_for_neon_without_calls_into_libm() -> None:
    target = Target.named("neon")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=1
    )
    for scalar, lanes in (("float", 4), ("double", 2)):
        k = Emitter(target)
        type = vec(scalar, lanes)
        for name in vecmath.FUNCTIONS:
            params = [type] * (2 if name in BINARY else 1)
            with k.function(f"f_{name}", params, type) as operands:
                k.line(f"ret {type} {vecmath.emit(k, name, operands)}")
        module = llvm.parse_assembly(k.module())
        module.verify()
        called = {
            line.split()[1]
            for line in machine.emit_assembly(module).splitlines()
            if line.strip().startswith("bl\t") or line.strip().startswith("bl ")
        }
        assert all(symbol.startswith("vecmath_") for symbol in called), called
