"""What all programs need is compiled beside the first one, once, and no fork finds it half done."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.runtime.native import load_entries, loaded_once

FIRST = """
import os, sys, threading
import numpy as np
import symgrad as sg
from symgrad.codegen.runtime import ahead, fastcall, program
f = sg.grad(lambda x: np.sin(x) * x)
"""
CHECK = """
for _ in range(3):
    assert abs(f(1.0) - (np.cos(1) + np.sin(1))) < 1e-12
"""


def run(script: str, cache: str, **environment: str) -> None:
    env = os.environ | {"SYMGRAD_CACHE_DIR": cache} | environment
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.parametrize("cache", ["off", "new"])
def test_a_first_program(tmp_path: Path, cache: str) -> None:
    directory = "off" if cache == "off" else str(tmp_path)
    run(FIRST + CHECK, directory)
    run(FIRST + CHECK, directory)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_meanwhile() -> None:
    run(
        FIRST
        + """
ahead.load_ahead(); ahead.load_calls_ahead()
child = os.fork()
if child == 0:
"""
        + CHECK.replace("\n", "\n    ")
        + """
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
        + CHECK,
        "off",
    )


def test_the_process_may_end_meanwhile() -> None:
    run(FIRST + "ahead.load_ahead(); ahead.load_calls_ahead()", "off")


def test_what_fails_ahead_fails_where_it_is_needed() -> None:
    run(
        FIRST
        + """
from symgrad.codegen.jit import CompileError
def broken(k):
    raise CompileError("planted")
program._emit_driver = broken
try:
    f(1.0)
except CompileError as error:
    assert "planted" in str(error)
else:
    raise SystemExit("no error")
""",
        "off",
    )


def test_several_threads_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", "off")
    emitted: list[str] = []

    @loaded_once
    def entries() -> list[int]:
        def emit(k: Emitter) -> Sequence[str]:
            emitted.append("")
            with k.function("one", (), "i64", internal=True):
                k.line("ret i64 1234567")
            return ("one",)

        return load_entries("load_once_test", emit)

    found: list[list[int]] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        found.append(entries())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(emitted) == 1
    assert len({tuple(addresses) for addresses in found}) == 1
    assert found[0][0] != 0


def test_definitions_that_the_interpreter_points_to_are_made_once() -> None:
    run(
        FIRST
        + """
found = []
threads = [threading.Thread(target=lambda: found.append(fastcall._methods())) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len({id(methods) for methods in found}) == 1
""",
        "off",
    )
