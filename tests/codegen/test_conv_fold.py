"""Strided convolutions of few channels on folded pixels, against the interpreter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import compile_func
from symgrad.codegen.kernels.blocked import Weights
from symgrad.codegen.kernels.fold_pixels import emit_fold
from symgrad.codegen.lower import lower
from symgrad.codegen.lowering import conv
from symgrad.codegen.lowering.conv_fold import fold, runs
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.runtime.resident import State
from symgrad.codegen.target import Target
from symgrad.ir import Func, interpret
from symgrad.ir.builder import Builder
from symgrad.ir.graph import Op
from symgrad.ir.types import TensorType

from tests.codegen.harness import TARGETS, target_named
from tests.codegen.test_conv_choice import convolution
from tests.codegen.test_resident import chain, check_steps, resident_step

PASSES = ("conv", "conv_weight_grad")


@pytest.fixture
def _always_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    def folded(scope: Scope, op: Op, weights: Weights) -> Any:
        return fold(op) if scope.storage(op.operands[0]).tiling is None else None

    monkeypatch.setattr(conv, "_folded", folded)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 1, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_runs_have_every_place_once(first: int, count: int, stride: int) -> None:
    places = [
        (run.start + stride * tap + r, stride * (run.tap + tap) + run.remainder + r)
        for run in runs(first, count, stride)
        for tap in range(run.taps)
        for r in range(run.remainders)
    ]
    assert sorted(places) == [(i, first + i) for i in range(count)]


def grid() -> list[dict[str, Any]]:
    """Strided convolutions of few channels, drawn once."""
    rng = np.random.default_rng(17)
    cases: list[dict[str, Any]] = []
    while len(cases) < 12:
        stride = int(rng.choice((2, 2, 2, 3, 4)))
        inputs = int(rng.integers(1, 16 // stride**2 + 1))
        kernel, size, padding = (
            (int(a), int(b))
            for a, b in (rng.integers(1, 8, 2), rng.integers(3, 24, 2), rng.integers(0, 5, 2))
        )
        if any(n + 2 * p < k for n, p, k in zip(size, padding, kernel, strict=True)):
            continue
        cases.append(
            {
                "shape": (int(rng.integers(1, 4)), inputs, *size),
                "outputs": int(rng.choice((16, 32, 48))), "kernel": kernel,
                "stride": (stride, stride), "padding": padding,
                "dtype": str(rng.choice(("f4", "f4", "f8"))),
            }
        )  # fmt: skip
    return cases


@pytest.mark.usefixtures("_always_folds")
@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("case", grid(), ids=lambda case: "-".join(map(str, case.values())))
def test_folded_is_interpreted(case: dict[str, Any], target_name: str) -> None:
    rng = np.random.default_rng(5)
    for name in PASSES:
        func = convolution(name, **case)
        arrays = [rng.standard_normal(t.shape).astype(t.dtype.numpy) for t in func.param_types]
        exact = convolution(name, **{**case, "dtype": "f8"})
        (expected,) = interpret(exact, [a.astype(np.float64) for a in arrays])
        bound = 40 * float(np.finfo(arrays[0].dtype).eps) * max(np.abs(expected).max(), 1e-30)
        for threads in (1, 3) if target_name == "host" else (2,):
            run = compile_func(func, target=target_named(target_name), threads=threads)
            assert any("folded pixels" in call.chosen for call in run.lowered.calls)
            for _ in range(2):  # zeros that were written once are still there
                assert np.abs(run(arrays)[0] - expected).max() <= bound


@pytest.mark.usefixtures("_always_folds")
@pytest.mark.parametrize("name", PASSES)
def test_pixels_of_any_strides_fold(name: str) -> None:
    """Images with their channels last are folded by copies, others by one kernel."""
    case: dict[str, Any] = {"stride": (2, 2), "padding": (2, 1)}
    func = convolution(name, (2, 3, 9, 14), 16, (5, 4), **case)
    builder = Builder()
    x, other = func.param_types
    n, c, h, w = x.shape
    images = builder.param(TensorType(x.dtype, (n, h, w, c)), "images")
    operands = [builder.emit("transpose", images, axes=(0, 3, 1, 2)), builder.param(other, "o")]
    last = builder.build([builder.emit(name, *operands, **func.ops[0].attrs)], "channels_last")
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal(t.shape, np.float32) for t in (x, other)]
    (expected,) = interpret(func, arrays)
    bound = 1e-5 * np.abs(expected).max()
    turned = [np.ascontiguousarray(arrays[0].transpose(0, 2, 3, 1)), arrays[1]]
    for one, given, by_copies in ((func, arrays, False), (last, turned, True)):
        run = compile_func(one, threads=2)
        folding = [call.phase.emit for call in run.lowered.calls if call.op.endswith(":fold")]
        assert (emit_fold in folding) is not by_copies
        assert np.abs(run(given)[0] - expected).max() <= bound


@pytest.mark.parametrize("name", PASSES)
def test_the_first_layer_of_a_network_of_images_is_folded(name: str) -> None:
    """Where products are what takes the time, unless the copies would take more."""
    one_port = replace(Target.named("avx512"), cpu="znver4")

    def algorithm(func: Func, **options: Any) -> str:
        calls = lower(func, target=one_port, threads=2, **options).calls
        return next(call.chosen for call in calls if call.chosen)

    options: dict[str, Any] = {"stride": (2, 2), "padding": (3, 3)}
    first = convolution(name, (8, 3, 224, 224), 64, (7, 7), **options)
    assert algorithm(first) == "Winograd F(3 x 3, 4 x 4) on folded pixels"
    assert algorithm(first, conv_precision="high") == "direct blocked"
    tiny = convolution(name, (1, 3, 16, 16), 64, (7, 7), **options)
    assert algorithm(tiny) == "direct blocked"


def test_what_is_not_folded() -> None:
    def folds(shape: tuple[int, ...], **options: Any) -> bool:
        return fold(convolution("conv", shape, 16, (3, 3), **options).ops[0]) is not None

    assert folds((1, 4, 9, 9), stride=(2, 2))
    assert not folds((1, 4, 9, 9))
    assert not folds((1, 5, 9, 9), stride=(2, 2))
    assert not folds((1, 4, 9, 9), stride=(2, 1))
    assert not folds((1, 4, 9, 9), stride=(2, 2), dilation=(2, 2))
    assert not folds((1, 4, 9, 9), stride=(2, 2), groups=2)
    grad = convolution("conv_input_grad", (1, 4, 9, 9), 16, (3, 3), stride=(2, 2))
    assert fold(grad.ops[0]) is None


@pytest.mark.usefixtures("_always_folds")
@pytest.mark.parametrize("gradients", [False, True])
def test_training_steps_on_resident_weights(gradients: bool) -> None:
    """Weights live blocked; the update follows the gradient in a nest of its own."""
    func = chain([(3, 16, 7, 1), (16, 32, 3, 1)], size=17, stride=2, gradients=gradients)
    run = resident_step(func, threads=2)
    assert sum("folded" in call.chosen for call in run.lowered.calls) >= 2
    check_steps(func, run, bound=2e-4)


@pytest.mark.usefixtures("_always_folds")
def test_folded_weights_are_kept_while_weights_stay() -> None:
    func = convolution("conv", (2, 3, 15, 12), 32, (5, 5), stride=(2, 2), padding=(2, 2))
    run = compile_func(func, threads=2, state=State(invariant=frozenset((1,))))
    assert run.lowered.prologue is not None
    assert any(":fold" in call.op for call in run.lowered.prologue.calls)
    rng = np.random.default_rng(0)
    for stamp in (object(), object()):
        w = rng.standard_normal((32, 3, 5, 5), np.float32)
        for _ in range(2):
            x = rng.standard_normal((2, 3, 15, 12), np.float32)
            (expected,) = interpret(func, [x, w])
            np.testing.assert_allclose(run.run([x, w], stamp=(stamp,))[0], expected, atol=1e-4)
