"""Builders, names and weights of all networks, as torchvision has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.torch_file import write_torch
from symgrad.ir.errors import UsageError

import symgrad as sg
from symgrad import hub, models, nn
from symgrad.io import save
from symgrad.models import (
    BasicBlock,
    Bottleneck,
    ResNet,
    ResNet18_Weights,
    ResNet34_Weights,
    ResNet50_Weights,
    WeightsEnum,
    get_model,
    get_model_builder,
    get_model_weights,
    get_weight,
    list_models,
    resnet18,
)

SIZES = {  # parameters, parameter tensors, state_dict keys: as torchvision has them
    "resnet18": (11_689_512, 62, 122),
    "resnet34": (21_797_672, 110, 218),
    "resnet50": (25_557_032, 161, 320),
    "resnet101": (44_549_160, 314, 626),
    "resnet152": (60_192_808, 467, 932),
    "resnext50_32x4d": (25_028_904, 161, 320),
    "resnext101_32x8d": (88_791_336, 314, 626),
    "resnext101_64x4d": (83_455_272, 314, 626),
    "wide_resnet50_2": (68_883_240, 161, 320),
    "wide_resnet101_2": (126_886_696, 314, 626),
}
ENUMS = {name: get_model_weights(name) for name in SIZES}
MEMBERS = [member for enum in ENUMS.values() for member in enum]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches and no network; the folder of our own files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SYMGRAD_HUB_DIR", str(tmp_path / "hub"))
    monkeypatch.setenv("SYMGRAD_HUB_URL", (tmp_path / "nowhere").as_uri())
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def no_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of zeros: what is tested are names."""
    monkeypatch.setattr(nn.init, "_drawn", lambda tensor, _: np.zeros(tensor.shape, np.float32))


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str, no_random_numbers: None) -> None:
    network = get_model(name)
    shapes = [np.shape(p) for _, p in network.named_parameters()]
    state = network.state_dict()
    assert (sum(map(np.prod, shapes)), len(shapes), len(state)) == SIZES[name]
    assert (next(iter(state)), list(state)[-1]) == ("conv1.weight", "fc.bias")
    assert ENUMS[name].DEFAULT.meta["num_params"] == SIZES[name][0]
    assert not any(state[k].numpy().any() for k in state if k.endswith("running_mean"))


def test_modules_have_torchvisions_names() -> None:
    names = [name for name, _ in resnet18().named_modules()]
    assert names[:6] == ["", "conv1", "bn1", "relu", "maxpool", "layer1"]
    assert names[-2:] == ["avgpool", "fc"]
    block = ["conv1", "bn1", "relu", "conv2", "bn2", "downsample", "downsample.0", "downsample.1"]
    start = names.index("layer2.0")
    assert names[start + 1 : start + 9] == [f"layer2.0.{n}" for n in block]


def test_initial_weights() -> None:
    sg.manual_seed(0)
    network = resnet18()
    weight = network.layer3[0].conv2.weight.detach().numpy()
    assert weight.std() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert abs(weight.mean()) < 1e-3
    assert network.bn1.weight.all().item()
    started = resnet18(zero_init_residual=True)
    last = [m.bn2.weight.detach() for m in started.modules() if isinstance(m, BasicBlock)]
    assert len(last) == 8
    assert not any(weight.numpy().any() for weight in last)
    deeper = ResNet(Bottleneck, (1, 1, 1, 1), zero_init_residual=True)
    assert not deeper.layer2[0].bn3.weight.any().item()
    assert deeper.layer2[0].bn2.weight.all().item()


def test_other_arguments() -> None:
    small = resnet18(num_classes=10, in_channels=1, small_images=True)
    assert small.conv1.weight.shape == (64, 1, 3, 3)
    assert small.fc.weight.shape == (10, 512)

    def norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, affine=False)

    plain = ResNet(BasicBlock, (1, 1, 1, 1), norm_layer=norm)
    assert not any("bn" in name for name, _ in plain.named_parameters())
    with pytest.raises(UsageError, match="should be None or a 3-element tuple"):
        ResNet(Bottleneck, (1, 1, 1, 1), replace_stride_with_dilation=(True, False))
    with pytest.raises(UsageError, match="only supports groups=1 and base_width=64"):
        resnet18(groups=2)
    with pytest.raises(UsageError, match="dilation > 1"):
        resnet18(replace_stride_with_dilation=(True, True, True))
    with pytest.raises(ValueError, match="'groups' expected value 32 but got 3 instead"):
        models.resnext50_32x4d(groups=3)
    with pytest.raises(UsageError, match="resnet18: weights=10; write num_classes=10"):
        resnet18(10)


