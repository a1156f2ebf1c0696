"""The passes on ResNet-18's training step: what the code generator relies on."""

from __future__ import annotations

import numpy as np
import pytest
from symgrad.ir import Func, verify
from symgrad.ir.passes import Hooks, optimize
from symgrad.ir.passes.simplify_scalar import simplify_scalar

import symgrad as sg
import symgrad.models
import symgrad.nn.functional

CONVOLUTIONS = ("conv", "conv_input_grad", "conv_weight_grad")


@pytest.fixture(scope="module")
def stages() -> tuple[Func, Func]:
    """The traced step (loss and gradients) and what the passes make of it."""
    model = sg.models.resnet18(num_classes=10).train()
    parameters, state = sg.nn.arrays(model)

    def loss(parameters, state, x, y):
        logits, state = sg.nn.functional_call(model, parameters, state, x)
        return sg.nn.functional.cross_entropy(logits, y), state

    x, y = np.zeros((2, 3, 64, 64), np.float32), np.zeros(2, np.int64)
    step = sg.value_and_grad(loss, has_aux=True)
    traced = sg.trace(step, parameters, state, x, y)
    return traced, optimize(traced, hooks=Hooks(verify_each=True))


def nests(func):
    return [op for op in func.ops if op.name == "fused"]


def test_every_convolution_is_there_once(stages):
    verify(stages[1])
    counts = [sum(op.name == name for op in stages[1].ops) for name in CONVOLUTIONS]
    assert counts == [20, 19, 20]


def test_statistics_read_each_activation_once(stages):
    """Forward: sum and sum of squares in one nest; backward: both sums in one nest."""
    summed = [op for op in nests(stages[1]) if len(op.attrs["space"]) == 4]
    pairs = [op for op in summed if sum(how is not None for how in op.attrs["reduce"]) >= 2]
    assert len(pairs) >= 20 + 17  # the two of a downsampling block share a nest going back


def test_big_nests_are_few(stages):
    big = [op for op in nests(stages[1]) if len(op.attrs["space"]) == 4]
    # Per batch norm: statistics, normalisation, two sums, gradient; plus epilogues.
    assert len(big) <= 20 * 4 + 20
    assert not any(
        v.type.dtype.name == "bool" and v.rank == 4 for op in stages[1].ops for v in op.results
    )


def test_gradient_epilogues_are_nests_of_one_result(stages):
    made_by = {id(v): op for op in stages[1].ops for v in op.results}
    masked = 0
    for op in nests(stages[1]):
        readers = [made_by.get(id(v)) for v in op.operands]
        if any(r is not None and r.name == "conv_input_grad" for r in readers):
            masked += op.attrs["reduce"] == (None,)
    assert masked >= 8


def test_it_does_not_pay_for_sympy(stages):
    assert simplify_scalar(stages[1]) is stages[1]
