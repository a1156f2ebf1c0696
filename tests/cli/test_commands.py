"""Every command: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from symgrad.ir import parse
from symgrad.ir.opdef import REGISTRY
from symgrad.ir.passes import DEFAULT
from typer.testing import CliRunner, Result

from symgrad.cli import exits
from symgrad.cli.app import app

Run = Callable[..., Result]

SOURCE = """
import numpy as np
import symgrad

OFFSET = np.linspace(0.0, 1.0, 4)


def model(x, w):
    return np.sum(np.tanh(x @ w + OFFSET[:3]) ** 2)


def steps(x, n):
    for _ in range(n):
        x = x + np.sin(x) / n
    return x.sum()


def branches(x):
    return x if x > 0 else -x


def fails(x):
    return {}["missing"]


def vector(x):
    return 2 * x


def many(x, y=2.0, *, scale, shift=0.0):
    return np.sum(scale * x + y) - shift


slope = symgrad.grad(model)
number = 3
"""
MODEL = ("model.py:model", "--arg", "x:f64[3,4]", "--arg", "w:f64[4]")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in a folder with a user's file."""
    (tmp_path / "model.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.path", list(__import__("sys").path))

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return run


def succeeds(result: Result) -> str:
    """What a command printed that must not have failed."""
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


# ------------------------------------------------------------------------- IR on stdout --


def test_trace(cli: Run) -> None:
    text = succeeds(cli("trace", *MODEL))
    func = parse(text)
    assert func.name == "model"
    assert [str(t) for t in func.param_types[:2]] == ["f64[3,4]", "f64[4]"]
    assert "# model.py:9" in text


@pytest.mark.parametrize("order", ["1", "2", "3"])
def test_grad_pipes_into_opt(cli: Run, order: str) -> None:
    printed = succeeds(cli("grad", *MODEL, "--wrt", "w", "--order", order))
    assert printed.count("func @") == 2
    optimized = succeeds(cli("opt", "-", stdin=printed))
    functions = ["func @" + part for part in optimized.split("func @")[1:]]
    assert [len(parse(text).results) for text in functions] == [1, 1 + int(order) + int(order) - 1]
    assert "fused" in optimized


def test_trace_pipes_into_run(cli: Run) -> None:
    direct = succeeds(cli("run", *MODEL))
    text = succeeds(cli("trace", "model.py:steps", "--arg", "x=[1.0,2.0]", "--arg", "n=2"))
    assert succeeds(cli("run", "-", "--arg", "x=[1.0,2.0]", stdin=text)) == succeeds(
        cli("run", "model.py:steps", "--arg", "x=[1.0,2.0]", "--arg", "n=2")
    )
    assert re.fullmatch(r"result: f64\[\] = [\d.]+\n", direct)


