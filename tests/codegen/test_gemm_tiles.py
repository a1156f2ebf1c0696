"""Products of bf16 on a matrix unit: run on its plain form, and read as AMX code."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.access import Access
from symgrad.codegen.kernels import gemm_schedule
from symgrad.codegen.kernels.gemm import GemmSpec, lower_gemm
from symgrad.codegen.kernels.gemm_plan import Plan
from symgrad.codegen.kernels.gemm_schedule import TILES, on_tiles
from symgrad.codegen.kernels.tile_unit import AMX, PLAIN
from symgrad.codegen.lower import kernel_text
from symgrad.codegen.lowering.epilogue import RegionEpilogue
from symgrad.codegen.objects import emit_assembly
from symgrad.codegen.target import Target, may_use_tiles

from tests.codegen.harness import TARGETS, run_lowering, target_named
from tests.codegen.regions import region
from tests.codegen.test_gemm import ORDERS, check, from_bf16, over, sample

SIZES = [
    (16, 16, 32), (33, 70, 65), (17, 9, 1), (8, 40, 300), (100, 33, 47), (70, 40, 2),
]  # fmt: skip
"""Whole tiles, remainders on every side, one step, several blocks."""


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit multiplies all pairs, whether that pays or not."""
    monkeypatch.setattr(gemm_schedule, "STARTING", -(10**9))


def plain(name: str = "host") -> Target:
    return replace(target_named(name), tile_unit=PLAIN)


def product(
    size: tuple[int, int, int], target: Target, *, order: str = "abc", batch: int = 0,
    threads: int = 1, result: str = "bf16",
) -> None:  # fmt: skip
    """Runs one product and compares it; a capital letter transposes an operand's memory."""
    m, n, k = size
    rng, lead = np.random.default_rng(m + n + k), (batch,) if batch else ()

    def operand(letter: str, rows: int, cols: int, dtype: str) -> Any:
        if letter in order:
            return sample(rng, (*lead, rows, cols), dtype)
        return np.swapaxes(sample(rng, (*lead, cols, rows), dtype), -1, -2)

    a, b = operand("a", m, k, "bf16"), operand("b", k, n, "bf16")
    c = operand("c", m, n, result)
    axes = range(a.ndim)
    spec = GemmSpec(
        lead, (m,), (n,), (k,),
        over(a, axes, "bf16"), over(b, axes, "bf16"), over(c, axes, result),
    )  # fmt: skip
    lowering = lower_gemm(spec, target, threads)
    kernels = [p for p in lowering.phases if p.label in ("gemm", "gemm_partial")]
    assert all(Plan(p.spec, target).schedule.form == TILES for p in kernels)  # type: ignore[arg-type]
    run_lowering(lowering, [a, b, c], threads, target)
    check(c, from_bf16(a) @ from_bf16(b), result, k)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_edges_and_orders(size: tuple[int, int, int]) -> None:
    for number, order in enumerate(ORDERS if size == SIZES[1] else ORDERS[::3]):
        product(size, plain(), order=order, batch=3 * (number % 2), threads=1 + number % 3)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("target", TARGETS)
def test_blocks_of_the_contraction(target: str) -> None:
    """Sums of several blocks meet in a float32 result; the last block is not whole."""
    machine = replace(plain(target), l1d=16 << 10, l2=64 << 10, l3=128 << 10)
    for order in ("abc", "aBC", "ABc"):
        product((90, 70, 701), machine, order=order, result="f32", threads=2)


