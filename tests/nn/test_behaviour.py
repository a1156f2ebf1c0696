"""What modules do besides computing: hooks, dropout, initial values, clipping, loading."""

from __future__ import annotations

import copy
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad import nn


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.ReLU(inplace=True), nn.Linear(2, 1))


def test_hooks_see_and_replace() -> None:
    model, seen = small(), []
    model[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    double = model[0].register_forward_hook(lambda module, args, output: output * 2)
    model[2].register_full_backward_pre_hook(lambda module, grads: (grads[0] * 3,))
    model[2].register_full_backward_hook(
        lambda module, inner, outer: seen.append((inner[0].shape, outer[0].tolist()))
    )
    x = torch.ones(1, 3)
    first = model[0](x)
    double.remove()
    np.testing.assert_allclose(first.tolist(), (model[0](x) * 2).tolist())
    model(x).sum().backward()
    assert seen[-1] == ((1, 2), [[3.0]])
    assert model[2].bias.grad.tolist() == [3.0]


@pytest.mark.parametrize("layer", [nn.Dropout, nn.Dropout1d])
def test_dropout(layer: Any) -> None:
    x = torch.ones(40, 30, 5, requires_grad=True)
    dropout = layer(0.25)
    torch.manual_seed(0)
    first = dropout(x)
    torch.manual_seed(0)
    assert torch.equal(first, dropout(x)) and not torch.equal(first, dropout(x))
    values = first.detach().numpy()
    assert set(np.unique(values)) == {0, np.float32(4 / 3)}
    assert abs((values == 0).mean() - 0.25) < 0.05
    if layer is nn.Dropout1d:
        assert (values == values[:, :, :1]).all()
    first.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), values)
    assert dropout.eval()(x) is x
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        layer(1.5)


@pytest.mark.parametrize(
    ("fill", "low", "high", "deviation"),
    [
        (nn.init.xavier_uniform_, -math.sqrt(6 / 500), math.sqrt(6 / 500), math.sqrt(2 / 500)),
        (nn.init.kaiming_uniform_, -math.sqrt(6 / 300), math.sqrt(6 / 300), math.sqrt(2 / 300)),
        (nn.init.xavier_normal_, -1, 1, math.sqrt(2 / 500)),
        (nn.init.kaiming_normal_, -1, 1, math.sqrt(2 / 300)),
        (nn.init.trunc_normal_, -2, 2, 0.8796),
    ],
)
def test_distributions(fill: Any, low: float, high: float, deviation: float) -> None:
    torch.manual_seed(1)
    weight = fill(nn.Parameter(torch.zeros(200, 300))).detach().numpy()
    assert weight.min() >= low and weight.max() <= high
    assert abs(weight.mean()) < 0.02 and weight.std() == pytest.approx(deviation, rel=0.02)


def test_orthogonal_and_gains() -> None:
    weight = nn.init.orthogonal_(torch.zeros(3, 5), gain=2).numpy()
    np.testing.assert_allclose(weight @ weight.T, 4 * np.eye(3), atol=1e-5)
    assert nn.init.calculate_gain("leaky_relu", 0.2) == pytest.approx(math.sqrt(2 / 1.04))


def test_clipping_and_vectors() -> None:
    model = small()
    (model(torch.ones(4, 3)).sum() * 100).backward()
    before = math.sqrt(sum((p.grad.numpy() ** 2).sum() for p in model.parameters()))
    assert nn.utils.clip_grad_norm_(model.parameters(), 0.5).item() == pytest.approx(before, 1e-5)
    after = math.sqrt(sum((p.grad.numpy() ** 2).sum() for p in model.parameters()))
    assert after == pytest.approx(0.5, 1e-4)
    nn.utils.clip_grad_value_(model.parameters(), 0.01)
    assert all(p.grad.abs().max().item() <= 0.01 for p in model.parameters())
    vector = nn.utils.parameters_to_vector(model.parameters())
    assert vector.shape == (11,)
    nn.utils.vector_to_parameters(torch.arange(11.0), model.parameters())
    assert model[0].bias.tolist() == [6, 7]


def test_loading_says_what_is_wrong() -> None:
    model = small()
    state = model.state_dict()
    assert repr(model.load_state_dict(state)) == "<All keys matched successfully>"
    wrong = {**state, "2.bias": torch.ones(4), "x": torch.ones(1)}
    del wrong["0.weight"]
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(wrong)
    assert str(caught.value) == (
        "Error(s) in loading state_dict for Sequential:\n\tMissing key(s) in state_dict: "
        '"0.weight". \n\tUnexpected key(s) in state_dict: "x". \n\tsize mismatch for 2.bias: '
        "copying a param with shape torch.Size([4]) from checkpoint, the shape in current model "
        "is torch.Size([1])."
    )
    keys = model.load_state_dict({"y": torch.ones(1)}, strict=False)
    assert keys.unexpected_keys == ["y"] and len(keys.missing_keys) == 4


def test_copies_are_apart() -> None:
    model = small()
    other = copy.deepcopy(model)
    nn.init.zeros_(other[0].weight)
    assert model[0].weight.abs().sum().item() > 0
    assert isinstance(other[0].weight, nn.Parameter) and other[0].weight.requires_grad


def test_loading_copies_once() -> None:
    model = nn.Linear(256, 256, bias=False)
    weight = model.weight
    state = {"weight": torch.ones(256, 256)}
    tracemalloc.start()
    try:
        model.load_state_dict(state)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert weight.nelement() * 4 <= most < 1.5 * weight.nelement() * 4
    assert model.weight is weight and weight.requires_grad and bool((weight == 1).all())
    state["weight"].zero_()
    assert bool((weight == 1).all())


def test_one_hot_refuses_classes_out_of_range() -> None:
    for classes, text in ([3, 0], "smaller than num_classes"), ([-1, 0], "non-negative"):
        with pytest.raises(RuntimeError, match=f"Class values must be {text}"):
            nn.functional.one_hot(torch.tensor(classes), 3)


def test_convolutions_that_keep_their_input_and_sparse_weights() -> None:
    weight = nn.init.dirac_(torch.empty(4, 2, 3, 3), groups=2)
    x = torch.rand(1, 4, 5, 5)
    assert torch.equal(nn.functional.conv2d(x, weight, padding=1, groups=2), x)
    sparse = nn.init.sparse_(torch.empty(10, 4), 0.25)
    assert (sparse == 0).sum(0).tolist() == [3] * 4
