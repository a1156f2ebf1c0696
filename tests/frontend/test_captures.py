"""What a compiled function reads from its surroundings is read at every call."""

from __future__ import annotations

import gc
import types
import weakref
from typing import Any

import numpy as np
from symgrad.codegen.runtime.source import ATTRIBUTE, CELL, ITEM, Source, Together

import symgrad as sg

WEIGHTS = np.ones(3)
FACTOR = 2.0
TABLE = {"w": np.ones(3), "more": [np.zeros(3)]}


def count_traces(f: Any) -> tuple[Any, list[int]]:
    """``f`` with a counter of how often its Python code runs."""
    runs: list[int] = []

    def counted(*args: Any) -> Any:
        runs.append(1)
        return f(*args)

    return counted, runs


def test_mutated_closure_array_is_seen_without_retracing() -> None:
    w = np.arange(3.0)
    counted, runs = count_traces(lambda x: np.sum(x * w))
    f = sg.jit(counted)
    assert f(np.ones(3)) == 3.0
    w[0] = 10.0
    assert f(np.ones(3)) == 13.0
    assert len(runs) == 1


def test_large_captured_array_is_a_parameter_not_a_constant() -> None:
    w = np.arange(1000.0)
    func = sg.trace(lambda x: x + w, np.ones(1000))
    assert len(func.params) == 2
    assert len(str(func)) < 500


def test_rebound_closure_cell_and_global() -> None:
    global WEIGHTS, FACTOR
    w = np.ones(3)

    def g(x: Any) -> Any:
        return np.sum(x * w) + np.sum(x * WEIGHTS) * FACTOR

    f = sg.jit(g)
    x = np.ones(3)
    assert f(x) == g(x)
    w = np.full(3, 5.0)
    assert f(x) == g(x) == 21.0
    WEIGHTS, FACTOR = np.full(3, 2.0), 3.0
    assert f(x) == g(x)
    w = np.float32([1, 2, 3])  # another dtype: traced again
    assert f(x) == g(x)
    WEIGHTS, FACTOR = np.ones(3), 2.0


def test_containers_objects_and_methods() -> None:
    class Model:
        def __init__(self) -> None:
            self.w = np.ones(3)
            self.state = types.SimpleNamespace(scale=2.0)

        def loss(self, x: Any) -> Any:
            return np.sum(self.w * x + TABLE["w"] + TABLE["more"][0]) * self.factor()

        def factor(self) -> float:
            return self.state.scale

    model = Model()
    f, x = sg.jit(model.loss), np.ones(3)
    for change in (
        lambda: None,
        lambda: setattr(model, "w", np.arange(3.0)),
        lambda: TABLE.update(w=np.full(3, 7.0)),
        lambda: TABLE["more"].__setitem__(0, np.full(3, 0.5)),
        lambda: setattr(model.state, "scale", 4.0),
    ):
        change()
        np.testing.assert_allclose(f(x), model.loss(x))


def test_classes_and_modules() -> None:
    class Base:
        rate, w = 2.0, np.ones(3)

    class Config(Base):
        w = np.full(3, 2.0)

    config, module = Config(), types.ModuleType("settings_of_mine")
    module.factor, module.bias = 3.0, np.zeros(3)

    def loss(x: Any) -> Any:
        return np.sum(x * config.w + Base.w + module.bias) * config.rate * module.factor

    f, x = sg.jit(loss), np.ones(3)
    for change in (
        lambda: None,
        lambda: setattr(module, "factor", 4.0),
        lambda: setattr(module, "bias", np.arange(3.0)),
        lambda: setattr(Base, "rate", 5.0),
        lambda: setattr(Base, "w", np.full(3, 7.0)),
        lambda: setattr(Config, "w", np.full(3, 0.5)),
        lambda: setattr(config, "rate", 6.0),  # hides the class's
        lambda: setattr(config, "w", np.full(3, 9.0)),
    ):
        change()
        for _ in range(2):  # a second call is answered natively
            np.testing.assert_allclose(f(x), loss(x))


def test_switching_back_and_forth_traces_once_each() -> None:
    class Model:
        def __init__(self) -> None:
            self.training, self.steps, self.log = True, 0, [0.0]

        def loss(self, x: Any) -> Any:
            runs.append(1)
            return np.sum(x) if self.training else self.mean(x)

        def mean(self, x: Any) -> Any:
            return np.mean(x)

    runs: list[int] = []
    model = Model()
    f = sg.jit(model.loss)
    for step in range(6):
        model.training = step % 2 == 0
        model.steps = step  # not read by the traced code: no reason to trace again
        model.log.append(float(step))
        assert f(np.ones(4)) == (4.0 if model.training else 1.0)
    assert len(runs) == 2


