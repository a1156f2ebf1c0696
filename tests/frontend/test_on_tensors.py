"""Compiled functions on tensors: tensors come out, state stays as programs left it, and
nothing is read or overwritten that something else refers to."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.runtime.resident import Resident
from symgrad.ir.errors import UsageError

import symgrad as sg
from symgrad import nn
from symgrad.nn import functional as F
from symgrad.tensors.recorded import contents_of
from symgrad.tensors.standing import left

ROOM = np.random.default_rng(5).standard_normal


def images(*shape: int) -> Any:
    return ROOM(shape).astype(np.float32)


ROOM_IMAGE = images(1, 16, 7, 7)


def contents(tensor: Any) -> Any:
    """What lies in the memory of a tensor, as a program left it."""
    return contents_of(tensor._value())


def convolutions() -> Any:
    sg.manual_seed(3)
    return nn.Sequential(nn.Conv2d(16, 32, 3), nn.Tanh(), nn.Conv2d(32, 16, 3), nn.Flatten())


def training(model: Any) -> Any:
    """A step of SGD with momentum on parameters by name."""
    rule = sg.optim.SGD(lr=0.02, momentum=0.9)

    def loss(params: Any, x: Any) -> Any:
        y, _ = nn.functional_call(model, params, {}, x)
        return (y * y).mean()

    gradient = sg.value_and_grad(loss)

    def step(params: Any, momenta: Any, x: Any) -> Any:
        value, grads = gradient(params, x)
        return value, *rule.apply(params, grads, momenta)

    return step, rule


def test_tensors_come_out_where_tensors_go_in() -> None:
    f = sg.jit(lambda a, b: {"sum": a["x"] + b, "rest": (a["x"] * 2.0, np.sin(b))})
    a, b = ROOM(3), ROOM(3)
    wanted = f({"x": a}, b)
    assert isinstance(wanted["sum"], np.ndarray)
    for given in (({"x": sg.tensor(a)}, sg.tensor(b)), ({"x": a}, sg.tensor(b))):
        got = f(*given)
        assert all(isinstance(t, sg.Tensor) for t in (got["sum"], *got["rest"]))
        np.testing.assert_array_equal(got["sum"].numpy(), wanted["sum"])
        np.testing.assert_array_equal(got["rest"][1].numpy(), wanted["rest"][1])
    assert f({"x": sg.tensor(a)}, 2.0)["sum"].dtype is sg.float64


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_dtypes_shapes_views_and_pending_values(dtype: str) -> None:
    x = (ROOM((4, 5)) * 3).astype(dtype)
    f = sg.jit(lambda x: (x[1:], x.sum()))
    t = sg.tensor(x)
    for tensor, array in ((t, x), (t.T, x.T), (t[::2, 1:], x[::2, 1:]), (t[1], x[1])):
        part, total = f(tensor)
        np.testing.assert_array_equal(part.numpy(), array[1:])
        np.testing.assert_allclose(total.item(), array.sum(), rtol=1e-5)
    pending = t * 2 if dtype != "bool" else t | t
    np.testing.assert_array_equal(f(pending)[0].numpy(), np.asarray(pending)[1:])
    t.fill_(1)
    np.testing.assert_array_equal(f(t.T)[0].numpy(), np.ones((4, 4), dtype))


def test_derivatives_of_functions_of_tensors() -> None:
    def f(w: Any, x: Any) -> Any:
        return np.sum(np.tanh(x @ w) ** 2)

    w, x = ROOM(3), ROOM((5, 3))
    tw, tx = sg.tensor(w), sg.tensor(x)
    value, grads = sg.value_and_grad(f, argnums=(0, 1))(tw, tx)
    expected, arrays = sg.value_and_grad(f, argnums=(0, 1))(w, x)
    assert value.item() == expected
    for got, wanted in zip(grads, arrays, strict=True):
        np.testing.assert_array_equal(got.numpy(), wanted)
    np.testing.assert_array_equal(sg.hessian(f)(tw, tx).numpy(), sg.hessian(f)(w, x))
    y, pull = sg.vjp(f, tw, tx)
    np.testing.assert_allclose(y.item(), expected)
    np.testing.assert_allclose(pull(sg.tensor(2.0, dtype=sg.float64))[0].numpy(), 2 * arrays[0])
    tangent = sg.jvp(f, (tw, tx), (sg.ones_like(tw), sg.zeros_like(tx)))[1]
    np.testing.assert_allclose(tangent.item(), arrays[0].sum())


# -- state ---------------------------------------------------------------------------------


def test_donated_state_stays_resident_and_trains_as_arrays_do() -> None:
    model = convolutions()
    step, rule = training(model)
    compiled, plain = sg.jit(step, donate_argnums=(0, 1)), sg.jit(step)
    x = images(2, 16, 7, 7)
    arrays = nn.arrays(model)[0]
    momenta = rule.init(arrays)
    params = {name: sg.tensor(array) for name, array in arrays.items()}
    carried = params, rule.init(params)
    assert all(isinstance(t, sg.Tensor) for t in carried[1].values())
    places = set()
    for _ in range(4):
        value, arrays, momenta = plain(arrays, momenta, x)
        loss, *carried = compiled(*carried, sg.tensor(x))
        np.testing.assert_allclose(loss.item(), value, rtol=2e-6)
        assert isinstance(contents(carried[0]["0.weight"]), Resident)
        places.add(contents(carried[0]["0.weight"]).memory.ctypes.data)
    assert len(places) == 1  # neither moved nor converted
    assert len(compiled._programs) == 1
    for name, array in arrays.items():
        np.testing.assert_allclose(carried[0][name].numpy(), array, atol=1e-6)
        np.testing.assert_allclose(
            carried[1][f"{name}/momentum_buffer"].numpy(), momenta[f"{name}/momentum_buffer"],
            atol=1e-6,
        )  # fmt: skip


def test_donated_tensors_are_gone_and_say_so() -> None:
    f = sg.jit(lambda a, b: (a + b, a - b), donate_argnums=0)
    a, b = sg.ones(40), sg.ones(40)
    total, _ = f(a, b)
    assert total.tolist() == [2.0] * 40
    for look in (a.tolist, lambda: a + 1, lambda: f(a, b), a.numpy, lambda: repr(a)):
        with pytest.raises(UsageError, match=r"this tensor was donated to lambda\(\)"):
            np.asarray(look())
    assert b.tolist() == [1.0] * 40


@pytest.mark.parametrize("share", ["detach", "view", "numpy", "module", "twice", "operand"])
def test_shared_memory_is_not_overwritten(share: str) -> None:
    f = sg.jit(lambda a, b: (a * 2 + b, b * 3), donate_argnums=(0, 1))
    a, b = sg.tensor(images(6, 6)), sg.zeros(6, 6)
    kept = a.numpy().copy()
    if share == "twice":
        got = f(a, a)
        np.testing.assert_array_equal(got[0].numpy(), kept * 3)
        np.testing.assert_array_equal(got[1].numpy(), kept * 3)
        return
    other: Any = {
        "detach": a.detach,
        "view": lambda: a[1:],
        "numpy": a.numpy,
        "module": lambda: nn.Parameter(a),
        "operand": lambda: a + 1,
    }[share]()
    if share == "module":
        a = other.detach()
    got = f(a, b)
    np.testing.assert_array_equal(got[0].numpy(), kept * 2)
    wanted = {"view": kept[1:], "operand": kept + 1}.get(share, kept)
    found = other.detach() if share == "module" else other
    np.testing.assert_array_equal(np.asarray(found), wanted)


def test_a_models_own_weights_survive_a_step_on_detached_ones() -> None:
    model = convolutions()
    step, rule = training(model)
    compiled = sg.jit(step, donate_argnums=(0, 1))
    before = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    params = {name: p.detach() for name, p in model.named_parameters()}
    carried = params, rule.init(params)
    for _ in range(2):
        _, *carried = compiled(*carried, sg.tensor(images(1, 16, 7, 7)))
        for name, p in model.named_parameters():
            np.testing.assert_array_equal(p.detach().numpy(), before[name])
            assert not np.array_equal(carried[0][name].numpy(), before[name])
    # Weights that another program has packed already are not overwritten either.
    sg.jit(model)(images(1, 16, 7, 7))
    assert isinstance(contents(model[0].weight), Resident)
    compiled({name: p.detach() for name, p in model.named_parameters()}, carried[1], ROOM_IMAGE)
    np.testing.assert_array_equal(model[0].weight.detach().numpy(), before["0.weight"])


def test_a_changed_leaf_does_not_disturb_the_state_it_came_from() -> None:
    f = sg.jit(lambda s: s + 1, donate_argnums=0)
    state = f(sg.zeros(5))
    old = state.clone()
    state = f(state)
    state.mul_(10)
    assert f(state).tolist() == [21.0] * 5
    assert old.tolist() == [1.0] * 5


def test_memory_stays_flat_when_state_is_donated() -> None:
    f = sg.jit(lambda s: s * 1.5, donate_argnums=0)
    state = f(sg.ones(1 << 18))
    address = contents(state).ctypes.data
    for _ in range(20):
        state = f(state)
    assert contents(state).ctypes.data == address
    gc.collect()


# -- gradients pass through ------------------------------------------------------------------


def test_the_graph_goes_on_through_compiled_functions() -> None:
    f = sg.jit(lambda x, w: (np.tanh(x @ w), (x * x).sum()))
    x0, w0 = ROOM((4, 3)), ROOM((3, 2))

    def both(call: Any) -> Any:
        x, w = sg.tensor(x0, requires_grad=True), sg.tensor(w0, requires_grad=True)
        y, s = call(x, w)
        loss = (y * y).sum() * s
        (gx,) = sg.autograd.grad(loss, x, create_graph=True)
        (gx * gx).sum().backward()
        return loss.item(), gx.detach().numpy(), x.grad.numpy(), w.grad.numpy()

    got = both(f)
    expected = both(lambda x, w: (sg.tanh(x @ w), (x * x).sum()))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_parameters_of_a_captured_model_get_gradients() -> None:
    model = convolutions()
    x = sg.tensor(images(2, 16, 7, 7))
    wanted = {}
    for call in (model, sg.jit(model)):
        model.zero_grad()
        y = call(x)
        assert y.requires_grad
        (y * y).sum().backward()
        for name, p in model.named_parameters():
            known = wanted.setdefault(name, p.grad.numpy())
            np.testing.assert_allclose(p.grad.numpy(), known, rtol=1e-4, atol=1e-4)
    with sg.no_grad():
        assert not sg.jit(model)(x).requires_grad
    assert isinstance(sg.jit(model)(np.asarray(x)), np.ndarray)


def test_what_requires_a_gradient_cannot_be_donated() -> None:
    f = sg.jit(lambda s: s * 2, donate_argnums=0)
    x = sg.ones(3, requires_grad=True)
    with pytest.raises(UsageError, match=r"detach\(\), or call under no_grad"):
        f(x)
    with pytest.raises(UsageError, match="graph of a tensor"):
        sg.vjp(lambda s: s * 2, x)
    with sg.no_grad():
        assert f(x).tolist() == [2.0] * 3


# -- captures ------------------------------------------------------------------------------

TABLE = {"w": sg.ones(3)}


@pytest.mark.parametrize("wrap", [np.asarray, sg.tensor])
def test_captured_tensors_are_read_at_every_call(wrap: Any) -> None:
    w, scale = sg.ones(3), sg.tensor(2.0)
    runs = []

    def f(x: Any) -> Any:
        runs.append(1)
        return np.add(x * w, TABLE["w"]) * scale

    compiled, x = sg.jit(f), wrap(np.float32([1, 2, 3]))

    def check() -> None:
        wanted = (np.asarray(x) * w.numpy() + TABLE["w"].numpy()) * scale.item()
        np.testing.assert_allclose(np.asarray(compiled(x)), wanted)

    check()
    w.mul_(3)
    check()
    scale.fill_(-1)
    check()
    w = sg.tensor([4.0, 5.0, 6.0])
    check()
    TABLE["w"] = TABLE["w"] + 1
    check()
    np.asarray(w)[0] = 100.0
    shared = w.numpy()
    shared[1] = 50.0
    check()
    assert len(runs) == 1
    TABLE["w"] = sg.ones(3, dtype=sg.float64)  # traced again
    check()
    assert len(runs) == 2
    TABLE["w"] = sg.ones(3)


ROADS = """
w.add_(1); w[0] = 5.0; w[1:].mul_(2); w.view(-1)[2:].zero_(); w.data.mul_(2); w.data = w.data + 1
w.detach().fill_(3.0); w.detach_().sub_(1); w.detach().numpy()[0] = 7.0
np.asarray(w.detach())[1] = 7.0; np.from_dlpack(w.detach())[2] = 7.0
sg.from_dlpack(w.detach()).add_(1); w.copy_(w * 3); w.set_(w * 2); w.t_(); w.exp_()
w.clamp_(0, 0.1); nn.init.ones_(w); w.requires_grad_(False).resize_(3, 3)
w.requires_grad_(False).add_(1); train(w); train(w[:2]); layer.weight = nn.Parameter(w * 2)
vars(layer)["weight"] = w * 2; layer._parameters["weight"] = nn.Parameter(w * 2)
layer.load_state_dict({"weight": w + 1, "bias": layer.bias}); layer.reset_parameters()
nn.utils.vector_to_parameters(sg.arange(12.0), layer.parameters())
(lent if "lent" in vars() else w.detach().numpy())[0] = 9.0
"""


def train(parameter: Any) -> None:
    """One step, which has momentum to donate."""
    leaf = parameter if parameter.is_leaf else parameter.detach()
    leaf.grad = sg.ones_like(leaf)
    sg.optim.SGD([leaf], lr=0.5, momentum=0.9).step()


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("road", [r.strip() for r in ROADS.replace("\n", ";").split(";") if r])
def test_no_road_to_captured_contents_goes_unseen(road: str, is_shared: bool) -> None:
    """What a call has found is left to the next ones, but not past a write."""
    layer, x = nn.Linear(3, 3), sg.tensor(images(2, 3))
    names = {"layer": layer, "w": layer.weight, "np": np, "nn": nn, "sg": sg, "train": train}
    with sg.no_grad():
        if is_shared:
            names["lent"] = layer.weight.detach().numpy()
        f = sg.jit(layer)
        for _ in range(3):
            f(x).numpy()  # which shares the memory of the result alone
        ((program,),) = [f._programs.get(key) for key in f._programs]
        assert (left(program.executable) is None) == is_shared
        exec(road, names)
        got = [f(x) for _ in range(3)]
        for y in got:
            np.testing.assert_allclose(y.numpy(), layer(x).numpy(), rtol=1e-5)


def test_contents_found_for_a_call_are_free_after_a_write() -> None:
    layer, x = nn.Linear(3, 3), sg.tensor(images(2, 3))
    f = sg.jit(layer)
    with sg.no_grad():
        for _ in range(3):
            f(x)
        gc.collect()  # the trace
        before = weakref.ref(contents(layer.weight))
        layer.weight.add_(1).tolist()
    assert before() is None


def test_a_module_itself_is_read_at_every_call() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)), images(4, 3)
    model.eval()
    f = sg.jit(model)
    for change in (
        lambda: None,
        lambda: model[0].weight.mul_(2),
        lambda: model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}),
        lambda: model.__setitem__(0, nn.Linear(3, 2)),
    ):
        with sg.no_grad():
            change()
        wanted = model(sg.tensor(x)).detach().numpy()
        np.testing.assert_allclose(f(x), wanted, rtol=1e-5)
        np.testing.assert_allclose(f(sg.tensor(x)).detach().numpy(), wanted, rtol=1e-5)


def test_captured_weights_stay_packed_until_they_are_written() -> None:
    model, x = convolutions(), images(1, 16, 7, 7)
    f = sg.jit(model)
    f(x)
    packed = contents(model[0].weight)
    assert isinstance(packed, Resident)
    f(x)
    assert contents(model[0].weight) is packed
    with sg.no_grad():
        model[0].weight.add_(1.0)
        wanted = model(sg.tensor(x)).numpy()
    np.testing.assert_allclose(f(x), wanted, rtol=1e-4, atol=1e-4)
    assert contents(model[0].weight) is not packed


def test_a_compiled_module_does_not_lose_its_running_statistics() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), images(5, 3)
    for given in (x, sg.tensor(x)):
        with pytest.raises(UsageError, match=r"1.running_mean changes .* model.eval\(\)"):
            sg.jit(model)(given)
    model.eval()
    with sg.no_grad():
        wanted = model(sg.tensor(x)).numpy()
        np.testing.assert_allclose(sg.jit(model)(sg.tensor(x)).numpy(), wanted, rtol=1e-5)
    bare = nn.BatchNorm1d(3, track_running_stats=False)
    np.testing.assert_allclose(sg.jit(bare)(x).mean(axis=0), np.zeros(3), atol=1e-6)


LAYERS = {
    "conv2d": (F.conv2d, (2, 3, 6, 6), (4, 3, 3, 3)),
    "linear": (F.linear, (2, 4), (5, 4)),
    "batch_norm": (lambda x, w: F.batch_norm(x, w[0], w[1], w[2], w[3]), (3, 4), (4, 4)),
    "layer_norm": (lambda x, w: F.layer_norm(x, (4,), w, w), (3, 4), (4,)),
    "mse_loss": (F.mse_loss, (3, 4), (3, 4)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("tensors", [True, False])
def test_layers_of_traced_values_and_captured_tensors(layer: str, tensors: bool) -> None:
    function, *shapes = LAYERS[layer]
    x, w = (sg.rand(*shape) + 1 for shape in shapes)
    compiled = sg.jit(lambda x: function(x, w))
    for _ in range(2):
        got = compiled(x if tensors else x.numpy())
        np.testing.assert_allclose(np.asarray(got), function(x, w).numpy(), 1e-5, 1e-5)
        w.mul_(2)


def test_batch_norm_refuses_to_lose_captured_statistics() -> None:
    mean, variance = sg.zeros(4), sg.ones(4)
    compiled = sg.jit(lambda x: F.batch_norm(x, mean, variance, training=True))
    with pytest.raises(UsageError, match="running_mean and running_var change"):
        compiled(sg.rand(3, 4))


def test_what_captured_tensors_alone_make_follows_them() -> None:
    c, own = sg.rand(3, 3), sg.tensor([1.0, 2.0, 3.0])
    pending = c * 2  # what it is does not hang on ``c`` any more

    def f(x: Any) -> tuple[Any, Any]:
        square = (c @ c).exp() + sg.tensor([0.0, 1.0, 0.0])
        return square @ x + (pending - own).sum(), own * 3

    compiled = sg.jit(f)
    for x in (sg.rand(3), sg.rand(3), np.ones(3, np.float32)):
        for got, want in zip(compiled(x), f(sg.tensor(x)), strict=True):
            np.testing.assert_allclose(np.asarray(got), want.numpy(), 1e-5)
        c.mul_(1.5)
        own.data = own + 1
