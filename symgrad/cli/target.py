"""What a command works on: TARGET and its arguments, as an IR function.

TARGET is ``file.py:func``, ``module:func``, a lambda or other function given by ``-c``, or IR
text in a ``.sgir`` file or on stdin (``-``).  An argument is ``NAME:TYPE`` (``x:f64[3,4]``,
filled with random numbers when values are needed), ``NAME=@file.npy`` or ``NAME=VALUE``, where
VALUE is a Python literal: whole numbers, truth values and texts are static, floats and lists are
arrays.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from symgrad.api_function import Function
from symgrad.ir import Func, TensorType, parse
from symgrad.ir.errors import UsageError
from symgrad.ir.types import parse_type

Array = np.ndarray[Any, Any]
Callback = Callable[..., Any]
STATIC = (bool, int, str, bytes, type(None))


@dataclass(frozen=True)
class Subject:
    """A function at one point: its IR and the values of the IR's parameters."""

    ir: Func
    """Before differentiation."""
    own: Func
    """The function itself: with its adjoint, if it is a derivative such as ``grad(f)``."""
    values: tuple[Any, ...]
    source: str

    @property
    def is_derivative(self) -> bool:
        """Whether the user's function is already a derivative."""
        return self.own is not self.ir


def resolve(target: str | None, code: str | None, arguments: Sequence[str]) -> Subject:
    """The function that TARGET or ``-c`` names, traced for the given arguments.

    Raises ``UsageError`` where a file, name or argument is missing or wrong.
    """
    if (target is None) == (code is None):
        raise UsageError("give one TARGET (file.py:func, module:func, file.sgir, -) or -c CODE")
    given = dict(map(parse_argument, arguments))
    if target is not None and (target == "-" or target.endswith(".sgir")):
        func = functions_in(read_ir(target))[-1]
        return Subject(func, func, _ir_values(func, given), str(func))
    function = _lambda(code) if code is not None else _named(str(target))
    return _traced(function, given, code)


def read_ir(target: str) -> str:
    """The text in a file or, for ``-``, on stdin."""
    try:
        return sys.stdin.read() if target == "-" else Path(target).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"{target}: cannot read: {reason}", loc=None) from None


def functions_in(text: str) -> list[Func]:
    """The functions that IR text holds, one or several."""
    starts = [match.start() for match in re.finditer(r"^func @", text, re.MULTILINE)]
    spans = pairwise([*starts, len(text)])
    # Blank lines in place of what comes before keep the line numbers in messages right.
    parts = ["\n" * text.count("\n", 0, i) + text[i:j] for i, j in spans]
    return [parse(part) for part in parts or [text]]


# -- functions -----------------------------------------------------------------------------


def _lambda(code: str) -> Callback:
    import symgrad

    names = {"np": np, "numpy": np, "sg": symgrad, "symgrad": symgrad}
    if "sympy" in code:
        names["sympy"] = importlib.import_module("sympy")
    try:
        function = eval(compile(code, "<-c>", "eval"), names)
    except SyntaxError as error:
        raise UsageError(f"-c: {error.msg}: {code}") from None
    if not callable(function):
        raise UsageError(f"-c needs an expression that is a function, got {code!r}")
    result: Callback = function
    return result


def _named(target: str) -> Callback:
    place, colon, name = target.rpartition(":")
    if not colon or not place:
        raise UsageError(
            f"{target!r} is no TARGET; write file.py:func, module:func, file.sgir or - for stdin"
        )
    module = _module_of_file(Path(place)) if place.endswith(".py") else _imported(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            functions = [n for n, x in vars(module).items() if inspect.isfunction(x)]
            listed = ", ".join(functions[:8]) or "none"
            raise UsageError(f"{place} has no {name!r}; its functions: {listed}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{target}: a {type(found).__name__} is no function")
    result: Callback = found
    return result


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    sys.path.insert(0, str(path.resolve().parent))  # as `python file.py` would
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"{path}:{error.lineno}: {error.msg}") from None
    return module


def _imported(name: str) -> Any:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"there is no module {error.name!r}") from None


