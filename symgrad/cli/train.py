"""``symgrad train``: a ResNet-18 on scikit-learn's digits or on a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from symgrad.cli.exits import INTERRUPTED
from symgrad.ir.errors import UsageError

RUNS = Path("runs")
FOLDER_SIZE = 64
"""Side of the images of a folder, in pixels, unless --size says otherwise."""


def train(out: Path | None, resume: bool, options: dict[str, Any]) -> None:
    """Trains a new run or continues one; ``options`` are the ``Settings`` that were given."""
    from symgrad.codegen.runtime.threads import get_num_threads
    from symgrad.train.display import TerminalDisplay
    from symgrad.train.run import CURVES, WEIGHTS, Run, free_folder, latest_unfinished
    from symgrad.train.settings import Settings

    if resume:
        if options:
            name = next(iter(options)).replace("_", "-")
            raise UsageError(f"--resume continues with the run's own settings; leave out --{name}")
        run = Run.resume(out or latest_unfinished(RUNS))
    else:
        defaults: dict[str, Any] = {"threads": get_num_threads()}
        if "data" in options:
            defaults["size"] = FOLDER_SIZE
        settings = Settings(**{**defaults, **options})
        run = Run.start(settings, out or free_folder(RUNS, settings.name))
    display = TerminalDisplay()
    try:
        finished = run.train(display)
    finally:
        display.close()
    if not finished:
        where = f" --out {out}" if out else ""
        typer.echo(f"stopped; checkpoint saved in {run.folder}", err=True)
        typer.echo(f"continue with: symgrad train --resume{where}", err=True)
        raise typer.Exit(INTERRUPTED)
    print(f"wrote {run.folder / WEIGHTS} and {run.folder / CURVES}")
