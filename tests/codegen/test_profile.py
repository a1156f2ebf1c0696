"""Profiles: what they count and say, timelines, and that nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from symgrad.codegen import profile as profiles
from symgrad.codegen.compile import compile_func
from symgrad.codegen.lower import lower
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.profile import KernelTime, Profile, Run
from symgrad.codegen.runtime import roofline, vectorcall
from symgrad.codegen.runtime.roofline import Peaks
from symgrad.ir import parse
from symgrad.ir.passes import optimize

import symgrad as sg

TEXT = """
func @f(%x: f64[40,30], %w: f64[30,20]) -> (f64[40,20], f64[]) {
  %0: f64[40,20] = dot_general %x, %w {lhs_contract=(1,), rhs_contract=(0,)}
  %1: f64[40,20] = sin %0
  %2: f64[] = reduce_sum %1 {axes=(0,1)}
  return %1, %2
}
"""
PEAKS = Peaks(flops=1e11, bytes=1e10)


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel on all threads, on a machine whose peaks are known."""
    monkeypatch.setattr(Scope, "threads_for", lambda self, flops, bytes: self.threads)
    monkeypatch.setattr(Profile, "peaks", PEAKS)


def arguments() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(40, 30)), rng.normal(size=(30, 20))]


def compiled(threads: int, **options: Any) -> Any:
    return compile_func(optimize(parse(TEXT)), threads=threads, **options)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_kernel_call_has_its_figures(threads: int) -> None:
    found = compiled(threads).profile(arguments(), seconds=0)
    assert found.count == len(found.runs) == 3
    assert len(found.kernels) == len(found.executable.lowered.calls)
    gemm = next(k for k in found.kernels if k.op.startswith("dot_general"))
    assert gemm.flops == 2 * 40 * 30 * 20
    assert gemm.threads == threads
    assert gemm.flop_rate == gemm.flops / gemm.seconds
    # f64 has half as many lanes as the f32 of the peaks.
    least = max(2 * gemm.flops / PEAKS.flops, gemm.bytes / PEAKS.bytes)
    assert gemm.share == pytest.approx(least / gemm.seconds)
    assert len(found.waiting) == threads
    assert all(0 <= share <= 1 for share in found.waiting)
    assert found.memory["parameters"] == 8 * (40 * 30 + 30 * 20)
    assert found.memory["results"] == 8 * (40 * 20 + 1)
    assert found.memory["arena"] == found.executable.lowered.arena_bytes


def test_times_are_medians_of_the_slowest_thread_and_waits_the_rest() -> None:
    executable = compiled(2)
    steps = len(executable.lowered.calls)
    found = Profile(executable)
    for scale in (1.0, 2.0, 6.0):
        begin = np.arange(steps) * 10.0
        spans = np.stack([[begin, begin + 10], [begin, begin + 5]]).transpose(0, 2, 1)
        found.add(Run(0.0, spans * scale))
    assert [k.seconds for k in found.kernels] == [20.0] * steps
    assert found.seconds == 20.0 * steps
    assert found.total == 90.0 * steps
    assert found.waiting == pytest.approx([0.0, 0.5])


def test_the_text_lists_the_longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compiled(1).profile(arguments(), seconds=0)
    lines = str(found).splitlines()
    assert lines[0].startswith("@f: ")
    assert "memory 26.6 kB" in str(found) or "memory" in lines[1]
    assert "100 GF/s (f32), 10 GB/s" in lines[2]
    times = [float(line.split()[0]) for line in lines[5:]]
    assert times == sorted(times, reverse=True)
    monkeypatch.setattr(profiles, "ROWS", 1)
    assert str(found).splitlines()[-1].endswith(f"{len(found.kernels) - 1} others")


def test_a_timeline_has_an_event_per_kernel_thread_and_run(tmp_path: Path) -> None:
    executable = compiled(2)
    found = executable.profile(arguments(), seconds=0)
    found.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [e for e in events if e["ph"] == "X"]
    parts = sum(2 if call.parallel else 1 for call in executable.lowered.calls)
    assert len(spans) == parts * found.count
    assert {e["tid"] for e in spans} == {0, 1}
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in spans)
    assert [e["args"]["name"] for e in events if e["ph"] == "M"] == ["thread 0", "thread 1"]


