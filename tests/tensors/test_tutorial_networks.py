"""What the autograd tutorials do with ResNet-18, item by item."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.torch_file import write_torch
from models.weights_server import Behaviour, serving

import symgrad as torch
import symgrad as torchvision
from symgrad import hub, nn, optim
from symgrad.models import ResNet18_Weights, resnet18

FILE = "resnet18-f37072fd.pth"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder downloads go to; what is in no cache is nowhere."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SYMGRAD_HUB_DIR", str(tmp_path / "hub"))
    monkeypatch.setenv("SYMGRAD_HUB_URL", (tmp_path / "nowhere").as_uri())
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    """Random weights, in place of those that cannot be downloaded here."""
    torch.manual_seed(1)
    return resnet18().state_dict()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, Any]) -> bytes:
    path = tmp_path_factory.mktemp("weights") / FILE
    write_torch(path, weights)
    return path.read_bytes()


@pytest.fixture
def stand_in(cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights under the default ones' name: the sha256 is not that of the name."""
    monkeypatch.setenv("SYMGRAD_HUB_VERIFY", "0")
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(content)


@pytest.fixture
def model(weights: dict[str, Any]) -> Any:
    network = resnet18()
    network.load_state_dict(weights)
    return network


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[Counter[str]]:
    """How often each op occurs, for each program that gets compiled."""
    from symgrad import api_backend

    seen: list[Counter[str]] = []
    compile_func = api_backend.compile_func

    def compiled(func: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(Counter(op.name for op in func.ops))
        return compile_func(func, *args, **kwargs)

    monkeypatch.setattr(api_backend, "compile_func", compiled)
    return seen


def array(x: Any) -> Any:
    """A copy of a tensor's or an array's contents."""
    return np.array(x.detach().numpy() if isinstance(x, torch.Tensor) else x)


def arrays(network: Any) -> dict[str, Any]:
    return {name: array(value) for name, value in network.state_dict().items()}


@pytest.mark.usefixtures("stand_in")
def test_a02_both_spellings(weights: dict[str, Any]) -> None:
    new = resnet18(weights=ResNet18_Weights.DEFAULT)
    with pytest.warns(UserWarning, match="'pretrained' is deprecated"):
        old = torchvision.models.resnet18(pretrained=True)
    for network in (new, old):
        assert np.array_equal(network.state_dict()["fc.weight"], weights["fc.weight"])


def test_a03_default_weights(
    cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    default = ResNet18_Weights.DEFAULT
    assert default is ResNet18_Weights.IMAGENET1K_V1
    assert default.meta["num_params"] == 11_689_512
    assert default.meta["_file_size"] == pytest.approx(44.7, abs=0.05)
    monkeypatch.delenv("SYMGRAD_HUB_URL")
    assert default.url == f"https://download.pytorch.org/models/{FILE}"
    with serving(Behaviour({FILE: content})) as url:
        monkeypatch.setenv("SYMGRAD_HUB_URL", url)
        with pytest.raises(hub.HubError, match="sha256 does not begin with f37072fd"):
            resnet18(weights=default)
        assert not list(cache.iterdir())
        monkeypatch.setenv("SYMGRAD_HUB_VERIFY", "0")
        capsys.readouterr()
        network = resnet18(weights=default)
    said = capsys.readouterr()
    assert said.out == f'Downloading: "{url}{FILE}" to {cache / FILE}\n'
    assert "100%" in said.err
    keys = list(network.state_dict())
    assert sum(p.numel() for p in network.parameters()) == 11_689_512
    assert len(list(network.parameters())) == 62
    assert (len(keys), keys[0], keys[-1]) == (122, "conv1.weight", "fc.bias")


def test_a03_torchs_cache_is_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.folders()[0] == tmp_path / ".cache" / "torch" / "hub" / "checkpoints"


def test_a04_no_network(cache: Path) -> None:
    with pytest.raises(hub.HubError) as error:
        resnet18(weights=ResNet18_Weights.DEFAULT)
    for part in (str(cache / FILE), f"weights='path/to/{FILE}'", "model.load_state_dict("):
        assert part in str(error.value)
    with pytest.warns(UserWarning, match="pretrained"), pytest.raises(hub.HubError):
        resnet18(pretrained=True)
    with pytest.raises(KeyError, match="IMAGENET22K"):
        resnet18(weights="IMAGENET22K")
    assert not np.array_equal(resnet18().conv1.weight, resnet18(weights=None).conv1.weight)


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a05_weights_reader(
    weights: dict[str, Any], tmp_path: Path, suffix: str, counters: bool
) -> None:
    path = tmp_path / f"w.{suffix}"
    state = {k: v for k, v in weights.items() if counters or "num_batches" not in k}
    write_torch(path, state) if suffix == "pth" else torch.save(state, path)
    network = resnet18()
    network.load_state_dict(torch.load(path))
    for name, value in state.items():
        assert np.array_equal(network.state_dict()[name], value)


def test_a15_names_in_the_network(model: Any) -> None:
    layers = [
        (model.conv1, "ConvolutionBackward0"),
        (model.bn1, "NativeBatchNormBackward0"),
        (model.relu, "ReluBackward0"),
        (model.maxpool, "MaxPool2DWithIndicesBackward0"),
        (lambda x: x.flatten(1), "ViewBackward0"),
        (nn.Linear(64 * 16, 3), "AddmmBackward0"),
    ]
    x = torch.rand(1, 3, 16, 16)
    for layer, name in layers:
        x = layer(x)
        assert x.grad_fn.name() == name


@pytest.fixture
def trained(model: Any) -> Any:
    """The network after the tutorials' forward and backward pass, and its loss."""
    prediction = model(torch.rand(1, 3, 64, 64))
    loss = (prediction - torch.rand(1, 1000)).sum()
    assert loss.backward() is None
    return model, prediction


def test_a31_train_mode(model: Any) -> None:
    data = torch.rand(1, 3, 64, 64)
    prediction = model(data)
    assert model.training and prediction.shape == (1, 1000)
    assert prediction.grad_fn.name() == "AddmmBackward0"
    plain = nn.functional.conv2d(array(data), array(model.conv1.weight), None, 2, 3)
    mean, variance = plain.mean((0, 2, 3)), plain.var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(model.bn1.running_mean.numpy(), 0.1 * mean, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(model.bn1.running_var.numpy(), 0.9 + 0.1 * variance, rtol=1e-3)
    assert int(model.layer4[1].bn2.num_batches_tracked) == 1
    said = "Expected more than 1 value per channel when training, got input size torch.Size("
    with pytest.raises(ValueError, match=f"^{re.escape(said)}{re.escape('[1, 512, 1, 1])')}"):
        model(torch.rand(1, 3, 32, 32))
    assert model.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 1000)


def test_a32_every_parameter_gets_a_gradient(trained: Any) -> None:
    network, _ = trained
    gradients = [p.grad.shape == p.shape for p in network.parameters()]
    assert len(gradients) == 62 and all(gradients)
    assert network.fc.bias.grad.tolist() == [1.0] * 1000


def test_a33_the_first_step_is_plain_descent(trained: Any) -> None:
    network, _ = trained
    before = {k: array(p) for k, p in network.named_parameters()}
    gradients = {k: array(p.grad) for k, p in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.9)
    optimizer.step()
    for name, p in network.named_parameters():
        expected = before[name] - 0.01 * gradients[name]
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(array(p), expected, rtol=0, atol=2.4e-7 * scale)


def test_a34_fine_tuning(model: Any, programs: list[Counter[str]]) -> None:
    for param in model.parameters():
        param.requires_grad = False
    model.fc = nn.Linear(512, 10)
    optimizer = optim.SGD(model.fc.parameters(), lr=1e-2, momentum=0.9)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names == {"fc.weight", "fc.bias"}
    before = arrays(model)
    prediction = model(torch.rand(1, 3, 64, 64))
    assert prediction.shape == (1, 10)
    prediction.sum().backward()
    programs.clear()
    optimizer.step()
    after = arrays(model)
    # The forward pass's 20 convolutions, and no derivative of any.
    convolutions = [ops for ops in programs if ops["conv"]]
    assert [ops["conv"] for ops in convolutions] == [20]
    assert not any(name.endswith("_grad") for ops in programs for name in ops)
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert {n for n in changed if "running" not in n and "num_batches" not in n} == names
    assert "layer4.1.bn2.running_mean" in changed  # the network is in train mode
    assert all(p.grad is None for n, p in model.named_parameters() if n not in names)


def test_a34_what_freezing_saves(model: Any, programs: list[Counter[str]]) -> None:
    """The same with everything trained has the derivatives of all convolutions."""
    optimizer = optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    model(torch.rand(1, 3, 64, 64)).sum().backward()
    optimizer.step()
    (ops,) = [ops for ops in programs if ops["conv"]]
    assert (ops["conv"], ops["conv_input_grad"], ops["conv_weight_grad"]) == (20, 19, 20)


# -- coverage --------------------------------------------------------------------------------

ITEMS = {n for n in range(1, 44) if n != 36}
"""What the tutorials show, by number; there is no A36."""


def test_every_item_has_a_test() -> None:
    found: set[int] = set()
    for name in ("test_tutorials", "test_tutorial_networks", "test_training"):
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
        tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        for test in tests:
            if test.startswith("test_a"):
                found |= {int(number) for number in re.findall(r"(?<=_a)\d\d(?=_|$)", test)}
    assert found == ITEMS
