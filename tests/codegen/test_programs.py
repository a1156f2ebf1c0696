"""Whole programs on disk: found again by what they depend on, and by nothing less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from symgrad.codegen import compile as backend
from symgrad.codegen import jit, objects, programs
from symgrad.codegen import lower as lowering
from symgrad.codegen.image import Image
from symgrad.codegen.runtime.program import ARENA, Step
from symgrad.codegen.runtime.resident import TiledForm
from symgrad.codegen.target import Target
from symgrad.codegen.tiling import Tiling
from symgrad.ir import Func, cache, parse
from symgrad.ir.passes import optimize
from symgrad.ir.types import parse_type

import symgrad as sg

TEXT = """
func @f(%x: f64[5,7], %y: f64[7]) -> (f64[5], f64[7]) {
  %0: f64[5] = dot_general %x, %y {lhs_contract=(1,), rhs_contract=(0,)}
  %1: f64[5] = sin %0
  %2: f64[7] = add %y, %y
  return %1, %2
}
"""


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty disk cache and a process that has loaded nothing."""
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(jit, "_addresses", {})


class Compiler:
    """Compiles as a new process would, and counts how often the passes run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs, self._monkeypatch = 0, monkeypatch

    def __call__(self, text: str = TEXT, **options: Any) -> Any:
        self._monkeypatch.setattr(jit, "_addresses", {})

        def passes(func: Func) -> Func:
            self.runs += 1
            return optimize(func)

        return backend.compile_func(parse(text), passes=passes, **options)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    return Compiler(monkeypatch)


def arguments() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(5, 7)), rng.normal(size=7)]


def entry(namespace: str, key: str = "*") -> Path:
    folder = cache.folder()
    assert folder is not None
    (found,) = (folder / namespace).glob(f"{key}.blob")
    return found


def test_the_text_of_kernels_is_written_again_for_who_asks(compiler: Compiler) -> None:
    """A program keeps the code alone; the text made anew is that of the code."""
    executable = compiler()
    assert compiler.runs == 1
    lowered = executable.lowered
    assert executable.lowered is lowered
    assert compiler.runs == 2
    made = {jit.symbol_of(name, text, lowered.target) for name, text in lowered.modules.items()}
    assert made == set(executable.image.kernels)


def test_the_second_process_runs_neither_passes_nor_lowering(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compiler(threads=2, donate=(1,))
    monkeypatch.setattr(lowering, "lower", lambda *_, **__: pytest.fail("lowered again"))
    second = compiler(threads=2, donate=(1,))
    assert compiler.runs == 1
    assert second.image.homes == first.image.homes != {}
    for a, b in zip(first(arguments()), second(arguments()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_found_program_still_explains_itself(compiler: Compiler) -> None:
    first, second = compiler(), compiler()
    assert second.lowered.names == first.lowered.names
    ops = [[k.op for k in each.profile(arguments(), seconds=0).kernels] for each in (first, second)]
    assert ops[0] == ops[1]


@pytest.mark.parametrize(
    "change",
    [
        {"text": TEXT.replace("sin", "cos")},
        {"text": TEXT.replace("5", "6")},
        {"text": TEXT.replace("return %1, %2", "return %1, %y")},
        {"threads": 1},
        {"donate": (1,)},
        {"target": Target.named("avx512")},
    ],
    ids=str,
)
def test_the_key_holds_what_changes_the_code(change: dict[str, Any]) -> None:
    def key(text: str = TEXT, target: Target | None = None, **options: Any) -> str:
        options = {"threads": 2, "donate": ()} | options
        return programs.key(parse(text), target or Target.named("avx2"), **options)

    assert key() == key()
    assert key(**change) != key()


def test_the_key_holds_the_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def key() -> str:
        programs.compiler.cache_clear()
        return programs.key(parse(TEXT), Target.named("avx2"))

    try:
        seen = {key(), key()}
        assert len(seen) == 1
        monkeypatch.setattr(objects, "_VERSION", -1)
        seen.add(key())
        monkeypatch.setattr("llvmlite.__version__", "0.0")
        seen.add(key())
        (tmp_path / "kernel.py").write_text("x = 1")
        monkeypatch.setattr("symgrad.codegen.__path__", [str(tmp_path)])
        seen.add(key())
        (tmp_path / "kernel.py").write_text("x = 2")
        seen.add(key())
        assert len(seen) == 5
    finally:
        programs.compiler.cache_clear()


@pytest.mark.parametrize("harm", ["damaged program", "damaged object", "object gone"])
def test_what_is_damaged_or_gone_is_made_again(harm: str, compiler: Compiler) -> None:
    executable = compiler()
    expected = executable(arguments())
    path = entry("programs")
    if harm != "damaged program":
        path = entry("objects", executable.image.kernels[-1])
    if harm == "object gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
    again = compiler()(arguments())
    assert compiler.runs == 2
    for a, b in zip(expected, again, strict=True):
        np.testing.assert_array_equal(a, b)
    compiler()
    assert compiler.runs == 2  # and is back in the cache


def test_without_a_cache_every_process_compiles(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", "off")
    compiler()
    compiler()
    assert compiler.runs == 2


def test_images_read_back() -> None:
    image = Image(
        name="f",
        params=(parse_type("f32[3,0]"), parse_type("bool[]")),
        results=(parse_type("i64[2]"),),
        steps=(Step("k1", ((0, 0), (ARENA, 64)), False, True), Step("k2", ((3, 8),), True, False)),
        constants=(np.arange(3), np.array(2.5, np.float32), np.zeros((2, 0), np.int16)),
        arena_bytes=128,
        threads=3,
        brief=True,
        homes={2: 1},
        forms=(
            TiledForm(parse_type("f32[32,16]"), Tiling((2, 16, 16), (0, 1, 0), (16, 1, 1))),
            None,
            None,
        ),
    )
    again = Image.from_bytes(image.to_bytes())
    for field in ("name", "params", "results", "steps", "arena_bytes", "threads", "homes", "forms"):
        assert getattr(again, field) == getattr(image, field)
    for a, b in zip(again.constants, image.constants, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a.dtype, a.shape, a.flags.aligned) == (b.dtype, b.shape, True)


def test_programs_of_functions_are_kept_unless_stages_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> Any:
        return sg.grad(lambda x: np.sum(np.sin(x) ** 2))(np.arange(5.0))

    first = run()
    assert [usage.entries for usage in cache.info() if usage.namespace == "programs"] == [1]
    np.testing.assert_array_equal(first, run())
    monkeypatch.setenv("SYMGRAD_DEBUG", "time")
    run()
    assert "canonicalize" in capsys.readouterr().err
