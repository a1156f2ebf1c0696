"""The commands and their options; what they do is in the modules they import when called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from symgrad.cli.exits import exit_codes


class _Commands(TyperGroup):
    """Commands in the order of their definition, their exceptions as exit codes."""

    def invoke(self, ctx: Any) -> Any:
        with exit_codes():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    help="Compiles Python functions to native forward and gradient code.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def commands() -> None:
    """Compiles Python functions to native forward and gradient code."""


@app.command()
def train(
    data: Annotated[
        Path | None,
        typer.Option(help="A folder of images per class; scikit-learn's digits without."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Start from a .pth or .safetensors file.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How often each image is seen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak of the learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and shifts.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the images in pixels.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of a step.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; a new one under runs/ by default.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, or the latest.")
    ] = False,
) -> None:
    """Train ResNet-18 on handwritten digits or on your own images."""
    from symgrad.cli.train import train as train_run

    options = {
        "data": None if data is None else str(data),
        "weights": None if weights is None else str(weights),
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "size": size,
        "threads": threads,
    }
    train_run(out, resume, {name: x for name, x in options.items() if x is not None})
