"""Elementwise ops on every dtype against NumPy, over lane counts and targets."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from symgrad.codegen import scalar
from symgrad.codegen.access import MEMORY_TYPES
from symgrad.codegen.emitter import Emitter, vec
from symgrad.codegen.target import Target

TARGETS = ("host", "avx2", "x86-64")
INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
NUMPY = {
    "bool": np.bool_,
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    **{f"i{n}": np.dtype(f"i{n // 8}").type for n in (8, 16, 32, 64)},
    **{f"u{n}": np.dtype(f"u{n // 8}").type for n in (8, 16, 32, 64)},
}


def target_named(name: str) -> Target:
    target = Target.host() if name == "host" else Target.named(name)
    if name == "avx2" and not Target.host().has_fma:
        pytest.skip("needs AVX2")
    return target


def compile_op(
    emit: Callable[..., Any], dtypes: Sequence[str], result: str, lanes: int, target: Target
) -> Callable[..., np.ndarray]:
    """A function over arrays (of a multiple of ``lanes`` elements) that applies ``emit``."""
    k = Emitter(target)
    pointers = ["ptr"] * (len(dtypes) + 1)
    with k.function("f", [*pointers, "i64"]) as (*bases, out, count), k.loop(0, count, lanes) as i:
        args = [
            scalar.from_memory(
                k, k.load(vec(MEMORY_TYPES[d], lanes), k.gep(base, i, MEMORY_TYPES[d])), d
            )
            for base, d in zip(bases, dtypes, strict=True)
        ]
        value = scalar.to_memory(k, emit(k, *args), result)
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
