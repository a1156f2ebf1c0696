"""A training run: epochs of compiled steps, checkpoints, and the files it leaves.

A run lives in a folder of its own.  Interrupting it (Ctrl-C, SIGTERM) ends it after the step
under way, with a checkpoint; a resumed run ends with the same weights, bit by bit, as one that
was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

from symgrad.api_backend import set_num_threads
from symgrad.io import load, save, state_dict
from symgrad.io.errors import FileError, WeightsError
from symgrad.ir.errors import UsageError
from symgrad.optim.sgd import SGDRule
from symgrad.train.checkpoint import Checkpoint, Progress, mismatch
from symgrad.train.data import Batches, DataError, DataSet
from symgrad.train.network import Network
from symgrad.train.plot import plot_history
from symgrad.train.settings import MOMENTUM, SMALL, WEIGHT_DECAY, Settings

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
CURVES = "curves.png"
CLASSIFIER = ("fc.weight", "fc.bias")


class Display(Protocol):
    """What a run tells while it goes."""

    def begin(self, run: Run) -> None:
        """Data and network are ready."""

    def compiled(self, seconds: float) -> None:
        """Both programs are compiled."""

    def step(self, progress: Progress, batches: int) -> None:
        """A training step is done."""

    def epoch(self, record: dict[str, float]) -> None:
        """An epoch is done and evaluated."""


@dataclass
class Run:
    """A training run under way."""

    settings: Settings
    folder: Path
    data: DataSet
    network: Network
    progress: Progress
    notes: list[str] = field(default_factory=list)
    """What the user should know about the start."""

    @classmethod
    def start(cls, settings: Settings, folder: Path) -> Self:
        """A new run in ``folder``; raises a ``FileError`` when it cannot succeed."""
        if (folder / CHECKPOINT).exists():
            raise DataError(
                f"{folder}: holds an unfinished run; continue it with --resume or choose another "
                "folder with --out"
            )
        weights = None if settings.weights is None else state_dict(load(settings.weights))
        run = cls._prepared(settings, folder)
        run.progress = Progress(seed=settings.seed, settings=run._identity())
        if weights is not None:
            run._start_from(Path(str(settings.weights)), weights)
        _make_room(folder, run.network)
        return run

    @classmethod
    def resume(cls, folder: Path) -> Self:
        """The run that was interrupted in ``folder``."""
        path = folder / CHECKPOINT
        if not path.exists():
            raise WeightsError(f"{folder}: no interrupted run here (it would have a {CHECKPOINT})")
        checkpoint = Checkpoint.load(path)
        stored = dict(checkpoint.progress.settings)
        fingerprint = stored.pop("fingerprint", None)
        try:
            settings = Settings(**stored)
        except TypeError as error:
            raise WeightsError(f"{path}: a checkpoint of another version ({error})") from error
        run = cls._prepared(settings, folder)
        if run.data_fingerprint != fingerprint:
            raise DataError(f"{folder}: the images have changed since the run began; begin anew")
        if difference := mismatch(checkpoint.parameters, run.network.parameters):
            raise WeightsError(f"{path}: a checkpoint of another model: {difference}")
        run.network.parameters = dict(checkpoint.parameters)
        run.network.state = dict(checkpoint.state)
        run.network.momentum = dict(checkpoint.momentum)
        run.progress = checkpoint.progress
        _make_room(folder, run.network)
        return run

    @classmethod
    def _prepared(cls, settings: Settings, folder: Path) -> Self:
        set_num_threads(settings.threads)
        data = settings.read_data()
        optimizer = SGDRule(settings.lr, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
        network = Network(
            len(data.classes),
            data.shape[0],
            optimizer,
            small_images=settings.size <= SMALL,
            seed=settings.seed,
        )
        return cls(settings, folder, data, network, Progress())

    @property
    def data_fingerprint(self) -> str:
        """Tells other images from those the run began with."""
        digest = hashlib.blake2b(digest_size=16)
        for images in (self.data.train, self.data.test):
            digest.update(images.pixels.tobytes())
            digest.update(images.labels.tobytes())
        return digest.hexdigest()

    def _identity(self) -> dict[str, Any]:
        return {**asdict(self.settings), "fingerprint": self.data_fingerprint}

    def _start_from(self, path: Path, found: dict[str, Any]) -> None:
        """Takes over weights; a classifier for other classes is left out, nothing else may be."""
        own: dict[str, Any] = {**self.network.parameters, **self.network.state}
        for name, value in own.items():
            if name.endswith("num_batches_tracked"):
                found.setdefault(name, value)
        if any(n in found and found[n].shape != own[n].shape for n in CLASSIFIER):
            self.notes.append(f"{path.name} was made for other classes: the classifier starts anew")
            found.update({name: own[name] for name in CLASSIFIER})
        if difference := mismatch(found, own):
            raise WeightsError(f"{path}: not the weights of this network: {difference}")
        for group in (self.network.parameters, self.network.state):
            group.update({name: found[name].astype(old.dtype) for name, old in group.items()})

    # -- training ----------------------------------------------------------------------------

    def train(self, display: Display) -> bool:
        """Trains to the end and writes weights and curves; ``False`` when interrupted.

        Raises a ``FileError`` when a file cannot be written; the last checkpoint then stays.
        """
        normalise = self.data.normalisation()
        size, seed = self.settings.batch_size, self.settings.seed
        training = Batches(self.data.train, size, normalise, seed, self.settings.shift)
        held_out = Batches(self.data.test, size, normalise)
        display.begin(self)
        with _stop_requests() as stop:
            start = time.perf_counter()
            self.network.compile(*next(training.epoch(0)))
            display.compiled(time.perf_counter() - start)
            while self.progress.epoch < self.settings.epochs:
                finished = self._train_epoch(training, display, stop)
                if finished:
                    self._end_epoch(training, held_out, display)
                self._checkpoint()
                if not finished or (stop.is_set() and self.progress.epoch < self.settings.epochs):
                    return False
        self._write_results(normalise.mean, normalise.deviation)
        return True

    def _train_epoch(self, batches: Batches, display: Display, stop: threading.Event) -> bool:
        """The rest of the present epoch; ``False`` when asked to stop."""
        epoch, total = self.progress.epoch, batches.count * self.settings.epochs
        clock = time.perf_counter()
        for images, labels in batches.epoch(epoch, self.progress.batch):
            number = self.progress.batch
            rate = self.settings.learning_rate((epoch * batches.count + number) / total)
            before = time.perf_counter()
            loss, correct = self.network.step(images, labels, rate)
            now = time.perf_counter()
            if not math.isfinite(loss):
                raise UsageError(
                    f"the loss became {loss} in epoch {epoch + 1}, batch {number + 1}: choose a "
                    f"smaller --lr than {self.settings.lr:g}"
                )
            sums = self.progress.sums
            self.progress = replace(
                self.progress,
                batch=number + 1,
                sums={
                    "loss": sums.get("loss", 0.0) + loss,
                    "correct": sums.get("correct", 0) + correct,
                    "seconds": sums.get("seconds", 0.0) + now - clock,
                    "step_seconds": sums.get("step_seconds", 0.0) + now - before,
                },
            )
            clock = now
            display.step(self.progress, batches.count)
            if stop.is_set() and self.progress.batch < batches.count:
                return False
        return True

    def _end_epoch(self, training: Batches, held_out: Batches, display: Display) -> None:
        sums, count = self.progress.sums, training.count
        loss, accuracy = self.network.evaluate(held_out.in_order())
        record = {
            "epoch": self.progress.epoch + 1,
            "loss": sums["loss"] / count,
            "accuracy": sums["correct"] / (count * training.size),
            "held_out_loss": loss,
            "held_out_accuracy": accuracy,
            "images_per_second": count * training.size / sums["seconds"],
            "ms_per_step": 1e3 * sums["step_seconds"] / count,
        }
        history = [*self.progress.history, record]
        self.progress = replace(
            self.progress, epoch=self.progress.epoch + 1, batch=0, sums={}, history=history
        )
        display.epoch(record)

    # -- files ---------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        network = self.network
        checkpoint = Checkpoint(network.parameters, network.state, network.momentum, self.progress)
        checkpoint.save(self.folder / CHECKPOINT)

    def _write_results(self, mean: Any, deviation: Any) -> None:
        """Weights and curves; they take the checkpoint's place."""
        history = self.progress.history
        description = {
            "classes": self.data.classes,
            "shape": self.data.shape,
            "mean": mean.tolist(),
            "deviation": deviation.tolist(),
        }
        weights = {**self.network.parameters, **self.network.state}
        save(weights, self.folder / WEIGHTS, {"symgrad.model": json.dumps(description)})
        plot_history(
            self.folder / CURVES,
            f"ResNet-18 on {self.data.name}",
            {
                "training": [record["loss"] for record in history],
                "held out": [record["held_out_loss"] for record in history],
            },
            {
                "training": [record["accuracy"] for record in history],
                "held out": [record["held_out_accuracy"] for record in history],
            },
        )
        (self.folder / CHECKPOINT).unlink(missing_ok=True)


def free_folder(parent: Path, name: str) -> Path:
    """``parent/name``, or with the first number that makes it new."""
    path, number = parent / name, 1
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path


def latest_unfinished(parent: Path) -> Path:
    """The folder under ``parent`` with the newest checkpoint."""
    found = sorted(parent.glob(f"*/{CHECKPOINT}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise WeightsError(f"{parent}: no interrupted run here; name its folder with --out")
    return found[-1].parent


def _make_room(folder: Path, network: Network) -> None:
    """Makes the folder; refuses to begin where the files would not fit."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise FileError.of(folder, "cannot write", error) from error
    weights = sum(x.nbytes for x in network.parameters.values())
    # Parameters and momentum, in the present checkpoint and the one that replaces it.
    needed = 4 * weights
    if free < needed:
        raise FileError(
            f"{folder}: a run needs {needed / 1e6:.0f} MB of disk and {free / 1e6:.0f} MB are "
            "free; free some space or choose another folder with --out"
        )


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second one acts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread alone
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    usual = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def request(*_: object) -> None:
        stop.set()
        restore()

    for number in signals:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()