def test_through_helper_functions_and_transforms() -> None:
    w = np.array([1.0, 2.0])

    def helper(x: Any) -> Any:
        return x * w

    f = sg.jit(sg.value_and_grad(lambda x: np.sum(helper(x) ** 2)))
    x = np.ones(2)
    np.testing.assert_allclose(f(x)[1], 2 * w**2)
    w = np.array([3.0, 4.0])
    np.testing.assert_allclose(f(x)[1], 2 * w**2)
    out, _ = sg.vjp(helper, x)
    w = np.array([5.0, 6.0])
    np.testing.assert_allclose(sg.vjp(helper, x)[0], w)
    assert not np.allclose(out, w)


def test_masks_and_indices_are_guarded_by_content() -> None:
    mask = np.array([True, False, True])
    index = np.array([0, -1])
    f = sg.jit(lambda x: (x[mask], x[index]))
    x = np.arange(3.0)
    np.testing.assert_array_equal(f(x)[0], [0, 2])
    mask[1] = True
    index[0] = 1
    np.testing.assert_array_equal(f(x)[0], [0, 1, 2])
    np.testing.assert_array_equal(f(x)[1], [1, 2])


def test_scratch_buffers_of_the_traced_code_keep_their_value() -> None:
    def g(x: Any) -> Any:
        scratch = np.zeros(3)
        total = x * 0
        for i in range(3):
            scratch[i] = i + 1.0
            total = total + x * scratch
        return total

    np.testing.assert_array_equal(sg.jit(g)(np.ones(3)), g(np.ones(3)))


def test_captured_result_is_fresh() -> None:
    w = np.ones(3)
    f = sg.jit(lambda x: (x, w))
    out = f(np.ones(3))[1]
    out[0] = 5.0
    assert w[0] == 1.0


def test_array_in_an_inner_trace() -> None:
    w = np.arange(3.0)
    f = sg.jit(sg.vmap(lambda row: np.sum(row * w)))
    np.testing.assert_array_equal(f(np.ones((2, 3))), [3, 3])
    w += 1
    np.testing.assert_array_equal(f(np.ones((2, 3))), [6, 6])


def test_default_arguments_and_partial() -> None:
    w = np.ones(2)

    def g(x: Any, w: Any = w) -> Any:
        return x * w

    f = sg.jit(g)
    np.testing.assert_array_equal(f(np.ones(2)), [1, 1])
    w[:] = 3
    np.testing.assert_array_equal(f(np.ones(2)), [3, 3])


def test_decorated_methods() -> None:
    class Model:
        def __init__(self, w: Any) -> None:
            self.w = w

        @sg.jit(static_argnames="n")
        def scaled(self, x: Any, n: int) -> Any:
            return x * self.w * n

        @sg.grad(argnums=1)
        def slope(self, x: Any) -> Any:
            return np.sum(self.w * x**2)

    one, two = Model(np.ones(3)), Model(np.full(3, 2.0))
    x = np.arange(3.0)
    for _ in range(2):
        np.testing.assert_array_equal(one.scaled(x, 2), 2 * x)
        np.testing.assert_array_equal(two.scaled(x, n=3), 6 * x)
        np.testing.assert_array_equal(two.slope(x), 4 * x)
    two.w = np.ones(3)
    np.testing.assert_array_equal(two.slope(x), 2 * x)
    assert one.scaled.__name__ == "scaled"


def test_layers_of_a_captured_model() -> None:
    model = sg.nn.Sequential(sg.nn.Linear(3, 3), sg.nn.Sequential(sg.nn.Linear(3, 3), sg.nn.ReLU()))
    f = sg.jit(lambda x: model(x))  # noqa: PLW0108
    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(f(x), model(x), 1e-6)
    for _, layer in model.named_modules():
        if isinstance(layer, sg.nn.Linear):
            layer.weight = sg.nn.Parameter(sg.full((3, 3), 0.5))
    np.testing.assert_allclose(f(x), model(x), 1e-6)
    model.train(False)
    np.testing.assert_allclose(f(x), model(x), 1e-6)


def test_dropping_the_function_frees_what_it_captured() -> None:
    w = np.ones(100)
    f = sg.jit(lambda x: x + w)
    f(np.ones(100))
    ref = weakref.ref(f)
    del f
    gc.collect()
    assert ref() is None


def test_signatures() -> None:
    counted, runs = count_traces(lambda x: x * 2)
    f = sg.jit(counted)
    for x in (
        np.ones(3),
        np.zeros(3),
        np.ones(4),
        np.ones(3, np.float32),
        1.0,
        2.0,
        1,
        True,
        np.float64(1),
    ):
        np.testing.assert_array_equal(f(x), np.multiply(x, 2))
        assert np.asarray(f(x)).dtype == np.asarray(np.multiply(x, 2)).dtype
    assert len(runs) == 7