def test_donated_arguments_stay_as_they_are() -> None:
    text = """
    func @step(%w: f64[50]) -> (f64[50]) {
      %0: f64[50] = add %w, %w
      return %0
    }
    """
    executable = compile_func(optimize(parse(text)), threads=1, donate=(0,))
    assert executable.image.homes
    w = np.ones(50)
    executable.profile([w], seconds=0)
    np.testing.assert_array_equal(w, 1)


def test_chosen_kernels_and_refusals_are_told() -> None:
    text = """
    func @f(%x: f32[1,3,8,8], %w: f32[16,3,3,3]) -> (f32[1,16,8,8]) {
      %0: f32[1,16,8,8] = conv %x, %w {ATTRS}
      return %0
    }
    """.replace("ATTRS", "stride=(1,1), padding=((1,1),(1,1)), dilation=(1,1), lhs_dilation=(1,1)")
    lowered = lower(optimize(parse(text)), threads=1)
    told = {(call.chosen, call.refused) for call in lowered.calls if call.op.startswith("conv")}
    assert any(chosen for chosen, _ in told)
    chosen, refused = next(pair for pair in told if pair[0])
    assert f"[{chosen}{f': {refused}' if refused else ''}]" in lowered.explain()


# -- everything that runs --------------------------------------------------------------------


def test_a_recording_sees_every_program_of_functions_and_tensors() -> None:
    f = sg.jit(lambda x: np.sum(np.sin(x)))
    x = np.ones(5)
    f(x), f(x)  # from here on the call is native
    with sg.profile() as record:
        results = f(x), f(x), f(x), sg.grad(lambda x: np.sum(x * x))(x)
        t = sg.tensor([1.0, 2.0], requires_grad=True)
        (t * t).sum().backward()
        assert t.grad.tolist() == [2.0, 4.0]
    counts = [p.count for p in record.profiles]
    assert counts[:2] == [3, 1]
    assert len(counts) >= 3
    assert record.seconds == pytest.approx(sum(p.total for p in record.profiles))
    assert f"{len(counts)} programs, {sum(counts)} runs" in str(record)
    assert results[0] == f(x)
    assert [p.count for p in record.profiles] == counts  # over is over


def test_quick_calls_come_back_after_a_recording() -> None:
    f = sg.jit(lambda x: x + 1)
    x = np.ones(3)
    f(x)
    with sg.profile(), sg.profile() as inner:
        f(x)
        g = sg.jit(lambda x: x + 2)
        g(x)
    assert [p.count for p in inner.profiles] == [1, 1]
    assert not vectorcall.paused
    for function, expected in ((f, 2), (g, 3)):
        np.testing.assert_array_equal(function(x), expected)


def test_an_error_ends_the_recording() -> None:
    f = sg.jit(lambda x: x + 1)
    f(np.ones(3))
    with pytest.raises(RuntimeError), sg.profile():
        raise RuntimeError
    assert profiles.active == []
    assert not vectorcall.paused
    np.testing.assert_array_equal(f(np.ones(3)), 2)


def test_the_interpreter_has_nothing_to_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMGRAD_BACKEND", "interp")
    with pytest.raises(sg.ir.errors.UsageError, match="no kernels to show or profile"):
        sg.jit(lambda x: x + 1).profile(np.ones(3))


# -- the machine -----------------------------------------------------------------------------


def test_peaks_are_kept_and_only_get_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", str(tmp_path))
    seconds = iter([1e-3, 2e-3, 5e-4, 4e-3])
    monkeypatch.setattr(roofline, "_fastest", lambda *_: next(seconds))
    measure = roofline.measure.__wrapped__
    first, second = measure(2), measure(2)
    assert second.flops == 2 * first.flops
    assert second.bytes == first.bytes


def test_peaks_are_measured() -> None:
    peaks = roofline.measure.__wrapped__(1)
    assert 1e8 < peaks.flops < 1e13
    assert 1e7 < peaks.bytes < 1e13
    assert peaks.seconds(2 * peaks.flops, peaks.bytes) == pytest.approx(2)
    assert peaks.seconds(peaks.flops, 0, scalar_bytes=8) == pytest.approx(2)


def test_rates_of_nothing() -> None:
    nothing = KernelTime("k", "op", "", 0.0, 1.0, 1.0, 0.0, 1, "", "")
    assert nothing.flop_rate == nothing.byte_rate == 0
