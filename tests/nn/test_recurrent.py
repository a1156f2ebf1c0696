"""Recurrent layers: sequences of different lengths, hidden states, faces, refusals.

Values and gradients of plain calls are compared with PyTorch's in ``test_modules``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir.passes import optimize

import symgrad as torch
from symgrad import nn
from symgrad.nn.utils import rnn
from symgrad.tensors import record

KINDS: dict[str, Callable[[], nn.RNNBase]] = {
    "RNN": lambda: nn.RNN(3, 4, 2, "relu", bidirectional=True),
    "GRU": lambda: nn.GRU(3, 4, 2, bidirectional=True),
    "LSTM": lambda: nn.LSTM(3, 4, 2, bidirectional=True),
    "projected": lambda: nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
}
LENGTHS = [2, 5, 1, 5]


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Many little programs: most are interpreted, which other tests compare with code."""
    if "compiled" not in request.node.name:
        monkeypatch.setenv("SYMGRAD_BACKEND", "interp")
    record.PROGRAMS.forget()


def state_of(hx: Any) -> tuple[Any, ...]:
    return hx if isinstance(hx, tuple) else (hx,)


def close(a: Any, b: Any, bound: float = 1e-10) -> None:
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), bound, bound)


@pytest.mark.parametrize(
    ("kind", "with_state"), [*((kind, True) for kind in KINDS), ("projected", False)]
)
def test_a_packed_batch_is_its_sequences_one_by_one(kind: str, with_state: bool) -> None:
    """Outputs, last states, and the gradients of all parameters, inputs and states."""
    check_packed(kind, with_state)


def test_a_packed_batch_compiled() -> None:
    check_packed("projected", with_state=True)


def check_packed(kind: str, with_state: bool) -> None:
    torch.manual_seed(0)
    model = KINDS[kind]().double()
    x = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    sizes = (2, 4) if kind == "projected" else (4, 4)
    begun = [torch.randn(4, 4, n, dtype=torch.float64, requires_grad=True) for n in sizes]
    begun = begun if isinstance(model, nn.LSTM) else begun[:1]
    leaves = [x, *model.parameters(), *(begun if with_state else [])]

    def call(given: Any, states: list[Any]) -> Any:
        hx = tuple(states) if isinstance(model, nn.LSTM) else states[0]
        return model(given, hx if with_state else None)

    packed = rnn.pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    y, last = call(packed, begun)
    y, lengths = rnn.pad_packed_sequence(y, total_length=6)
    assert lengths.tolist() == LENGTHS
    parts = [y, *state_of(last)]
    weights = [torch.randn(*p.shape, dtype=torch.float64) for p in parts]
    loss = sum(((p * w).sum() for p, w in zip(parts, weights, strict=True)), torch.zeros(()))
    together = torch.autograd.grad(loss, leaves)

    total = torch.zeros((), dtype=torch.float64)
    for i, length in enumerate(LENGTHS):
        alone, end = call(x[:length, i], [s[:, i] for s in begun])
        close(y[:length, i], alone)
        assert not y[length:, i].any()
        total = total + (alone * weights[0][:length, i]).sum()
        for s, own, w in zip(state_of(last), state_of(end), weights[1:], strict=True):
            close(s[:, i], own)
            total = total + (own * w[:, i]).sum()
    for a, b in zip(together, torch.autograd.grad(total, leaves), strict=True):
        close(a, b)


def test_packing() -> None:
    x = torch.arange(24).reshape(4, 3, 2)
    packed = rnn.pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False)
    assert packed.batch_sizes.tolist() == [3, 2, 1, 1]
    assert packed.sorted_indices.tolist() == [1, 0, 2]
    assert packed.unsorted_indices.tolist() == [1, 0, 2]
    assert packed.data[:, 0].tolist() == [2, 0, 4, 8, 6, 14, 20]
    same = rnn.pack_padded_sequence(x.transpose(0, 1), [2, 4, 1], True, enforce_sorted=False)
    assert same.data.tolist() == packed.data.tolist()
    padded, lengths = rnn.pad_packed_sequence(packed, True, padding_value=-1)
    assert lengths.tolist() == [2, 4, 1]
    assert padded[..., 1].tolist() == [[1, 7, -1, -1], [3, 9, 15, 21], [5, -1, -1, -1]]
    assert [s.shape[0] for s in rnn.unpack_sequence(packed)] == [2, 4, 1]
    assert packed.double().data.dtype is torch.float64
    each = [torch.arange(n) + 10 * n for n in (3, 2, 1)]
    assert rnn.pack_sequence(each).data.tolist() == [30, 20, 10, 31, 21, 32]
    assert rnn.pad_sequence(each, True, 7).tolist() == [[30, 31, 32], [20, 21, 7], [10, 7, 7]]
    left = rnn.pad_sequence(each, padding_side="left", padding_value=7)
    assert left.tolist() == [[30, 7, 7], [31, 20, 7], [32, 21, 10]]
    again = rnn.unpad_sequence(rnn.pad_sequence(each), torch.tensor([3, 2, 1]))
    assert [s.tolist() for s in again] == [s.tolist() for s in each]


