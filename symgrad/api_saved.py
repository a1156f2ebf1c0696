"""Compiled functions in files: the native code for what they have been called with.

    step(params, x)                        # or step.compile(params, x)
    step.save("step.sgc")
    step = sg.load_compiled("step.sgc")    # in another process, with the same symgrad and CPU

A loaded function is neither traced nor compiled again, and needs none of the source it came
from.  What it captured is saved as it is, since the places it was read from are not in the
file; where it takes or captures tensors, it keeps them packed as the original does.  The IR
is in the file as well: transforms and gradients of tensors pass through a loaded function.

A file holds machine code, which loading it may run: load only what you trust.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from symgrad import tree
from symgrad.api_leaves import leaf_type, signature
from symgrad.api_results import Constant, Returned
from symgrad.api_statics import Statics
from symgrad.codegen.parts import join, split
from symgrad.ir import Func, TensorType, parse
from symgrad.ir.builder import inline
from symgrad.ir.errors import UsageError
from symgrad.ir.types import parse_type, type_of_array
from symgrad.operators import NUMBERS, is_tensor
from symgrad.tracer import Tracer
from symgrad.tracing import Trace, current_trace

if TYPE_CHECKING:
    from symgrad.api_function import Function, Program

Array = np.ndarray[Any, Any]

_MAGIC = b"symgrad compiled 1\n"
_DIGEST_BYTES = 16
_NUMBERS = {kind.__name__: kind for kind in NUMBERS}


def save(function: Function, path: str | os.PathLike[str]) -> None:
    """See ``Function.save``."""
    parts = _Parts()
    programs = [
        _describe(function.name, key, variant, parts)
        for key in function._programs
        for variant in (function._programs.get(key) or ())[:1]
    ]
    if not programs:
        raise UsageError(
            f"save: {function.name} is not compiled for any arguments yet; call it first, or "
            f"{function.name}.compile(*args)"
        )
    statics = function._statics
    header = {
        "name": function.name,
        "parameters": statics.parameters,
        "static": sorted(statics.numbers),
        "programs": programs,
    }
    content = join(header, parts.blobs)
    Path(path).write_bytes(_MAGIC + _digest(content) + content)


def load_compiled(path: str | os.PathLike[str]) -> LoadedFunction:
    """The function that ``save`` wrote to a file, ready to run.

    Raises ``UsageError`` for a file that is none or is damaged, and where it was saved on
    another CPU or by another version of symgrad.
    """
    blob = Path(path).read_bytes()
    digest, content = blob[len(_MAGIC) :][:_DIGEST_BYTES], blob[len(_MAGIC) + _DIGEST_BYTES :]
    if not blob.startswith(_MAGIC):
        raise UsageError(f"load_compiled: {path} is no compiled function saved by this symgrad")
    if _digest(content) != digest:
        raise UsageError(f"load_compiled: {path} is damaged; save the function again")
    header, parts = split(content)
    try:
        programs = [LoadedProgram(described, parts) for described in header["programs"]]
    except UsageError as error:
        raise UsageError(f"load_compiled: {path}: {error.message}") from None
    statics = Statics(_Named(header["parameters"]), header["static"], ())
    return LoadedFunction(header["name"], statics, programs)


class LoadedFunction:
    """A compiled function from a file, for the arguments it was saved for."""

    def __init__(self, name: str, statics: Statics, programs: Sequence[LoadedProgram]) -> None:
        self.name = self.__name__ = name
        self._statics = statics
        self._programs = {program.key: program for program in programs}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result for arguments of a saved signature; ``UsageError`` for any other."""
        dynamic, fixed = self._statics.split(args, kwargs)
        leaves, spec = tree.flatten(dynamic)
        trace = current_trace()
        if trace is not None:
            types = [leaf_type(x)[0] for x in leaves]
            for program in self._programs.values():
                if program.fits(spec, types, fixed):
                    return program.stage(trace, leaves)
        else:
            known = self._programs.get((spec, tuple([signature(x) for x in leaves]), fixed))
            if known is not None:
                return known(leaves)
        given = ", ".join(str(leaf_type(x)[0]) for x in leaves)
        saved = "; ".join(program.described() for program in self._programs.values())
        raise UsageError(
            f"{self.name} was saved for ({saved}), but is called with ({given}) in "
            f"{spec}; save it again after a call with such arguments"
        )

    def __repr__(self) -> str:
        return f"<symgrad function {self.name}, loaded>"


