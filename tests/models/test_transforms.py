"""Preparing images, against recorded results of PyTorch and against Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from references import DATA, RESIZES, draw, read_record
from symgrad.ir.errors import ShapeError, UsageError

import symgrad as sg
from symgrad.io import WeightsError
from symgrad.models import ResNet18_Weights, ResNet50_Weights
from symgrad.models.transforms import ImageClassification, resize

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def photo(height: int, width: int) -> Any:
    """An image of smooth colours, as bytes ``[H, W, 3]``."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(9 * x + 5 * y), np.cos(31 * x * y), np.sin(40 * y - x)]
    return (127.5 + 127.5 * np.stack(waves, -1)).round().astype(np.uint8)


@pytest.mark.parametrize("name", RESIZES)
def test_resize_is_torchs(name: str) -> None:
    mode, antialias, before, after = RESIZES[name]
    image = draw(f"resize/{before}", (2, *before)).astype(np.float64)
    expected = read_record(DATA / "resize.npz")[1][name]
    for x in (image, sg.tensor(image)):
        found = resize(x, *after, interpolation=mode, antialias=antialias)
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(300, 451), (260, 256), (90, 61), (256, 256)])
def test_arrays_tensors_and_pil_images_agree(size: tuple[int, int]) -> None:
    pixels = photo(*size)
    prepare = ResNet18_Weights.DEFAULT.transforms()
    of_pil, of_array = prepare(Image.fromarray(pixels)), prepare(pixels)
    of_tensor = prepare(sg.tensor(pixels).permute(2, 0, 1))
    assert of_pil.shape == of_tensor.shape == (3, 224, 224) == of_array.shape
    assert of_pil.dtype is of_tensor.dtype is sg.float32
    assert of_array.dtype == np.float32
    np.testing.assert_allclose(of_tensor.numpy(), of_array, atol=1e-6)
    # Pillow rounds to bytes between rows and columns: at most one level more.
    assert np.abs((of_pil.numpy() - of_array) * STD[:, None, None] * 255).max() < 1.01


def test_without_resizing_it_is_the_formula() -> None:
    pixels = photo(256, 256)
    expected = (np.moveaxis(pixels, -1, 0)[:, 16:240, 16:240] / 255 - MEAN[:, None, None]) / STD[
        :, None, None
    ]
    found = ResNet18_Weights.DEFAULT.transforms()(Image.fromarray(pixels))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    half = (pixels / 255).astype(np.float32)  # floats are in [0, 1] already
    np.testing.assert_allclose(ResNet18_Weights.DEFAULT.transforms()(half), expected, atol=1e-5)


def test_batches_and_gradients() -> None:
    images = sg.rand(2, 3, 40, 52, requires_grad=True)
    prepare = ImageClassification(crop_size=16, resize_size=20)
    out = prepare(images)
    assert out.shape == (2, 3, 16, 16)
    out.sum().backward()
    # A shift of all pixels shifts every result by 1 / std.
    per_channel = images.grad.sum((0, 2, 3)).numpy()
    np.testing.assert_allclose(per_channel, 2 * 256 / STD, rtol=1e-4)


def test_images_smaller_than_the_cut_are_framed_with_zeros() -> None:
    prepare = ImageClassification(crop_size=9, resize_size=4, mean=[0.5], std=[0.5])
    for image in (np.ones((4, 4), np.float32), sg.ones(1, 4, 4)):
        found = np.asarray(prepare(image))[0]
        inside = np.pad(np.ones((4, 4)), ((2, 3), (2, 3)), constant_values=-1)
        np.testing.assert_array_equal(found, inside)


def test_presets_and_their_words() -> None:
    first, second = (w.transforms() for w in ResNet50_Weights)
    assert (first.resize_size, second.resize_size) == ([256], [232])
    assert "resize_size=[232]" in repr(second)
    assert "224 x 224" in second.describe()
    assert ResNet18_Weights.DEFAULT.transforms(crop_size=64).crop_size == [64]


def test_refusals() -> None:
    prepare = ResNet18_Weights.DEFAULT.transforms()
    with pytest.raises(ShapeError, match=r"1 channels for 3 means.*convert\('RGB'\)"):
        prepare(Image.fromarray(photo(300, 300)[..., 0]))
    with pytest.raises(UsageError, match="interpolation must be one of bilinear, nearest"):
        ImageClassification(crop_size=4, interpolation="bicubic")


def test_names_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = ResNet18_Weights.DEFAULT.meta
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SYMGRAD_HUB_DIR", str(tmp_path / "own"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    from symgrad.models import categories

    categories._from_torchvision.cache_clear()
    with pytest.raises(WeightsError) as error:
        meta["categories"]
    place = tmp_path / "own" / "checkpoints" / "imagenet_classes.txt"
    assert f"put a file with 1000 lines, one name each, at {tmp_path}/torch" in str(error.value)
    assert str(place) in str(error.value)
    place.parent.mkdir(parents=True)
    place.write_text("".join(f"thing {i}\n" for i in range(1000)))
    assert meta["categories"][:2] == ["thing 0", "thing 1"]
    other = tmp_path / "names.txt"
    other.write_text("one\ntwo\n")
    monkeypatch.setenv("SYMGRAD_IMAGENET_CLASSES", str(other))
    with pytest.raises(WeightsError, match="has 2 names of classes, not 1000"):
        meta["categories"]
    with pytest.raises(KeyError):
        meta["colour"]


def test_names_of_classes_from_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its source is parsed: a package that raises when imported will do."""
    package = tmp_path / "torchvision"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError")
    (package / "models" / "_meta.py").write_text(
        f"_OTHER = 1\n_IMAGENET_CATEGORIES = {[f'kind {i}' for i in range(1000)]}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("SYMGRAD_HUB_DIR", str(tmp_path / "nothing"))
    from symgrad.models import categories

    categories._from_torchvision.cache_clear()
    assert ResNet18_Weights.DEFAULT.meta["categories"][999] == "kind 999"
    categories._from_torchvision.cache_clear()
