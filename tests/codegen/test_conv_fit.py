"""Convolutions of any rank, channels and groups on blocked copies, against the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import compile_func
from symgrad.codegen.lowering import conv_choice
from symgrad.codegen.lowering.conv_choice import Candidate
from symgrad.ir import Func, interpret
from symgrad.ir.builder import Builder
from symgrad.ir.passes import optimize

from tests.codegen.harness import TARGETS, target_named
from tests.codegen.test_conv_choice import PASSES, chosen, convolution

Case = dict[str, Any]


def grid() -> list[Case]:
    """Convolutions that the blocked kernels do not take as they are, drawn once."""
    rng = np.random.default_rng(5)
    cases: list[Case] = []
    while len(cases) < 14:
        rank = int(rng.choice((1, 2, 3)))

        def axes(*values: int, rank: int = rank) -> tuple[int, ...]:
            return tuple(int(v) for v in rng.choice(values, rank))

        groups = int(rng.choice((1, 1, 2, 3, 6)))
        case: Case = {
            "shape": (int(rng.integers(1, 4)), groups * int(rng.choice((1, 3, 4, 16, 20))),
                      *axes(1, 4, 5, 7, 9)),
            "outputs": groups * int(rng.choice((1, 5, 16, 20, 32))),
            "kernel": axes(3, 3, 3, 1, 2, 4) if rng.random() < 0.5 else (3,) * rank,
            "stride": axes(1, 1, 1, 2, 3), "padding": axes(0, 1, 1, 2),
            "dilation": axes(1, 1, 1, 2), "groups": groups,
            "dtype": str(rng.choice(("f4", "f4", "f8"))),
        }  # fmt: skip
        spans = [d * (k - 1) + 1 for d, k in zip(case["dilation"], case["kernel"], strict=True)]
        sizes = zip(case["shape"][2:], case["padding"], spans, strict=True)
        if all(n + 2 * p >= span for n, p, span in sizes):
            cases.append(case)
    return cases


@pytest.fixture(params=["direct", "F(2 x 2", "F(4 x 4"])
def on_copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Has the named kernels run on blocked copies, whatever they cost."""
    kind: str = request.param

    def named(found: Sequence[Candidate[Any]]) -> Candidate[Any]:
        return next(
            (c for c in found if "copies" in c.name or kind in c.name), None
        ) or pytest.skip(f"{kind}: does not take it")

    monkeypatch.setattr(conv_choice, "best_of", named)
    return kind


def check(func: Func, exact: Func, target_name: str, threads: int) -> None:
    """Twice, on other numbers: what is 0 beside the operands stays so."""
    run = compile_func(func, target=target_named(target_name), threads=threads)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        arrays = [rng.standard_normal(t.shape).astype(t.dtype.numpy) for t in func.param_types]
        (expected,) = interpret(exact, [a.astype(np.float64) for a in arrays])
        (actual,) = run(arrays)
        eps = float(np.finfo(arrays[0].dtype).eps)
        assert np.abs(actual - expected).max() < 60 * eps * max(np.abs(expected).max(), 1e-30)


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("case", grid(), ids=lambda case: "-".join(map(str, case.values())))
def test_copies_compute_the_same(case: Case, name: str, target_name: str, on_copies: str) -> None:
    if target_name != "host" and on_copies != "direct":
        pytest.skip("Winograd's kernels have tests of their own on every target")
    exact = convolution(name, **{**case, "dtype": "f8"})
    check(convolution(name, **case), exact, target_name, 2)


def test_what_follows_runs_on_the_result(on_copies: str) -> None:
    """An epilogue is no part of kernels on copies: it is a nest of its own behind them."""
    inner = convolution("conv", (2, 20, 9, 9), 40, (3, 3))
    builder = Builder()
    operands = [builder.param(t) for t in inner.param_types]
    y = builder.emit("conv", *operands, **inner.ops[0].attrs)
    func = builder.build([builder.emit("tanh", builder.emit("mul", y, y))], "squares")
    run = compile_func(optimize(func), threads=2)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(t.shape, np.float32) for t in func.param_types]
    np.testing.assert_allclose(run(arrays)[0], interpret(func, arrays)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({"shape": (4, 1, 16000), "outputs": 32, "kernel": (25,), "stride": (4,)}, "direct"),
        ({"shape": (2, 32, 8, 28, 28), "outputs": 32, "kernel": (3, 3, 3)}, "Winograd"),
        ({"shape": (8, 100, 14, 14), "outputs": 100, "kernel": (3, 3)}, "Winograd"),
        ({"shape": (8, 128, 28, 28), "outputs": 256, "kernel": (3, 3), "groups": 32}, "blocked"),
        ({"shape": (8, 24, 56, 56), "outputs": 144, "kernel": (1, 1)}, "implicit GEMM"),
        ({"shape": (8, 30, 56, 56), "outputs": 30, "kernel": (3, 3), "groups": 30}, "depthwise"),
        (
            {
                "shape": (8, 570, 14, 14),
                "outputs": 570,
                "kernel": (3, 3),
                "groups": 570,
                "stride": (2, 2),
            },
            "depthwise",
        ),
    ],
)
def test_copies_are_made_where_they_pay(options: dict[str, Any], kernel: str) -> None:
    rank = len(options["kernel"])
    defaults = {"stride": (1,) * rank, "dilation": (1,) * rank}
    padding = tuple(n // 2 for n in options["kernel"])
    func = convolution("conv", **{**defaults, "padding": padding, **options})
    name, others = chosen(func)
    assert kernel in name
    assert "times the time" in others or "times as much to compute" in others


def test_groups_are_kept_apart_where_precision_is_high() -> None:
    func = convolution("conv", (8, 128, 28, 28), 256, (3, 3), groups=32)
    name, others = chosen(func, precision="high")
    assert name == "implicit GEMM"
    assert 'conv_precision is "high"' in others


def test_zeros_beside_the_operands_outlast_other_values(on_copies: str) -> None:
    """Layers of one program share memory, but what is 0 in a copy stays 0."""
    builder = Builder()
    x = builder.param(convolution("conv", (2, 20, 9, 9), 20, (3, 3)).param_types[0])
    y = x
    for channels, outputs in ((20, 37), (37, 5), (5, 20)):
        inner = convolution("conv", (2, channels, 9, 9), outputs, (3, 3))
        y = builder.emit("conv", y, builder.param(inner.param_types[1]), **inner.ops[0].attrs)
    func = builder.build([y], "layers")
    run = compile_func(func, threads=2)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(t.shape, np.float32) for t in func.param_types]
    (expected,) = interpret(func, arrays)
    for _ in range(3):
        (actual,) = run(arrays)
        assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()