class LoadedProgram:
    """One signature of a loaded function."""

    def __init__(self, described: dict[str, Any], parts: Sequence[bytes]) -> None:
        from symgrad.codegen.archive import unpack

        self._spec = tree.flatten(_rebuilt(described["arguments"]))[1]
        self._signature = tuple(_signature_of(*entry) for entry in described["signature"])
        self._fixed = tuple(
            (where, type(value), value)
            for where, value in ((w, ast.literal_eval(text)) for w, text in described["static"])
        )
        self._text = parts[described["func"]].decode()
        arrays = [_array_from(type, number, parts) for type, number in described["arrays"]]
        outputs = [
            Constant(arrays[x[0]] if isinstance(x, list) else x["value"])
            if isinstance(x, (list, dict)) else x
            for x in described["outputs"]
        ]  # fmt: skip
        self._returned = Returned(tree.flatten(_rebuilt(described["result"]))[1], outputs)
        self._captured: list[Any] = [arrays[i] for i in described["captured"]]
        executable = unpack(parts[described["code"]])
        self._types = executable.image.params[: len(self._signature)]
        self._run: Callable[[Sequence[Any]], Sequence[Any]] = executable
        if described["tensors"]:
            from symgrad.tensors.compiled import OnTensors, as_tensor

            first = len(self._signature)
            for i in described["tensors"]:
                if i >= first:
                    self._captured[i - first] = as_tensor(self._captured[i - first])
            self._run = OnTensors(
                executable,
                lambda: self.func,
                executable.image.results,
                tensors=described["tensors"],
                captured=first,
                donated=described["donated"],
                gives_tensors=described["gives_tensors"],
            )

    @property
    def key(self) -> Any:
        """What calls must have in common with the saved one."""
        return self._spec, self._signature, self._fixed

    @functools.cached_property
    def func(self) -> Func:
        """The function as it was traced."""
        return parse(self._text)

    def described(self) -> str:
        """The types of the arguments."""
        return ", ".join(map(str, self._types))

    def __call__(self, leaves: Sequence[Any]) -> Any:
        """Runs on the flat arguments."""
        return self._returned.put_together(self._run([*leaves, *self._captured]))

    def fits(self, spec: tree.Spec, types: Sequence[TensorType], fixed: Any) -> bool:
        """Whether it can stand in a trace for a call with traced arguments."""
        return spec == self._spec and fixed == self._fixed and tuple(types) == self._types

    def stage(self, trace: Trace, leaves: Sequence[Any]) -> Any:
        """Emits the function's IR into a trace."""
        operands = [trace.lift(x, t.dtype.numpy) for x, t in zip(leaves, self._types, strict=True)]
        operands += [trace.lift(x) for x in self._captured]
        made = inline(trace.builder, self.func, operands)
        return self._returned.put_together([Tracer(trace, value) for value in made])


# -- a program as JSON and bytes -----------------------------------------------------------


class _Parts:
    """Bytes that the header refers to by number, and arrays among them."""

    def __init__(self) -> None:
        self.blobs: list[bytes] = []

    def add(self, blob: bytes) -> int:
        """The number of a blob."""
        self.blobs.append(blob)
        return len(self.blobs) - 1

    def add_array(self, array: Array) -> list[Any]:
        """An array as ``_array_from`` takes it."""
        return [str(type_of_array(array)), self.add(np.ascontiguousarray(array).tobytes())]


def _array_from(type: str, number: int, parts: Sequence[bytes]) -> Array:
    kind = parse_type(type)
    return np.frombuffer(parts[number], kind.dtype.numpy).reshape(kind.shape).copy()