@pytest.mark.usefixtures("always")
def test_split_contraction() -> None:
    product((8, 9, 3000), plain(), threads=4, result="f32")


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("size", [(37, 50, 90), (9, 17, 33)], ids=str)
def test_epilogue(size: tuple[int, int, int]) -> None:
    m, n, k = size
    rng = np.random.default_rng(3)
    a, b = sample(rng, (m, k), "bf16"), sample(rng, (k, n), "bf16")
    bias, c = rng.standard_normal(n).astype("f4"), np.zeros((m, n), np.float32)

    def body(build: Any, bias: Any, total: Any) -> Any:
        return build.emit("add", total, bias)

    epilogue = RegionEpilogue((over(bias, (None, 0), "f32"),), region(body, "f32", "f32"), 1, "f32")
    spec = GemmSpec((), (m,), (n,), (k,), over(a, (0, 1), "bf16"), over(b, (0, 1), "bf16"),
                    over(c, (0, 1), "f32"), epilogue)  # fmt: skip
    run_lowering(lower_gemm(spec, plain(), 2), [a, b, bias, c], 2, plain())
    check(c, from_bf16(a) @ from_bf16(b) + bias, "f32", k)


def test_where_it_pays() -> None:
    unit = Target.named("amx")
    assert on_tiles("bf16x2", 1024, 1024, 512, unit)
    assert on_tiles("bf16x2", 64, 64, 128, unit)
    assert not on_tiles("bf16x2", 1, 4096, 2048, unit)  # B is read once: packing costs more
    assert not on_tiles("bf16x2", 8, 8, 8, unit)
    assert not on_tiles("f32", 1024, 1024, 1024, unit)
    assert not on_tiles("bf16x2", 1024, 1024, 512, replace(unit, tile_unit=""))


def rows(stride: int) -> Access:
    return Access("bf16", (stride, 1))


def square(n: int) -> GemmSpec:
    return GemmSpec((), (n,), (n,), (n,), rows(n), rows(n), Access("f32", (n, 1)))


def amx_text(spec: GemmSpec) -> str:
    (phase,) = (p for p in lower_gemm(spec, Target.named("amx"), 2).phases if p.label == "gemm")
    return kernel_text(phase.emit, phase.spec, "kernel", Target.named("amx"))


def test_amx_code() -> None:
    """One configuration, four products a step, and no tile that leaves the unit in between."""
    lines = emit_assembly(amx_text(square(1000)), Target.named("amx")).splitlines()
    count = Counter(line.split()[0] for line in lines if line.split())
    assert count["ldtilecfg"] == count["tilerelease"] == 1
    assert count["tdpbf16ps"] == count["tilezero"] == count["tilestored"] == 4 + 2 + 2 + 1
    assert count["tileloadd"] == 4 + 3 + 3 + 2
    first = next(i for i, line in enumerate(lines) if "tdpbf16ps" in line)
    start = max(i for i in range(first) if lines[i].startswith(".LBB"))
    back = re.compile(r"\s+j\w+\s+" + re.escape(lines[start].split(":")[0]))
    end = next(i for i in range(first, len(lines)) if back.match(lines[i]))
    loaded: set[str] = set()
    sums: set[str] = set()
    for line in lines[start + 1 : end]:
        name, *tiles = line.split()[0], *re.findall(r"%tmm\d", line)
        assert name in ("tileloadd", "tdpbf16ps", "leaq", "addq", "cmpq", "movq", "incq", "decq")
        if name == "tileloadd":
            loaded.add(tiles[0])
        elif name == "tdpbf16ps":
            assert {tiles[0], tiles[1]} <= loaded
            sums.add(tiles[2])
    assert len(loaded) == len(sums) == 4
    assert not loaded & sums


def test_amx_configuration() -> None:
    """The 64 bytes that say how large tiles are."""
    (body,) = re.findall(r"@tile_configuration = .* \[(.*)\], align 64", amx_text(square(256)))
    table = bytes(int(item.split()[1]) for item in body.split(", "))
    assert len(table) == 64
    assert table[:16] == bytes([1, *[0] * 15])  # the palette, no row to start at
    assert np.frombuffer(table[16:48], "<u2").tolist() == [64] * 8 + [0] * 8
    assert list(table[48:]) == [16] * 8 + [0] * 8


def test_permission() -> None:
    assert may_use_tiles() in (True, False)
    host = Target.host()
    assert (host.tile_unit == AMX) == ("+amx-tile" in host.features)
