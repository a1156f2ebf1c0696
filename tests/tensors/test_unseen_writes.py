"""Writes that the graph does not see: values change, derivatives pass, as recorded with PyTorch.

What a backward pass has saved must not change unseen: then it raises, or the derivative is that
of the values as they were.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import symgrad as torch


def _zeroed(y: Any) -> None:
    with torch.no_grad():
        y.zero_()


def _part_zeroed(y: Any) -> None:
    with torch.no_grad():
        y[:2].zero_()


def _item_set(y: Any) -> None:
    with torch.no_grad():
        y[0] = 9


def _data_replaced(y: Any) -> None:
    y.data = torch.full((3,), 7.0)


WRITES: dict[str, tuple[Callable[[Any], Any], list[float]]] = {
    "no_grad": (_zeroed, [0, 0, 0]),
    "no_grad, view": (_part_zeroed, [0, 0, 6]),
    "no_grad, item": (_item_set, [9, 4, 6]),
    "detach": (lambda y: y.detach().mul_(3), [6, 12, 18]),
    "detach, view": (lambda y: y.detach()[1:].zero_(), [2, 0, 0]),
    "data": (lambda y: y.data.add_(1), [3, 5, 7]),
    "data replaced": (_data_replaced, [7, 7, 7]),
    "NumPy": (lambda y: y.detach().numpy().__setitem__(0, 5.0), [5, 4, 6]),
    "NumPy, view": (lambda y: y.detach()[1:].numpy().fill(4.0), [2, 4, 4]),
    "DLPack": (lambda y: np.from_dlpack(y.detach()).__setitem__(1, 5.0), [2, 5, 6]),
    "DLPack, tensor": (lambda y: torch.from_dlpack(y.detach()).mul_(0.5), [1, 2, 3]),
}
COPIED = {"data replaced", "NumPy", "NumPy, view", "DLPack", "DLPack, tensor"}
"""Roads on which nothing that was saved changes: it is the derivative of what was used."""
POINT = [1.0, 2.0, 3.0]


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("road", WRITES)
def test_a_computed_tensor_goes_on_as_if_nothing_had_happened(road: str, look: bool) -> None:
    write, contents = WRITES[road]
    x = torch.tensor(POINT, requires_grad=True)
    y = x * 2
    before = y[1:] * 1
    if look:
        y.tolist()
    write(y)
    assert y.tolist() == contents and before.tolist() == [4, 6]
    (y * y).sum().backward()
    assert x.grad.tolist() == [4 * v for v in contents]
    assert y.grad_fn.name() == "MulBackward0"


@pytest.mark.parametrize("road", WRITES)
def test_what_was_saved_raises_or_was_copied(road: str) -> None:
    x = torch.tensor(POINT, requires_grad=True)
    y = x * 2
    z = (y * y).sum()
    WRITES[road][0](y)
    if road in COPIED:
        z.backward()
        assert x.grad.tolist() == [8, 16, 24]
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.backward()


@pytest.mark.parametrize("road", [r for r in WRITES if r != "data replaced"])
def test_a_leaf_and_what_shares_its_memory_stay_apart_in_derivatives(road: str) -> None:
    write, _ = WRITES[road]
    x, expected = torch.tensor(POINT, requires_grad=True), np.array(POINT)
    shared = x.detach()
    y = torch.tensor(POINT)
    write(y)
    write(x)
    expected = y.numpy().copy()
    assert x.tolist() == shared.tolist() == expected.tolist() and x.is_leaf
    (x * shared).sum().backward()
    assert x.grad.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "view",
    """x.detach(); x.data; x.view(3); x.reshape(3); x[:]; x[...]; x.T; x.squeeze(); x.expand(3)
    x.permute(0); x.transpose(0, 0); x.view_as(x); x.ravel(); x.narrow(0, 0, 3); x.split(3)[0]
    x.view(-1); x.swapaxes(0, 0); x.broadcast_to((3,)); x.expand_as(x); x.unfold(0, 3, 3)[0]
    x.as_strided((3,), (1,))""".replace("\n", ";").split(";"),
)  # fmt: skip
def test_a_write_through_any_alias_gives_it_a_value_of_its_own(view: str) -> None:
    x = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        alias = eval(view.strip(), {"x": x})
        alias.add_(1)
    (x * alias.detach()).sum().backward()
    assert x.tolist() == x.grad.tolist() == [2, 2, 2]


def test_data_is_another_memory_from_then_on() -> None:
    x = torch.ones(3, requires_grad=True)
    backup = x.data
    x.data = x.data * 2
    assert x.tolist() == [2, 2, 2] and backup.tolist() == [1, 1, 1]
    x.data = backup
    backup.add_(1)
    (x * backup).sum().backward()
    assert x.tolist() == x.grad.tolist() == [2, 2, 2]
    base = torch.zeros(4)
    part = base[1:]
    part.data = torch.ones(3)
    part.add_(1)
    assert base.tolist() == [0] * 4 and part.tolist() == [2] * 3
    base.data = torch.ones(2)
    assert base.shape == (2,)
    with pytest.raises(RuntimeError, match="MulBackward0 computed cannot become"):
        (x * 2).data = torch.ones(2)
    with pytest.raises(TypeError, match="Variable data has to be a tensor, but got list"):
        x.data = [1.0]


def test_set_shares_memory_and_leaves_saved_values_alone() -> None:
    x, other = torch.ones(3, requires_grad=True), torch.full((3,), 2.0)
    loss = (x * x).sum()
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used"):
        x.set_(other)
    with torch.no_grad():
        x.set_(other)
    other.add_(1)
    assert x.tolist() == [3, 3, 3]
    loss.backward()
    (x * x).sum().backward()
    assert x.grad.tolist() == [2 + 6] * 3


def test_a_parameter_shares_the_memory_of_its_tensor() -> None:
    source = torch.ones(3)
    parameter = torch.nn.Parameter(source)
    source.add_(1)
    with torch.no_grad():
        parameter.mul_(2)
    assert source.tolist() == parameter.tolist() == [4, 4, 4]
    (parameter * source).sum().backward()
    torch.optim.SGD([parameter], lr=1.0, momentum=0.9).step()
    assert source.tolist() == parameter.tolist() == [0, 0, 0]
    array = np.ones(3, np.float32)
    parameter = torch.nn.Parameter(array)
    array[0] = 5
    assert parameter.tolist() == [1, 1, 1]


@pytest.mark.parametrize("made", [lambda: torch.nn.Parameter(torch.ones(1000)), torch.ones])
def test_a_parameter_made_of_a_tensor_gives_up_its_memory(made: Any) -> None:
    w = made() if made is not torch.ones else torch.ones(1000, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    places = []
    for _ in range(4):
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()
        (state,) = optimizer.state[w].values()
        places.append({t._array().ctypes.data for t in (w, state)})
    # What a step replaces lives until its results are there: only if they take it over can these
    # lie where that was.
    assert all(before & after for before, after in itertools.pairwise(places))


def test_random_numbers_end_the_way_of_a_derivative() -> None:
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    y.uniform_(0, 1)
    (y * 3).sum().backward()
    assert x.grad.tolist() == [0, 0, 0]


def test_arrays_that_are_gone_have_written() -> None:
    x = torch.zeros(3)
    x.numpy()[0] = 5
    np.asarray(x.detach())[1] = 6
    x[2:].numpy()[...] = 7
    x[0].numpy()[...] += 1
    assert x.tolist() == [6, 6, 7]
    torch.from_dlpack(np.from_dlpack(x)).mul_(2)
    assert (x + 0).tolist() == [12, 12, 14]
    square = torch.zeros(2, 2)
    np.from_dlpack(square.diagonal())[...] = 3
    assert square.tolist() == [[3, 0], [0, 3]]


def test_metadata_in_place() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    y = x * 2
    y.t_().mul_(3)
    y.squeeze_()[0] = 5
    assert y.tolist() == [5, 12, 18]
    y.sum().backward()
    assert x.grad.tolist() == [[0, 6, 6]]
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        x.t_()
    plain = torch.zeros(3)
    plain.unsqueeze_(0)
    plain[0, 1] = 4
    assert plain.tolist() == [[0, 4, 0]]


def test_elements_without_axes_are_views() -> None:
    x = torch.arange(3.0)
    last, first = x[..., -1], x[0, ...]
    x.mul_(2)
    last.add_(1)
    assert last.item() == 5 and first.item() == 0 and x.tolist() == [0, 2, 5]
    assert last.storage_offset() == 2


def test_loops_by_hand_neither_slow_down_nor_compile_again() -> None:
    """Weights that nobody looks at are computed with the loss, once each step."""
    from symgrad.tensors import record

    w, x = torch.ones(5, requires_grad=True), torch.linspace(-1, 1, 5)
    average = torch.zeros(5)
    programs = []
    expected, mean = np.ones(5), np.zeros(5)
    for _ in range(30):
        loss = ((w * x - 1) ** 2).sum()
        loss.backward()
        with torch.no_grad():
            w.sub_(w.grad, alpha=0.05)
            w.grad = None
            average.mul_(0.5).add_(w, alpha=0.5)
        loss.item()
        programs.append(len(record.PROGRAMS.known))
        points = x.numpy().astype(float)
        expected = expected - 0.05 * 2 * points * (expected * points - 1)
        mean = 0.5 * mean + 0.5 * expected
    assert programs[4] == programs[-1]
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(average.numpy(), mean, rtol=1e-5)


def test_gradients_of_inputs_that_are_no_leaves() -> None:
    x = torch.tensor(POINT, requires_grad=True)
    y = x * 2
    z = y * y
    z.sum().backward(inputs=[y, x], retain_graph=True)
    assert y.grad.tolist() == [4, 8, 12] and x.grad.tolist() == [8, 16, 24] and y.retains_grad
    z.sum().backward(inputs=[y])
    assert y.grad.tolist() == [8, 16, 24] and x.grad.tolist() == [8, 16, 24]


def test_hooks_after_accumulation() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    seen = []
    handle = x.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.tolist()))
    x.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(2))
    (x * y * 3).sum().backward()
    assert seen == [[3, 3]] and x.grad.tolist() == [6, 6] and y.grad.tolist() == [3, 3]
    handle.remove()
    (x * y).sum().backward()
    assert len(seen) == 1 and x.grad.tolist() == [14, 14]
    for tensor in (x * 2, torch.ones(1)):
        with pytest.raises(RuntimeError, match=r"non-leaf|doesn't require gradient"):
            tensor.register_post_accumulate_grad_hook(print)


def test_a_hook_that_is_registered_twice_is_called_twice() -> None:
    x = torch.ones(2, requires_grad=True)

    def double(g: Any) -> Any:
        return g * 2

    x.register_hook(double)
    handle = x.register_hook(double)
    (x * 1).sum().backward()
    assert x.grad.tolist() == [4, 4]
    handle.remove()
    (x * 1).sum().backward()
    assert x.grad.tolist() == [6, 6]


class _Doubled(torch.autograd.Function):
    """Twice its argument, in place; a derivative of 7 tells that it is this one's."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        x.mul_(2)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (doubled,) = ctx.saved_tensors
        return grad * 7 * doubled


