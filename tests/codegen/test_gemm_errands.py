"""What tiles of a product do meanwhile: they ask for memory that will be used next."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.gemm import GemmSpec, lower_gemm
from symgrad.codegen.kernels.microkernel import Accumulators, Errands, Feed, outer_tile, pieces
from symgrad.codegen.lowering.epilogue import RegionEpilogue
from symgrad.codegen.registers import Int
from symgrad.codegen.target import Target

from tests.codegen.harness import run_kernel, run_lowering
from tests.codegen.regions import region
from tests.codegen.test_gemm import check, over


@pytest.mark.parametrize("depth", [2, 130, 1300])
def test_a_tile_asks_for_what_its_epilogue_reads(
    depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line of the residual once it has been asked for; not the bias, which is near."""
    monkeypatch.setattr(
        Emitter, "prefetch", lambda k, address, **_: k.store(k.const("float", 9.0), address)
    )
    rows, columns = 37, 150
    a, b = np.zeros((rows, depth), np.float32), np.zeros((depth, columns), np.float32)
    residual, c = np.zeros((2, rows, columns), np.float32)
    bias = np.zeros(columns, np.float32)
    epilogue = RegionEpilogue(
        (over(residual, (0, 1), "f32"), over(bias, (None, 0), "f32")),
        region(lambda build, r, total, _: build.emit("add", r, total), "f32", "f32", "f32"),
        1, "f32",
    )  # fmt: skip
    spec = GemmSpec((), (rows,), (columns,), (depth,), over(a, (0, 1), "f32"),
                    over(b, (0, 1), "f32"), over(c, (0, 1), "f32"), epilogue)  # fmt: skip
    run_lowering(lower_gemm(spec, Target.host(), 2), [a, b, residual, bias, c], 2)
    expected = np.zeros_like(residual)
    expected[:, ::16] = 9  # tiles begin at whole cache lines
    np.testing.assert_array_equal(residual, expected)
    assert not bias.any()


@pytest.mark.parametrize("depth", [1, 6, 35, 50])
@pytest.mark.parametrize("known", [True, False], ids=["known", "at run time"])
def test_a_tile_does_its_errands_once(depth: int, known: bool) -> None:
    rng = np.random.default_rng(7)
    rows, lanes, errands = 6, 8, 7
    a = rng.standard_normal((rows, depth)).astype("f4")
    b = rng.standard_normal((depth, 2 * lanes)).astype("f4")
    c, done = np.zeros((rows, 2 * lanes), np.float32), np.zeros(errands, np.int32)

    def emit(k: Emitter, name: str) -> None:
        with k.function(name, ("ptr noalias", "i64", "i64")) as (args, _tid, _nth):
            left, right, result, list_, count = (
                k.load("ptr", k.gep(args, i, "ptr")) for i in range(5)
            )
            acc = Accumulators(k, rows, [f"<{lanes} x float>"] * 2)
            acc.clear()

            def do(number: Int) -> None:
                at = k.gep(list_, number, "i32")
                k.store(k.add(k.load("i32", at), 1), at)

            feeds = Feed("f32", left, depth, 1), Feed("f32", right, 1, 2 * lanes)
            steps = depth if known else k.load("i64", count)
            row = pieces(2 * lanes, lanes)
            outer_tile(k, *feeds, acc, rows, row, steps, Errands(errands, do))
            for i, v in itertools.product(range(rows), range(2)):
                k.store(acc[i, v], k.gep(result, i * 2 * lanes + v * lanes, "float"), align=4)

    run_kernel(emit, [a, b, c, done, np.array(depth)])
    np.testing.assert_array_equal(done, 1)
    check(c, a.astype("f8") @ b, "f32", depth)
