"""Which convolution runs: the choice, and its result against the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import compile_func
from symgrad.codegen.kernels.blocked import Blocked, Weights
from symgrad.codegen.layout import Layouts
from symgrad.codegen.lowering import conv_choice, find_epilogues, lower_func
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.target import Target
from symgrad.ir import Func, interpret
from symgrad.ir.builder import Builder
from symgrad.ir.types import TensorType, dtype_of

from tests.codegen.harness import TARGETS, target_named

PASSES = ("conv", "conv_input_grad", "conv_weight_grad")


def convolution(
    name: str,
    shape: Sequence[int],
    outputs: int,
    kernel: Sequence[int],
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    dtype: str = "f4",
) -> Func:
    """A function of one convolution, or of one of its gradients."""
    images, channels, *size = shape
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    w_shape = (outputs, channels // groups, *kernel)
    shapes = {"conv": (shape, w_shape), "conv_input_grad": ((images, outputs, *out), w_shape),
              "conv_weight_grad": (shape, (images, outputs, *out))}[name]  # fmt: skip
    attrs: dict[str, Any] = {
        "stride": tuple(stride), "padding": tuple((p, p) for p in padding),
        "dilation": tuple(dilation), "lhs_dilation": (1,) * len(size), "groups": groups,
    }  # fmt: skip
    if name == "conv_input_grad":
        attrs["spatial"] = tuple(size)
    if name == "conv_weight_grad":
        attrs["kernel"] = tuple(kernel)
    builder = Builder()
    operands = [
        builder.param(TensorType(dtype_of(np.dtype(dtype)), tuple(s)), f"x{i}")
        for i, s in enumerate(shapes)
    ]
    return builder.build([builder.emit(name, *operands, **attrs)], "convolution")


def chosen(func: Func, *, threads: int = 2, precision: str = "default") -> tuple[str, str]:
    """The algorithm, and what was said of the others."""
    target = Target.named("avx512")
    layouts = Layouts(func)
    scope = Scope(target, threads, layouts, find_epilogues(func, layouts), precision)
    lower_func(scope, func)
    ((_, name, others),) = scope.choices
    return name, others


@pytest.mark.parametrize("name", PASSES)
def test_large_images_take_the_fewest_products(name: str) -> None:
    func = convolution(name, (8, 64, 56, 56), 64, (3, 3))
    kernel, others = chosen(func)
    assert kernel == "Winograd F(4 x 4, 3 x 3)"
    assert "direct blocked: " in others
    assert "times the time" in others
    kernel, others = chosen(func, precision="high")
    assert kernel == "Winograd F(2 x 2, 3 x 3)"
    assert 'F(4 x 4, 3 x 3): conv_precision is "high"' in others


@pytest.mark.parametrize("name", PASSES)
def test_tiny_images_with_many_channels_read_each_weight_once(name: str) -> None:
    kernel, _ = chosen(convolution(name, (1, 512, 2, 2), 512, (3, 3)))
    assert kernel == "direct blocked"


@pytest.mark.parametrize(
    ("name", "images", "size", "kernel"),
    [
        ("conv", 1, 1, "small images"),  # eight of nine taps meet no pixel: it reads one
        ("conv", 1, 2, "direct blocked"),  # four pixels wait for weights: they come in a row
        ("conv", 8, 2, "small images"),
        ("conv_input_grad", 1, 2, "small images"),  # no weight is transposed
        ("conv_input_grad", 8, 2, "small images"),
    ],
)
def test_small_images_with_weights_in_place(name: str, images: int, size: int, kernel: str) -> None:
    op = convolution(name, (images, 512, size, size), 512, (3, 3)).ops[0]
    plane = Blocked.dense("f32", (images, 512, size, size), ((1, 1), (1, 1)))
    weights = Weights.blocked("f32", (512, 512, 3, 3))
    setting = conv_choice.Setting(Target.named("avx512"), 2)
    found, _ = conv_choice.candidates(setting, op, plane, plane, weights)
    assert conv_choice.best_of(found).name == kernel


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kernel": (6, 3)}, "filters of 6 taps leave no two outputs to 6 points"),
        ({"kernel": (5, 5), "stride": (2, 2)}, "with a stride, it takes filters of 3 x 3"),
        ({"kernel": (3, 3), "stride": (2, 1)}, "it takes a stride of 1 or 2 along both axes"),
        ({"kernel": (3, 3), "stride": (3, 3)}, "it takes a stride of 1 or 2 along both axes"),
        ({"kernel": (3, 3), "dilation": (1, 2)}, "it takes no dilation"),
        ({"kernel": (3, 3), "dtype": "f8"}, "it is exact enough for f32 only"),
    ],
)
def test_refusals_are_sentences(options: dict[str, Any], reason: str) -> None:
    _, others = chosen(convolution("conv", (2, 32, 12, 12), 32, **options))
    rows, columns = options["kernel"]
    outputs = f"{max(1, 7 - rows)} x {max(1, 7 - columns)}"
    assert f"Winograd F({outputs}, {rows} x {columns}): {reason}" in others


def grid() -> list[dict[str, Any]]:
    """Convolutions of all kinds, drawn once."""
    rng = np.random.default_rng(11)

    def pair(*values: int) -> tuple[int, int]:
        first, second = rng.choice(values, 2)
        return int(first), int(second)

    cases: list[dict[str, Any]] = []
    while len(cases) < 24:
        groups = int(rng.choice((1, 1, 1, 2)))
        kernel = pair(1, 2, 3, 5) if rng.random() < 0.3 else (3, 3)
        size, padding = pair(1, 2, 4, 5, 7, 9, 16), pair(0, 1, 1, 2)
        stride, dilation = pair(1, 1, 1, 2), pair(1, 1, 1, 2)
        spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        if any(n + 2 * p < s for n, p, s in zip(size, padding, spans, strict=True)):
            continue
        images, channels = int(rng.integers(1, 5)), int(rng.choice((16, 32, 48, 3)))
        cases.append(
            {
                "shape": (images, groups * channels, *size),
                "outputs": groups * int(rng.choice((16, 32, 64, 80))),
                "kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation,
                "groups": groups, "dtype": str(rng.choice(("f4", "f4", "f8"))),
            }
        )  # fmt: skip
    return cases


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("case", grid(), ids=lambda case: "-".join(map(str, case.values())))
def test_compiled_is_interpreted(case: dict[str, Any], name: str, target_name: str) -> None:
    """Whatever is chosen computes the same; the same thread count the same bits."""
    target = target_named(target_name)
    func = convolution(name, **case)
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(t.shape).astype(t.dtype.numpy) for t in func.param_types]
    exact = convolution(name, **{**case, "dtype": "f8"})
    (expected,) = interpret(exact, [a.astype(np.float64) for a in arrays])
    eps = float(np.finfo(arrays[0].dtype).eps)
    for threads in (1, 2, 3) if target_name == "host" else (2,):
        run = compile_func(func, target=target, threads=threads)
        (actual,) = run(arrays)
        worst = np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30)
        assert worst < 60 * eps
        np.testing.assert_array_equal(run(arrays)[0], actual)


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("case", grid()[::4], ids=lambda case: "-".join(map(str, case.values())))
def test_every_candidate_is_right(
    case: dict[str, Any], name: str, target_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that cost more compute the same."""
    target, func = target_named(target_name), convolution(name, **case)
    rng = np.random.default_rng(4)
    arrays = [rng.standard_normal(t.shape).astype(t.dtype.numpy) for t in func.param_types]
    exact = convolution(name, **{**case, "dtype": "f8"})
    (expected,) = interpret(exact, [a.astype(np.float64) for a in arrays])
    bound = 60 * float(np.finfo(arrays[0].dtype).eps) * max(np.abs(expected).max(), 1e-30)
    number, candidates = 0, 1
    while number < candidates:

        def forced(found: Sequence[Any], number: int = number) -> Any:
            nonlocal candidates
            candidates = max(candidates, len(found))
            return found[number % len(found)]

        monkeypatch.setattr(conv_choice, "best_of", forced)
        (actual,) = compile_func(func, target=target, threads=2)(arrays)
        assert np.abs(actual - expected).max() < bound
        number += 1


@pytest.mark.parametrize("name", ["conv", "conv_input_grad"])
@pytest.mark.parametrize("size", [2, 12], ids=["direct", "winograd"])
def test_weights_may_be_part_of_a_larger_array(name: str, size: int) -> None:
    """Rows of an array begin somewhere inside of its buffer."""
    whole = convolution(name, (2, 16, size, size), 32, (3, 3))
    builder = Builder()
    operand = builder.param(whole.param_types[0])
    rows, *others = whole.param_types[1].shape
    weights = builder.param(TensorType(whole.param_types[1].dtype, (3 * rows, *others)))
    zeros, ends = (0,) * len(others), tuple(others)
    part = builder.emit(
        "slice", weights, start=(rows, *zeros), stop=(2 * rows, *ends), step=(1,) * 4
    )
    func = builder.build([builder.emit(name, operand, part, **whole.ops[0].attrs)], "part")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(t.shape, np.float32) for t in func.param_types]
    (expected,) = interpret(func, arrays)
    (actual,) = compile_func(func, threads=2)(arrays)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
