"""Memory that tensors share: views, aliases, NumPy arrays, and writes to them."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
from symgrad.ir.graph import Op

import symgrad as torch
from symgrad.tensors.recorded import is_known


def test_a_view_writes_to_its_base_and_sees_its_writes() -> None:
    x = torch.zeros(2, 3)
    row, column, flat = x[0], x[:, 1], x.view(-1)
    row.add_(1)
    column.mul_(5)
    flat[5] = 7
    assert x.tolist() == [[1, 5, 1], [0, 0, 7]]
    x.t()[2] = 9
    assert row.tolist() == [1, 5, 9] and flat.tolist() == [1, 5, 9, 0, 0, 9]


def test_recorded_work_keeps_the_value_it_was_given() -> None:
    x = torch.ones(3)
    y = x * 2
    x.add_(5)
    assert y.tolist() == [2, 2, 2] and x.tolist() == [6, 6, 6]


def test_arrays_share_memory_both_ways() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = torch.from_numpy(array)
    y = x + 1
    array[0, 0] = 40
    assert y[0, 0].item() == 1 and (x + 1)[0, 0].item() == 41
    x[1].mul_(10)
    assert array[1].tolist() == [30, 40, 50]
    t = torch.zeros(2, 3)
    out = t.numpy()
    t.add_(1)
    assert out.tolist() == [[1, 1, 1]] * 2
    out[1, 2] = 8
    assert t.sum().item() == 13
    column = t[:, 2].numpy()
    column[0] = 3
    assert t.tolist() == [[1, 1, 3], [1, 1, 8]]
    assert torch.from_dlpack(array)[0, 0].item() == 40
    assert np.from_dlpack(t).tolist() == t.tolist()


def test_detached_handles_share_memory_but_not_the_graph() -> None:
    x = torch.ones(2, requires_grad=True)
    x.detach().add_(1)
    x.data.mul_(3)
    assert x.tolist() == [6, 6] and x.requires_grad
    y = x * 1.5
    (y * y).sum().backward()
    assert x.grad.tolist() == [27, 27]


def test_in_place_operations_are_differentiated() -> None:
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 2
    y.mul_(3)
    y[1] = x[0] * 5
    y[2:].add_(x[:1])
    assert y.tolist() == [6, 5, 19]
    y.sum().backward()
    assert x.grad.tolist() == [12, 0, 6]
    base = torch.zeros(3)
    base[0] = x[1]
    assert base.requires_grad and type(base.grad_fn).__name__ == "CopySlices"


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.add_(1),
        lambda y: y.view(-1).add_(1),
        lambda y: y.__setitem__(0, 3.0),
        lambda y: y.zero_(),
        lambda y: y.copy_(torch.ones(2)),
    ],
)
def test_changing_a_saved_value_raises(change: Any) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    z = (y * y).sum()
    change(y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.backward()


def test_a_leaf_changed_untracked_gives_the_gradient_at_the_value_that_was_used() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    z = (x * x).sum()
    x.data.add_(10)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.backward()
    z = (x + 1).sum()
    x.data.add_(10)
    z.backward()
    assert x.grad.tolist() == [1, 1]


def test_flags_do_not_reach_back() -> None:
    x = torch.ones(2)
    before = x * 3
    x.requires_grad_()
    (before + x).sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_gradients_are_outside_the_graph() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (x**2).sum().backward()
    y = (x.grad * x).sum()
    y.backward()
    assert x.grad.tolist() == [4, 8]


def _ops() -> int:
    gc.collect()
    return sum(issubclass(type(o), Op) for o in gc.get_objects())


def test_steps_do_not_pile_up() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)

    def step() -> Any:
        w.grad = None
        loss = ((w - 3) ** 2).sum()
        loss.backward()
        with torch.no_grad():
            w.sub_(w.grad, alpha=0.1)
        w.tolist()
        return loss

    losses = [step() for _ in range(5)]
    before = _ops()
    losses += [step() for _ in range(50)]
    assert _ops() <= before
    assert losses[-1].grad_fn.name() == "SumBackward0" and losses[-1].item() < losses[0].item()
    assert w.tolist() == pytest.approx([3, 3], abs=1e-4)


def test_unread_work_is_run_in_the_end() -> None:
    x = torch.zeros(1)
    for _ in range(7000):
        x.add_(1)
    assert x.item() == 7000


def test_a_graph_is_gone_with_its_last_tensor() -> None:
    gc.collect()
    gc.disable()
    try:
        x = torch.ones(4, requires_grad=True)
        loss = (torch.exp(x) * 2).sum()
        loss.backward()
        graph = weakref.ref(loss._tracer._value), weakref.ref(x.grad._tracer._value)
        del loss
        x.grad = None
        torch.ones(1).tolist()
        assert [ref() for ref in graph] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("look", [False, True])
def test_an_optimizer_reuses_the_memory_of_its_state(look: bool) -> None:
    w = torch.ones(1000, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    kept: list[float] = []
    place = 0
    for number in range(4):
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        if look:
            kept.append(w.grad.tolist()[0])
        optimizer.step()
        (state,) = optimizer.state[w].values()
        places = {x._array().ctypes.data for x in (state, w)}
        assert number == 0 or place in places
        place = state._array().ctypes.data
        if not look and number == 2:
            kept = w.grad.tolist()  # computed now, from the weights as they were
    expected, velocity, grads = 1.0, 0.0, []
    for _ in range(4):
        grads.append(2 * expected)
        velocity = 0.9 * velocity + grads[-1]
        expected -= 0.1 * velocity
    assert w.tolist()[0] == pytest.approx(expected, rel=1e-5)
    assert kept[0] == pytest.approx(grads[0] if look else grads[2], rel=1e-5)


def test_parameters_that_are_parts_of_one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is the same program, which writes to the whole memory."""
    from symgrad.tensors import record

    compiled: list[Any] = []
    find = record._Programs.find

    def noted(self: Any, *args: Any) -> Any:
        before = len(self.known)
        program = find(self, *args)
        compiled.append(len(self.known) - before)
        return program

    monkeypatch.setattr(record._Programs, "find", noted)
    whole = torch.ones(5)
    parts = [whole[:2].detach().requires_grad_(), whole[2:].detach().requires_grad_()]
    optimizer = torch.optim.SGD(parts, lr=0.25, momentum=0.5)
    for _ in range(6):
        optimizer.zero_grad()
        sum((p * p).sum() for p in parts).backward()
        optimizer.step()
    assert len(compiled) == 6 and not any(compiled[3:])
    x, v = 1.0, 0.0
    for _ in range(6):
        v = 0.5 * v + 2 * x
        x -= 0.25 * v
    assert whole.tolist() == pytest.approx([x] * 5)
    assert [p.tolist() for p in parts] == [whole.tolist()[:2], whole.tolist()[2:]]