def test_functions_that_write_into_their_arguments() -> None:
    x = torch.tensor(POINT, requires_grad=True)
    y = x * 1
    part = y[1:]
    assert _Doubled.apply(y) is y and y.grad_fn.name() == "_DoubledBackward"
    assert y.tolist() == [2, 4, 6] and part.tolist() == [4, 6]
    (y.sum() + part.sum()).backward()
    assert x.grad.tolist() == [14, 56, 84]
    x.grad, y = None, x * 1
    _Doubled.apply(y[1:])
    assert y.tolist() == [1, 4, 6]
    y.sum().backward()
    assert x.grad.tolist() == [1, 28, 42]
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        _Doubled.apply(torch.ones(2, requires_grad=True))
    y = x * 1
    z = y * y
    _Doubled.apply(y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()
    assert _Doubled.apply(torch.ones(2)).tolist() == [2, 2]


class _Forgotten(_Doubled):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        return x * 1


def test_what_is_marked_must_be_returned() -> None:
    with pytest.raises(RuntimeError, match="marked as dirty during the forward method were not"):
        _Forgotten.apply(torch.ones(2, requires_grad=True) * 1)


def test_results_without_a_derivative_say_so() -> None:
    x = torch.tensor(POINT, requires_grad=True)
    for made in (x.unique(), torch.unique_consecutive(x), torch.nextafter(x, x + 1)):
        with pytest.raises(RuntimeError, match=r"derivative for aten::.* is not implemented"):
            (made.sum() + x.sum()).backward()
    (torch.bernoulli(x / 4).sum() + x.sum()).backward()
    assert x.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "expression",
    """torch.diff(x, n=0); torch.matrix_power(x, 1); torch.linalg.matrix_power(x, 1)
    torch.cumsum(x[0, 0], 0); x[0, 0].sort()[0]; x[0, 0].topk(1)[0]; torch.msort(x[0, 0])
    torch.nn.functional.pixel_shuffle(x[None], 1)""".replace("\n", ";").split(";"),
)
def test_results_that_are_their_operand_have_memory_of_their_own(expression: str) -> None:
    x = torch.ones(1, 1)
    made = eval(expression, {"x": x, "torch": torch})
    x.add_(1)
    assert made.item() == 1