def _traced(function: Callback, given: Mapping[str, Any], code: str | None) -> Subject:
    static = [name for name, value in given.items() if isinstance(value, STATIC)]
    own = function if isinstance(function, Function) else None
    if own is None or static:
        own = Function(function, function, static_argnames=static)
    args, kwargs = _arguments(own, given)
    traced = own.traced(*args, **kwargs)
    primal = own.primal.traced(*args, **kwargs) if own.primal is not own else traced
    in_order = [*args, *(kwargs[name] for name in sorted(kwargs))]
    values = [x for x in in_order if not isinstance(x, STATIC)]
    values += [np.asarray(capture.settle()) for capture in traced.captures]
    source = own.stages(*args, **kwargs).source if code is None else f"{code}\n"
    return Subject(primal.func, traced.func, tuple(values), source)


# -- arguments -----------------------------------------------------------------------------


def parse_argument(text: str) -> tuple[str, Any]:
    """``NAME:TYPE`` as a type, ``NAME=@file.npy`` as an array, ``NAME=VALUE`` as that value."""
    equals, colon = text.find("="), text.find(":")
    if equals > 0 and (colon < 0 or equals < colon):
        name, value = text[:equals].strip(), text[equals + 1 :].strip()
        return name, _loaded(value[1:]) if value.startswith("@") else _literal(text, value)
    if colon <= 0:
        raise UsageError(f"--arg {text}: write NAME:TYPE, NAME=@file.npy or NAME=VALUE")
    name, written = text[:colon].strip(), text[colon + 1 :].strip()
    return name, parse_type(written if "[" in written else written + "[]")


def _loaded(path: str) -> Array:
    try:
        array = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"{path}: cannot read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{path}: holds several arrays; --arg takes a .npy file with one")
    return array


def _literal(text: str, value: str) -> Any:
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise UsageError(f"--arg {text}: {value!r} is no Python number, list or text") from None
    if isinstance(literal, (list, tuple)):
        try:
            array = np.array(literal)
        except ValueError as error:
            raise UsageError(f"--arg {text}: {error}") from None
        return array.astype(np.float64) if array.dtype.kind == "f" else array
    return literal


def _arguments(function: Function, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments by position and by keyword; random where only a type is given."""
    rng = np.random.default_rng(0)
    made = {name: _value(x, rng) for name, x in given.items()}
    try:
        parameters = inspect.signature(function.wrapped).parameters
    except (TypeError, ValueError):  # a function of C code: in the order given
        return list(made.values()), {}
    kinds = {p.kind for p in parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return list(made.values()), {}
    variadic = inspect.Parameter.VAR_KEYWORD
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind is not variadic]
    if missing := [name for name in needed if name not in made]:
        raise UsageError(
            f"{function.name}: no value for {', '.join(missing)}; "
            f"add --arg {missing[0]}:f64[3] (type and shape) or --arg {missing[0]}=1.5"
        )
    unknown = [name for name in made if name not in parameters]
    if unknown and variadic not in kinds:
        known = ", ".join(parameters)
        raise UsageError(f"{function.name} has no parameter {unknown[0]!r}; it has {known}")
    positional: list[Any] = []
    for name, p in parameters.items():
        if name not in made or p.kind is p.KEYWORD_ONLY:
            break
        positional.append(made.pop(name))
    return positional, made


def _ir_values(func: Func, given: Mapping[str, Any]) -> tuple[Any, ...]:
    """A value for each parameter of an IR function; random where none is given."""
    rng = np.random.default_rng(0)
    names = [p.name for p in func.params]
    if unknown := [name for name in given if name not in names]:
        raise UsageError(f"@{func.name} has no parameter {unknown[0]!r}; it has {', '.join(names)}")
    values = []
    for p in func.params:
        value = _value(given.get(p.name, p.type), rng)
        array = np.asarray(value, p.type.dtype.numpy)
        if array.shape != p.type.shape:
            raise UsageError(f"%{p.name} is {p.type}, got a value of shape {list(array.shape)}")
        values.append(array)
    return tuple(values)


def _value(x: Any, rng: np.random.Generator) -> Any:
    return random_value(x, rng) if isinstance(x, TensorType) else x


def random_value(t: TensorType, rng: np.random.Generator) -> Array:
    """Floats in [0.5, 1.5), where logarithms and roots exist; small natural numbers."""
    if t.dtype.kind == "b":
        return np.asarray(rng.random(t.shape) < 0.5)
    if t.dtype.kind in "iu":
        return np.asarray(rng.integers(0, 4, t.shape)).astype(t.dtype.numpy)
    drawn = np.asarray(0.5 + rng.random(t.shape))
    return drawn.astype(t.dtype.numpy)
