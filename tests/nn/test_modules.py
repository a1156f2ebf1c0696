"""Every layer against a recorded PyTorch module: text, state, output, gradients, buffers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from references import (
    ModuleCase,
    module_cases,
    module_cotangent,
    module_outputs,
    module_values,
)

import symgrad as torch
from symgrad import nn
from symgrad.nn.parameter import is_lazy

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
CASES = module_cases()
UNTESTED = {
    # classes whose families are covered by others, or by tests of their own
    "AlphaDropout", "AvgPool3d", "BCELoss", "CircularPad2d", "ConstantPad2d", "Dropout1d",
    "Dropout3d", "CosineEmbeddingLoss", "GaussianNLLLoss", "HingeEmbeddingLoss",
    "InstanceNorm3d", "MarginRankingLoss", "MaxPool3d", "Module", "Parameter", "ParameterDict",
    "ParameterList", "RNNBase", "RNNCellBase", "ReflectionPad1d",
    "ReplicationPad1d", "SoftMarginLoss", "ZeroPad1d",
    "Buffer", "UninitializedBuffer", "UninitializedParameter",
}  # fmt: skip


def make(case: ModuleCase) -> nn.Module:
    module: nn.Module = eval(case.expression, {"nn": nn, "OrderedDict": OrderedDict})
    return module


def test_all_layers_are_recorded() -> None:
    layers = {name for name in nn.__all__ if name[0].isupper()}
    text = " ".join(case.expression for case in CASES)
    assert {name for name in layers if f"nn.{name}(" not in text} == UNTESTED


@pytest.mark.parametrize("case", CASES, ids=str)
def test_text_and_state(case: ModuleCase) -> None:
    module = make(case)
    assert repr(module) == case.repr
    state = [(k, None if is_lazy(v) else list(v.shape)) for k, v in module.state_dict().items()]
    assert state == list(map(tuple, case.state))


@pytest.mark.parametrize("case", [c for c in CASES if c.shapes], ids=str)
def test_outputs_and_gradients(case: ModuleCase) -> None:
    module = make(case).double()
    state, inputs = module_values(case.expression, case.state, case.shapes)
    module.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    given = [torch.tensor(x, requires_grad=x.dtype.kind == "f") for x in inputs]
    outputs = module_outputs(module(*given))
    for number, output in enumerate(outputs):
        close(output, case.arrays[f"output{number}"])
    weighted = [(y * torch.tensor(module_cotangent(tuple(y.shape)))).sum() for y in outputs]
    torch.stack(weighted).sum().backward()
    imprecise = 1e-7 if "Hardsigmoid" in case.expression else 1e-10  # torch's factor is f32
    for name, expected in case.arrays.items():
        kind, _, key = name.partition(".")
        if kind == "gradients":
            close(module.get_parameter(key).grad, expected, imprecise)
        elif kind == "buffers":
            close(module.get_buffer(key), expected)
        elif kind.startswith("input"):
            close(given[int(kind[5:])].grad, expected, imprecise)


def close(actual: Any, expected: np.ndarray[Any, Any], bound: float = 1e-10) -> None:
    assert actual.dtype is (torch.float64 if expected.dtype.kind == "f" else torch.int64)
    scale = float(np.max(np.abs(expected), initial=1))
    np.testing.assert_allclose(actual.detach().numpy(), expected, bound, bound * scale)


MASKS = {
    "none": {}, "causal": {"attn_mask": True}, "padding": {"key_padding_mask": True},
    "both": {"attn_mask": True, "key_padding_mask": True},
}  # fmt: skip


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_masks(masks: str, need_weights: bool) -> None:
    """Masked keys have weight 0, and do not matter for the output."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    x = torch.randn(2, 4, 6)
    later = torch.triu(torch.ones(4, 4), diagonal=1).bool()
    padding = torch.tensor([[False, False, False, True], [False, False, True, True]])
    chosen = {"attn_mask": later, "key_padding_mask": padding}
    options = {name: chosen[name] for name in MASKS[masks]}
    output, weights = attention(x, x, x, need_weights=need_weights, **options)
    added = {k: torch.where(v, -torch.ones(1) * np.inf, torch.zeros(1)) for k, v in options.items()}
    other, _ = attention(x, x, x, need_weights=need_weights, **added)
    np.testing.assert_allclose(output.tolist(), other.tolist(), atol=1e-6)
    if not need_weights:
        assert weights is None
        return
    assert weights.shape == (2, 4, 4)
    np.testing.assert_allclose(weights.sum(-1).tolist(), np.ones((2, 4)), atol=1e-6)
    hidden = np.zeros((2, 4, 4), bool)
    if "attn_mask" in options:
        hidden |= later.numpy()
    if "key_padding_mask" in options:
        hidden |= padding.numpy()[:, None]
    assert not weights.detach().numpy()[hidden].any()
    _, each = attention(x, x, x, average_attn_weights=False, **options)
    np.testing.assert_allclose(each.mean(1).tolist(), weights.tolist(), atol=1e-6)
