"""Runs passes over a function, with checks, printing and timing around each."""

from __future__ import annotations

import inspect
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from symgrad.ir.collector import collector_paused
from symgrad.ir.errors import InternalError, UsageError
from symgrad.ir.graph import Func
from symgrad.ir.record import record
from symgrad.ir.verify import verify


@record
class Pass:
    """A named function ``Func -> Func``; its keyword parameters are its options."""

    name: str
    apply: Callable[..., Func]
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """``fuse{max-operands=8}``: what ``parse_pipeline`` reads."""
        given = ",".join(f"{k.replace('_', '-')}={v}" for k, v in self.options)
        return f"{self.name}{{{given}}}" if given else self.name

    def defaults(self) -> dict[str, Any]:
        """The options with their default values."""
        parameters = inspect.signature(self.apply).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def with_options(self, options: dict[str, str]) -> Pass:
        """The pass with options given as text; raises ``UsageError`` for unknown ones."""
        known, values = self.defaults(), []
        for text, value in options.items():
            name = text.replace("-", "_")
            if name not in known:
                listed = ", ".join(k.replace("_", "-") for k in known) or "none"
                raise UsageError(f"pass {self.name} has no option {text!r}; it has {listed}")
            values.append((name, _parse_option(f"{self.name}{{{text}}}", value, known[name])))
        return Pass(self.name, self.apply, tuple(values))

    def __call__(self, func: Func) -> Func:
        return self.apply(func, **dict(self.options))


def _parse_option(where: str, text: str, default: Any) -> Any:
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        raise UsageError(f"{where} takes a value of type {kind.__name__}, got {text!r}") from None


def parse_pipeline(text: str, known: Sequence[Pass]) -> tuple[Pass, ...]:
    """``"canonicalize,fuse{max-operands=8}"`` as passes; raises ``UsageError``."""
    by_name = {p.name: p for p in known}
    result, at = [], 0
    item = re.compile(r"\s*([\w-]+)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")
    while at < len(text):
        match = item.match(text, at)
        if match is None:
            raise UsageError(f"no pass name at {text[at:]!r} in pipeline {text!r}")
        name = match[1].replace("-", "_")
        if name not in by_name:
            raise UsageError(f"there is no pass {match[1]!r}; known: {', '.join(by_name)}")
        pairs = [p.partition("=") for p in (match[2] or "").split(",") if p.strip()]
        options = {key.strip(): value.strip() for key, _, value in pairs}
        result.append(by_name[name].with_options(options))
        at = match.end()
    return tuple(result)


@dataclass
class Timing:
    """What one pass took and did."""

    name: str
    seconds: float
    ops_before: int
    ops_after: int


@dataclass
class Hooks:
    """What happens around each pass.

    ``print_after`` holds pass names (or ``"all"``); ``print_changed`` prints only where
    the function changed; ``dump_dir`` gets one numbered file per stage; ``timings``
    collects when ``time`` is set.
    """

    verify_each: bool = False
    print_after: frozenset[str] = frozenset()
    print_changed: bool = False
    time: bool = False
    dump_dir: Path | None = None
    out: TextIO | None = None
    timings: list[Timing] = field(default_factory=list)

    @classmethod
    def from_environment(cls) -> Hooks:
        """As ``SYMGRAD_DEBUG=passes,time,verify`` and ``SYMGRAD_DUMP=folder`` ask."""
        channels = set(os.environ.get("SYMGRAD_DEBUG", "").replace(" ", "").split(","))
        dump = os.environ.get("SYMGRAD_DUMP")
        return cls(
            verify_each="verify" in channels,
            print_changed="passes" in channels,
            time="time" in channels,
            dump_dir=Path(dump) if dump else None,
        )

    def after(self, index: int, step: Pass, before: Func, after: Func, seconds: float) -> None:
        """Called with what a pass made."""
        stream = self.out or sys.stderr
        if self.verify_each:
            verify(after)
        wanted = step.name in self.print_after or "all" in self.print_after
        if wanted or (self.print_changed and before != after):
            print(f"# after {index}: {step}\n{after}", file=stream)
        if self.dump_dir is not None:
            self.dump_dir.mkdir(parents=True, exist_ok=True)
            (self.dump_dir / f"{index:02}-{step.name}.sgir").write_text(str(after))
        if self.time:
            timing = Timing(step.name, seconds, len(before.ops), len(after.ops))
            self.timings.append(timing)
            print(
                f"# {step.name:<16} {seconds * 1e3:8.2f} ms   "
                f"{timing.ops_before} -> {timing.ops_after} ops",
                file=stream,
            )


def run(func: Func, passes: Sequence[Pass], hooks: Hooks | None = None) -> Func:
    """Applies ``passes`` in order.

    A pass that fails leaves a file with its input and the rest of the pipeline;
    ``InternalError`` names the file and how to replay it.
    """
    hooks = hooks or Hooks.from_environment()
    with collector_paused():
        for index, step in enumerate(passes, 1):
            start = time.perf_counter()
            try:
                result = step(func)
                hooks.after(index, step, func, result, time.perf_counter() - start)
            except Exception as error:
                path = _write_reproducer(func, passes[index - 1 :], error)
                raise InternalError(
                    f"pass {step.name} failed: {type(error).__name__}: {error}\n"
                    f"replay with: symgrad opt {path}"
                ) from error
            func = result
    return func


_PIPELINE_LINE = "# pipeline: "


def _write_reproducer(func: Func, passes: Sequence[Pass], error: Exception) -> Path:
    reason = (str(error).splitlines() or [""])[0]
    pipeline = ",".join(map(str, passes))
    header = f"{_PIPELINE_LINE}{pipeline}\n# {type(error).__name__}: {reason}\n"
    import tempfile

    handle, name = tempfile.mkstemp(prefix=f"symgrad-{func.name}-", suffix=".sgir")
    with os.fdopen(handle, "w") as file:
        file.write(header + str(func))
    return Path(name)


def pipeline_of(text: str) -> str | None:
    """The pipeline a reproducer file asks for, if it is one."""
    first = text.partition("\n")[0]
    return first.removeprefix(_PIPELINE_LINE) if first.startswith(_PIPELINE_LINE) else None
