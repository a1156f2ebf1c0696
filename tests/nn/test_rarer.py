"""What recorded calls do not show: randomness, state that changes, lazy layers, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad import nn
from symgrad.nn import functional as F

IN_PLACE = {
    "celu_": "CeluBackward1", "elu_": "EluBackward1", "hardtanh_": "HardtanhBackward0",
    "leaky_relu_": "LeakyReluBackward1", "relu_": "ReluBackward0",
    "rrelu_": "RreluWithNoiseBackward1", "selu_": "EluBackward1",
    "threshold_": "ThresholdBackward1",
}  # fmt: skip


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name: str) -> None:
    """As the function it is named after, in the input's memory, and with its gradient."""
    arguments = (0.25, 2.0) if name == "threshold_" else ()
    x = torch.linspace(-2, 2, 7, requires_grad=True)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        getattr(F, name)(x, *arguments)
    y = x * 1
    z = getattr(F, name)(y, *arguments)
    assert z is y
    assert y.grad_fn.name() == IN_PLACE[name]
    y.square().sum().backward()
    other = x.detach().clone().requires_grad_()
    expected = getattr(F, name[:-1])(other, *arguments)
    expected.square().sum().backward()
    assert torch.equal(y, expected) and torch.equal(x.grad, other.grad)
    assert set(IN_PLACE) == {n for n in F.__all__ if n.endswith("_")}


def test_gumbel_softmax_chooses_by_the_odds() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 2.0, 0.0], requires_grad=True)
    many = logits.expand(100_000, 3)
    chosen = F.gumbel_softmax(many, hard=True)
    assert set(np.unique(chosen.detach().round(decimals=3).tolist())) == {0, 1}
    np.testing.assert_allclose(chosen.mean(0).tolist(), logits.softmax(0).tolist(), atol=5e-3)
    torch.manual_seed(1)
    soft = F.gumbel_softmax(many, tau=0.5, dim=1)
    np.testing.assert_allclose(soft.sum(1).tolist(), 1, atol=1e-6)
    weights = torch.tensor([1.0, -2.0, 3.0])
    (soft * weights).sum().backward()
    torch.manual_seed(1)  # the same noise: the derivative is that of the softmax
    again = logits.detach().requires_grad_()
    hard = F.gumbel_softmax(again.expand(100_000, 3), tau=0.5, hard=True)
    (hard * weights).sum().backward()
    np.testing.assert_allclose(again.grad.tolist(), logits.grad.tolist(), rtol=1e-5)
    assert torch.equal(hard.argmax(1), soft.argmax(1))


def test_random_slopes_and_channels() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, requires_grad=True)
    F.rrelu(x, 0.2, 0.4, training=True).sum().backward()
    slopes = x.grad[x.detach() < 0].numpy()
    assert 0.2 <= slopes.min() < 0.21 and 0.39 < slopes.max() <= 0.4
    assert slopes.mean() == pytest.approx(0.3, abs=0.01)
    y = nn.FeatureAlphaDropout(0.25)(torch.randn(60, 50, 3, 3))
    dropped = np.isclose(y.std((2, 3)).numpy(), 0, atol=1e-6)
    assert dropped.mean() == pytest.approx(0.25, abs=0.03)
    assert float(y.mean()) == pytest.approx(0, abs=0.05)
    assert float(y.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_max_norm_shortens_the_table_itself(p: float) -> None:
    before = np.random.default_rng(0).standard_normal((7, 3))
    layer = nn.Embedding(7, 3, max_norm=0.7, norm_type=p, _weight=torch.tensor(before))
    rows = layer(torch.tensor([1, 4, 4]))
    norms = np.linalg.norm(before, p, axis=1, keepdims=True)
    short = np.where(norms > 0.7, before * (0.7 / (norms + 1e-7)), before)
    expected = np.where(np.isin(np.arange(7), [1, 4])[:, None], short, before)
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(rows.detach().numpy(), expected[[1, 4, 4]], rtol=1e-12)
    rows.sum().backward()
    np.testing.assert_array_equal(layer.weight.grad[:, 0].numpy(), [0, 1, 0, 0, 2, 0, 0])


def test_lazy_layers_become_ordinary_ones() -> None:
    def make() -> nn.Sequential:
        return nn.Sequential(
            nn.LazyConv2d(4, 3, 1, 1, 1, 2), nn.LazyBatchNorm2d(), nn.LazyInstanceNorm2d(),
            nn.LazyConvTranspose2d(6, 2), nn.Flatten(), nn.LazyLinear(3),
        )  # fmt: skip

    model = make().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert model[0].has_uninitialized_params()
    with pytest.raises(RuntimeError, match="shape of an uninitialized parameter"):
        model[0].weight.shape  # noqa: B018
    with pytest.raises(RuntimeError, match=r"Expected 3D .* or 4D .* input to LazyConv2d"):
        model(torch.zeros(2, 2))
    x = torch.rand(2, 2, 5, 4, dtype=torch.float64)
    model(x).sum().backward()
    assert [type(m).__name__ for m in model][:2] == ["Conv2d", "BatchNorm2d"]
    assert repr(model[0]).startswith("Conv2d(2, 4, kernel_size=(3, 3)")
    assert model[5].weight.dtype is torch.float64 and model[5].in_features == 6 * 6 * 5
    before = model[5].bias.detach().clone()
    optimizer.step()  # of the parameters that it was given before they had shapes
    assert not torch.equal(before, model[5].bias)
    other = make().double()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))
    assert isinstance(other[5].weight, nn.Parameter) and type(other[5]) is nn.Linear


