"""State in a layout of the program's choosing: training steps give what plain ones give,
their state stays resident from call to call, and what cannot stay is plain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from symgrad.codegen.compile import Executable, compile_func
from symgrad.codegen.kernels.blocked import weight_tiling
from symgrad.codegen.lowering.scope import Scope
from symgrad.codegen.runtime.resident import Form, Resident, State, TiledForm
from symgrad.codegen.runtime.threads import get_num_threads, set_num_threads
from symgrad.ir import Builder, Func, TensorType
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.builder import inline
from symgrad.ir.errors import UsageError
from symgrad.ir.graph import Value
from symgrad.ir.interp import interpret
from symgrad.ir.passes import optimize
from symgrad.ir.types import f32, f64

from tests.codegen.harness import target_named

Conv = tuple[int, int, int, int]
"""Input and output channels, kernel size, groups."""


def sgd(w: Value, v: Value, g: Value) -> list[Value]:
    """Momentum with weight decay."""
    v = v * 0.9 + (g + w * 0.01)
    return [w - v * 0.1, v]


def scaled(w: Value, v: Value, g: Value) -> list[Value]:
    """A step divided by what squares of gradients add up to, after Adam's fashion."""
    v = v * v * 0.5 + g * g * 0.1
    return [w - g * 0.1 / (v + 1.0), v]


