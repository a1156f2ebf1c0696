"""The pass manager: pipelines as text, hooks, and what a failing pass leaves behind."""

from __future__ import annotations

import io

import pytest
from passes.programs import build
from symgrad.ir import parse
from symgrad.ir.errors import InternalError, UsageError
from symgrad.ir.graph import Func
from symgrad.ir.passes import DEFAULT, Hooks, Pass, optimize
from symgrad.ir.passes.manager import parse_pipeline, pipeline_of, run


def sample() -> Func:
    return build(lambda x: (x + 0) * 2 - -x, x=(3, 5))


def test_pipeline_text_round_trips():
    text = "canonicalize,fuse{max-operands=8,max-ops=3}"
    passes = parse_pipeline(text, DEFAULT)
    assert ",".join(map(str, passes)) == text
    assert parse_pipeline(" canonicalize , fuse{ max-operands = 8, max-ops=3 } ", DEFAULT) == passes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fuse{size=3}", "has no option 'size'; it has max-operands, max-ops"),
        ("fuse{max-ops=few}", "takes a value of type int, got 'few'"),
        ("fues", "there is no pass 'fues'; known: reroll, expand"),
        ("fuse fuse", "no pass name at"),
    ],
)
def test_bad_pipelines_say_what_is_wrong(text, message):
    with pytest.raises(UsageError, match=message):
        parse_pipeline(text, DEFAULT)


def test_options_reach_the_pass():
    (fuse,) = parse_pipeline("fuse{max-ops=1}", DEFAULT)
    assert len(run(sample(), [fuse], Hooks()).ops) == 4


def test_hooks_print_time_and_dump(tmp_path):
    out = io.StringIO()
    hooks = Hooks(
        verify_each=True, print_after=frozenset({"fuse"}), print_changed=True, time=True,
        dump_dir=tmp_path, out=out,
    )  # fmt: skip
    result = optimize(sample(), hooks=hooks)
    text = out.getvalue()
    assert "# after 3: canonicalize" in text
    assert "# after 5: fuse" in text
    assert "# after 2: expand" not in text  # changed nothing
    assert [t.name for t in hooks.timings] == [p.name for p in DEFAULT]
    assert (hooks.timings[2].ops_before, hooks.timings[2].ops_after) == (6, 3)
    stages = sorted(p.name for p in tmp_path.iterdir())
    assert stages[0] == "01-reroll.sgir"
    assert parse((tmp_path / stages[-1]).read_text()) == result


def test_environment_sets_the_hooks(monkeypatch, tmp_path):
    monkeypatch.setenv("SYMGRAD_DEBUG", "time, verify")
    monkeypatch.setenv("SYMGRAD_DUMP", str(tmp_path))
    hooks = Hooks.from_environment()
    assert (hooks.time, hooks.verify_each, hooks.print_changed) == (True, True, False)
    assert hooks.dump_dir == tmp_path


def test_crash_leaves_a_file_that_replays(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def broken(func: Func) -> Func:
        raise ZeroDivisionError("planted")

    first, last = parse_pipeline("canonicalize,fuse", DEFAULT)
    pipeline = [first, Pass("broken", broken), last]
    with pytest.raises(InternalError, match="pass broken failed: ZeroDivisionError: planted"):
        run(sample(), pipeline, Hooks())
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    assert pipeline_of(text) == "broken,fuse"
    assert parse(text) == run(sample(), pipeline[:1], Hooks())


def test_an_invalid_result_is_caught_and_named():
    def swaps(func: Func) -> Func:
        return Func(func.name, func.params, func.ops[::-1], func.results)

    with pytest.raises(InternalError, match="pass swaps failed: VerifyError"):
        run(sample(), [Pass("swaps", swaps)], Hooks(verify_each=True))


def test_disabled_passes_do_not_run():
    hooks = Hooks(time=True, out=io.StringIO())
    optimize(sample(), disable=("stabilize", "canonicalize", "fuse"), hooks=hooks)
    assert [t.name for t in hooks.timings] == ["reroll", "expand", "fuse", "simplify_scalar"]
