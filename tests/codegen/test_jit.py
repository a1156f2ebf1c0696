"""From LLVM text to running code: names, caches, several threads, foreign targets, errors."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from symgrad.codegen import jit, objects
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.target import Target
from symgrad.ir import cache


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty disk cache and a process that has loaded nothing."""
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(jit, "_addresses", {})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def adds(name: str, amount: int, target: Target | None = None, padding: int = 0) -> str:
    """A module with ``i64 name(i64 x) = x + amount``, through an internal helper."""
    k = Emitter(target or Target.host())
    with k.function(f"{name}_helper", ("i64",), "i64", internal=True) as (x,):
        for _ in range(padding):
            k.op("i64", f"mul i64 {x}, 3")
        k.line(f"ret i64 {k.add(x, amount)}")
    with k.function(name, ("i64",), "i64") as (x,):
        result = k.call(f"{name}_helper", "i64", [x])
        k.line(f"ret i64 {result}")
    return k.module()


def call(address: int, x: int) -> int:
    result: int = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(x)
    return result


def test_compiles_and_loads() -> None:
    modules = {f"add{i}": adds(f"add{i}", i) for i in range(17)}
    loaded = jit.compile_modules(modules, Target.host())
    assert [call(loaded[f"add{i}"], 100) for i in range(17)] == [100 + i for i in range(17)]
    assert cache.info()[0].entries == 17


def test_the_same_text_is_the_same_code_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    emit = objects._emit
    monkeypatch.setattr(objects, "_emit", lambda *args: made.append(args) or emit(*args))
    modules = {"f": adds("f", 3), "g": adds("g", 3), "f_1": adds("f_1", 3), "h": adds("h", 4)}
    loaded = jit.compile_modules(modules, Target.host())
    assert loaded["f"] == loaded["g"] == loaded["f_1"] != loaded["h"]
    assert len(made) == 2, "helpers are called after the function they are of"
    assert (call(loaded["g"], 1), call(loaded["h"], 1)) == (4, 5)
    assert jit.compile_modules({"x": adds("x", 3)}, Target.host())["x"] == loaded["f"]
    # Whoever's name only begins with the function's is another.
    text = adds("f", 3) + "declare void @f1()\n"
    assert "@f1(" in jit._rename("f", "g", text) and "@g_helper(" in jit._rename("f", "g", text)


def test_llvm_looks_for_no_better_instructions_in_shaped_code() -> None:
    def twice(shaped: bool) -> str:
        k = Emitter(Target.host())
        k.is_shaped = shaped
        with k.function("f", ("i64",), "i64") as (x,):
            slot = k.alloca("i64")
            k.store(k.op("i64", f"add i64 {k.op('i64', f'add i64 {x}, 1')}, 2"), slot)
            k.line(f"ret i64 {k.load('i64', slot)}")
        return k.module()

    target = Target.host()
    optimised = [objects.optimised(twice(shaped), target) for shaped in (False, True)]
    assert [text.count(" add ") for text in optimised] == [1, 2]
    assert not any("alloca" in text for text in optimised)
    assert all(call(jit.compile_modules({"f": twice(s)}, target)["f"], 5) == 8 for s in (0, 1))


def test_a_part_that_is_shaped_leaves_the_rest_to_llvm() -> None:
    k = Emitter(Target.host())
    with k.hidden() as prefix:
        k.is_shaped = True
        with k.function(prefix, ("i64",)):
            pass
    assert not k.is_shaped


