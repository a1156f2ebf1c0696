"""Labelled images for training: scikit-learn's digits, or a folder with one folder per class.

All images are read, checked and resized before training starts and stay in memory as bytes;
``Batches`` turns them into normalised float32 arrays.  The order of an epoch is a function of
seed and epoch alone, so that a run resumes in the middle of an epoch exactly where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symgrad.io.errors import FileError
from symgrad.train.extras import optional

Array = np.ndarray[Any, Any]

SUFFIXES = (".jpg", ".jpeg", ".png")
LISTED = 5
"""How many file names an error shows."""


class DataError(FileError):
    """Images that cannot be trained on."""


@dataclass(frozen=True)
class Images:
    """``pixels`` ``u8[n, channels, size, size]`` and ``labels`` ``i64[n]``."""

    pixels: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Array) -> Images:
        """The images at ``indices``."""
        return Images(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True)
class DataSet:
    """Images to train on, images held out, and the names behind the labels."""

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width

    def normalisation(self) -> Normalisation:
        """Mean and deviation of the training images' channels."""
        scaled = self.train.pixels.astype(np.float32) / 255
        mean, deviation = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
        return Normalisation(mean, np.where(deviation > 0, deviation, 1).astype(np.float32))


@dataclass(frozen=True)
class Normalisation:
    """Shifts and scales pixels so that each channel has mean 0 and deviation 1; ``f32[c]``."""

    mean: Array
    deviation: Array

    def __call__(self, pixels: Array) -> Array:
        """``f32[n, c, h, w]`` from bytes of that shape."""
        scale = 1 / (255 * self.deviation)
        offset = self.mean / self.deviation
        return pixels * scale[:, None, None] - offset[:, None, None]


# --------------------------------------------------------------------------- reading --


def digits(size: int = 32, channels: int = 1, held_out: float = 0.2, seed: int = 0) -> DataSet:
    """The 1,797 handwritten digits that come with scikit-learn, resized from 8x8 pixels."""
    scans = optional("sklearn.datasets").load_digits()
    image = optional("PIL.Image")

    def resized(scan: Array) -> Array:
        grey = image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
        return np.asarray(grey.resize((size, size), image.Resampling.BICUBIC))

    pixels = np.stack([resized(scan) for scan in scans.images])[:, None]
    images = Images(np.repeat(pixels, channels, axis=1), scans.target.astype(np.int64))
    classes = tuple(str(name) for name in scans.target_names)
    return DataSet("digits", classes, *_split(images, held_out, seed))


