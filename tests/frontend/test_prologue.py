"""Compiled functions of tensors keep what follows from weights alone, and never a stale one."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import symgrad as sg
from symgrad import nn
from symgrad.tensors.recorded import are_shared

ROOM = np.random.default_rng(7).standard_normal


class Network(nn.Module):
    """A Winograd convolution, normalisation by running statistics, a classifier."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        sg.manual_seed(2)
        self.conv = nn.Conv2d(16, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 5)
        self.to(dtype)
        with sg.no_grad():
            self.norm.running_mean.copy_(sg.tensor(ROOM(32)))
            self.norm.running_var.copy_(sg.tensor(ROOM(32) ** 2 + 0.5))

    def forward(self, x: Any) -> Any:
        x = nn.functional.relu(self.norm(self.conv(x)))
        return self.fc(x.mean((2, 3)))


def reference(model: Network, x: Any) -> Any:
    """The same in float64 NumPy, from what the model's state says now."""
    state = {name: np.array(t.numpy(), np.float64) for name, t in model.state_dict().items()}
    w, x = state["conv.weight"], np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    y = np.einsum("nihwab,oiab->nohw", windows, w, optimize=True)
    column = {name: value.reshape(-1, 1, 1) for name, value in state.items() if value.ndim == 1}
    y = (y + column["conv.bias"] - column["norm.running_mean"]) * column["norm.weight"]
    y = y / np.sqrt(column["norm.running_var"] + 1e-5) + column["norm.bias"]
    return np.maximum(y, 0).mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def _in_place(model: Network) -> None:
    with sg.no_grad():
        model.conv.weight.mul_(-0.5)


def _element(model: Network) -> None:
    with sg.no_grad():
        model.conv.weight[3] += 0.25


def _step(model: Network) -> None:
    optimizer = sg.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        x = sg.tensor(ROOM((2, 16, 8, 8)).astype(str(model.conv.weight.dtype).split(".")[-1]))
        model(x).square().mean().backward()
        optimizer.step()


def _load(model: Network) -> None:
    model.load_state_dict({name: t * 1.5 + 0.1 for name, t in model.state_dict().items()})


def _data(model: Network) -> None:
    model.conv.weight.data = model.conv.weight.data * 2.0


def _data_in_place(model: Network) -> None:
    model.norm.weight.data.add_(1.0)


def _numpy_view(model: Network) -> None:
    view = model.__dict__.setdefault("view", model.conv.weight.detach().numpy())
    view[2] += 0.5


def _buffer(model: Network) -> None:
    model.norm.running_var.add_(2.0)


def _training(model: Network) -> None:
    model.train()
    with sg.no_grad():
        model(sg.tensor(ROOM((4, 16, 8, 8))).to(model.conv.weight.dtype))
    model.eval()


def _replaced(model: Network) -> None:
    model.conv.weight = nn.Parameter(model.conv.weight.detach() * 3.0)


def _alias(model: Network) -> None:
    other = model.conv.weight.detach().view(-1)
    other[:100] -= 0.5


def _shared_array(model: Network) -> None:
    if "array" not in model.__dict__:
        model.__dict__["array"] = model.norm.running_var.numpy().copy()
        model.norm.running_var = sg.from_numpy(model.__dict__["array"])
    model.__dict__["array"] *= 1.5


def _donated(model: Network) -> None:
    double = sg.jit(lambda w: w * -2.0, donate_argnums=0)
    with sg.no_grad():
        model.conv.weight.data = double(model.conv.weight.detach())


def _copied(model: Network) -> None:
    with sg.no_grad():
        model.norm.running_mean.copy_(model.norm.running_mean * 2 + 1)


def _drawn(model: Network) -> None:
    nn.init.normal_(model.conv.weight)


def _flat(model: Network) -> None:
    parameters = list(model.parameters())
    vector = nn.utils.parameters_to_vector(parameters)
    nn.utils.vector_to_parameters(vector.detach() * 1.25 + 0.01, parameters)


ROADS = [
    _in_place, _element, _step, _load, _data, _data_in_place, _numpy_view, _buffer, _training,
    _replaced, _alias, _shared_array, _donated, _copied, _drawn, _flat,
]  # fmt: skip


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: Any) -> Iterator[None]:
    before = sg.get_num_threads()
    sg.set_num_threads(request.param)
    yield
    sg.set_num_threads(before)


def executable_of(function: Any, *args: Any) -> Any:
    """The program behind a call of a function of tensors."""
    return function._find(args, {})[0].executable.program