def test_numbers_and_scalars_promote_apart_whatever_came_first() -> None:
    single = np.ones(2, np.float32)
    for order in ((2.0, np.float64(2.0)), (np.float64(2.0), 2.0)):
        f = sg.jit(lambda s: s * single)
        g = sg.jit(lambda s: s * np.float32(3.0))
        for s in order:
            assert f(s).dtype == (s * single).dtype
            assert g(s).dtype == np.asarray(s * np.float32(3.0)).dtype


def test_nested_tuples_of_results() -> None:
    f = sg.jit(lambda x: ((x, x + 1), ()))
    for _ in range(2):
        (a, b), empty = f(np.ones(2))
        np.testing.assert_array_equal(b - a, np.ones(2))
        assert empty == ()


def test_another_number_of_threads_compiles_anew() -> None:
    f = sg.jit(lambda x: np.sin(x).sum())
    x = np.linspace(0, 1, 1000)
    before = sg.get_num_threads()
    try:
        for threads in (1, 2, 1):
            sg.set_num_threads(threads)
            np.testing.assert_allclose(f(x), np.sin(x).sum())
            np.testing.assert_allclose(sg.vjp(f, x)[1](1.0)[0], np.cos(x))
    finally:
        sg.set_num_threads(before)


def test_debug_channels(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("SYMGRAD_DEBUG", "ir,llvm,asm")
    sg.jit(lambda x: x * 3)(np.ones(3))
    printed = capsys.readouterr().err
    assert "func @lambda" in printed
    assert "define" in printed


def test_static_arguments() -> None:
    def power(x: Any, n: int, mode: str = "plain") -> Any:
        if mode == "negated":
            x = -x
        for _ in range(n - 1):
            x = x * x if n == 2 else x
        return x

    x = np.arange(3.0)
    f = sg.jit(power, static_argnums=1, static_argnames="mode")
    np.testing.assert_array_equal(f(x, 2), x**2)
    np.testing.assert_array_equal(f(x, 1), x)
    np.testing.assert_array_equal(f(x, n=2, mode="negated"), x**2)
    np.testing.assert_array_equal(f(x, 1, "negated"), -x)
    named = sg.jit(power, static_argnames=("n", "mode"))
    np.testing.assert_array_equal(named(x, 2, mode="negated"), x**2)


def test_strides_and_order_do_not_matter() -> None:
    x = np.arange(24.0).reshape(4, 6)
    f = sg.jit(lambda x: x * 2 + x[0])
    swapped = x.astype(x.dtype.newbyteorder())
    for view in (x, x.T, x[::2, ::3], x[::-1], np.asfortranarray(x), swapped):
        np.testing.assert_array_equal(f(view), view * 2 + view[0])


def test_tensors_of_a_captured_model_are_read_at_every_call() -> None:
    """An optimiser's steps, loading and writes in place show, in whatever layout weights lie."""
    model = sg.nn.Sequential(sg.nn.Conv2d(16, 32, 3), sg.nn.Flatten())
    x = np.linspace(-1, 1, 2 * 16 * 25, dtype=np.float32).reshape(2, 16, 5, 5)
    optimizer = sg.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        model(sg.tensor(x)).sum().backward()
        optimizer.step()

    def write() -> None:
        with sg.no_grad():
            model[0].weight.mul_(-3)

    def load() -> None:
        model.load_state_dict({k: v * 0 + 0.5 for k, v in model.state_dict().items()})

    step()
    f = sg.jit(lambda x: model(x))  # noqa: PLW0108
    for change in (step, step, write, load, step):
        before = f(x)
        change()
        expected = model(sg.tensor(x)).detach().numpy()
        np.testing.assert_allclose(f(x), expected, rtol=1e-4, atol=1e-4)
        assert not np.allclose(expected, before, rtol=1e-4, atol=1e-4)


def test_places_read_together_are_those_read_one_by_one() -> None:
    cell = types.CellType({"a": {1: "int", "1": "text"}, "b": [np.ones(2)]})
    thing = types.SimpleNamespace(cell=cell, deep=types.SimpleNamespace(x=3.0))
    inside = Source(thing).then(ATTRIBUTE, "cell").then(CELL)
    places: list[Any] = [
        Source(thing),
        Source(thing).then(ATTRIBUTE, "deep").then(ATTRIBUTE, "x"),
        inside.then(ITEM, "b").then(ITEM, 0),
        inside.then(ITEM, "a").then(ITEM, "1"),
        inside.then(ITEM, "missing").then(ITEM, 3).then(ATTRIBUTE, "x"),
        Source(7),
        Source(8),
        lambda: thing.deep,
        inside.then(ITEM, "a").then(ITEM, 1),
    ]
    together = Together(places)
    for change in (
        lambda: None,
        lambda: setattr(thing.deep, "x", 4.0),
        lambda: setattr(cell, "cell_contents", {"a": {}, "b": [5]}),
        lambda: delattr(thing, "cell"),
    ):
        change()
        found, expected = together(), [place() for place in places]
        assert all(a is b for a, b in zip(found, expected, strict=True))