def image_folder(
    folder: Path, size: int = 64, channels: int = 3, held_out: float = 0.2, seed: int = 0
) -> DataSet:
    """JPEG and PNG files under ``folder/<class>/``, cut to squares of ``size`` pixels.

    ``channels`` is 3 (colour) or 1 (grey).  Raises ``DataError`` before any training when
    the folder has no classes or only one, a class has fewer than two images, or files
    cannot be read; the text names them.
    """
    paths = _files_by_class(folder)
    files = [(path, label) for label, found in enumerate(paths.values()) for path in found]
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(lambda file: _read_image(file[0], size, channels), files))
    if broken := [image for image in read if isinstance(image, str)]:
        count = "1 image" if len(broken) == 1 else f"{len(broken)} images"
        raise DataError(f"cannot read {count}: {_listed(broken)}; repair or remove them")
    labels = np.array([label for _, label in files], np.int64)
    images = Images(np.stack(read), labels)
    return DataSet(folder.name, tuple(paths), *_split(images, held_out, seed))


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    """The image files of every class; both in alphabetical order."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        classes = {
            entry.name: sorted(p for p in entry.iterdir() if p.suffix.lower() in SUFFIXES)
            for entry in entries
            if entry.is_dir()
        }
    except OSError as error:
        raise DataError.of(Path(error.filename or folder), "cannot read", error) from error
    layout = "expected one folder per class, each with JPEG or PNG images"
    if not classes:
        raise DataError(f"{folder}: no class folders; {layout}")
    if len(classes) == 1:
        raise DataError(f"{folder}: only one class, {next(iter(classes))!r}; {layout}")
    if poor := [f"{name!r} ({len(files)})" for name, files in classes.items() if len(files) < 2]:
        raise DataError(f"{folder}: fewer than two images in {_listed(poor)}; {layout}")
    return classes


def _read_image(path: Path, size: int, channels: int) -> Array | str:
    """``u8[channels, size, size]``, or a text that says which file is broken and how."""
    image, operations = optional("PIL.Image"), optional("PIL.ImageOps")
    mode = "RGB" if channels == 3 else "L"
    try:
        with image.open(path) as opened:
            opened.draft(mode, (size, size))  # lets a large JPEG decode at a fraction of its size
            upright = operations.exif_transpose(opened).convert(mode)
        square = operations.fit(upright, (size, size), image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, EOFError, image.DecompressionBombError) as error:
        why = "not an image" if isinstance(error, image.UnidentifiedImageError) else error
        return f"{path} ({why})"
    return np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _split(images: Images, held_out: float, seed: int) -> tuple[Images, Images]:
    """Training and held-out images: the same share of every class, at least one of each."""
    rng = np.random.default_rng(seed)
    train: list[Array] = []
    test: list[Array] = []
    for label in range(int(images.labels.max()) + 1):
        members = rng.permutation(np.flatnonzero(images.labels == label))
        count = min(max(round(held_out * len(members)), 1), len(members) - 1)
        test.append(members[:count])
        train.append(members[count:])
    return images.take(np.concatenate(train)), images.take(np.concatenate(test))


# --------------------------------------------------------------------------- batches --


@dataclass(frozen=True)
class Batches:
    """Float32 batches of images.

    ``shift`` is the largest random translation, in pixels, of an image in ``epoch``.  All
    batches have ``size`` images, so that one compiled step serves them all.
    """

    images: Images
    size: int
    normalise: Normalisation
    seed: int = 0
    shift: int = 0

    @property
    def count(self) -> int:
        """Batches of an epoch.  What remains at its end waits for other epochs' orders."""
        return max(len(self.images) // self.size, 1)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """Shuffled batches ``(f32[size, c, h, w], i64[size])`` from batch ``start`` on.

        The same ``seed``, ``epoch`` and batch number always give the same batch.  Fewer
        images than ``size`` are repeated to fill one.
        """
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.images))
        chosen = np.resize(order, (self.count, self.size))
        for number in range(start, self.count):
            batch = self.images.take(chosen[number])
            rng = np.random.default_rng((self.seed, epoch, number))
            yield self.normalise(_shifted(batch.pixels, self.shift, rng)), batch.labels

    def in_order(self) -> Iterator[tuple[Array, Array]]:
        """Every image once: ``(f32[size, c, h, w], i64[k])``.

        Only the first ``k`` images of a batch count; the last batch is filled up with black.
        """
        for start in range(0, len(self.images), self.size):
            batch = self.images.take(np.arange(start, min(start + self.size, len(self.images))))
            fill = [(0, self.size - len(batch)), (0, 0), (0, 0), (0, 0)]
            yield self.normalise(np.pad(batch.pixels, fill)), batch.labels


def _shifted(pixels: Array, most: int, rng: np.random.Generator) -> Array:
    """Every image moved by up to ``most`` pixels each way, its edge pixels repeated."""
    if most == 0:
        return pixels
    height, width = pixels.shape[2:]
    padded = np.pad(pixels, ((0, 0), (0, 0), (most, most), (most, most)), mode="edge")
    moves = rng.integers(0, 2 * most + 1, (len(pixels), 2))
    moved = zip(padded, moves, strict=True)
    return np.stack([image[:, y : y + height, x : x + width] for image, (y, x) in moved])