def test_opt_options(cli: Run, tmp_path: Path) -> None:
    text = succeeds(cli("trace", *MODEL))
    Path("f.sgir").write_text(text)
    result = cli(
        "opt", "f.sgir", "-p", "canonicalize,fuse{max-ops=1}", "--print-after", "fuse",
        "--time-passes", "--verify-each", "--dump-dir", "dump",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "# after 2: fuse{max-ops=1}" in result.stderr
    assert re.search(r"# canonicalize +\d+\.\d\d ms", result.stderr)
    assert sorted(p.name for p in Path("dump").iterdir()) == [
        "01-canonicalize.sgir",
        "02-fuse.sgir",
    ]
    assert parse(Path("dump/02-fuse.sgir").read_text()) == parse(result.stdout)
    changed = cli("opt", "f.sgir", "-p", "stabilize,fuse", "--print-changed").stderr
    assert "# after 2: fuse" in changed
    assert "# after 1: stabilize" not in changed


def test_a_reproducer_brings_its_pipeline(cli: Run) -> None:
    text = succeeds(cli("trace", *MODEL))
    Path("crash.sgir").write_text(f"# pipeline: canonicalize\n# Error: it broke\n{text}")
    assert "fused" not in succeeds(cli("opt", "crash.sgir"))


# ---------------------------------------------------------------------------- show, run --


def test_show(cli: Run) -> None:
    stages = "source,ir,adjoint,optimized,symbolic,latex,kernels,llvm,asm,dot,svg,json"
    text = succeeds(cli("show", *MODEL, "--emit", stages))
    parts = re.split(r"^# ---- (\w+) ----\n", text, flags=re.MULTILINE)[1:]
    shown = dict(zip(parts[::2], parts[1::2], strict=True))
    assert ",".join(shown) == stages
    assert shown["source"].startswith("def model(x, w):")
    assert parse(shown["ir"]).name == "model"
    assert len(parse(shown["adjoint"]).results) == 3
    assert "fused" in shown["optimized"]
    assert re.search(r"^# nest over .*: \d+ ops", shown["symbolic"], re.MULTILINE)
    assert shown["latex"].startswith("\\begin{aligned}")
    assert "define void" in shown["llvm"]
    assert shown["asm"].strip()
    assert shown["dot"].startswith('digraph "model"')
    assert ElementTree.fromstring(shown["svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    data = json.loads(shown["json"])
    assert [op["op"] for op in data["ops"]] == [op.name for op in parse(shown["ir"]).ops]


def test_show_gradient(cli: Run) -> None:
    plain, gradient = (
        parse(succeeds(cli("show", *MODEL, "--emit", "optimized", *more)))
        for more in ((), ("--wrt", "w"))
    )
    assert [len(plain.results), len(gradient.results)] == [1, 2]


def test_show_of_a_derivative(cli: Run) -> None:
    arguments = ("model.py:slope", *MODEL[1:])
    assert [str(t) for t in parse(succeeds(cli("trace", *arguments))).result_types] == ["f64[3,4]"]
    assert parse(succeeds(cli("show", *arguments, "--emit", "ir"))).result_types[0].shape == ()


def test_boxes_of_a_picture_do_not_overlap(cli: Run) -> None:
    picture = ElementTree.fromstring(succeeds(cli("show", *MODEL, "--emit", "svg", "--grad")))
    boxes = [box for box in picture.iter("{http://www.w3.org/2000/svg}rect") if "x" in box.attrib]
    spans: dict[str, list[tuple[float, float]]] = {}
    for box in boxes:
        left = float(box.attrib["x"])
        spans.setdefault(box.attrib["y"], []).append((left, left + float(box.attrib["width"])))
        assert left >= 0
    for row in spans.values():
        row.sort()
        assert all(a[1] < b[0] for a, b in pairwise(row))


def test_run_values(cli: Run) -> None:
    w = np.arange(4.0)
    np.save("w.npy", w)
    out = cli(
        "run", "-c", "lambda x, w: np.sum(x * w)", "--arg", "x=[1.0, 2.0, 3.0, 4.0]",
        "--arg", "w=@w.npy", "--grad", "--save", "out.npz",
    )  # fmt: skip
    assert (
        succeeds(out)
        == "result: f64[] = 20.\nd_x: f64[4] =\n[0., 1., 2., 3.]\nd_w: f64[4] =\n[1., 2., 3., 4.]\n"
    )
    with np.load("out.npz") as saved:
        np.testing.assert_array_equal(saved["d_x"], w)


def test_defaults_and_keywords(cli: Run) -> None:
    out = cli("run", "model.py:many", "-a", "x=[1.0, 2.0]", "-a", "shift=0.5", "-a", "scale=10.0")
    assert succeeds(out) == "result: f64[] = 33.5\n"


def test_module_targets(cli: Run) -> None:
    assert succeeds(cli("run", "numpy:sin", "--arg", "x=[0.0]")) == "result: f64[1] =\n[0.]\n"


# -------------------------------------------------------------------------------- check --


def test_check(cli: Run) -> None:
    text = succeeds(cli("check", *MODEL, "--order", "2"))
    assert text.count(" ok\n") == 6
    for reference in ("finite differences", "complex step", "mpmath, 50 digits"):
        assert reference in text


def test_check_finds_a_wrong_gradient(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sin = REGISTRY["sin"]
    monkeypatch.setattr(sin, "adjoint_rule", lambda ct, y, x: (ct,))
    result = cli("check", "-c", "lambda x: np.sin(x)", "--arg", "x=0.5")
    assert result.exit_code == exits.MISMATCH
    assert result.stdout.count("MISMATCH") == 3
    assert result.stderr == "symgrad: the gradient differs from its reference\n"


def test_a_result_that_is_no_scalar(cli: Run) -> None:
    arguments = ("model.py:vector", "--arg", "x:f64[3]")
    assert "%cotangent: f64[3]" in succeeds(cli("grad", *arguments))
    assert "%cotangent: f64[3]" in succeeds(cli("show", *arguments, "--emit", "adjoint"))
    assert succeeds(cli("check", *arguments)).count(" ok\n") == 3


def test_check_says_what_is_not_possible(cli: Run) -> None:
    text = succeeds(cli("check", "-c", "lambda x: np.abs(x).sum()", "--arg", "x:f32[40]"))
    assert "24/40" in text
    assert "not possible: abs is not analytic" in text


# --------------------------------------------------------------------- ops, passes, doctor --


def test_listings(cli: Run) -> None:
    lines = succeeds(cli("ops")).splitlines()
    assert lines[0].split() == ["op", "operands", "attributes", "differentiable", "meaning"]
    assert [line.split()[0] for line in lines[1:]] == list(REGISTRY)
    assert "what deep learning calls convolution" in succeeds(cli("ops", "conv"))
    names = [line.split()[0] for line in succeeds(cli("passes")).splitlines()[1:]]
    assert names == [p.name for p in DEFAULT]


def test_version(cli: Run) -> None:
    assert re.fullmatch(r"symgrad \d+\.\d+\.\d+\n", succeeds(cli("--version")))


def test_explain(cli: Run) -> None:
    text = succeeds(cli("explain", *MODEL, "--grad"))
    assert re.match(r"@model_grad: \d+ kernel calls, \d+ kernels, \d threads, memory [\d.]+", text)


def test_profile(cli: Run) -> None:
    text = succeeds(cli("profile", *MODEL, "--grad", "--trace", "trace.json"))
    assert re.match(r"@model_grad: [\d.]+ [um]s a run \(median of \d+\)", text)
    assert "model.py:" in text
    events = json.loads(Path("trace.json").read_text())["traceEvents"]
    assert any(e["ph"] == "X" for e in events)
    refused = cli("profile", *MODEL, "--trace", "no/such/folder.json")
    assert refused.exit_code == exits.USER_ERROR
    assert "cannot write" in refused.stderr


def test_bench(cli: Run) -> None:
    lines = succeeds(cli("bench", *MODEL, "--grad", "--seconds", "0")).splitlines()
    assert lines[0].split() == ["first", "call", "median", "least"]
    assert [line.split()[0] for line in lines[1:3]] == ["@model_grad", "interpreter"]
    assert re.fullmatch(r"interpreter takes [\d.]+ times as long", lines[3])
    text = succeeds(cli("bench", *MODEL, "--against", "model.py:slope", "--seconds", "0"))
    assert "model.py:slope takes" in text
    other = cli("bench", *MODEL, "--against", "model.py:vector", "--seconds", "0")
    assert other.exit_code == exits.USER_ERROR


def test_export(cli: Run) -> None:
    assert "wrote model to m.o" in succeeds(cli("export", *MODEL, "--to", "obj", "-o", "m.o"))
    assert Path("m.o").stat().st_size > 500
    succeeds(cli("export", *MODEL, "--to", "c-header", "-o", "m.h", "--wrt", "x"))
    assert "void model_grad(const double *x, const double *w," in Path("m.h").read_text()
    assert cli("export", *MODEL, "--to", "exe", "-o", "m").exit_code == exits.USER_ERROR


def test_doctor(cli: Run) -> None:
    facts = json.loads(succeeds(cli("doctor", "--json")))
    assert facts["self-test"]["gradient"] == "correct"
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["target"]["LLVM"]
    assert "self-test" in succeeds(cli("doctor"))


def test_cache(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", str(tmp_path / "cache"))
    succeeds(cli("run", "-c", "lambda x: np.cumsum(x)", "--arg", "x:f64[3]"))
    assert str(tmp_path / "cache") in succeeds(cli("cache", "info"))
    assert succeeds(cli("cache", "clear")).startswith("removed ")
    assert re.search(r"total +0 +0\.0 MB", succeeds(cli("cache", "info")))


# ------------------------------------------------------------------------------- errors --

ERRORS = [
    (("trace",), "give one TARGET"),
    (("trace", "nothing"), "'nothing' is no TARGET"),
    (("trace", "none.py:f"), "none.py: no such file"),
    (("trace", "none.sgir"), "none.sgir: cannot read: No such file or directory"),
    (("trace", "no_such_module:f"), "there is no module 'no_such_module'"),
    (("trace", "model.py:nothing"), "model.py has no 'nothing'; its functions: model, steps"),
    (("trace", "model.py:number"), "a int is no function"),
    (("trace", "model.py:model"), "model: no value for x, w; add --arg x:f64[3]"),
    (("trace", *MODEL, "-a", "z=1"), "model has no parameter 'z'; it has x, w"),
    (("trace", *MODEL[:3], "-a", "w:f64[5]"), "(model.py:9)"),
    (("trace", *MODEL[:3], "-a", "w:f63[5]"), "'f63[5]' is not a type"),
    (("trace", *MODEL[:3], "-a", "w=@none.npy"), "none.npy: cannot read: No such file"),
    (("trace", *MODEL[:3], "-a", "w=1+"), "'1+' is no Python number, list or text"),
    (("trace", *MODEL[:3], "-a", "w"), "write NAME:TYPE, NAME=@file.npy or NAME=VALUE"),
    (("trace", "-c", "lambda x:"), "-c: "),
    (("trace", "-c", "3"), "-c needs an expression that is a function"),
    (("trace", "model.py:branches", "-a", "x=1.0"), "np.where(condition, x, y)"),
    (("trace", "model.py:fails", "-a", "x=1.0"), "model.py:23: KeyError: 'missing'"),
    (("run", "model.py:vector", "-a", "x:f64[3]", "--grad"), "@vector returns f64[3]"),
    (("grad", *MODEL, "--wrt", "q"), "--wrt: @model has no parameter 'q'; it has x, w"),
    (("show", *MODEL, "--emit", "ir,asn"), "there is no stage 'asn'"),
    (("opt", "model.py"), "line 9, column 29: unexpected '@'"),
    (("ops", "cnv"), "there is no op 'cnv'; did you mean conv?"),
    (("train", "--data", "nowhere"), "nowhere: cannot read: no such file or directory"),
    (("train", "--resume", "--lr", "0.1"), "leave out --lr"),
    (("train", "--resume"), "runs: no interrupted run here"),
    (("train", "--batch-size", "0"), "--batch-size must be at least 1, got 0"),
    (("train", "--weights", "none.pth"), "none.pth: cannot read: no such file or directory"),
]


@pytest.mark.parametrize(("arguments", "text"), ERRORS)
def test_errors_of_users(cli: Run, arguments: tuple[str, ...], text: str) -> None:
    result = cli(*arguments)
    assert result.exit_code == exits.USER_ERROR
    assert result.stdout == ""
    assert result.stderr.startswith("symgrad: ")
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    if "opt" not in arguments:  # which shows the offending line
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [("frobnicate",), ("trace", "--frob"), ("grad", "--order", "0")]
)
def test_wrong_usage(cli: Run, arguments: tuple[str, ...]) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_internal_errors_leave_a_reproducer(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symgrad.cli.derivative.value_and_grad", None)
    result = cli("grad", *MODEL)
    assert result.exit_code == exits.INTERNAL
    path = Path(re.search(r"reproducer: (\S+)", result.stderr)[1])  # type: ignore[index]
    text = path.read_text()
    path.unlink()
    assert "replay with: symgrad" in text
    assert "TypeError: 'NoneType' object is not callable" in text


def test_a_failing_pass_can_be_replayed(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = succeeds(cli("trace", *MODEL))

    def broken(func: object) -> object:
        raise RuntimeError("pass broke")

    monkeypatch.setattr("symgrad.cli.passes.DEFAULT", (type(DEFAULT[0])("stabilize", broken),))
    result = cli("opt", "-", stdin=text)
    assert result.exit_code == exits.INTERNAL
    path = Path(re.search(r"symgrad opt (\S+)", result.stderr)[1])  # type: ignore[index]
    assert path.read_text().startswith("# pipeline: stabilize\n# RuntimeError: pass broke\n")
    path.unlink()
