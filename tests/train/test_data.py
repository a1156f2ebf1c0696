"""Images become batches: sizes, order, resuming, and errors that name the file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

from PIL import Image
from sklearn.datasets import load_digits

from symgrad.train.data import Batches, DataError, Images, Normalisation, digits, image_folder

PLAIN = Normalisation(np.zeros(1, np.float32), np.full(1, 1 / 255, np.float32))
"""Leaves pixels as they are."""


# ----------------------------------------------------------------------------- digits --


def test_digits() -> None:
    data = digits(size=32, seed=3)
    assert data.shape == (1, 32, 32)
    assert data.classes == tuple("0123456789")
    assert len(data.train) + len(data.test) == 1797
    for images in (data.train, data.test):
        assert images.pixels.dtype == np.uint8
        share = np.bincount(images.labels) / len(images)
        whole = np.bincount(load_digits().target) / 1797
        np.testing.assert_allclose(share, whole, atol=0.005)
    assert len(data.test) == pytest.approx(0.2 * 1797, abs=3)
    together = np.concatenate([data.train.pixels, data.test.pixels]).reshape(1797, -1)
    again = np.concatenate([digits(8).train.pixels, digits(8).test.pixels]).reshape(1797, -1)
    scans = np.round(load_digits().data * (255 / 16)).astype(np.uint8)
    assert sorted(map(bytes, again)) == sorted(map(bytes, scans))  # each scan once, unchanged
    assert together.shape == (1797, 32 * 32)


def test_the_split_depends_on_the_seed_alone() -> None:
    first, second, other = digits(8, seed=1), digits(8, seed=1), digits(8, seed=2)
    np.testing.assert_array_equal(first.test.pixels, second.test.pixels)
    assert not np.array_equal(first.test.pixels[:100], other.test.pixels[:100])


def test_colour_channels_and_normalisation() -> None:
    data = digits(size=9, channels=3)
    assert data.shape == (3, 9, 9)
    pixels = data.normalisation()(data.train.pixels)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(pixels.std((0, 2, 3)), 1, atol=1e-4)


# ---------------------------------------------------------------------------- batches --


def numbered(count: int) -> Images:
    """Images whose pixels and label are their number."""
    labels = np.arange(count)
    pixels = labels.astype(np.uint8)[:, None, None, None]
    return Images(np.broadcast_to(pixels, (count, 1, 5, 4)), labels)


def test_an_epoch_sees_images_once_in_an_order_of_its_own() -> None:
    batches = Batches(numbered(17), 5, PLAIN, seed=4)
    assert batches.count == 3
    epochs = [list(batches.epoch(k)) for k in (0, 1)]
    for epoch in epochs:
        labels = np.concatenate([labels for _, labels in epoch])
        assert len(set(labels)) == 15
        for pixels, labels in epoch:
            assert pixels.shape == (5, 1, 5, 4)
            assert pixels.dtype == np.float32
            np.testing.assert_allclose(pixels[:, 0, 2, 2], labels, rtol=1e-6)
    assert any((a[1] != b[1]).any() for a, b in zip(*epochs, strict=True))


@pytest.mark.parametrize("shift", [0, 2])
def test_resuming_inside_an_epoch(shift: int) -> None:
    data = digits(8)
    batches = Batches(data.train, 33, data.normalisation(), seed=9, shift=shift)
    whole, rest = list(batches.epoch(2)), list(batches.epoch(2, start=30))
    assert len(rest) == len(whole) - 30
    for (x, y), (again, labels) in zip(whole[30:], rest, strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(y, labels)


def test_shift_moves_the_image_and_repeats_its_edge() -> None:
    pixels = np.zeros((1, 1, 5, 4), np.uint8)
    pixels[0, 0, 2, 1] = 200
    batches = Batches(Images(pixels, np.zeros(1, np.int64)), 1, PLAIN, shift=1)
    places = set()
    for epoch in range(60):
        [(shifted, _)] = batches.epoch(epoch)
        [place] = np.argwhere(shifted[0, 0] > 100)
        places.add((place[0] - 2, place[1] - 1))
    assert places == {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}


def test_fewer_images_than_a_batch() -> None:
    batches = Batches(numbered(3), 8, PLAIN)
    [(pixels, labels)] = batches.epoch(0)
    assert pixels.shape[0] == 8
    assert set(labels) == {0, 1, 2}


def test_in_order_keeps_one_shape() -> None:
    found = list(Batches(numbered(12), 5, PLAIN).in_order())
    assert [pixels.shape[0] for pixels, _ in found] == [5, 5, 5]
    assert [len(labels) for _, labels in found] == [5, 5, 2]
    assert np.concatenate([labels for _, labels in found]).tolist() == list(range(12))


# ----------------------------------------------------------------------------- folders --


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of coloured squares in several kinds of files."""
    for label, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        (tmp_path / label).mkdir()
        for i in range(5):
            suffix = ("png", "jpg", "JPEG", "png", "png")[i]
            mode = ("RGB", "RGB", "RGB", "RGBA", "P")[i]
            image = Image.new("RGB", (20 + i, 30), colour).convert(mode)
            image.save(tmp_path / label / f"{i}.{suffix}")
    (tmp_path / "blue" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_folder(folder: Path) -> None:
    data = image_folder(folder, size=16, held_out=0.4)
    assert data.classes == ("blue", "red")
    assert (len(data.train), len(data.test)) == (6, 4)
    assert data.shape == (3, 16, 16)
    for images in (data.train, data.test):
        strongest = images.pixels.mean((2, 3)).argmax(1)
        np.testing.assert_array_equal(
            strongest, [2 if label == 0 else 0 for label in images.labels]
        )
    assert image_folder(folder, size=7, channels=1).shape == (1, 7, 7)


def test_orientation_and_cut(tmp_path: Path) -> None:
    """A photograph lies on its side and says so; the middle square is kept."""
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255  # the middle square: left half (the top, once upright) dimmer
    pixels[:, 20:30] = 128
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in "12":
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png", exif=exif)
    image = image_folder(tmp_path, size=20).train.pixels[0, 0]
    np.testing.assert_allclose(image[:10].mean(), 128, atol=4)
    np.testing.assert_allclose(image[10:].mean(), 255, atol=4)


def message(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        image_folder(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_corrupt_images_are_all_named(folder: Path) -> None:
    good = (folder / "red" / "0.png").read_bytes()
    (folder / "red" / "cut.png").write_bytes(good[: len(good) // 2])
    jpeg = (folder / "red" / "1.jpg").read_bytes()
    (folder / "red" / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "blue" / "text.jpg").write_text("hello")
    (folder / "blue" / "empty.png").write_bytes(b"")
    text = message(folder)
    assert text.startswith("cannot read 4 images: ")
    assert text.endswith("; repair or remove them")
    for name in ("red/cut.png", "red/cut.jpg", "blue/text.jpg (not an image)", "blue/empty.png"):
        assert str(folder / name) in text
    for i in range(20):
        (folder / "blue" / f"z{i}.png").write_bytes(b"")
    assert re.search(r"cannot read 24 images: .* and 19 more; repair", message(folder))


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    assert "missing: cannot read: no such file or directory" in message(tmp_path / "missing")
    assert "no class folders; expected one folder per class" in message(tmp_path)
    Image.new("L", (3, 3)).save(tmp_path / "loose.png")
    assert "no class folders" in message(tmp_path)
    (tmp_path / "a").mkdir()
    assert "only one class, 'a'" in message(tmp_path)
    (tmp_path / "b").mkdir()
    assert "fewer than two images in 'a' (0), 'b' (0)" in message(tmp_path)
    assert "it is not a directory" in message(tmp_path / "loose.png")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user without rights")
def test_unreadable(folder: Path) -> None:
    (folder / "red" / "0.png").chmod(0)
    assert "red/0.png" in message(folder)
    (folder / "red").chmod(0)
    assert "permission denied" in message(folder)
    (folder / "red").chmod(0o700)


def test_huge_image_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "blue/0.png" in message(folder)
