"""Elementwise ops on every dtype against NumPy, over lane counts and targets."""

from __future__ import annotations

import ctypes
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
import symgrad.ir.ops  # noqa: F401  (declares the operations)
from symgrad.codegen import conversions, scalar
from symgrad.codegen.access import MEMORY_TYPES
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import vec
from symgrad.codegen.target import Target
from symgrad.ir.opdef import REGISTRY

from tests.codegen.harness import TARGETS, target_named
from tests.codegen.regions import region

INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
NUMPY = {
    "bool": np.bool_,
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    **{f"i{n}": np.dtype(f"i{n // 8}").type for n in (8, 16, 32, 64)},
    **{f"u{n}": np.dtype(f"u{n // 8}").type for n in (8, 16, 32, 64)},
}


def compile_op(
    emit: Callable[..., Any], dtypes: Sequence[str], result: str, lanes: int, target: Target
) -> Callable[..., np.ndarray]:
    """A function over arrays (of a multiple of ``lanes`` elements) that applies ``emit``."""
    k = Emitter(target)
    pointers = ["ptr"] * (len(dtypes) + 1)
    with k.function("f", [*pointers, "i64"]) as (*bases, out, count), k.loop(0, count, lanes) as i:
        args = [
            conversions.from_memory(
                k, k.load(vec(MEMORY_TYPES[d], lanes), k.gep(base, i, MEMORY_TYPES[d])), d
            )
            for base, d in zip(bases, dtypes, strict=True)
        ]
        value = conversions.to_memory(k, emit(k, *args), result)
        k.store(value, k.gep(out, i, MEMORY_TYPES[result]))
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=2
    )
    module = llvm.parse_assembly(k.module())
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(dtypes) + 1), ctypes.c_int64)(
        engine.get_function_address("f")
    )

    def run(*arrays: np.ndarray) -> np.ndarray:
        arrays = np.broadcast_arrays(*arrays)
        size = arrays[0].size
        padded = [np.resize(a, -(-size // lanes) * lanes) for a in arrays]
        storage = NUMPY.get(result, np.uint16)
        out_array = np.empty(padded[0].size, storage)
        call(*[a.ctypes.data for a in padded], out_array.ctypes.data, padded[0].size)
        return out_array[:size]

    run.engine = engine  # type: ignore[attr-defined]  # keeps the code alive
    return run


def nasty(dtype: str) -> np.ndarray:
    """Values at the edges of a dtype, and random ones."""
    rng = np.random.default_rng(7)
    if dtype == "bool":
        return np.array([False, True])
    if dtype in INTEGERS:
        info = np.iinfo(NUMPY[dtype])
        edges = {0, 1, 2, 3, 7, 31, 32, 63, 64, 100, info.max, info.max - 1, info.min, info.min + 1}
        edges |= {-v for v in (1, 2, 3, 7, 8)} if info.min < 0 else set()
        random = rng.integers(info.min, info.max, 20, dtype=NUMPY[dtype], endpoint=True)
        return np.concatenate([np.array(sorted(edges), NUMPY[dtype]), random])
    info = np.finfo(NUMPY[dtype])
    edges = [0, -0.0, 1, -1, 0.5, 1.5, 2.5, -2.5, np.inf, -np.inf, np.nan]
    edges += [float(v) for v in (info.tiny, info.smallest_subnormal, info.max, -info.max)]
    return np.concatenate([np.array(edges), rng.normal(size=22)]).astype(NUMPY[dtype])


def pairs(dtype: str, other: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.meshgrid(nasty(dtype), nasty(other or dtype))
    return a.ravel(), b.ravel()


REFERENCE: dict[str, Callable[..., Any]] = {
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "sqrt": np.sqrt,
    "isnan": np.isnan,
    "isfinite": np.isfinite,
    "logical_not": np.logical_not,
    "bitwise_not": np.bitwise_not,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "copysign": np.copysign,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shift_left": np.left_shift,
    "shift_right": np.right_shift,
    "floor_div": np.floor_divide,
    "rem": np.remainder,
    "fmod": np.fmod,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
PREDICATES = (*COMPARISONS, "isnan", "isfinite", "logical_not")
CASES = {
    "float": "neg abs sign sqrt isnan isfinite logical_not add sub mul div maximum minimum "
    "copysign",
    "integer": "abs sign isnan isfinite logical_not bitwise_not add sub mul maximum minimum "
    "and or xor shift_left shift_right floor_div rem fmod",
    "bool": "logical_not bitwise_not add mul maximum minimum and or xor",
}
UNARY = {"neg", "abs", "sign", "sqrt", "isnan", "isfinite", "logical_not", "bitwise_not"}


def cases() -> list[tuple[str, str]]:
    groups = {"float": ("f32", "f64"), "integer": INTEGERS, "bool": ("bool",)}
    return [
        (dtype, op)
        for group, dtypes in groups.items()
        for dtype, op in itertools.product(dtypes, [*CASES[group].split(), *COMPARISONS])
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_ops_equal_numpy(target: str) -> None:
    machine = target_named(target)
    for number, (dtype, op) in enumerate(cases()):
        lanes = (1, 4, 8, 16)[number % 4]
        arity = 1 if op in UNARY else 2
        result = "bool" if op in PREDICATES else dtype
        arrays = (nasty(dtype),) if arity == 1 else pairs(dtype)
        run = compile_op(
            lambda k, *a, op=op, dtype=dtype, arity=arity: scalar.emit_op(
                k, op, a, [dtype] * arity
            ),
            [dtype] * arity,
            result,
            lanes,
            machine,
        )
        with np.errstate(all="ignore"):
            expected = REFERENCE[op](*arrays)
        assert expected.dtype == NUMPY[result], (op, dtype)
        np.testing.assert_array_equal(run(*arrays), expected, f"{op} {dtype} x{lanes} {target}")


# -- conversions -------------------------------------------------------------


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """The nearest bf16 of f32 values, chosen among the two neighbours; ties to even."""
    low = values.view(np.uint32) >> 16
    exact = values.astype(np.float64)
    with np.errstate(all="ignore"):
        below, above = (
            ((low + step) << 16).astype(np.uint32).view(np.float32).astype(np.float64)
            for step in (0, 1)
        )
        above = np.where(np.isinf(above), np.copysign(2.0**128, above), above)
        left, right = abs(exact - below), abs(above - exact)
    up = (right < left) | ((right == left) & (low % 2 == 1))
    return np.where(np.isfinite(exact) & up, low + 1, low).astype(np.uint16)


@pytest.mark.parametrize("target", TARGETS)
def test_half_types_in_memory(target: str) -> None:
    machine = target_named(target)
    rng = np.random.default_rng(1)
    patterns = rng.integers(0, 1 << 32, 20000, dtype=np.uint64).astype(np.uint32)
    sweep = np.arange(0x33000000, 0x47900000, 0x1000 // 3, dtype=np.uint32)  # all of f16's range
    values = np.concatenate([patterns, sweep, sweep | 0x80000000]).view(np.float32)
    values = np.concatenate([np.where(np.isnan(values), 1, values), nasty("f32")])
    halves = np.arange(1 << 16, dtype=np.uint16)

    narrow = compile_op(lambda k, x: x, ["f32"], "f16", 8, machine)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(narrow(values), values.astype(np.float16))
    widen = compile_op(lambda k, x: x, ["f16"], "f32", 8, machine)
    np.testing.assert_array_equal(
        widen(halves.view(np.float16)), halves.view(np.float16).astype(np.float32)
    )

    narrow = compile_op(lambda k, x: x, ["f32"], "bf16", 8, machine)
    finite = values[~np.isnan(values)]
    np.testing.assert_array_equal(narrow(finite), bf16_bits(finite))
    assert np.isnan(
        (narrow(np.full(8, np.nan, np.float32)) << np.uint32(16)).view(np.float32)
    ).all()
    widen = compile_op(lambda k, x: x, ["bf16"], "f32", 8, machine)
    np.testing.assert_array_equal(widen(halves), (halves.astype(np.uint32) << 16).view(np.float32))


def in_range(values: np.ndarray, dtype: str) -> np.ndarray:
    """Floats moved to the nearest value an integer type holds, nan to 0."""
    info = np.iinfo(NUMPY[dtype])
    whole = [0 if math.isnan(v) else v for v in values.astype(float)]
    exact = [info.max if v > info.max else max(info.min, int(max(v, -1e30))) for v in whole]
    return np.array(exact, NUMPY[dtype])


@pytest.mark.parametrize("target", TARGETS)
def test_conversions_equal_astype(target: str) -> None:
    machine = target_named(target)
    dtypes = ("bool", *INTEGERS, "f16", "f32", "f64")
    for number, (source, result) in enumerate(itertools.product(dtypes, dtypes)):
        values = nasty(source)
        run = compile_op(
            lambda k, x, source=source, result=result: scalar.emit_op(
                k, "convert", [x], [source], {"dtype": result}
            ),
            [source],
            result,
            (1, 4, 8, 16)[number % 4],
            machine,
        )
        with np.errstate(all="ignore"):
            expected = values.astype(NUMPY[result])
        if source.startswith("f") and result in INTEGERS:
            expected = in_range(values, result)
        np.testing.assert_array_equal(run(values), expected, f"{source} to {result}")


def test_f64_to_f16_rounds_once() -> None:
    rng = np.random.default_rng(2)
    halves = rng.integers(1, 0x7BFF, 4000, dtype=np.uint16).view(np.float16).astype(np.float64)
    gap = np.spacing(halves.astype(np.float16)).astype(np.float64)
    values = halves + gap / 2 + rng.choice([-1, 0, 1], 4000) * 2.0**-40 * gap
    run = compile_op(
        lambda k, x: conversions.convert(k, x, "f64", "f16"), ["f64"], "f16", 8, Target.host()
    )
    np.testing.assert_array_equal(run(values), values.astype(np.float16))


# -- the rest ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_power_wraps(dtype: str) -> None:
    base, exponent = np.meshgrid(nasty(dtype), np.arange(0, 70, 3).astype(NUMPY[dtype]))
    run = compile_op(
        lambda k, a, b: scalar.emit_op(k, "pow", [a, b], [dtype] * 2),
        [dtype] * 2,
        dtype,
        4,
        Target.host(),
    )
    np.testing.assert_array_equal(
        run(base.ravel(), exponent.ravel()), np.power(base.ravel(), exponent.ravel())
    )


def test_integer_power_of_negative_exponents_rounds_to_zero() -> None:
    run = compile_op(
        lambda k, a, b: scalar.emit_op(k, "pow", [a, b], ["i32"] * 2),
        ["i32"] * 2,
        "i32",
        4,
        Target.host(),
    )
    base = np.array([2, 1, -1, -1, 0, -3, 7, 1], np.int32)
    exponent = np.array([-1, -5, -3, -2, -1, -2, -9, -1], np.int32)
    np.testing.assert_array_equal(run(base, exponent), [0, 1, -1, 1, 0, 0, 0, 1])


def test_zero_times_anything_is_zero() -> None:
    run = compile_op(
        lambda k, a, b: scalar.emit_op(k, "scale", [a, b], ["f32"] * 2),
        ["f32"] * 2,
        "f32",
        4,
        Target.host(),
    )
    ct = np.array([0, 0, 0, 2], np.float32)
    slope = np.array([np.inf, np.nan, 3, np.inf], np.float32)
    np.testing.assert_array_equal(run(ct, slope), [0, 0, 0, np.inf])


@pytest.mark.parametrize("name", ["x86-64", "avx2", "avx512", "neon"])
def test_every_elementwise_op_compiles_without_library_calls(name: str) -> None:
    """Each op of the IR on each dtype its declaration admits (complex aside)."""
    target = Target.named(name)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    dtypes = {
        "f": ("f16", "bf16", "f32", "f64"), "i": ("i8", "i64"), "u": ("u16", "u64"), "b": ("bool",),
    }  # fmt: skip
    k = Emitter(target)
    cases = [
        (op, dtype)
        for op in REGISTRY.values()
        if op.elementwise and op.expand_rule is None and op.name not in ("select", "convert")
        for kind in op.kinds.replace("c", "")
        for dtype in dtypes[kind]
    ]
    for number, (op, dtype) in enumerate(cases):
        arity, lanes = len(op.operand_names), (1, 8)[number % 2]
        with k.function(f"f{number}", ["ptr"] * (arity + 1)) as (*bases, out):
            operands = [
                conversions.from_memory(k, k.load(vec(MEMORY_TYPES[dtype], lanes), base), dtype)
                for base in bases
            ]
            value = scalar.emit_op(k, op.name, operands, [dtype] * arity)
            result = "bool" if value.type.endswith(("i1", "i1>")) else dtype
            k.store(conversions.to_memory(k, value, result), out)
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=1, reloc="pic", codemodel="small"
    )
    module = llvm.parse_assembly(k.module())
    module.verify()
    called = set(re.findall(r"\t(?:callq?|bl)\t(\w+)", machine.emit_assembly(module)))
    assert all(symbol.startswith("vecmath_") for symbol in called), called


def test_unknown_ops_are_refused_by_name() -> None:
    k = Emitter(Target.host())
    with pytest.raises(NotImplementedError, match="erf on i32"):
        scalar.emit_op(k, "erf", [k.const("i32", 1)], ["i32"])
    with pytest.raises(NotImplementedError, match="c64"):
        scalar.emit_op(k, "add", [k.const("float", 1)] * 2, ["c64", "c64"])


@pytest.mark.parametrize("outline", [False, True])
@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_region(lanes: int, outline: bool) -> None:
    body = region(lambda b, x, y: b.emit("maximum", b.emit("exp", x) * 2.0 + y, y), "f32", "f32")
    run = compile_op(
        lambda k, *args: scalar.emit_region(k, body, args, outline=outline)[0],
        ["f32", "f32"],
        "f32",
        lanes,
        Target.host(),
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 33)).astype(np.float32)
    np.testing.assert_allclose(run(x, y), np.maximum(np.exp(x) * 2 + y, y), rtol=1e-6)
