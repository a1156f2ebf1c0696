"""bfloat16 and float16 tensors: stored in two bytes, computed in float32, rounded once.

What operations give is in the table of expressions (``test_cases.py``); live against PyTorch
in ``tests/peers/test_halves.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad import nn
from symgrad.nn import functional as F

pytest.importorskip("ml_dtypes")
EPS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Largest relative error of rounding."""
HALVES = sorted(EPS, key=str)


def numbers(*shape: int) -> torch.Tensor:
    """float64 numbers that both half types hold."""
    rng = np.random.default_rng(sum(shape))
    return torch.tensor(rng.integers(-99, 100, shape) / 64)


def close(actual: torch.Tensor, expected: torch.Tensor, dtype: Any, ulps: float = 1) -> None:
    assert actual.dtype is dtype
    bound = ulps * EPS[dtype] if dtype in EPS else 1e-6
    wanted = np.asarray(expected.tolist())
    scale = float(np.max(np.abs(wanted), initial=0))
    np.testing.assert_allclose(np.asarray(actual.tolist()), wanted, bound, bound * scale / 8)


def test_every_store_rounds() -> None:
    """Each operation ends in a rounding, however many of them one program runs."""
    x = torch.tensor([1.0, 3.0, 100.0], dtype=torch.bfloat16)
    step = torch.tensor(2.0**-8, dtype=torch.bfloat16)
    assert ((x + step) - x).tolist() == [0.0, 0.0, 0.0]
    assert (x * 1.00390625 == x).tolist() == [True, False, False]  # a tie goes to even
    assert (x + step).float().tolist() == x.tolist()
    assert ((x / 3).floor() * 3 == x).tolist() == [False, True, False]
    product = x / 3
    assert (product == product.detach().clone()).all()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_rounding_to_nearest_even(dtype: Any) -> None:
    step = 2 * EPS[dtype]
    below, above = 1.0, 1.0 + step
    ties = torch.tensor([1 + step / 2, 1 + 3 * step / 2, 1 + 0.51 * step, 1 + 0.49 * step])
    assert ties.to(dtype).tolist() == [below, 1 + 2 * step, above, below]
    largest = torch.finfo(dtype).max
    assert torch.tensor([largest * 1.003, -largest * 1.003]).to(dtype).isinf().all()
    assert torch.tensor([float("nan")]).to(dtype).isnan().all()


def test_python_numbers_do_not_widen() -> None:
    x = torch.ones(2, dtype=torch.bfloat16)
    for result in (x + 1, 2.5 * x, x / 3, x**0.5, x + torch.ones(2).long(), x * torch.tensor(1.0)):
        assert result.dtype is torch.bfloat16
    assert (x + torch.ones(2)).dtype is torch.float32
    assert (x + torch.ones(2).half()).dtype is torch.float32
    assert (x > 0.5).dtype is torch.bool
    assert torch.promote_types(torch.bfloat16, torch.float64) is torch.float64
    x += torch.ones(2)
    assert x.dtype is torch.bfloat16
    with pytest.raises(TypeError, match="half types have to be asked for"):
        torch.set_default_dtype(torch.bfloat16)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [(3, 4, 5), (33, 20, 47), (40, 96, 24)], ids=str)