def test_arrays_traced_values_and_tensors_agree() -> None:
    model = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    expected, (h, c) = model(torch.tensor(x))
    for call in (model, torch.jit(model)):
        y, state = call(x)
        for got, want in zip((y, *state), (expected, h, c), strict=True):
            np.testing.assert_allclose(np.asarray(got), want.detach().numpy(), 1e-6, 1e-6)


def test_dropout_is_between_layers_only() -> None:
    torch.manual_seed(0)
    model = nn.RNN(3, 64, 2, dropout=0.5)
    x = torch.randn(5, 2, 3)
    one, two = (model(x) for _ in range(2))
    np.testing.assert_array_equal(one[1][0].tolist(), two[1][0].tolist())  # the first layer
    assert one[0].tolist() != two[0].tolist()
    assert (one[0] != 0).all()  # nothing is dropped out of the result
    model.eval()
    assert model(x)[0].tolist() == model(x)[0].tolist()


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_training_step_multiplies_no_more_than_it_must(kind: str) -> None:
    """Each layer runs its loop once each way; products in it are those with the state alone."""
    model = getattr(nn, kind)(16, 16)
    parameters, _ = nn.arrays(model)

    def loss(parameters: Any, x: Any) -> Any:
        (y, _), _ = nn.functional_call(model, parameters, {}, x)
        return (y * y).sum()

    step = torch.jit(torch.value_and_grad(loss))
    func = optimize(step.adjoint(parameters, np.ones((7, 16, 16), np.float32)))
    loops = [op for op in func.ops if op.name == "scan"]
    inside = [sum(op.name == "dot_general" for op in loop.regions[0].ops) for loop in loops]
    assert inside == [1, 1]
    assert sum(op.name == "dot_general" for op in func.ops) == 3  # x w_ih, and both weights'
    assert all(op.name != "transpose" for loop in loops for op in loop.regions[0].ops)


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.GRU(2, 5, proj_size=1), ValueError,
     "proj_size argument is only supported for LSTM, not RNN or GRU"),
    (lambda: nn.LSTM(2, 5, proj_size=5), ValueError,
     "proj_size has to be smaller than hidden_size"),
    (lambda: nn.LSTM(2, 5, proj_size=-1), ValueError,
     "proj_size should be a positive integer or zero to disable projections"),
    (lambda: nn.RNN(2, 5, nonlinearity="x"), ValueError,
     "Unknown nonlinearity 'x'. Select from 'tanh' or 'relu'."),
    (lambda: nn.RNN(2, 5, dropout=True), ValueError, "dropout should be a number in range [0, 1] "
     "representing the probability of an element being zeroed"),
    (lambda: nn.LSTM(2, 0), ValueError, "hidden_size must be greater than zero"),
    (lambda: nn.LSTM(2.0, 3), TypeError, "input_size should be of type int, got: float"),
    (lambda: nn.LSTM(2, 3, bias=1), TypeError, "bias should be of type bool, got: int"),
    (lambda: LSTM(torch.ones(0, 3, 2)), RuntimeError,
     "Expected sequence length to be larger than 0 in RNN"),
    (lambda: LSTM(X.double()), ValueError, "RNN input dtype (torch.float64) does not match weight "
     "dtype (torch.float32). Convert input: input.to(torch.float32), or convert model: "
     "model.to(torch.float64)"),
    (lambda: LSTM(torch.ones(1, 1, 1, 2)), ValueError,
     "LSTM: Expected input to be 2D or 3D, got 4D instead"),
    (lambda: nn.RNN(2, 5)(torch.ones(2)), ValueError,
     "RNN: Expected input to be 2D or 3D, got 1D tensor instead"),
    (lambda: LSTM(torch.ones(3, 2, 4)), RuntimeError,
     "input.size(-1) must be equal to input_size. Expected 2, got 4"),
    (lambda: LSTM(X, (torch.zeros(1, 3, 4), torch.zeros(1, 3, 5))), RuntimeError,
     "Expected hidden[0] size (1, 3, 5), got [1, 3, 4]"),
    (lambda: LSTM(X, (torch.zeros(3, 5), torch.zeros(3, 5))), RuntimeError,
     "For batched 3-D input, hx and cx should also be 3-D but got (2-D, 2-D) tensors"),
    (lambda: GRU(X, torch.zeros(1, 2, 5)), RuntimeError,
     "Expected hidden size (1, 3, 5), got [1, 2, 5]"),
    (lambda: GRU(X[0], torch.zeros(2, 5, 1)), RuntimeError,
     "For unbatched 2-D input, hx should also be 2-D but got 3-D tensor"),
    (lambda: nn.GRUCell(2, 5)(X), ValueError,
     "GRUCell: Expected input to be 1D or 2D, got 3D instead"),
    (lambda: nn.LSTMCell(2, 5)(X[0], (X, X)), ValueError,
     "LSTMCell: Expected hx[0] to be 1D or 2D, got 3D instead"),
    (lambda: nn.RNNCell(2, 5)(torch.ones(3, 3)), RuntimeError,
     "input has inconsistent input_size: got 3 expected 2"),
    (lambda: nn.RNNCell(2, 5)(X[0], torch.ones(2, 5)), RuntimeError,
     "Input batch size 3 doesn't match hidden0 batch size 2"),
    (lambda: nn.RNNCell(2, 5)(X[0], torch.ones(3, 4)), RuntimeError,
     "hidden0 has inconsistent hidden_size: got 4, expected 5"),
    (lambda: rnn.pack_padded_sequence(X, [4, 2, 3]), RuntimeError,
     "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can "
     "pass `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this "
     "requirement if you do not need ONNX exportability."),
    (lambda: rnn.pack_padded_sequence(X, [4, 2, 0]), RuntimeError,
     "Length of all samples has to be greater than 0, but found an element in 'lengths' that is "
     "<= 0"),
    (lambda: rnn.pack_padded_sequence(X, [4, 2]), RuntimeError,
     "Expected `len(lengths)` to be equal to batch_size, but got 2 (batch_size=3)"),
    (lambda: rnn.pack_padded_sequence(X, torch.tensor([[4, 2, 1]])), RuntimeError,
     "'lengths' argument should be a 1D CPU int64 tensor, but got 2D cpu Long tensor"),
    (lambda: rnn.pad_packed_sequence(rnn.pack_padded_sequence(X, [4, 2, 1]), total_length=2),
     ValueError, "Expected total_length to be at least the length of the longest sequence in "
     "input, but got total_length=2 and max sequence length being 4"),
    (lambda: rnn.pad_sequence(3), RuntimeError,
     "pad_sequence: Expected iterable for input sequences, but got arg of type: <class 'int'>"),
    (lambda: rnn.pad_sequence([]), RuntimeError, "received an empty list of sequences"),
    (lambda: rnn.pad_sequence([X], padding_side="x"), RuntimeError,
     "Expected padding_side to be one of left or right, but got x."),
    (lambda: rnn.PackedSequence(X), AssertionError,
     "Expected data to be a list or tuple of length 2"),
]  # fmt: skip
X, LSTM, GRU = torch.ones(4, 3, 2), nn.LSTM(2, 5), nn.GRU(2, 5)


@pytest.mark.parametrize(("call", "kind", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_refusals(call: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value).startswith(text)  # the place of the call may follow


def test_what_is_shown() -> None:
    assert repr(nn.RNN(2, 5, 1, "relu", False, True)) == "RNN(2, 5, bias=False, batch_first=True)"
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        nn.LSTM(2, 5, dropout=0.5)
    layer = nn.LSTM(2, 5, 2, bidirectional=True)
    assert len(layer.all_weights) == 4
    assert layer.all_weights[3][1] is layer.weight_hh_l1_reverse
    assert layer.weight_hh_l0.abs().max().item() <= 5**-0.5