def test_integers_do_not_widen_floats() -> None:
    x, i = torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.int64)
    F = torch.nn.functional
    for made in (torch.kron(x, i), torch.dist(x, i), F.smooth_l1_loss(x, i), F.l1_loss(x, i)):
        assert made.dtype is torch.float32
    with pytest.warns(UserWarning, match="Using a target size"):
        wide = F.mse_loss(torch.ones(1), torch.tensor(1.0, dtype=torch.float64))
    assert wide.dtype is torch.float64
    with pytest.raises(RuntimeError, match="attempting to assign a gradient with dtype 'double'"):
        x.grad = torch.ones(2, 2, dtype=torch.float64)
    assert torch.isnan(F.l1_loss(torch.ones(0), torch.ones(0)))


@pytest.mark.parametrize("road", ["data", "detach", "NumPy", "DLPack"])
def test_a_view_of_a_leaf_follows_unseen_writes(road: str) -> None:
    x = torch.tensor(POINT, requires_grad=True)
    view = x.view(3)
    WRITES[road][0](view)
    view.register_hook(lambda g: g + 1)
    ((view * 1).sum() + x.sum()).backward()
    assert x.grad.tolist() == [3, 3, 3] and x.tolist() == view.tolist()
    x.grad = None
    with torch.no_grad():
        torch.exp(x, out=view)
    (view.view(-1) * 2).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]


