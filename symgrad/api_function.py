"""Functions compiled on first use for each signature: trace, optimise, compile, run.

A ``Function`` runs its body on tracers once per signature (tree structure, dtypes,
shapes, static values) and keeps the native program.  Inside another trace it is just
its body, so transforms nest by tracing.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

import symgrad.numpy  # noqa: F401  (declares the traced forms)
from symgrad import tree
from symgrad.api_backend import compile_func, register_owner
from symgrad.api_captures import Environment, Surroundings
from symgrad.api_leaves import leaf_type, signatures
from symgrad.api_places import places
from symgrad.api_results import Constant, Returned, check_places, filled
from symgrad.api_statics import Statics
from symgrad.bounded import Bounded
from symgrad.codegen.runtime.ahead import load_ahead
from symgrad.codegen.runtime.vectorcall import answered_natively, retire
from symgrad.ir import Func, Value
from symgrad.ir.collector import collector_paused
from symgrad.ir.errors import DTypeError, TraceError, UsageError
from symgrad.operators import NUMBERS, is_tensor
from symgrad.tracer import Tracer
from symgrad.tracing import Trace, current_trace

if TYPE_CHECKING:
    from symgrad.api_stages import Stages
    from symgrad.codegen.lower import Lowered
    from symgrad.codegen.profile import Profile
    from symgrad.codegen.runtime.calltable import Item, Table

Array = np.ndarray[Any, Any]

MAX_PROGRAMS = 128
"""Signatures a function keeps compiled; the one used longest ago goes first."""
MAX_VARIANTS = 8
"""Programs it keeps for one signature, traced under different surroundings."""
MAX_NATIVE = 4
"""Programs that native code tries before it gives a call back: the latest ones."""


class Traced:
    """What tracing a function once gave."""

    def __init__(
        self, func: Func, trace: Trace, outputs: Sequence[int | Constant], spec: tree.Spec
    ) -> None:
        self.func = func
        self.captures = trace.captures
        self.guards = trace.guards
        self.returned = Returned(spec, outputs)


def trace_body(
    body: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any],
    label: Callable[[], Sequence[str]], surroundings: Surroundings,
) -> Traced:  # fmt: skip
    """Runs ``body``, which sees ``surroundings``, on tracers of the arguments' types."""
    leaves, spec = tree.flatten((args, kwargs))
    names = label()
    with Trace(name) as trace:
        trace.takes_tensors |= any(map(is_tensor, leaves))
        if tensors := surroundings.tensors():
            from symgrad.tensors.derived import Derivation

            trace.derive = Derivation(trace, tensors)
        tracers = []
        for x, text in zip(leaves, names, strict=True):
            try:
                type_, weak = leaf_type(x)
            except DTypeError as error:
                raise DTypeError(
                    f"{name}: argument {text} cannot be traced ({error.message}); pass an array or "
                    "number, or mark the argument static (static_argnums=...)"
                ) from None
            tracers.append(trace.parameter(type_, _identifier(text), weak))
        new_args, new_kwargs = tree.unflatten(spec, tracers)
        with _tracking(trace):
            result = _run(body, new_args, new_kwargs)
        result_leaves, result_spec = tree.flatten(result)
        values: list[Value] = []
        outputs: list[int | Constant] = []
        for leaf in result_leaves:
            value = trace.derive(leaf) if is_tensor(leaf) else None
            if isinstance(leaf, Tracer) or (isinstance(leaf, np.ndarray) and leaf.ndim):
                value = trace.lift(leaf)
            if value is None:
                outputs.append(Constant(leaf))
            else:
                outputs.append(len(values))
                values.append(value)
        func = trace.builder.build(values, _identifier(name))
    return Traced(func, trace, outputs, result_spec)


def _tracking(trace: Trace) -> AbstractContextManager[Any]:
    """The mode that a function of tensors begins in, whatever it is around its calls."""
    if not trace.takes_tensors:
        return nullcontext()
    from symgrad.tensors.state import enable_grad

    mode: AbstractContextManager[Any] = enable_grad()
    return mode


