"""Native code without Python: loaded, linked into a C program, described by a header."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from symgrad.codegen import export
from symgrad.codegen.target import Target
from symgrad.ir import Func, interpret, parse
from symgrad.ir.errors import UsageError
from symgrad.ir.passes import optimize

import symgrad as sg

needs_linker = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
RNG = np.random.default_rng(0)
OFFSET = np.linspace(0.1, 1.0, 3)


def affine(x: Any, w: Any) -> Any:
    return np.sum(np.tanh(x @ w + OFFSET))


CONV = """
func @conv(%x: f32[1,16,6,6], %w: f32[16,16,3,3]) -> (f32[1,16,6,6], f32[]) {
  %0: f32[1,16,6,6] = conv %x, %w {ATTRS}
  %1: f32[1,16,6,6] = relu %0
  %2: f32[] = reduce_sum %1 {axes=(0, 1, 2, 3)}
  return %1, %2
}
""".replace("ATTRS", "stride=(1,1), padding=((1,1),(1,1)), dilation=(1,1), lhs_dilation=(1,1)")

COUNTS = """
func @double(%n: i32[5], %mask: bool[5]) -> (i32[5], bool[5], i32[5]) {
  %0: i32[5] = add %n, %n
  %1: bool[5] = logical_not %mask
  return %0, %1, %n
}
"""

FUNCTIONS: dict[str, Callable[[], Func]] = {
    "gradient with a captured array": lambda: sg.value_and_grad(affine, argnums=(0, 1)).traced(
        np.ones((3, 40)), np.ones(40)
    ).func,
    "convolution": lambda: parse(CONV),
    "integers and truths, a parameter as result": lambda: parse(COUNTS),
    "large": lambda: sg.grad(lambda x: np.sum(np.exp(-x @ x.T))).traced(np.ones((130, 70))).func,
}  # fmt: skip


def argument(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    return (RNG.normal(size=shape) * 3).astype(dtype)


@needs_linker
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_library_computes_what_the_interpreter_does(name: str, tmp_path: Path) -> None:
    func = FUNCTIONS[name]()
    path = tmp_path / "library.so"
    path.write_bytes(export.shared_library(optimize(func)))
    entry = getattr(ctypes.CDLL(str(path)), export.entry_name(func))
    for _ in range(2):  # the arena's halos stay zero from call to call
        arguments = [argument(t.shape, t.dtype.numpy) for t in func.param_types]
        results = [np.empty(t.shape, t.dtype.numpy) for t in func.result_types]
        entry(*(ctypes.c_void_p(a.ctypes.data) for a in (*arguments, *results)))
        for got, expected in zip(results, interpret(func, arguments), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@needs_linker
def test_a_c_program_calls_it(tmp_path: Path) -> None:
    for name in ("loss.o", "loss.h"):
        sg.export(lambda x: np.sum(x * x), np.ones(3), wrt=0, path=tmp_path / name)
    (tmp_path / "main.c").write_text(
        """
        #include <stdio.h>
        #include "loss.h"

        int main(void) {
            double x[3] = {1, 2, 3}, value, gradient[3];
            lambda(x, &value, gradient);
            printf("%g %g %g %g\\n", value, gradient[0], gradient[1], gradient[2]);
            return 0;
        }
        """
    )
    command = ["cc", "-Wall", "-Werror", "-o", "main", "main.c", "loss.o", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "14 2 4 6\n"


@pytest.mark.parametrize("target", ["avx2", "x86-64", "neon"])
def test_objects_for_other_machines(target: str) -> None:
    func = optimize(FUNCTIONS["gradient with a captured array"]())
    blob = export.object_file(func, Target.named(target))
    assert blob.startswith(b"\x7fELF")
    assert export.entry_name(func).encode() in blob


def test_the_header_declares_the_entry() -> None:
    text = export.header(parse(COUNTS.replace("%mask", "%out0").replace("%n", "%int")))
    assert (
        "void double_(const int32_t *int_, const bool *out0, "
        "int32_t *out_0, bool *out_1, int32_t *out_2);" in text
    )
    assert " * int_: i32[5]\n" in text


def test_without_a_linker_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UsageError, match="no linker"):
        export.shared_library(optimize(parse(COUNTS)))


def test_the_suffix_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in one of .o, .so, .h"):
        sg.export(np.sin, np.ones(3), path=tmp_path / "sine.exe")
