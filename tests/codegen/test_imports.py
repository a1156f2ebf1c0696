"""A program imports the code generator's parts that it needs, and no others."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

from symgrad.codegen import lowering
from symgrad.codegen.lowering import rules

PROGRAM = """
import sys
import numpy as np
import symgrad as sg
assert sg.grad(lambda x: np.sin(x).sum())(np.zeros(3)).tolist() == [1, 1, 1]
parts = "symgrad.codegen", "symgrad.tensors", "sympy", "mpmath"
print([name for name in sys.modules if name.startswith(parts)])
"""


def test_families_list_the_ops_of_every_module():
    for found in pkgutil.iter_modules(lowering.__path__, f"{lowering.__name__}."):
        importlib.import_module(found.name)
    for module in ("branches", "loops"):  # they plan the memory of what they lower
        importlib.import_module(f"symgrad.codegen.{module}")
    declared: dict[str, set[str]] = {}
    for name, rule in rules._rules.items():
        package, _, module = rule.__module__.rpartition(".")
        family = module if package == lowering.__name__ else f"..{module}"
        declared.setdefault(family, set()).add(name)
    assert declared == {family: set(names.split()) for family, names in rules.FAMILIES.items()}


def test_imports_of_a_small_program(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", str(tmp_path))

    def imported() -> set[str]:
        run = [sys.executable, "-c", PROGRAM]
        output = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        return {name.removeprefix("symgrad.codegen.") for name in eval(output)}

    cold, warm = imported(), imported()
    assert {"executable", "lower", "lowering.elementwise"} <= cold
    assert not cold & {"lowering.conv", "lowering.linalg", "lowering.attention", "sympy", "mpmath"}
    assert not [name for name in cold if name.startswith("symgrad.tensors")]
    # A program on disk needs no kernels at all.
    assert "executable" in warm
    assert not [name for name in warm if name.startswith(("lower", "kernels", "vecmath"))]
