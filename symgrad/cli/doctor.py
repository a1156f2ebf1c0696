"""``symgrad doctor``: what a bug report needs to say, and whether a gradient compiles here."""

from __future__ import annotations

import json
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from symgrad.cli.exits import INTERNAL

PACKAGES = ("numpy", "llvmlite", "sympy", "mpmath", "optree", "typer", "rich", "safetensors")
TRAINING = ("scikit-learn", "pillow", "matplotlib")


def doctor(*, as_json: bool) -> None:
    """Prints the facts; exits with 70 when the self-test fails."""
    test = _self_test()
    facts = {
        "symgrad": _symgrad(),
        "python": f"{platform.python_version()} ({platform.system()}, {platform.machine()})",
        "packages": {name: _version(name) for name in PACKAGES},
        "for training": {name: _version(name) for name in TRAINING},
        "target": _target(),
        "threads": _threads(),
        "cache": _cache(),
        "self-test": test,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        for name, fact in facts.items():
            _print(name, fact)
    if "error" in test:
        raise typer.Exit(INTERNAL)


def _print(name: str, fact: Any) -> None:
    if isinstance(fact, dict):
        typer.echo(name)
        for key, value in fact.items():
            typer.echo(f"  {key:<14} {value}")
    else:
        typer.echo(f"{name:<16} {fact}")


def _symgrad() -> str:
    import symgrad

    return f"{symgrad.__version__} in {Path(symgrad.__file__).parent}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _target() -> dict[str, Any]:
    import llvmlite.binding as llvm

    from symgrad.codegen.target import Target

    target = Target.host()
    return {
        "LLVM": ".".join(map(str, llvm.llvm_version_info)),
        "triple": target.triple,
        "CPU": target.cpu,
        "vectors": f"{target.vector_registers} registers of {8 * target.vector_bytes} bits",
        "fma": target.has_fma,
        "masked access": target.has_masks,
        "caches": ", ".join(
            f"{name} {size >> 10} KiB"
            for name, size in (("L1d", target.l1d), ("L2", target.l2), ("L3", target.l3))
        ),
    }


def _threads() -> int:
    from symgrad.codegen.runtime.threads import get_num_threads

    return get_num_threads()


def _cache() -> dict[str, Any]:
    from symgrad.ir import cache

    folder, usages = cache.folder(), cache.info()
    return {
        "folder": str(folder) if folder else "off",
        "entries": sum(u.entries for u in usages),
        "bytes": sum(u.bytes for u in usages),
    }


def _self_test() -> dict[str, Any]:
    """Compiles the gradient of ``sum(sin(x)^2)`` and compares it with ``sin(2x)``."""
    try:
        import numpy as np

        from symgrad.api import grad

        x = np.linspace(0, 3, 1001)
        gradient = grad(lambda x: np.sum(np.sin(x) ** 2))
        start = time.perf_counter()
        value = gradient(x)
        seconds = time.perf_counter() - start
        error = float(np.max(np.abs(value - np.sin(2 * x))))
        if not error < 1e-14:
            return {"error": f"a gradient is wrong by {error:.1e}"}
    except Exception as error:  # whatever it is, the report shall show it
        return {"error": f"{type(error).__name__}: {error}"}
    return {"gradient": "correct", "first call": f"{seconds * 1e3:.0f} ms"}