def test_buffers_are_registered_by_assignment() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Buffer(torch.ones(2))
            self.seen = nn.Buffer(torch.zeros(2), persistent=False)

    module = Shifted()
    assert list(module.state_dict()) == ["shift"]
    assert [name for name, _ in module.named_buffers()] == ["shift", "seen"]
    assert module.double().seen.dtype is torch.float64


ERRORS: list[tuple[str, type[Exception], str]] = [
    ("F.unfold(torch.zeros(1, 1, 2, 2), 3)", RuntimeError, "sliding blocks as \\(0, 0\\)"),
    ("F.fold(torch.zeros(1, 4, 3), 4, 2)", RuntimeError, "sliding blocks 3 \\* 3 = 9"),
    ("F.fold(torch.zeros(1, 5, 9), 4, 2)", RuntimeError, "divisible by the product of kernel"),
    ("F.pixel_unshuffle(torch.zeros(1, 3, 4), 2)", RuntimeError, "height to be divisible"),
    ("F.channel_shuffle(torch.zeros(1, 3, 4), 2)", RuntimeError, "divisible by groups"),
    ("F.grid_sample(torch.zeros(1, 1, 2, 2), torch.zeros(2, 2, 2, 2))", RuntimeError,
     "same batch size"),
    ("F.grid_sample(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 3))", RuntimeError, "size 2 in"),
    ("F.affine_grid(torch.zeros(2, 3, 3), (2, 3, 4, 4))", ValueError, "Nx2x3"),
    ("F.max_unpool2d(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 99), 2)", RuntimeError,
     "invalid max index: 99"),
    ("F.max_unpool2d(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2).long(), 2, "
     "output_size=(9, 9))", ValueError, "must be between 2 and 6"),
    ("F.embedding_bag(torch.tensor([0, 1]), torch.zeros(2, 3))", ValueError, "got None"),
    ("F.embedding_bag(torch.tensor([0, 1]), torch.zeros(2, 3), torch.tensor([1]))", RuntimeError,
     r"offsets\[0\] has to be 0"),
    ("F.embedding_bag(torch.tensor([[5, 1]]), torch.zeros(2, 3))", IndexError, "out of range"),
    ("F.ctc_loss(torch.zeros(4, 1, 3), torch.ones(1, 2).long(), (5,), (2,))", RuntimeError,
     "at most 4, but got value 5"),
    ("F.ctc_loss(torch.zeros(4, 1, 3), torch.ones(1, 2).long(), (4,), (3,))", RuntimeError,
     "size at least 3 at dimension 1"),
    ("F.ctc_loss(torch.zeros(4, 1, 3), torch.ones(1, 2).long(), (4,), (2,), blank=3)",
     RuntimeError, "blank must be in label range"),
    ("F.multi_margin_loss(torch.zeros(2, 3), torch.tensor([0, 3]))", RuntimeError, "out of range"),
    ("F.interpolate(torch.zeros(1, 1, 2), 4, mode='bicubic')", NotImplementedError,
     "Got 3D input, but bicubic mode needs 4D input"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), ERRORS, ids=lambda x: str(x)[:40])
def test_errors(call: str, kind: type[Exception], text: str) -> None:
    names: dict[str, Any] = {"F": F, "torch": torch}
    with pytest.raises(kind, match=text):
        eval(call, names)
