"""Modules: names, state, lending them values, and layers against their functions."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from symgrad.ir.errors import ShapeError

import symgrad as sg
from symgrad import nn
from symgrad.nn import functional as F

Array = np.ndarray[Any, Any]


class Net(nn.Module):
    """A bit of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.tail = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(4, 5)
        self.extra: nn.Module | None = None

    def forward(self, x: Array) -> Any:
        return self.fc(F.flatten(self.tail(self.bn(self.conv(x))), 1))


NAMES = ["conv.weight", "conv.bias", "bn.weight", "bn.bias", "fc.weight", "fc.bias"]
BUFFERS = ["bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]


@pytest.fixture
def images() -> Array:
    return np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32)


def test_names_in_order_of_registration() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in net.named_buffers()] == BUFFERS
    assert list(net.state_dict()) == NAMES[:4] + BUFFERS + NAMES[4:]
    assert sum(1 for _ in net.modules()) == 8
    assert net.tail[1].kernel_size == 2
    assert len(net.tail) == 3


def test_none_becomes_a_module() -> None:
    net = Net()
    net.extra = nn.Linear(1, 2, bias=False)
    assert [name for name, _ in net.named_parameters()][-1] == "extra.weight"
    assert net.extra.bias is None


def test_members_by_kind_are_the_module(images: Array) -> None:
    net = Net()
    assert list(net._modules) == ["conv", "bn", "tail", "fc"]
    assert net.bn._buffers["running_mean"] is net.bn.running_mean
    net._modules["fc"] = nn.Linear(4, 2)
    net.bn._parameters["bias"] = None
    assert net(images).shape == (2, 2)
    assert net.bn.bias is None
    assert net.bn._parameters.keys() == {"weight", "bias"}
    with pytest.raises(KeyError):
        net._parameters["fc"]
    with pytest.raises(TypeError, match="cannot assign 'int' as child module 'fc'"):
        net.fc = 3
    del net._modules["tail"]
    assert not hasattr(net, "tail")
    net.bn = None  # a place without a module keeps its name
    assert list(net._modules.items())[1] == ("bn", None)
    net.conv = nn.Parameter(np.zeros(2, np.float32))
    assert list(net._modules) == ["bn", "fc"]
    assert [name for name, _ in net.named_parameters()] == ["conv", "fc.weight", "fc.bias"]
    del net.conv
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'conv'"):
        net.conv  # noqa: B018


def test_a_copy_has_the_same_members_and_may_get_others() -> None:
    net = Net()
    shallow, deep = copy.copy(net), copy.deepcopy(net)
    shallow.more = nn.Linear(1, 1)
    assert shallow.conv is net.conv
    assert deep.conv.weight is not net.conv.weight
    assert not hasattr(net, "more")
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in deep.named_parameters()] == NAMES


def test_what_a_lent_module_registers_is_gone_after_the_call() -> None:
    class Caching(nn.Linear):
        def forward(self, input: Array) -> Any:
            self.register_buffer("seen", sg.zeros(1))
            self.bias = None
            return super().forward(input)

    net = Caching(2, 2)
    params, state = nn.arrays(net)
    bias = net.bias
    nn.functional_call(net, params, state, np.zeros((1, 2), np.float32))
    assert net.bias is bias
    assert not hasattr(net, "seen")
    assert not list(net.buffers())


def test_functional_call_equals_the_module_and_leaves_it_alone(images: Array) -> None:
    net = Net()
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    params, state = nn.arrays(net)
    call = sg.jit(lambda p, s, x: nn.functional_call(net, p, s, x))
    output, after = call(params, state, images)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    assert after["bn.num_batches_tracked"] == 1
    assert after["bn.num_batches_tracked"].dtype == np.int64
    np.testing.assert_allclose(net(images), output, rtol=1e-4, atol=1e-6)
    for name in BUFFERS:  # the eager call updated the module itself
        own = net.state_dict()[name].numpy()
        np.testing.assert_allclose(own, after[name], rtol=1e-5, atol=1e-7)


def test_eval_mode_uses_and_keeps_the_running_statistics(images: Array) -> None:
    net = Net().eval()
    assert not any(module.training for module in net.modules())
    params, state = nn.arrays(net)
    state["bn.running_mean"] = np.full(4, 3, np.float32)
    first, after = nn.functional_call(net, params, state, images)
    single, _ = nn.functional_call(net, params, state, images[:1])
    np.testing.assert_allclose(first[:1], single, rtol=1e-5)
    assert all(after[name] is state[name] for name in BUFFERS)


def test_a_failing_forward_gives_the_values_back() -> None:
    net = Net()
    before = net.conv.weight
    params, state = nn.arrays(net)
    with pytest.raises(ShapeError):
        nn.functional_call(net, params, state, np.zeros((2, 9, 5, 7), np.float32))
    assert net.conv.weight is before


def test_tied_parameters_are_one_parameter() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    params, state = nn.arrays(net)
    assert list(params) == ["0.weight", "0.bias", "1.bias"]
    x = np.ones((2, 3), np.float32)
    params = {k: np.full_like(v, 2) for k, v in params.items()}
    output, _ = nn.functional_call(net, params, state, x)
    np.testing.assert_array_equal(output, np.full((2, 3), 2 * 3 * 8 + 2))


def test_state_round_trip_and_dtypes(images: Array) -> None:
    net, other = Net(), Net()
    other.load_state_dict({k: v.double() for k, v in net.state_dict().items() if "num" not in k})
    assert other.conv.weight.dtype is sg.float32
    np.testing.assert_array_equal(net.eval()(images), other.eval()(images))
    other.to(sg.float64)
    assert {v.dtype for v in other.state_dict().values()} == {sg.float64, sg.int64}
    assert other(images.astype(np.float64)).dtype == np.float64


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 2),
        ({"momentum": 0.9}, 3),
        ({"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}, 3),
        ({"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, 3),
    ],
)
def test_sgd_follows_its_formula(options: dict[str, Any], steps: int) -> None:
    rng = np.random.default_rng(1)
    sgd = sg.optim.SGD(lr=0.25, **options)
    params: dict[str, Any] = {"w": rng.normal(size=(3, 5)).astype(np.float32)}
    expected, velocity, state = params["w"].astype(np.float64), 0.0, sgd.init(params)
    update = sg.jit(sgd.apply)
    for step in range(steps):
        grads = {"w": rng.normal(size=(3, 5)).astype(np.float32)}
        g = grads["w"] + sgd.weight_decay * expected
        velocity = g if step == 0 else sgd.momentum * velocity + (1 - sgd.dampening) * g
        expected = expected - 0.25 * (g + sgd.momentum * velocity if sgd.nesterov else velocity)
        params, state = update(params, grads, state)
        assert params["w"].dtype == np.float32
        np.testing.assert_allclose(params["w"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [0.5, np.float64(0.5), np.array(0.5)])
def test_a_scheduled_rate_keeps_the_dtype(rate: Any) -> None:
    sgd = sg.optim.SGD(lr=1.0)
    params = {"w": np.ones(3, np.float32)}
    for apply in (sgd.apply, sg.jit(sgd.apply)):
        updated, _ = apply(params, params, {}, rate)
        assert updated["w"].dtype == np.float32
        np.testing.assert_array_equal(updated["w"], np.full(3, 0.5))