def counted(monkeypatch: pytest.MonkeyPatch, executable: Any) -> list[int]:
    """Gets an element whenever the prologue of an executable runs."""
    runs: list[int] = []
    run = executable._prologue.run
    monkeypatch.setattr(executable._prologue, "run", lambda slots: (runs.append(1), run(slots)))
    return runs


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [sg.float32, sg.float64])
def test_every_change_is_seen_at_once(dtype: Any) -> None:
    tolerance = 1e-4 if dtype is sg.float32 else 1e-11
    with sg.no_grad():
        for road in ROADS:
            model = Network(dtype).eval()
            infer = sg.jit(model)
            x = ROOM((2, 16, 8, 8)).astype(np.float32 if dtype is sg.float32 else np.float64)
            given = sg.tensor(x)
            before = infer(given).numpy().copy()
            np.testing.assert_array_equal(infer(given).numpy(), before)
            for _ in range(2):
                with sg.enable_grad():
                    road(model)
                last, before = before, infer(given).numpy().copy()
                assert not np.array_equal(before, last), road.__name__
            after = infer(given).numpy().copy()
            expected = reference(model, x)
            scale = np.abs(expected).max()
            np.testing.assert_allclose(
                after, expected, rtol=0, atol=tolerance * scale, err_msg=road.__name__
            )
            np.testing.assert_array_equal(before, after)
            np.testing.assert_array_equal(sg.jit(model)(given).numpy(), after)


def test_explain_tells_of_the_program_that_runs() -> None:
    model, x = Network(sg.float32).eval(), sg.tensor(ROOM((4, 16, 16, 16)).astype(np.float32))
    infer = sg.jit(model)
    with sg.no_grad():
        text = infer.explain(x)
        assert text == executable_of(infer, x).lowered.explain()
        assert "kernel calls before" in text
        kernels = [line.split(" x ")[1].split()[0] for line in text.splitlines() if " x " in line]
        assert all(f"@{name}(" in infer.llvm(x) for name in kernels)


@pytest.mark.usefixtures("threads")
def test_the_prologue_runs_once_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Network(sg.float32).eval(), sg.tensor(ROOM((4, 16, 16, 16)).astype(np.float32))
    infer = sg.jit(model)
    with sg.no_grad():
        infer(x)
        executable = executable_of(infer, x)
        assert "kernel calls before" in executable.lowered.explain()
        runs = counted(monkeypatch, executable)
        for _ in range(3):
            infer(sg.tensor(ROOM((4, 16, 16, 16)).astype(np.float32)))
        assert not runs
        model.norm.bias.add_(1.0)
        for count in (1, 1):
            infer(x)
            assert len(runs) == count


def test_what_is_kept_holds_no_weights() -> None:
    """Training steps may still overwrite them, and they are free when they are replaced."""
    model, x = Network(sg.float32).eval(), sg.tensor(ROOM((4, 16, 16, 16)).astype(np.float32))
    infer = sg.jit(model)
    with sg.no_grad():
        for _ in range(2):
            infer(x)
        weight = model.conv.weight._value()
        assert are_shared([weight]) == [False]
        old = weakref.ref(weight.contents)
        del weight
        model.conv.weight.data = sg.zeros(32, 16, 3, 3)
        gc.collect()
        assert old() is None


def test_functions_that_share_weights_across_threads() -> None:
    """Python threads with models of their own, and one whose weights change meanwhile."""
    models = [Network(sg.float32).eval() for _ in range(2)]
    x = ROOM((2, 16, 8, 8)).astype(np.float32)
    chosen = {"model": models[0]}

    @sg.jit
    def infer(x: Any) -> Any:
        return chosen["model"](x)

    with sg.no_grad():
        models[1].conv.weight.mul_(-2.0)
        wanted = []
        for model in models:
            chosen["model"] = model
            wanted.append(infer(sg.tensor(x)).numpy().copy())
    failures: list[str] = []

    def work(model: Network, expected: Any) -> None:
        function = sg.jit(model)
        with sg.no_grad():
            for _ in range(30):
                if not np.array_equal(function(sg.tensor(x)).numpy(), expected):
                    failures.append("differs")

    team = [threading.Thread(target=work, args=pair) for pair in zip(models, wanted, strict=True)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert not failures


def test_a_saved_function_has_its_prologue(tmp_path: Path) -> None:
    model, x = Network(sg.float32).eval(), sg.tensor(ROOM((4, 16, 16, 16)).astype(np.float32))
    infer = sg.jit(model)
    with sg.no_grad():
        expected = infer(x).numpy()
        infer.save(tmp_path / "network")
        loaded: Callable[..., Any] = sg.load_compiled(tmp_path / "network")
        for _ in range(2):
            np.testing.assert_array_equal(loaded(x).numpy(), expected)
