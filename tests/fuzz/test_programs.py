"""Random programs: interpreted, compiled and compiled with each pass off agree, gradients
included, on one thread and on two.  ``run.py`` beside this file runs thousands."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from symgrad.codegen.lowering.scope import Scope

from tests.fuzz.oracle import DISABLED, Oracle, share_everything
from tests.fuzz.programs import Program, networks, programs
from tests.fuzz.reduction import reduced

bounded = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
"""The number for every test run; the same programs each time."""


@pytest.fixture(autouse=True, scope="module")
def _always_parallel() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scope, "threads_for", share_everything)
        yield


def failure(program: Program) -> str | None:
    """What goes wrong in some way of compiling a program."""
    try:
        oracle = Oracle(program)
        oracle.check(threads=2)
        oracle.check(threads=1, donate=program.donate)
        for names in DISABLED:
            oracle.check(threads=2, disable=names)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def check(program: Program) -> None:
    """Fails with a small program, ready to become a file in ``regressions``."""
    if (what := failure(program)) is not None:
        small = reduced(program, lambda p: failure(p) is not None)
        pytest.fail(f"# {failure(small) or what}\n{small.func}")


@bounded
@given(programs(max_steps=25))
def test_programs_of_any_ops(program: Program) -> None:
    check(program)


@bounded
@given(networks(max_steps=10))
def test_networks_of_convolutions(program: Program) -> None:
    check(program)