def _describe(name: str, key: Any, program: Program, parts: _Parts) -> dict[str, Any]:
    from symgrad.codegen.archive import pack

    spec, signatures, fixed = _parts_of(key)
    run = program.executable
    tensors, donated, gives_tensors = [], [], False
    if hasattr(run, "program"):
        tensors, donated, gives_tensors = list(run.tensors), list(run.donated), run.gives_tensors
        run = run.program
    if not hasattr(run, "image"):
        raise UsageError(f"save: {name} is interpreted (SYMGRAD_BACKEND); there is no code to save")
    arrays: list[list[Any]] = []

    def numbered(array: Any) -> int:
        arrays.append(parts.add_array(np.asarray(array)))
        return len(arrays) - 1

    captured = [numbered(x.detach() if is_tensor(x) else x) for x in program.environment.arrays()]
    return {
        "arguments": _structure(name, spec),
        "signature": [_described_signature(s) for s in signatures],
        "static": [[where, _literal(name, value)] for where, _, value in fixed],
        "outputs": [
            x if isinstance(x, int) else _constant(name, x.value, numbered)
            for x in program.traced.returned.outputs
        ],
        "result": _structure(name, program.traced.returned.spec),
        "func": parts.add(program.traced.func.text.encode()),
        "code": parts.add(pack(run)),
        "arrays": arrays,
        "captured": captured,
        "tensors": tensors,
        "donated": donated,
        "gives_tensors": gives_tensors,
    }


def _parts_of(key: Any) -> tuple[tree.Spec, Sequence[Any], Any]:
    """Structure, signatures of the leaves and static arguments behind a key of programs."""
    if key and isinstance(key[0], tree.Spec):
        spec, signatures, fixed = key
        return spec, signatures, fixed
    # Plain arguments only: see ``Function._find``.
    signatures = [s[-2:] if isinstance(s, tuple) else s for s in key]
    return tree.flatten(((0.0,) * len(signatures), {}))[1], signatures, ()


def _described_signature(found: Any) -> list[str]:
    if isinstance(found, TensorType):
        return ["tensor", str(found)]
    if isinstance(found, type):
        return ["number", found.__name__]
    dtype, shape = found
    return ["array", str(leaf_type(np.empty(shape, dtype))[0])]


def _signature_of(kind: str, text: str) -> Any:
    if kind == "number":
        return _NUMBERS[text]
    found = parse_type(text)
    return found if kind == "tensor" else (found.dtype.numpy, found.shape)


def _constant(name: str, value: Any, numbered: Callable[[Any], int]) -> Any:
    """A constant leaf of a result: a value of JSON's, or the number of an array in a list."""
    if value is None or type(value) in (bool, int, float, str):
        return {"value": value}
    if isinstance(value, (np.ndarray, np.generic)):
        return [numbered(value)]
    raise UsageError(f"save: {name} returns a {type(value).__name__}, which cannot be saved")


def _literal(name: str, value: Any) -> str:
    """A static argument as Python text."""
    try:
        if ast.literal_eval(repr(value)) == value:
            return repr(value)
    except (ValueError, SyntaxError):
        pass
    raise UsageError(
        f"save: {name} was compiled for the static argument {value!r}; only numbers, strings and "
        "tuples of such can be saved"
    )


# -- containers ----------------------------------------------------------------------------


def _structure(name: str, spec: tree.Spec) -> Any:
    """Containers as JSON: ``"*"`` for a leaf, else the kind and what is in it."""
    return _described(name, tree.unflatten(spec, [_LEAF] * spec.num_leaves))


_LEAF = object()


def _described(name: str, x: Any) -> Any:
    if x is _LEAF:
        return "*"
    if x is None:
        return None
    if type(x) in (tuple, list):
        return [type(x).__name__, *[_described(name, item) for item in x]]
    if type(x) is dict and all(type(k) in (str, int, bool, float) for k in x):
        return ["dict", *[[k, _described(name, item)] for k, item in x.items()]]
    raise UsageError(
        f"save: {name} takes or returns a {type(x).__name__}; only tuples, lists and dictionaries "
        "with plain keys can be saved"
    )


def _rebuilt(described: Any) -> Any:
    if described is None:
        return None
    if described == "*":
        return 0.0
    kind, *items = described
    if kind == "dict":
        return {k: _rebuilt(item) for k, item in items}
    return (tuple if kind == "tuple" else list)(map(_rebuilt, items))


class _Named:
    """Stands for a function of which the names of the parameters are known."""

    def __init__(self, names: Sequence[str]) -> None:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])

    def __call__(self) -> None:
        """Makes this a callable, of which there are signatures."""


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