# -- weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("member", MEMBERS, ids=repr)
def test_facts_of_weights(member: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYMGRAD_HUB_URL")
    name = next(name for name, enum in ENUMS.items() if isinstance(member, enum))
    assert type(member).__name__.lower() == f"{name}_weights"
    assert member.url.startswith(f"{hub.TORCHVISION}{name}-")
    assert hub._HASH.search(member.url)
    accuracy = member.meta["_metrics"]["ImageNet-1K"]
    assert 69 < accuracy["acc@1"] < accuracy["acc@5"] < 97
    half = member.meta["_file_size"] / (4e-6 * member.meta["num_params"] / 1.048576)
    assert half == pytest.approx(1, abs=0.01) or half == pytest.approx(0.5, abs=0.01)
    assert get_weight(repr(member)) is member
    assert member.transforms().crop_size == [224]


def test_enums() -> None:
    assert ResNet18_Weights.DEFAULT is ResNet18_Weights.IMAGENET1K_V1
    assert ResNet50_Weights.DEFAULT is ResNet50_Weights.IMAGENET1K_V2
    assert repr(ResNet18_Weights.DEFAULT) == "ResNet18_Weights.IMAGENET1K_V1"
    assert len({member.url for member in MEMBERS}) == len(MEMBERS) == 17
    for spelling in ("IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1", "DEFAULT"):
        assert ResNet18_Weights.verify(spelling) is ResNet18_Weights.DEFAULT
    assert ResNet18_Weights.verify(None) is None
    for build in (resnet18, lambda **kw: get_model("ResNet18", **kw)):
        with pytest.raises(KeyError, match="IMAGENET1K_V7"):
            build(weights="IMAGENET1K_V7")
    with pytest.raises(TypeError, match="expected ResNet18_Weights but received ResNet34_Weights"):
        resnet18(weights=ResNet34_Weights.DEFAULT)
    with pytest.raises(KeyError):
        get_weight("ResNet18_Weights.IMAGENET1K_V2")
    with pytest.raises(ValueError, match=r"enum 'ResNet19_Weights' .* couldn't be retrieved"):
        get_weight("ResNet19_Weights.DEFAULT")
    with pytest.raises(ValueError, match="Invalid weight name provided: 'DEFAULT'"):
        get_weight("DEFAULT")


def test_names() -> None:
    assert list_models() == sorted(SIZES)
    assert list_models("*next*", exclude="*101*") == ["resnext50_32x4d"]
    assert list_models(include=["resnet18", "wide*50*"]) == ["resnet18", "wide_resnet50_2"]
    assert get_model_builder("resnet18") is resnet18 is models.resnet18
    assert get_model_weights(resnet18) is ResNet18_Weights
    assert issubclass(ResNet18_Weights, WeightsEnum)
    with pytest.raises(ValueError, match="Unknown model resnet19"):
        get_model("ResNet19")
    assert "weights" in str(models.resnet50.__doc__)


# -- files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """Weights that differ from any initial ones."""
    sg.manual_seed(5)
    return {k: v + 1 for k, v in resnet18().state_dict().items()}


def assert_loaded(network: Any, state: Any) -> None:
    assert network.state_dict().keys() >= state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(np.asarray(network.state_dict()[name]), value)


def test_default_weights_come_from_the_cache(
    trained: dict[str, Any], caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMGRAD_HUB_VERIFY", "0")  # these are not torchvision's numbers
    write_torch(caches / "resnet18-f37072fd.pth", trained)
    assert_loaded(resnet18(weights=ResNet18_Weights.DEFAULT), trained)
    assert_loaded(resnet18(weights="DEFAULT"), trained)
    with pytest.warns(UserWarning, match="'pretrained' is deprecated, please use 'weights'") as w:
        assert_loaded(sg.models.resnet18(pretrained=True), trained)
    assert "`weights=ResNet18_Weights.IMAGENET1K_V1`" in str(w[0].message)
    assert w[0].filename == __file__
    with pytest.warns(UserWarning, match="pretrained"):
        assert_loaded(resnet18(True), trained)
    with pytest.raises(ValueError, match="'num_classes' expected value 1000 but got 10 instead"):
        resnet18(weights="DEFAULT", num_classes=10)


def test_weights_of_others_under_torchvisions_name_are_refused(
    trained: dict[str, Any], caches: Path
) -> None:
    write_torch(caches / "resnet18-f37072fd.pth", trained)
    with pytest.warns(UserWarning, match="sha256 begins with"), pytest.raises(hub.HubError):
        resnet18(weights=ResNet18_Weights.DEFAULT)


@pytest.mark.parametrize("weights", [None, False])
def test_random_weights_need_no_file(weights: Any) -> None:
    if weights is False:
        with pytest.warns(UserWarning, match=r"equivalent to passing `weights=None`\.$"):
            resnet18(pretrained=False)
    else:
        resnet18(weights=None)


def test_no_network_says_what_to_do(caches: Path) -> None:
    with pytest.raises(hub.HubError) as error:
        resnet18(weights=ResNet18_Weights.DEFAULT)
    text = str(error.value)
    for folder in (caches.parents[1] / "torch" / "hub" / "checkpoints", caches):
        assert str(folder / "resnet18-f37072fd.pth") in text
    assert "weights='path/to/resnet18-f37072fd.pth'" in text


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_of_ones_own(
    trained: dict[str, Any], tmp_path: Path, suffix: str, counted: bool
) -> None:
    state = {k: v for k, v in trained.items() if counted or "num_batches" not in k}
    path = tmp_path / f"mine.{suffix}"
    (save if suffix == "safetensors" else lambda s, p: write_torch(p, s))(state, path)
    for weights in (path, str(path)):
        assert_loaded(resnet18(weights=weights), state)
    network = resnet18()
    network.load_state_dict(sg.load(path))
    assert_loaded(network, state)


def test_a_file_tells_the_number_of_classes(trained: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "ten.safetensors"
    ten = {k: v[:10] if k.startswith("fc.") else v for k, v in trained.items()}
    save(ten, path)
    assert_loaded(resnet18(weights=path), ten)
    with pytest.raises(RuntimeError, match=r"size mismatch for fc\.bias: .*\[10\].*\[5\]"):
        resnet18(weights=path, num_classes=5)
    save({k: v for k, v in ten.items() if k != "bn1.bias"}, path)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "bn1\.bias"'):
        resnet18(weights=path)
