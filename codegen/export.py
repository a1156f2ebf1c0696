"""A compiled function as an object file with a C entry: no Python at run time.

The kernels and one entry function become a single module.  The entry has a pointer for
each parameter, then one for each result, and runs all kernels on the calling thread:

    void loss_grad(const double *x, const double *w, double *out0, double *out1);

Arrays are dense and row-major.  The arena is part of the object, so one call may run at a
time.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.image import Layout
from symgrad.codegen.lower import Lowered, lower
from symgrad.codegen.objects import emit_object, linked
from symgrad.codegen.registers import Reg
from symgrad.codegen.runtime.program import ARENA
from symgrad.codegen.target import Target
from symgrad.ir.errors import UsageError
from symgrad.ir.graph import Func
from symgrad.ir.types import DType

_C_TYPES = {
    "bool": "bool", "f32": "float", "f64": "double",
    "f16": "uint16_t", "bf16": "uint16_t",
}  # fmt: skip
"""C types of elements; the half types are passed as their bits."""
_C_WORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if"
    " inline int long register restrict return short signed sizeof static struct switch typedef"
    " union unsigned void volatile while bool true false".split()
)


def object_file(func: Func, target: Target | None = None) -> bytes:
    """An optimised function as a relocatable object file that defines ``entry_name(func)``."""
    lowered = lower(func, target=target, threads=1)
    modules = [*_internal(lowered), _entry(lowered)]
    return emit_object(linked(modules, entry_name(func)), lowered.target)


def shared_library(func: Func) -> bytes:
    """The function as a shared library, by the system's C compiler as the linker.

    Raises ``UsageError`` where there is none, or where it fails.
    """
    linker = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if linker is None:
        raise UsageError(
            "export: no linker (cc, gcc or clang) on the PATH; export an object file "
            "(--to obj) and link it where there is one"
        )
    with tempfile.TemporaryDirectory(prefix="symgrad-") as folder:
        source, made = Path(folder) / "program.o", Path(folder) / "program.so"
        source.write_bytes(object_file(func))
        command = [linker, "-shared", "-o", str(made), str(source), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UsageError(f"export: {linker} failed: {done.stderr.strip()}")
        return made.read_bytes()


def header(func: Func) -> str:
    """The C header of the entry."""
    name = entry_name(func)
    guard = f"SYMGRAD_{name.upper()}_H"
    described = [
        *(f" * {n}: {p.type}" for n, p in zip(_param_names(func), func.params, strict=True)),
        *(f" * {n}: {t}" for n, t in zip(_result_names(func), func.result_types, strict=True)),
    ]
    lines = [
        f"#ifndef {guard}", f"#define {guard}", "", "#include <stdbool.h>", "#include <stdint.h>",
        "", "#ifdef __cplusplus", 'extern "C" {', "#endif", "",
        "/* Dense row-major arrays, which must not overlap.  One call at a time.", " *",
        *described, " */", f"{_signature(func)};", "", "#ifdef __cplusplus", "}", "#endif", "",
        f"#endif /* {guard} */",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Func], bytes]] = {
    "obj": object_file,
    "so": shared_library,
    "c-header": lambda func: header(func).encode(),
}
"""What an optimised function is exported as, by the names of ``symgrad export --to``."""
SUFFIXES = {"obj": ".o", "so": ".so", "c-header": ".h"}
"""The usual suffix of each format."""


def entry_name(func: Func) -> str:
    """The C name of a function's entry."""
    return _identifier(func.name)


# -- C ---------------------------------------------------------------------------------------


def _signature(func: Func) -> str:
    params = [
        f"const {_c_type(p.type.dtype)} *{name}"
        for name, p in zip(_param_names(func), func.params, strict=True)
    ]
    results = [
        f"{_c_type(t.dtype)} *{name}"
        for name, t in zip(_result_names(func), func.result_types, strict=True)
    ]
    return f"void {entry_name(func)}({', '.join([*params, *results]) or 'void'})"


def _param_names(func: Func) -> list[str]:
    return [_identifier(p.name) for p in func.params]


def _result_names(func: Func) -> list[str]:
    taken = set(_param_names(func))
    base = "out"
    while any(name.startswith(base) for name in taken):
        base += "_"
    return [f"{base}{i}" for i in range(len(func.results))]


def _identifier(name: str) -> str:
    word = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"{word}_" if word in _C_WORDS or word[:1].isdigit() else word


def _c_type(dtype: DType) -> str:
    sign = "u" if dtype.kind == "u" else ""
    return _C_TYPES.get(dtype.name, f"{sign}int{8 * dtype.bytes}_t")


# -- LLVM ------------------------------------------------------------------------------------


def _internal(lowered: Lowered) -> list[str]:
    """The kernels' modules with names that meet nobody else's."""
    prefix = entry_name(lowered.func)
    return [
        re.sub(rf"@{re.escape(name)}(?![\w.$-])", f"@{prefix}.{name}", text)
        for name, text in lowered.modules.items()
    ]


def _entry(lowered: Lowered) -> str:
    """The module of the entry: constants, arena, and a call of each kernel in order."""
    bound = next((call for call in lowered.calls if call.phase.is_bound), None)
    if bound is not None:
        raise UsageError(
            f"{bound.op} calls back into Python and cannot be exported: compute it outside and "
            "pass its result"
        )
    func, k = lowered.func, Emitter(lowered.target)
    slots = len(func.params) + len(func.results)
    prefix = entry_name(func)
    kernels = [f"{prefix}.{name}" for name in lowered.names]
    layout = Layout(kept=slots, constants=slots)  # without a prologue nothing is kept
    steps = layout.steps(lowered.calls, kernels)
    for kernel in dict.fromkeys(kernels):
        k.declare(kernel, "void", ("ptr", "i64", "i64"))
    bases = [
        k.constant_table(f"{prefix}.constant{i}", "i8", _bytes(array))
        for i, array in enumerate(layout.constants)
    ]
    with k.function(prefix, ["ptr"] * slots) as given:
        places = {ARENA: Reg(f"@{prefix}.arena", "ptr"), **dict(enumerate([*given, *bases]))}
        table = k.alloca("ptr", max((len(step.pointers) for step in steps), default=1))
        for step in steps:
            for i, (slot, offset) in enumerate(step.pointers):
                k.store(k.gep(places[slot], offset, "i8"), k.gep(table, i, "ptr"))
            k.line(f"call void @{step.kernel}(ptr {table}, i64 0, i64 1)")
    size = max(lowered.arena_bytes, 1)
    arena = f"@{prefix}.arena = internal global [{size} x i8] zeroinitializer, align 64\n"
    return arena + k.module()


def _bytes(array: np.ndarray[Any, Any]) -> Sequence[str]:
    return [str(byte) for byte in array.tobytes()] or ["0"]
