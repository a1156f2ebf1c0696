"""Live against PyTorch, where it is installed: batches and files that nobody recorded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from references import relative_error, resnet18_parameters, resnet18_state

import symgrad as sg

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "record"))
import resnet18 as peer  # noqa: E402

CLASSES = 7


def start(dtype: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return resnet18_parameters(CLASSES, dtype), resnet18_state(CLASSES, dtype)


@pytest.mark.parametrize(("batch", "height", "width"), [(2, 40, 57), (5, 33, 33), (1, 96, 64)])
def test_resnet18(batch: int, height: int, width: int) -> None:
    rng = np.random.default_rng(batch)
    x = rng.standard_normal((batch, 3, height, width))
    y = rng.integers(0, CLASSES, batch)
    network = sg.models.resnet18(num_classes=CLASSES)

    @sg.jit
    @sg.value_and_grad(has_aux=True)
    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        logits, state = sg.nn.functional_call(network, params, state, x)
        return sg.nn.functional.cross_entropy(logits, y), (logits, state)

    (value, (logits, after)), gradients = step(*start(np.float64), x, y)
    p, s = ({k: torch.tensor(v) for k, v in group.items()} for group in start(np.float64))
    leaves = {k: v.requires_grad_() for k, v in p.items()}
    expected = peer.forward(leaves, s, torch.from_numpy(x), True)
    loss = torch.nn.functional.cross_entropy(expected, torch.from_numpy(y))
    loss.backward()
    assert relative_error(value, loss.detach().numpy()) < 1e-10
    assert relative_error(logits, expected.detach().numpy()) < 1e-10
    for name, tensor in s.items():
        assert relative_error(after[name], tensor.numpy()) < 1e-10, name
    for name, leaf in leaves.items():
        assert relative_error(gradients[name], leaf.grad.numpy()) < 1e-8, name


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_this_torch(tmp_path: Path, zipped: bool) -> None:
    state = {k: torch.tensor(v) for k, v in {**start(np.float32)[0], **start("f4")[1]}.items()}
    state["halved"] = state["fc.weight"].to(torch.bfloat16).T[1:, ::2]
    path = tmp_path / "w.pth"
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=zipped)
    loaded = sg.io.state_dict(sg.load(path))
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        exact = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        np.testing.assert_array_equal(loaded[name], exact.numpy())
