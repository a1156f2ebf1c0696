"""What a training run shows in the terminal: a progress bar and a line per epoch."""

from __future__ import annotations

from typing import Any

from symgrad.train.checkpoint import Progress
from symgrad.train.run import Run

COLUMNS = (
    ("epoch", "epoch", "{:.0f}", 5),
    ("loss", "loss", "{:.4f}", 9),
    ("accuracy", "accuracy", "{:.2%}", 9),
    ("held-out loss", "held_out_loss", "{:.4f}", 14),
    ("accuracy", "held_out_accuracy", "{:.2%}", 9),
    ("images/s", "images_per_second", "{:,.0f}", 9),
    ("ms/step", "ms_per_step", "{:.1f}", 8),
)
"""Heading, entry of an epoch's record, format, width."""


class TerminalDisplay:
    """Lines on stdout; while an epoch runs, a bar, if stdout is a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)
        self._bar: Any = None
        self._task: Any = None
        self._epochs = 0
        self._batch_size = 0

    def begin(self, run: Run) -> None:
        """Says what is trained on what."""
        data, settings = run.data, run.settings
        channels, height, width = data.shape
        parameters = sum(x.size for x in run.network.parameters.values())
        say = self._console.print
        say(
            f"ResNet-18, {parameters:,} parameters, {settings.threads} threads; "
            f"{data.name}: {len(data.classes)} classes, {len(data.train):,} images to train on, "
            f"{len(data.test):,} held out, {channels}x{height}x{width}"
        )
        for note in run.notes:
            say(note, style="yellow")
        if run.progress.epoch or run.progress.batch:
            say(f"resuming in epoch {run.progress.epoch + 1} at batch {run.progress.batch + 1}")
        self._epochs, self._batch_size = settings.epochs, settings.batch_size
        self._start_bar("compiling")

    def compiled(self, seconds: float) -> None:
        """Tells the time it took to compile."""
        self._stop_bar()
        self._console.print(f"compiled training step and evaluation in {seconds:.2f} s")
        self._console.print("".join(f"{head:>{width}}" for head, _, _, width in COLUMNS))

    def step(self, progress: Progress, batches: int) -> None:
        """Moves the bar."""
        if not self._console.is_terminal:
            return
        if self._bar is None:
            self._start_bar(f"epoch {progress.epoch + 1}/{self._epochs}", batches)
        sums = progress.sums
        rate = progress.batch * self._batch_size / sums["seconds"]
        self._bar.update(
            self._task,
            completed=progress.batch,
            text=f"loss {sums['loss'] / progress.batch:.4f}  {rate:,.0f} images/s",
        )

    def epoch(self, record: dict[str, float]) -> None:
        """Prints an epoch's line."""
        self._stop_bar()
        cells = (f"{form.format(record[key]):>{width}}" for _, key, form, width in COLUMNS)
        self._console.print("".join(cells))

    def close(self) -> None:
        """Takes the bar away."""
        self._stop_bar()

    def _start_bar(self, title: str, total: int | None = None) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        if not self._console.is_terminal:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._task = self._bar.add_task(title, total=total, text="")
        self._bar.start()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