def chain(
    convs: Sequence[Conv],
    dtype: Any = f32,
    *,
    images: int = 2,
    size: int = 6,
    stride: int = 1,
    update: Any = sgd,
    gradients: bool = False,
) -> Func:
    """One training step of convolutions with a smooth activation between.

    Parameters: weights, momenta, x.  Results: loss, weights, momenta, and the gradients if
    they are asked for.
    """
    b = Builder(locations=False)
    weights = [b.param(TensorType(dtype, (o, i // g, k, k))) for i, o, k, g in convs]
    x = b.param(TensorType(dtype, (images, convs[0][0], size, size)))
    y = x
    for w, (_, _, k, g) in zip(weights, convs, strict=True):
        y = b.emit(
            "conv", y, w, stride=(stride, stride), padding=((k // 2, k // 2),) * 2, dilation=(1, 1),
            lhs_dilation=(1, 1), groups=g,
        )  # fmt: skip
        y = b.emit("tanh", y)
    with b:
        loss = b.emit("reduce_sum", y * y, axes=(0, 1, 2, 3))
    graded = value_and_grad(b.build([loss]), list(range(len(convs))))

    step = Builder(locations=False)
    state = [step.param(w.type) for w in (*weights, *weights)]
    count = len(weights)
    value, *grads = inline(step, graded, [*state[:count], step.param(x.type)])
    with step:
        updated = [update(w, v, g) for w, v, g in zip(state, state[count:], grads, strict=False)]
    asked = grads if gradients else []
    return step.build([value, *(w for w, _ in updated), *(v for _, v in updated), *asked])


def arguments_of(func: Func, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    scales = [np.prod(t.shape[1:]) ** -0.5 for t in func.param_types]
    return [
        (rng.standard_normal(t.shape) * s).astype(t.dtype.numpy)
        for t, s in zip(func.param_types, scales, strict=True)
    ]


def resident_step(func: Func, **options: Any) -> Executable:
    """The step with all its weights and momenta donated and resident."""
    numbers = range(len(func.params) - 1)
    state = State(frozenset(numbers), frozenset(range(1, len(func.results))))
    return compile_func(optimize(func), donate=numbers, state=state, **options)


def plain(value: Any) -> Any:
    return value.numpy() if isinstance(value, Resident) else value


def check_steps(func: Func, run: Executable, *, bound: float, steps: int = 3) -> list[Any]:
    """Several steps on resident state against the interpreter; gives the state."""
    arguments = arguments_of(func)
    held = run.prepare([a.copy() for a in arguments])
    for _ in range(steps):
        expected = interpret(func, arguments)
        got = run(held)
        for actual, wanted in zip(got, expected, strict=True):
            np.testing.assert_allclose(plain(actual), wanted, rtol=bound, atol=bound)
        count = len(func.params)
        held[:-1], arguments[:-1] = got[1:count], expected[1:count]
    return held[:-1]


@pytest.fixture
def always_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares even tiny work among the threads."""
    monkeypatch.setattr(Scope, "threads_for", lambda self, flops, bytes: self.threads)


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("update", [sgd, scaled])
def test_steps_of_a_network(threads: int, update: Any) -> None:
    func = chain([(3, 16, 3, 1), (16, 32, 3, 1), (32, 32, 1, 2)], update=update)
    state = check_steps(func, resident_step(func, threads=threads), bound=1e-4)
    assert all(isinstance(s, Resident) for s in state)


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    convs: list[Conv] = []
    channels = int(rng.choice([1, 3, 16, 32]))
    for _ in range(rng.integers(1, 4)):
        outputs = int(rng.choice([16, 16, 32, 48, 20]))
        groups = 2 if channels % 32 == 0 and outputs % 2 == 0 and rng.random() < 0.5 else 1
        convs.append((channels, outputs, int(rng.choice([1, 3, 5])), groups))
        channels = outputs
    dtype = (f32, f64)[seed % 2]
    size = int(rng.integers(3, 9))
    func = chain(convs, dtype, images=int(rng.integers(1, 4)), size=size)
    run = resident_step(func, threads=int(rng.integers(1, 4)))
    state = check_steps(func, run, bound={f32: 2e-4, f64: 1e-10}[dtype])
    for kept, (i, o, _, g) in zip(state, convs, strict=False):
        direct = o // g % 16 == 0 and (i // g % 16 == 0 or (g == 1 and i < 16))
        # The first layer needs no gradient to its input, so few channels do no harm.
        assert isinstance(kept, Resident) == direct


@pytest.mark.parametrize("target", ["avx2", "x86-64"])
def test_narrower_machines(target: str) -> None:
    func = chain([(3, 16, 3, 1), (16, 32, 3, 1)])
    check_steps(func, resident_step(func, target=target_named(target)), bound=1e-4)


def test_results_take_over_donated_memory() -> None:
    func = chain([(16, 16, 3, 1)])
    run = resident_step(func)
    held = run.prepare(arguments_of(func))
    memory = [h.memory.ctypes.data for h in held[:2]]
    _, *state = run(held)
    assert [s.memory.ctypes.data for s in state] == memory


def _touching(run: Executable, slots: set[int]) -> set[str]:
    """The ops whose kernels touch some of the caller's arrays."""
    calls = run.lowered.calls
    return {c.op for c in calls if any(b.slot in slots for b in (*c.reads, *c.writes))}


def test_updates_ride_on_the_weight_gradient() -> None:
    func = chain([(16, 32, 3, 1), (32, 32, 3, 1)], update=scaled)
    run = resident_step(func, threads=1)
    touching = {name.partition(":")[0] for name in _touching(run, {2, 3})}
    assert touching == {"conv_weight_grad"}
    gradients = [c for c in run.lowered.calls if c.op.startswith("conv_weight_grad")]
    sizes = {c.buffers[-2].bytes for c in gradients if c.buffers[-2].slot is None}
    assert func.params[0].type.bytes not in sizes, "no gradient is in memory"
    assert not run.lowered.homes.keys() ^ set(range(6, 10))


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_that_are_asked_for_are_stored_as_well(threads: int) -> None:
    func = chain([(3, 16, 5, 1), (16, 32, 3, 1)], size=9, update=sgd, gradients=True)
    run = resident_step(func, threads=threads)
    check_steps(func, run, bound=1e-4)
    assert "fused:loop" not in _touching(run, {0, 1, 2, 3, 10, 11})


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("threads", [1, 3])
def test_pixels_split_among_threads_meet_in_one_update(threads: int) -> None:
    func = chain([(16, 16, 7, 1)], images=6, size=24)  # more taps than Winograd's algorithm has
    run = resident_step(func, threads=threads)
    check_steps(func, run, bound=2e-3)
    summed = "conv_weight_grad:sum_partials" in {c.op for c in run.lowered.calls}
    assert summed == (threads > 1)


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sizes", [(5, 7, 3), (64, 40, 33), (3, 130, 17), (4000, 9, 20)])
def test_updates_ride_on_products(sizes: tuple[int, int, int], threads: int) -> None:
    """Of a linear layer: gradient, momentum and weights in the product's kernel."""
    batch, inputs, outputs = sizes
    b = Builder(locations=False)
    w, v, x, dy = (
        b.param(TensorType(f32, shape))
        for shape in ((outputs, inputs), (outputs, inputs), (batch, inputs), (batch, outputs))
    )
    g = b.emit("dot_general", dy, x, lhs_contract=(0,), rhs_contract=(0,), lhs_batch=(),
               rhs_batch=())  # fmt: skip
    with b:
        func = b.build(sgd(w, v, g))
    run = compile_func(optimize(func), donate=(0, 1), threads=threads)
    assert len({c.op.split(":")[0] for c in run.lowered.calls}) == 1
    arguments = arguments_of(func)
    expected = interpret(func, arguments)
    held = [a.copy() for a in arguments]
    got = run(held)
    for actual, wanted in zip(got, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4)
    assert np.shares_memory(got[0], held[0])
    # Sums of several blocks would meet where the old momentum is still to be read.
    assert np.shares_memory(got[1], held[1]) == (batch < 4000)


@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("size", [2, 7, 20])
@pytest.mark.parametrize("threads", [1, 2])
def test_convolutions_store_several_results(size: int, threads: int) -> None:
    """Both are read by other convolutions, with halos of their own."""
    b = Builder(locations=False)
    x = b.param(TensorType(f32, (2, 16, size, size)))
    weights = [b.param(TensorType(f32, (16, 16, k, k))) for k in (3, 3, 5)]

    def conv(value: Value, w: Value) -> Value:
        pad = (w.shape[2] // 2,) * 2
        result: Value = b.emit(
            "conv", value, w, stride=(1, 1), padding=(pad, pad), dilation=(1, 1),
            lhs_dilation=(1, 1), groups=1,
        )  # fmt: skip
        return result

    with b:
        y = conv(x, weights[0])
        up, down = b.emit("tanh", y), y * 0.5 + x
        func = b.build([conv(up, weights[1]) + conv(down, weights[2])])
    for state in (State(), State(frozenset({1, 2, 3}))):
        run = compile_func(optimize(func), threads=threads, state=state)
        writes = [c.writes for c in run.lowered.calls if c.op.startswith("conv:")]
        assert not [c.op for c in run.lowered.calls if c.op == "fused:loop"]
        assert any(len(w) > 1 for w in writes)
        arguments = arguments_of(func)
        (got,) = run(arguments)
        np.testing.assert_allclose(got, interpret(func, arguments)[0], rtol=1e-4, atol=1e-4)


def test_arrays_are_taken_and_survive() -> None:
    func = chain([(16, 16, 3, 1)])
    arguments = arguments_of(func)
    before = [a.copy() for a in arguments]
    run = resident_step(func)
    got = run(arguments)
    for actual, expected in zip(got, interpret(func, before), strict=True):
        np.testing.assert_allclose(plain(actual), expected, rtol=1e-4, atol=1e-4)
    for array, copy in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_the_same_numbers_as_a_plain_program() -> None:
    func = chain([(16, 32, 3, 1), (32, 16, 3, 1)])
    arguments = arguments_of(func)
    resident = resident_step(func)(arguments)
    for a, b in zip(compile_func(optimize(func))(arguments), resident, strict=True):
        np.testing.assert_allclose(a, plain(b), rtol=1e-5, atol=1e-6)


def test_what_is_not_all_state_stays_plain() -> None:
    func = optimize(chain([(16, 16, 3, 1)]))
    weight_only = State(frozenset({0}), frozenset({1}))  # the momentum is no state
    partial = compile_func(func, state=weight_only)
    assert partial.forms == (None,) * 6
    assert compile_func(func).forms == (None,) * 6


def test_a_resident_goes_where_another_form_is_wanted() -> None:
    func = optimize(chain([(16, 16, 3, 1)]))
    arguments = arguments_of(func)
    held = resident_step(func).prepare(arguments)
    expected = compile_func(func)(arguments)
    for a, b in zip(compile_func(func)(held), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(16, 3, 7, 7), (32, 48, 3, 3), (16, 16, 1, 1), (48, 1, 2, 3)])
def test_forms_are_inverted(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    form = TiledForm(TensorType(f32, shape), weight_tiling(shape))
    memory = form.prepare(array)
    np.testing.assert_array_equal(form.restore(memory), array)
    o, i, _, _ = shape
    blocks = memory.reshape(o // 16, -1, *shape[2:], min(i, 16), 16)
    assert blocks[-1, -1, -1, 0, -1, 3] == array[o - 13, i - 1, -1, 0]
    assert Form.parse(form.describe()) == form


def test_a_form_may_be_one_way() -> None:
    class Squared(Form):
        def prepare(self, array: Any) -> Any:
            return array.ravel() ** 2

    form = Squared(TensorType(f32, (2,)))
    with pytest.raises(UsageError, match=r"f32\[2\] in the form .* cannot be brought back"):
        Resident(form, form.prepare(np.ones(2, np.float32))).numpy()


def test_a_program_from_the_disk_has_its_forms(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("SYMGRAD_CACHE_DIR", str(tmp_path))
    func = chain([(16, 16, 3, 1)])
    state = State(frozenset({0, 1}), frozenset({1, 2}))
    made, found, stateless = (
        compile_func(func, state=s, passes=optimize) for s in (state, state, State())
    )
    assert made.forms == found.forms != stateless.forms
    arguments = arguments_of(func)
    for a, b in zip(made(arguments), found(made.prepare(arguments)), strict=True):
        np.testing.assert_array_equal(plain(a), plain(b))


def test_wrong_arguments() -> None:
    func = chain([(16, 16, 3, 1)])
    run = resident_step(func)
    arguments = arguments_of(func)
    with pytest.raises(UsageError, match="takes 3 arguments, got 2"):
        run(arguments[:2])
    other = resident_step(chain([(32, 16, 3, 1)])).prepare(arguments_of(chain([(32, 16, 3, 1)])))
    with pytest.raises(UsageError, match=r"got f32\[16,32,3,3\] among"):
        run([other[0], *arguments[1:]])


@pytest.mark.parametrize("threads", [1, 2, 5, 9])
def test_threads_share_the_copying_of_large_state(threads: int) -> None:
    """Also where there are more of them than parts, and where these do not divide evenly."""
    shape = (112, 592, 3, 3)
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    form, before = TiledForm(TensorType(f32, shape), weight_tiling(shape)), get_num_threads()
    set_num_threads(threads)
    try:
        memory = form.prepare(x)
        again = form.restore(memory)
    finally:
        set_num_threads(before)
    blocks = x.reshape(7, 16, 37, 16, 3, 3).transpose(0, 2, 4, 5, 3, 1)
    np.testing.assert_array_equal(memory, blocks.ravel())
    np.testing.assert_array_equal(again, x)