def test_memory_is_not_reused_while_somebody_holds_it() -> None:
    w = torch.ones(100, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    pending, arrays = [], []
    for _ in range(3):
        optimizer.zero_grad()
        (w * w).sum().backward()
        w.grad.tolist()
        pending.append(w.detach() * 1)
        optimizer.step()
        (state,) = optimizer.state[w].values()
        pending.append(state + 0)
        arrays.append((state._array(), state._array().copy()))
    assert all((a == b).all() for a, b in arrays)
    values = [t.tolist()[0] for t in pending]
    assert values == pytest.approx([1, 2, 0.8, 3.4, 0.46, 3.98], rel=1e-5)


def test_numpy_of_a_reshaped_transpose_is_a_copy() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(x.T.reshape(6).numpy(), x.numpy().T.reshape(6))


def _blocks() -> int:
    gc.collect()
    return len(gc.get_objects())


def test_many_small_steps_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand forward passes with losses kept as numbers, a backward pass in every tenth."""
    monkeypatch.setenv("SYMGRAD_BACKEND", "interp")
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    x = torch.tensor([0.5, -1.0])

    def steps(count: int) -> None:
        for i in range(count):
            loss = (w * x).sum()
            if i % 10 == 0:
                w.grad = None
                loss.backward()
                with torch.no_grad():
                    w.sub_(w.grad, alpha=0.01)
                w.tolist()

    steps(200)
    before = _blocks()
    steps(10_000)
    assert _blocks() <= before + 100


def test_many_shapes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs and templates of two hundred shapes stay within their limits."""
    from symgrad.tensors import derivatives, plans, record, templates

    monkeypatch.setenv("SYMGRAD_BACKEND", "interp")
    limits = {record.PROGRAMS.known: 50, templates._templates: 100, plans._plans: 60,
              derivatives._adjoints: 40}  # fmt: skip
    for cache, limit in limits.items():
        monkeypatch.setattr(cache, "limit", limit)
    for n in range(1, 201):
        x = torch.ones(n, requires_grad=True)
        (x * x).sum().backward()
        x.grad.tolist()
    assert [len(cache) for cache in limits] == list(limits.values())


def _two_layers() -> tuple[list[Any], Any]:
    torch.manual_seed(0)
    params = [torch.randn(3, 3, requires_grad=True) for _ in range(2)]
    return params, (torch.ones(2, 3) @ params[0] @ params[1]).sum()


def test_a_gradient_is_one_tensor_whoever_looks() -> None:
    (p, q), loss = _two_layers()
    loss.backward()
    gradient = p.grad
    assert p.grad is gradient and copy.copy(p).grad is gradient
    (p * 2).sum().backward()
    assert p.grad is gradient
    expected = np.ones((3, 2)) @ np.ones((2, 3)) @ q.detach().numpy().T + 2
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("are_taken", [False, True])
def test_who_looks_at_a_gradient_wants_all_of_the_backward_pass(are_taken: bool) -> None:
    params, loss = _two_layers()
    loss.backward()
    taken = [p.grad for p in params] if are_taken else []
    if are_taken:
        for p in params:
            p.grad = None
    first = taken[0] if are_taken else params[0].grad
    first.tolist()
    others = [taken[1], loss] if are_taken else [params[1].grad, loss]
    assert [is_known(x._value()) for x in others] == [True, True]


def test_gradients_that_were_computed_hold_nothing_but_themselves() -> None:
    params, loss = _two_layers()
    loss.backward()
    params[0].grad.tolist()
    assert params[1].grad._value().op is None
