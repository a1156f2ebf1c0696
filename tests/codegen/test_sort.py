"""The order of elements: compiled code against NumPy, with ties, nan and every type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from symgrad.ir import Builder
from symgrad.ir.errors import UsageError
from symgrad.ir.opdef import REGISTRY
from symgrad.ir.types import type_of_array

import symgrad as sg
from symgrad.api_backend import compile_func
from symgrad.tracing import emit

CASES = [
    ((1,), 0), ((5,), 0), ((3, 17), 1), ((17, 3), 0), ((2, 33, 5), 1), ((64, 64), 0), ((999,), 0),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "u1", "u8", "b1"])
@pytest.mark.parametrize("descending", [False, True])
def test_argsort(dtype: str, descending: bool) -> None:
    rng = np.random.default_rng(0)
    for shape, axis in CASES:
        x = np.asarray(rng.integers(0, 9, shape) - 4 * (dtype[0] in "if")).astype(dtype)
        if dtype[0] == "f":
            flat = x.reshape(-1)
            flat[::5], flat[1::7], flat[1::9] = np.nan, np.inf, -0.0
        builder = Builder()
        param = builder.param(type_of_array(x), "x")
        order = builder.emit("argsort", param, axis=axis, descending=descending)
        got = compile_func(builder.build([order]))([x])[0]
        rule = REGISTRY["argsort"].evaluate_rule
        np.testing.assert_array_equal(got, rule(x, axis=axis, descending=descending))


def test_what_calls_back_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="calls back into Python"):
        sg.export(lambda a: emit("qr", a)[1], np.eye(2), path=tmp_path / "x.o")