def _run(body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        return body(*args, **kwargs)
    except ValueError as error:
        # `array[i] = tracer`: NumPy hides the tracer's own words behind "a sequence".
        if isinstance(error.__cause__, TraceError):
            raise error.__cause__ from None
        raise


def _identifier(text: str) -> str:
    """A name for IR text: letters, digits and underscores."""
    word = "".join(c if c.isalnum() else "_" for c in text)
    while "__" in word:
        word = word.replace("__", "_")
    return word.strip("_") or "f"


# -- running -------------------------------------------------------------------------------


class Program:
    """One signature of a function, compiled.

    ``leaves`` are the flat arguments that it was traced for.  Where tensors are among them,
    the results are tensors; these and tensors found in the surroundings stay in the form
    that the program computes in, see ``tensors.compiled``.
    """

    def __init__(
        self,
        traced: Traced,
        surroundings: Surroundings,
        leaves: Sequence[Any],
        donate: Sequence[int] = (),
        conv_precision: str | None = None,
    ) -> None:
        self.traced = traced
        self.environment = Environment(surroundings, traced.captures, traced.guards)
        arguments = self.arguments_now(leaves)
        tensors = [i for i, x in enumerate(arguments) if is_tensor(x)]
        gives_tensors = any(i < len(leaves) for i in tensors)
        results = range(len(traced.func.results)) if gives_tensors else ()
        captured = [i for i in tensors if i >= len(leaves)]  # weights, most of them
        self.executable: Any = compile_func(
            traced.func, donate, conv_precision, state=(tensors, results), invariant=captured
        )
        if tensors:
            from symgrad.tensors.compiled import OnTensors

            self.executable = OnTensors(
                self.executable,
                lambda: traced.func,
                traced.func.result_types,
                tensors=tensors,
                captured=len(leaves),
                donated=donate,
                gives_tensors=gives_tensors,
            )
        self._fixed = self.environment.is_empty

    def arguments_now(self, leaves: Sequence[Any]) -> Sequence[Any]:
        """All that the program takes: the flat arguments, and what it captured."""
        return [*leaves, *self.environment.arrays()]

    def arguments(self, leaves: Sequence[Any]) -> Sequence[Any] | None:
        """The same; ``None`` where the surroundings are not what the program was traced in."""
        if self._fixed:
            return leaves
        captured = self.environment.current(getattr(self.executable, "is_settled", None))
        return None if captured is None else [*leaves, *captured]

    def native_table(self, types: Sequence[type], items: Sequence[Item]) -> Table | None:
        """What native code needs to run the program on leaves of these types.

        ``items`` tell where it finds them.  ``None`` where it cannot: the result is in other
        containers than Python's own, or a leaf is a number that it does not know, or the program
        depends on what it does not see.
        """
        describe = getattr(self.executable, "call_table", None)
        recipe = self.traced.returned.recipe(len(self.traced.func.results))
        sources = self.environment.sources()
        known = (float, int, np.ndarray)
        plain = all(t in known or issubclass(t, np.generic) for t in types)
        if describe is None or recipe is None or sources is None or not plain:
            return None
        table: Table | None = describe(
            types=tuple(types), sources=sources, watched=self.environment.watched(),
            recipe=recipe[0], constants=recipe[1], items=items,
        )  # fmt: skip
        return table

    def __call__(self, arguments: Sequence[Any], out: Sequence[Array | None] | None = None) -> Any:
        """Runs on what ``arguments`` gave and puts the result together.

        ``out`` has an array for each result of the program, or ``None``.
        """
        results = self.executable(arguments) if out is None else self._into(out, arguments)
        return self.traced.returned.put_together(results)

    def _into(self, out: Sequence[Array | None], arguments: Sequence[Any]) -> Sequence[Any]:
        """The results, in the arrays that are given for them."""
        func = self.traced.func
        check_places(func.name, out, func.result_types)
        if hasattr(self.executable, "call_table"):  # it writes to them itself
            results: Sequence[Any] = self.executable(arguments, out)
            return results
        made = self.executable(arguments)
        if any(is_tensor(x) for x in made):
            raise UsageError(f"{func.name}: out is for arrays, but the results are tensors here")
        return filled(out, made)


# -- the callable --------------------------------------------------------------------------


@answered_natively
class Function:
    """A function that compiles itself for each signature it is called with.

    ``body`` is what runs on tracers; ``wrapped`` is the user's function that it came from.
    Once a program is compiled, native code answers the calls that fit it exactly, and
    ``__call__`` is for all others.

    The keyword ``out`` of a call gives arrays for the results to be written to: one array, or
    arrays in the structure of the result, with ``None`` for those that are to be fresh.  It
    belongs to the wrapped function instead if that has a parameter of this name.
    """

    def __init__(
        self,
        body: Callable[..., Any],
        wrapped: Callable[..., Any],
        *,
        static_argnums: int | Iterable[int] = (),
        static_argnames: str | Iterable[str] = (),
        donate_argnums: int | Iterable[int] = (),
        derivative: bool = False,
        conv_precision: str | None = None,
    ) -> None:
        functools.update_wrapper(self, wrapped, updated=())
        self.body = body
        self.wrapped = wrapped
        self.conv_precision = conv_precision
        self.is_derivative = derivative or getattr(wrapped, "is_derivative", False)
        self.name = getattr(wrapped, "__name__", type(wrapped).__name__)
        self._statics = Statics(wrapped, static_argnums, static_argnames)
        numbers = [donate_argnums] if isinstance(donate_argnums, int) else donate_argnums
        self._donated = frozenset(numbers)
        self._programs: Bounded[list[Program]] = Bounded(MAX_PROGRAMS)
        """Per signature the programs for different surroundings, the latest first."""
        self._native: list[Table] = []
        """What native code answers calls with, the latest program first."""
        self._fresh: list[tuple[Program, Sequence[type], Sequence[Item]]] = []
        """Programs for arguments of these types that native code does not know of yet.  It will
        when the next call comes: the first does not wait until native calls are loaded."""
        register_owner(self)

    def forget(self) -> None:
        """Drops the compiled programs."""
        self._programs.clear()
        self._native, self._fresh = [], []
        retire(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._fresh:
            self._answer_natively()
            return self(*args, **kwargs)
        out = kwargs.pop("out", None) if kwargs and self._statics.leaves_out else None
        if current_trace() is not None:
            if out is not None:
                raise UsageError(
                    f"{self.name}: out is for calls from outside; in a traced function use the "
                    "result itself"
                )
            return self.body(*args, **kwargs)
        if not kwargs and not self._statics and out is None:
            for program in self._programs.get(_flat_key(args)) or ():
                if (arguments := program.arguments(args)) is not None:
                    return program(arguments)
        program, arguments = self._find(args, kwargs)
        if out is None:
            return program(arguments)
        count = len(program.traced.func.results)
        return program(arguments, program.traced.returned.places(self.name, out, count))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles for arguments of these types, ahead of the first call; runs nothing."""
        self._find(args, kwargs)

    def _find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, Sequence[Any]]:
        """The program for a call, compiled if need be, and all the arguments that it takes."""
        leaves: Sequence[Any] = args
        is_flat = not kwargs and not self._statics
        if is_flat and all(map(_is_plain, args)):
            key = _flat_key(args)
        else:
            dynamic, fixed = self._statics.split(args, kwargs)
            leaves, spec = tree.flatten(dynamic)
            key = spec, tuple(signatures(leaves)), fixed
        for program in self._programs.get(key) or ():
            if (arguments := program.arguments(leaves)) is not None:
                return program, arguments
        program = self._compile(key, leaves, args, kwargs)
        items = [] if leaves is args else None if self._statics else places(key[0])
        if items is not None:
            self._fresh.append((program, [type(x) for x in leaves], items))
        return program, program.arguments_now(leaves)

    def _answer_natively(self) -> None:
        """Calls that fit fresh programs go to them without passing here from now on."""
        fresh, self._fresh = self._fresh, []
        for program, kinds, items in fresh:
            table = program.native_table(kinds, items)
            if table is not None:
                from symgrad.codegen.runtime.fastcall import answer_with

                self._native = [table, *self._native][:MAX_NATIVE]
                answer_with(self, self._native, takes_out=self._statics.leaves_out)

    @collector_paused()
    def _compile(
        self, key: Any, leaves: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Program:
        load_ahead()
        surroundings = Surroundings(self.wrapped)
        traced = self._traced(surroundings, args, kwargs)
        donated = self._donated_leaves(args)
        program = Program(traced, surroundings, leaves, donated, self.conv_precision)
        self._programs[key] = [program, *(self._programs.get(key) or ())][:MAX_VARIANTS]
        return program

    def _donated_leaves(self, args: tuple[Any, ...]) -> list[int]:
        """The traced parameters that belong to donated arguments."""
        leaves: list[int] = []
        start = 0
        for number, x in enumerate(args):
            if number not in self._statics.numbers:
                count = len(tree.flatten(x)[0])
                if number in self._donated:
                    leaves += range(start, start + count)
                start += count
        return leaves

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what is compiled by now to a file that ``load_compiled`` reads.

        That holds the native code for every signature of arguments seen so far, and what the
        function captured, as it is now.
        """
        from symgrad.api_saved import save

        save(self, path)

    @property
    def primal(self) -> Function:
        """The user's function below all derivatives; itself if it is none."""
        if not self.is_derivative:
            return self
        inner = self.wrapped
        return inner.primal if isinstance(inner, Function) else Function(inner, inner)

    def traced(self, *args: Any, **kwargs: Any) -> Traced:
        """The function traced for these arguments."""
        return self._traced(Surroundings(self.wrapped), args, kwargs)

    def _traced(
        self, surroundings: Surroundings, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Traced:
        (dynamic_args, dynamic_kwargs), _ = self._statics.split(args, kwargs)
        return trace_body(
            lambda *a, **k: self.body(*self._statics.join(a, args), **{**kwargs, **k}),
            self.name,
            dynamic_args,
            dynamic_kwargs,
            lambda: self._statics.leaf_names(args, kwargs),
            surroundings,
        )

    def __get__(self, instance: Any, owner: type | None = None) -> Function:
        """A decorated method, bound: the instance is part of the surroundings."""
        if instance is None:
            return self
        method = types.MethodType(self.wrapped, instance)
        bound = self._remade(functools.partial(self.body, instance), method, 1)
        vars(instance)[self.name] = bound  # found there from now on
        return bound

    def __copy__(self) -> Function:
        """The same function with programs of its own."""
        return self._remade(self.body, self.wrapped, 0)

    def _remade(
        self, body: Callable[..., Any], wrapped: Callable[..., Any], bound: int
    ) -> Function:
        """A function with these options, the first ``bound`` arguments of which are given."""
        return Function(
            body,
            wrapped,
            static_argnums=[n - bound for n in self._statics.numbers if n >= bound],
            static_argnames=self._statics.names,
            donate_argnums=[n - bound for n in self._donated],
            derivative=self.is_derivative,
            conv_precision=self.conv_precision,
        )

    def __repr__(self) -> str:
        return f"<symgrad function {self.name}>"

    # -- stages: see symgrad.api_stages ----------------------------------------------------

    def ir(self, *args: Any, **kwargs: Any) -> Func:
        """The function as traced, before any derivative of its own is taken."""
        return self.stages(*args, **kwargs).ir

    def adjoint(self, *args: Any, **kwargs: Any) -> Func:
        """The function with its derivative."""
        return self.stages(*args, **kwargs).adjoint

    def optimized(self, *args: Any, **kwargs: Any) -> Func:
        """What the passes make of the function."""
        return self.stages(*args, **kwargs).optimized

    def llvm(self, *args: Any, **kwargs: Any) -> str:
        """LLVM text of the kernels."""
        return self.stages(*args, **kwargs).llvm

    def asm(self, *args: Any, **kwargs: Any) -> str:
        """Machine code of the kernels as assembly text."""
        return self.stages(*args, **kwargs).asm

    def explain(self, *args: Any, **kwargs: Any) -> str:
        """The kernels that run, in order, with their memory."""
        return self.stages(*args, **kwargs).explain

    def profile(self, *args: Any, **kwargs: Any) -> Profile:
        """Runs some times with these arguments: what each kernel call takes.

        The text of the result is a table; donated arguments stay as they are.
        """
        program, arguments = self._find(args, kwargs)
        profile: Profile = self._native_code(program).profile(arguments)
        return profile

    def lowered(self, *args: Any, **kwargs: Any) -> Lowered:
        """The kernel calls of the program that runs with these arguments."""
        program, _ = self._find(args, kwargs)
        lowered: Lowered = self._native_code(program).lowered
        return lowered

    def _native_code(self, program: Program) -> Any:
        """The executable of a program, which need not be compiled."""
        if not hasattr(program.executable, "lowered"):
            raise UsageError(f"{self.name}: the interpreter has no kernels to show or profile")
        return program.executable

    def stages(self, *args: Any, **kwargs: Any) -> Stages:
        """All stages of compilation for these arguments as attributes."""
        from symgrad.api_stages import Stages

        return Stages(self, args, kwargs)


def _is_plain(x: Any) -> bool:
    return type(x) is np.ndarray or type(x) in NUMBERS or isinstance(x, np.generic)


def _flat_key(args: tuple[Any, ...]) -> Any:
    """What tells signatures apart when all arguments are arrays or numbers."""
    return tuple(signatures(args))