def test_a_second_process_finds_the_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"f": adds("f", 3), "g": adds("g", 4)}
    jit.compile_modules(modules, Target.host())
    monkeypatch.setattr(jit, "_addresses", {})

    def never(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(objects, "_emit", never)
    loaded = jit.compile_modules(modules, Target.host())
    assert (call(loaded["f"], 1), call(loaded["g"], 1)) == (4, 5)


def test_the_key_holds_text_target_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    text = adds("f", 3)
    other = adds("f", 4)
    keys = {jit.symbol_of("f", t, Target.host()) for t in (text, other)}
    keys.add(jit.symbol_of("f", text, Target.named("avx2")))
    monkeypatch.setattr(objects, "_VERSION", -1)
    keys.add(jit.symbol_of("f", text, Target.host()))
    monkeypatch.setattr("llvmlite.binding.llvm_version_info", (1, 2, 3))
    keys.add(jit.symbol_of("f", text, Target.host()))
    assert len(keys) == 5


def test_a_damaged_object_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jit.compile_modules({"f": adds("f", 3)}, Target.host())
    for path in (tmp_path / "cache" / "objects").iterdir():
        entry = bytearray(path.read_bytes())
        entry[100] ^= 0xFF
        path.write_bytes(entry)
    monkeypatch.setattr(jit, "_addresses", {})
    assert call(jit.compile_modules({"f": adds("f", 3)}, Target.host())["f"], 1) == 4


@pytest.mark.parametrize("unlocked", [True, False])
@pytest.mark.parametrize("cpus", [1, 4])
def test_threads_and_the_public_interface_agree(
    unlocked: bool, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {f"add{i}": adds(f"add{i}", i, padding=40) for i in range(40)}
    monkeypatch.setattr(jit, "available_cpus", lambda: cpus)
    if not unlocked:
        monkeypatch.setattr(objects, "unlocked_calls", dict)
    loaded = jit.compile_modules(modules, Target.host())
    assert [call(loaded[f"add{i}"], 7) for i in range(40)] == [7 + i for i in range(40)]


def test_what_fails_on_a_thread_fails_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available_cpus", lambda: 3)
    with jit.Compilation(Target.host()) as compilation:
        for i in range(10):
            compilation.add(f"f{i}", adds(f"f{i}", i))
        compilation.add("g", "define nonsense @g")
        with pytest.raises(objects.CompileError, match="LLVM refused"):
            compilation.load()
    assert not any(thread.is_alive() for thread in compilation._threads)


def test_a_compilation_that_is_given_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available_cpus", lambda: 2)
    usual = sys.getswitchinterval()
    with jit.Compilation(Target.host()) as compilation:
        assert sys.getswitchinterval() < usual
        for i in range(50):
            compilation.add(f"f{i}", adds(f"f{i}", i, padding=200))
    assert sys.getswitchinterval() == usual
    assert not any(thread.is_alive() for thread in compilation._threads)
    assert cache.info()[0].entries < 50  # the rest was not compiled


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_waits_for_threads_that_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "available_cpus", lambda: 3)
    for round in range(5):
        with jit.Compilation(Target.host()) as compilation:
            for i in range(8):
                compilation.add(f"f{i}", adds(f"f{i}", 10 * round + i, padding=100))
            child = os.fork()
            if child == 0:
                known = objects.emit_object(adds("h", 1), Target.host())
                os._exit(known[:4] != b"\x7fELF")
            assert os.waitpid(child, 0)[1] == 0
            assert call(compilation.load()["f3"], 1) == 10 * round + 4


def test_this_llvmlite_compiles_on_several_threads() -> None:
    assert len(objects.unlocked_calls()) == 2


def test_objects_do_not_depend_on_how_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = objects.emit_object(adds("f", 3), Target.host())
    monkeypatch.setattr(objects, "unlocked_calls", dict)
    assert made == objects.emit_object(adds("f", 3), Target.host())


def test_stages_as_text() -> None:
    k = Emitter(Target.host())
    with k.function("f", ("i64",), "i64") as (x,):
        slot = k.alloca("i64")
        k.store(x, slot)
        k.line(f"ret i64 {k.load('i64', slot)}")
    assert "alloca" in k.module()
    text = objects.optimised(k.module(), Target.host())
    assert "alloca" not in text
    assert re.search(r"define .*i64 @f\(", text)
    assert "f:" in objects.emit_assembly(k.module(), Target.host())


@pytest.mark.parametrize(
    ("name", "instruction"),
    [("avx512", "zmm"), ("avx2", "ymm"), ("x86-64", "xmm"), ("neon", "fadd")],
)
def test_assembly_for_any_target(name: str, instruction: str) -> None:
    target = Target.named(name)
    k = Emitter(target)
    lanes = target.lanes(4)
    with k.function("f", ("ptr",)) as (p,):
        x = k.load(f"<{lanes} x float>", p)
        k.store(k.fadd(x, x), p)
    assert instruction in objects.emit_assembly(k.module(), target)
    assert objects.emit_object(k.module(), target)[:4] == b"\x7fELF"


def test_foreign_code_is_not_loaded() -> None:
    foreign = "neon" if Target.host().triple.startswith("x86") else "avx2"
    target = Target.named(foreign)
    with pytest.raises(objects.CompileError, match=r"cannot run here"):
        jit.compile_modules({"f": adds("f", 1, target)}, target)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("define i64 @f() { ret i32 3 }", "doesn't match function result type"),
        ("define i64 @f() { ", "found end of file"),
    ],
)
def test_what_llvm_refuses_is_kept_in_a_file(text: str, reason: str) -> None:
    with pytest.raises(objects.CompileError, match=reason) as caught:
        objects.optimised(text, Target.host())
    path = re.search(r"\S+\.ll", str(caught.value))
    assert path is not None
    assert Path(path[0]).read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "define void @g() { ret void }",
        "declare void @nowhere_()\ndefine void @f() { call void @nowhere_() ret void }",
    ],
)
def test_unresolved_names_are_an_error(text: str, capfd: Any) -> None:
    with pytest.raises(objects.CompileError, match="does not link"):
        jit.compile_modules({"f": text}, Target.host())
    # and the process goes on
    assert call(jit.compile_modules({"f": adds("f", 1)}, Target.host())["f"], 1) == 2


def test_verification_is_a_debug_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    unsound = "define i64 @f() {\n  ret i64 0\n}\n!llvm.ident = !{!0}\n!0 = !{i32 1}"
    objects.optimised(unsound, Target.host())
    monkeypatch.setenv("SYMGRAD_DEBUG", "ir,verify")
    with pytest.raises(objects.CompileError):
        objects.optimised(unsound, Target.host())