def test_products_sum_in_float32(dtype: Any, size: tuple[int, int, int]) -> None:
    m, n, k = size
    wide = numbers(m, k).requires_grad_(), numbers(k, n).requires_grad_()
    half = tuple(x.detach().to(dtype).requires_grad_() for x in wide)
    products = [a @ b for a, b in (wide, half)]
    close(products[1], products[0], dtype)
    for product in products:
        product.sum().backward()
    for a, b in zip(half, wide, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        close(a.grad, b.grad, dtype)


def test_long_sums_are_kept_in_float32() -> None:
    x = torch.ones(3000, dtype=torch.bfloat16)
    assert x.sum().item() == 3008  # 3000 rounded; in bfloat16 the sum would stop at 256
    assert x.cumsum(0)[-1].item() == 3008
    assert x.mean().item() == 1
    assert x.sum(dtype=torch.float32).item() == 3000
    assert x.var().item() == 0


LAYERS: list[tuple[Any, tuple[int, ...]]] = [
    (lambda: nn.Linear(20, 33), (7, 20)),
    (lambda: nn.Conv2d(3, 16, 3, padding=1), (2, 3, 9, 8)),
    (lambda: nn.Conv2d(16, 16, 3, stride=2, padding=1), (2, 16, 8, 8)),
    (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2), (1, 4, 5, 5)),
    (lambda: nn.BatchNorm2d(4), (3, 4, 5, 5)),
    (lambda: nn.LayerNorm(24), (6, 24)),
    (lambda: nn.Sequential(nn.MaxPool2d(2), nn.SiLU()), (1, 2, 8, 8)),
]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_layers(make: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """Compiled layers and their gradients against float64."""
    torch.manual_seed(0)
    half = make().to(dtype)
    wide = make().double()
    wide.load_state_dict({k: v.double() for k, v in half.state_dict().items()})
    results = []
    for layer, kind in ((wide, torch.float64), (half, dtype)):
        x = numbers(*shape).to(kind).requires_grad_()
        y = layer(x)
        (y * numbers(*y.shape).flip(-1).to(kind)).sum().backward()
        assert all(p.dtype is kind for p in layer.parameters())
        results.append([y, x.grad, *(p.grad for p in layer.parameters())])
    for expected, actual in zip(*results, strict=True):
        close(actual, expected, dtype, 8)


def test_embedding_and_mixed_precision() -> None:
    table = numbers(9, 4).bfloat16().requires_grad_()
    rows = F.embedding(torch.tensor([1, 8, 1]), table)
    assert rows.tolist() == table[torch.tensor([1, 8, 1])].tolist()
    rows.float().sum().backward()
    assert table.grad is not None
    assert table.grad.dtype is torch.bfloat16
    assert table.grad[:, 0].tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 1]
    with pytest.raises(RuntimeError, match="same dtype, but got BFloat16 and Float"):
        F.linear(rows, torch.ones(2, 4))
    with pytest.raises(RuntimeError, match="c10::BFloat16 != float"):
        rows @ torch.ones(4, 2)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_training(name: str) -> None:
    """Parameters and states stay bfloat16, and the loss follows that of float32."""
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 3)).to(dtype)
        options = {"momentum": 0.9} if name == "SGD" else {}
        optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.02, **options)
        x, y = numbers(20, 12).to(dtype), torch.arange(20) % 3
        for _ in range(8):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
        assert net[0].weight.dtype is dtype
        states = optimizer.state_dict()["state"].get(0, {})
        assert all(v.dtype is dtype for k, v in states.items() if k != "step" and v is not None)
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_compiled_functions_compute_alike() -> None:
    x = numbers(5, 24).bfloat16()

    def function(x: Any) -> Any:
        return F.layer_norm(F.gelu(x), (24,))

    assert torch.jit(function)(x).tolist() == function(x).tolist()


def test_numpy_does_not_know_the_type() -> None:
    x = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    for convert in (x.numpy, lambda: np.asarray(x)):
        with pytest.raises(TypeError, match="Got unsupported ScalarType BFloat16"):
            convert()
    assert x.tolist() == [1.5, -2.0]
    assert isinstance(x[0].item(), float)
    assert x.view(torch.int16).tolist() == [0x3FC0, -0x4000]
    assert x.float().numpy().dtype == np.float32


def test_dlpack_shares_memory() -> None:
    x = torch.zeros(3, dtype=torch.bfloat16)
    other = torch.from_dlpack(x)
    assert other.dtype is torch.bfloat16
    other[1] = 2.5
    assert x.tolist() == [0, 2.5, 0]


def test_files(tmp_path: Path) -> None:
    layer = nn.Linear(5, 3).bfloat16()
    path = tmp_path / "w.safetensors"
    torch.save(layer.state_dict(), path)
    size = path.stat().st_size
    assert size < 8 + 200 + 2 * (15 + 3)
    other = nn.Linear(5, 3).bfloat16()
    other.load_state_dict({k: torch.tensor(v) for k, v in torch.load(path).items()})
    assert other.weight.tolist() == layer.weight.tolist()
    assert other.bias.dtype is torch.bfloat16


def test_random_numbers_stay_below_one() -> None:
    torch.manual_seed(0)
    drawn = torch.rand(20000, dtype=torch.bfloat16)
    assert drawn.dtype is torch.bfloat16
    assert drawn.max().item() < 1 <= drawn.max().item() + 2**-8
    assert abs(drawn.float().mean().item() - 0.5) < 0.01
    assert torch.randn(4, dtype=torch.bfloat16).dtype is torch.bfloat16


def test_comparison_has_tolerances() -> None:
    x = torch.ones(2, dtype=torch.bfloat16)
    torch.testing.assert_close(x, x * 1.01)
    with pytest.raises(AssertionError, match=r"Greatest absolute difference: 0\.03125"):
        torch.testing.assert_close(x, x * 1.03)