def test_views_that_were_left_out_of_the_graph() -> None:
    x = torch.tensor(POINT, requires_grad=True)
    with torch.no_grad():
        view = x[1:]
        view.mul_(2)
    with pytest.raises(RuntimeError, match="A view was created in no_grad mode and is being mod"):
        view.mul_(2)
    assert x.tolist() == [1, 4, 6]
    for rearrange in (lambda y: y.unsqueeze_(0), lambda y: y.t_(), lambda y: y.transpose_(0, 0)):
        with pytest.raises(RuntimeError, match="a view of a leaf Variable that requires grad"):
            rearrange(x[:2])
    with pytest.raises(RuntimeError, match="can't assign Variable as its own grad"):
        x.grad = x
    with pytest.raises(RuntimeError, match="must be floating point or complex"):
        x.data = torch.arange(3)


def test_a_function_that_saves_nothing_may_be_passed_twice() -> None:
    x = torch.tensor(POINT, requires_grad=True)
    y = _Plain.apply(x)
    y.sum().backward()
    y.sum().backward()
    assert x.grad.tolist() == [6, 6, 6]


class _Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 3

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad * 3


def test_booleans_are_scaled_as_what_they_are_added_to() -> None:
    x, mask = torch.zeros(2), torch.tensor([True, False])
    assert torch.add(x, mask, alpha=2).tolist() == [2, 0]
    assert torch.add(mask, mask, alpha=2).tolist() == [True, False]


def _through_a_view(y: Any) -> None:
    part = y[1:]
    with torch.no_grad():
        part.mul_(0.5)


UNSEEN: dict[str, Callable[[Any], Any]] = {
    **{road: write for road, (write, _) in WRITES.items()}, "view": _through_a_view,
}  # fmt: skip


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("leaf", [False, True])
@pytest.mark.parametrize("road", UNSEEN)
def test_a_derivative_counts_uses_before_and_after_a_write(
    road: str, leaf: bool, look: bool
) -> None:
    """``grad``, hooks and retained gradients go by the tensor, whatever it held when used."""
    y = torch.tensor(POINT, requires_grad=True)
    y = y if leaf else y * 2
    seen: list[Any] = []
    before = y * 3
    if look:
        before.tolist()
    UNSEEN[road](y)
    y.register_hook(lambda g: seen.append(g.tolist()))
    (alone,) = torch.autograd.grad(before.sum(), y, retain_graph=True)
    assert alone.tolist() == [3, 3, 3]
    after = y * 5
    (both,) = torch.autograd.grad((before + after).sum(), y, retain_graph=True)
    assert both.tolist() == [8, 8, 8]
    y.retain_grad()
    (before + after).sum().backward()
    assert y.grad.tolist() == [8, 8, 8] and seen == [[3, 3, 3], [8, 8, 8], [8, 8, 8]]
