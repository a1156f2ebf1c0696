"""The commands and their options; what they do is in the modules they import when called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from symgrad.cli.exits import exit_codes


class _Command(TyperCommand):
    """A command whose exceptions become exit codes."""

    def invoke(self, ctx: Any) -> Any:
        with exit_codes():
            return super().invoke(ctx)


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from symgrad import __version__

        typer.echo(f"symgrad {__version__}")
        raise typer.Exit


@app.callback()
def symgrad(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Compiles Python functions to native forward and gradient code."""


Target = Annotated[
    str | None,
    typer.Argument(help="file.py:func, module:func, file.sgir, or - for IR text on stdin."),
]
Code = Annotated[str | None, typer.Option("-c", help='A lambda in place of TARGET: "lambda x: …".')]
Args = Annotated[
    list[str] | None,
    typer.Option("--arg", "-a", help="x:f64[3,4] (random), w=@w.npy, n=5 or v=[1.0,2.0]."),
]
Wrt = Annotated[
    str | None,
    typer.Option(help="Parameters to differentiate by, as x,w; all floating ones by default."),
]
Order = Annotated[int, typer.Option(min=1, max=4, help="Order of the derivative.")]


@app.command(cls=_Command)
def trace(target: Target = None, code: Code = None, arg: Args = None) -> None:
    """Print a function's IR."""
    from symgrad.cli.target import resolve

    typer.echo(str(resolve(target, code, arg or []).own), nl=False)


@app.command(cls=_Command)
def grad(
    target: Target = None, code: Code = None, arg: Args = None, wrt: Wrt = None, order: Order = 1
) -> None:
    """Print a function's IR, and that of its value and gradient.

    A result that is no scalar is contracted with a parameter `cotangent`.
    """
    from symgrad.cli.derivative import contracted, differentiate
    from symgrad.cli.target import resolve

    subject = resolve(target, code, arg or [])
    derivative = differentiate(contracted(subject.own), wrt, order)
    typer.echo(f"{subject.own}\n{derivative}", nl=False)


@app.command(cls=_Command)
def opt(
    target: Annotated[str, typer.Argument(help="file.sgir, or - for stdin.")] = "-",
    passes: Annotated[
        str | None, typer.Option("-p", "--passes", help="Passes with options: a,b{x=1}.")
    ] = None,
    print_after: Annotated[
        str | None, typer.Option(help="Print the IR after these passes (a,b or all).")
    ] = None,
    print_changed: Annotated[
        bool, typer.Option("--print-changed", help="Print the IR after passes that changed it.")
    ] = False,
    time_passes: Annotated[
        bool, typer.Option("--time-passes", help="Print each pass's time and op counts.")
    ] = False,
    verify_each: Annotated[
        bool, typer.Option("--verify-each", help="Check the IR after every pass.")
    ] = False,
    dump_dir: Annotated[
        Path | None, typer.Option(help="Write the IR after every pass to numbered files.")
    ] = None,
) -> None:
    """Run passes on IR text: the default pipeline, or the one a reproducer names."""
    from symgrad.cli.passes import optimize_text
    from symgrad.ir.passes import Hooks

    hooks = Hooks(
        verify_each=verify_each,
        print_after=frozenset((print_after or "").replace("-", "_").split(",")) - {""},
        print_changed=print_changed,
        time=time_passes,
        dump_dir=dump_dir,
    )
    typer.echo("\n".join(map(str, optimize_text(target, passes, hooks))), nl=False)


@app.command(cls=_Command)
def show(
    target: Target = None,
    code: Code = None,
    arg: Args = None,
    emit: Annotated[
        str,
        typer.Option(
            help="Stages, by comma: source, ir, adjoint, optimized, symbolic, latex, kernels, "
            "llvm, asm, dot, svg, json."
        ),
    ] = "source,ir,adjoint,optimized",
    gradient: Annotated[
        bool,
        typer.Option("--grad", help="What follows `adjoint` is of value and gradient."),
    ] = False,
    wrt: Wrt = None,
) -> None:
    """Print stages of compilation, from source to assembly."""
    from symgrad.cli.show import show as show_stages
    from symgrad.cli.target import resolve

    subject = resolve(target, code, arg or [])
    typer.echo(show_stages(subject, emit, wrt, gradient=gradient or wrt is not None), nl=False)


