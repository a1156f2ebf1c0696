"""The garbage collector is off while something compiles, and as it was afterwards."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from symgrad.ir.collector import collector_paused

import symgrad as sg


@collector_paused()
def paused() -> list[bool]:
    with collector_paused():
        inner = gc.isenabled()
    return [inner, gc.isenabled()]


@pytest.mark.parametrize("was_on", [True, False])
def test_collector_is_as_it_was(was_on):
    (gc.enable if was_on else gc.disable)()
    try:
        assert paused() == [False, False]
        assert gc.isenabled() is was_on
        with pytest.raises(ZeroDivisionError), collector_paused():
            _ = 1 / 0
        assert gc.isenabled() is was_on
    finally:
        gc.enable()


def test_functions_trace_with_the_collector_off_and_run_with_it():
    seen = []

    @sg.jit
    def f(x):
        seen.append(gc.isenabled())
        return x + 1

    f(np.ones(3))
    assert seen == [False]
    assert gc.isenabled()