@app.command(cls=_Command)
def explain(
    target: Target = None,
    code: Code = None,
    arg: Args = None,
    gradient: Annotated[bool, typer.Option("--grad", help="Of value and gradient.")] = False,
    wrt: Wrt = None,
) -> None:
    """Print which kernels run, how often, why these, and the memory of a run."""
    show(target, code, arg, "kernels", gradient, wrt)


@app.command(cls=_Command)
def run(
    target: Target = None,
    code: Code = None,
    arg: Args = None,
    gradient: Annotated[bool, typer.Option("--grad", help="The gradient as well.")] = False,
    wrt: Wrt = None,
    save: Annotated[Path | None, typer.Option(help="Write the results to a .npz file.")] = None,
) -> None:
    """Compile a function, run it and print its results."""
    from symgrad.cli.execute import run as run_subject
    from symgrad.cli.target import resolve

    subject = resolve(target, code, arg or [])
    run_subject(subject, wrt, save, gradient=gradient or wrt is not None)


@app.command(cls=_Command)
def profile(
    target: Target = None,
    code: Code = None,
    arg: Args = None,
    gradient: Annotated[bool, typer.Option("--grad", help="Of value and gradient.")] = False,
    wrt: Wrt = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a timeline that Perfetto opens, as JSON.")
    ] = None,
) -> None:
    """Run a function and print the time of each kernel, and how near it is to the limit."""
    from symgrad.cli.execute import profile as profile_subject
    from symgrad.cli.target import resolve

    subject = resolve(target, code, arg or [])
    profile_subject(subject, wrt, trace, gradient=gradient or wrt is not None)


@app.command(cls=_Command)
def bench(
    target: Target = None,
    code: Code = None,
    arg: Args = None,
    gradient: Annotated[bool, typer.Option("--grad", help="Value and gradient.")] = False,
    wrt: Wrt = None,
    against: Annotated[
        str | None, typer.Option(help="Another TARGET of the same arguments; else the interpreter.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure each.")] = 1.0,
) -> None:
    """Time the first call of a function and the calls after it, and another beside it."""
    from symgrad.cli.bench import bench as bench_subject
    from symgrad.cli.target import resolve

    subject = resolve(target, code, arg or [])
    other = None if against is None else (against, resolve(against, None, arg or []))
    bench_subject(subject, other, wrt, seconds, gradient=gradient or wrt is not None)


@app.command(cls=_Command)
def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    target: Target = None,
    code: Code = None,
    arg: Args = None,
    to: Annotated[str, typer.Option(help="obj, so or c-header.")] = "so",
    gradient: Annotated[bool, typer.Option("--grad", help="Value and gradient.")] = False,
    wrt: Wrt = None,
) -> None:
    """Write a function as native code with a C entry, which needs no Python."""
    from symgrad.cli.execute import export as export_subject
    from symgrad.cli.target import resolve

    subject = resolve(target, code, arg or [])
    export_subject(subject, wrt, to, out, gradient=gradient or wrt is not None)


@app.command(cls=_Command)
def check(
    target: Target = None,
    code: Code = None,
    arg: Args = None,
    wrt: Wrt = None,
    order: Order = 1,
    tolerance: Annotated[float, typer.Option(help="Largest relative difference.")] = 1e-6,
) -> None:
    """Compare the compiled gradient with finite differences, complex steps and mpmath.

    Exit code 3 when they differ.
    """
    from symgrad.cli.check import check as check_subject
    from symgrad.cli.target import resolve

    check_subject(resolve(target, code, arg or []), wrt, order, tolerance)


@app.command(cls=_Command)
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


@app.command(cls=_Command)
def ops(name: Annotated[str | None, typer.Argument(help="One op, in full.")] = None) -> None:
    """List the operations of the IR."""
    from symgrad.cli.listing import list_ops

    list_ops(name)


@app.command(cls=_Command)
def passes() -> None:
    """List the passes in order, with their options."""
    from symgrad.cli.listing import list_passes

    list_passes()


@app.command(cls=_Command)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Describe the installation and the machine, and test a small gradient."""
    from symgrad.cli.doctor import doctor as examine

    examine(as_json=as_json)


cache = typer.Typer(help="Show or empty the cache of compiled code.", no_args_is_help=True)
app.add_typer(cache, name="cache")


@cache.command("info", cls=_Command)
def cache_info() -> None:
    """Folder and size of the cache."""
    from symgrad.cli.listing import cache_info as info

    info()


@cache.command("clear", cls=_Command)
def cache_clear() -> None:
    """Remove everything from the cache."""
    from symgrad.cli.listing import cache_clear as clear

    clear()
