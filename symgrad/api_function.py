"""Functions compiled on first use for each signature: trace, optimise, compile, run.

A ``Function`` runs its body on tracers once per signature (tree structure, dtypes,
shapes, static values) and keeps the native program.  Inside another trace it is just
its body, so transforms nest by tracing.
"""

from __future__ import annotations

import functools
import os
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import symgrad.numpy  # noqa: F401  (declares the traced forms)
from symgrad import tree
from symgrad.api_backend import compile_func, is_profiled, register_owner, register_quick
from symgrad.api_captures import Environment, Surroundings
from symgrad.api_leaves import leaf_type, signature
from symgrad.api_statics import Statics
from symgrad.ir import Func, Value
from symgrad.ir.errors import DTypeError, TraceError, UsageError
from symgrad.tracer import NUMBERS, Tracer, is_tensor
from symgrad.tracing import Trace, current_trace

if TYPE_CHECKING:
    from symgrad.api_stages import Stages
    from symgrad.codegen.profile import Profile

MAX_PROGRAMS = 128
"""Signatures a function keeps compiled; the one used longest ago goes first."""
MAX_VARIANTS = 8
"""Programs it keeps for one signature, traced under different surroundings."""


class Traced:
    """What tracing a function once gave."""

    def __init__(
        self, func: Func, trace: Trace, outputs: Sequence[int | Constant], spec: tree.Spec
    ) -> None:
        self.func = func
        self.captures = trace.captures
        self.guards = trace.guards
        self.outputs = outputs
        """Per leaf of the result: its number among the results of ``func``, or a constant."""
        self.spec = spec


class Constant:
    """A leaf of a result that does not depend on any array."""

    def __init__(self, value: Any) -> None:
        self.value = value


def trace_body(
    body: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any],
    label: Callable[[], Sequence[str]],
) -> Traced:  # fmt: skip
    """Runs ``body`` on tracers of the arguments' types."""
    leaves, spec = tree.flatten((args, kwargs))
    names = label()
    with Trace(name) as trace:
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
        result_leaves, result_spec = tree.flatten(_run(body, new_args, new_kwargs))
        values: list[Value] = []
        outputs: list[int | Constant] = []
        for leaf in result_leaves:
            if isinstance(leaf, Tracer) or (isinstance(leaf, np.ndarray) and leaf.ndim):
                outputs.append(len(values))
                values.append(trace.lift(leaf))
            else:
                outputs.append(Constant(leaf))
        func = trace.builder.build(values, _identifier(name))
    return Traced(func, trace, outputs, result_spec)


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
        self._hidden = bool(traced.captures)
        arguments = [*leaves, *self.environment.arrays()]
        tensors = [i for i, x in enumerate(arguments) if is_tensor(x)]
        gives_tensors = any(i < len(leaves) for i in tensors)
        results = range(len(traced.func.results)) if gives_tensors else ()
        self.executable: Any = compile_func(
            traced.func, donate, conv_precision, state=(tensors, results)
        )
        if tensors:
            from symgrad.tensors.compiled import OnTensors

            self.executable = OnTensors(
                self.executable,
                lambda: traced.func,
                traced.func.result_types,
                tensors=tensors,
                donated=donate,
                gives_tensors=gives_tensors,
            )
        self._single = traced.outputs == [0] and traced.spec.is_leaf()
        self._fixed = self.environment.is_empty

    def holds(self) -> bool:
        """Whether the surroundings are still what the program was traced in."""
        return self._fixed or self.environment.holds()

    def quick(self) -> Callable[..., Any] | None:
        """The program as a builtin function from arrays to the result, if it can be one."""
        traced, direct = self.traced, getattr(self.executable, "direct", None)
        in_order = traced.outputs == list(range(len(traced.func.results)))
        is_tuple = traced.spec.type is tuple and all(c.is_leaf() for c in traced.spec.children())
        if direct is None or not self._fixed or not in_order or not (self._single or is_tuple):
            return None
        if any(not t.shape for t in traced.func.param_types) and _has_narrow_floats(traced.func):
            return None  # Python floats and float64 scalars, which it takes alike, promote apart
        quick: Callable[..., Any] | None = direct(unwrap=self._single)
        return quick

    def __call__(self, leaves: Sequence[Any]) -> Any:
        """Runs on the flat arguments and puts the result together."""
        if self._hidden:
            leaves = [*leaves, *self.environment.arrays()]
        results = self.executable(leaves)
        if self._single:
            return results[0]
        filled = [x.value if isinstance(x, Constant) else results[x] for x in self.traced.outputs]
        return tree.unflatten(self.traced.spec, filled)


def _has_narrow_floats(func: Func) -> bool:
    dtypes = {v.type.dtype for op in func.ops for v in op.results}
    return any(t.kind in "fc" and t.name != "f64" for t in dtypes)


def _no_program(*args: Any) -> Any:
    return NotImplemented


# -- the callable --------------------------------------------------------------------------


class Function:
    """A function that compiles itself for each signature it is called with.

    ``body`` is what runs on tracers; ``wrapped`` is the user's function that it came from.
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
        self._programs: OrderedDict[Any, list[Program]] = OrderedDict()
        """Per signature the programs for different surroundings, the latest first."""
        self._quick: Callable[..., Any] = _no_program
        """The latest program on flat arguments, if nothing around it can change."""
        self._latest: Program | None = None
        register_owner(self)
        register_quick(self)

    def forget(self) -> None:
        """Drops the compiled programs."""
        self._programs.clear()
        self._latest = None
        self.set_quick(True)

    def set_quick(self, allowed: bool) -> None:
        """Whether calls may go straight to native code, where no profile sees them."""
        quick = self._latest.quick() if allowed and self._latest is not None else None
        self._quick = quick or _no_program

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if current_trace() is not None:
            return self.body(*args, **kwargs)
        if not kwargs:
            result = self._quick(*args)
            if result is not NotImplemented:
                return result
            if not self._statics:
                for program in self._programs.get(_flat_key(args), ()):
                    if program.holds():
                        return program(args)
        program, leaves = self._find(args, kwargs)
        return program(leaves)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles for arguments of these types, ahead of the first call; runs nothing."""
        self._find(args, kwargs)

    def _find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, Sequence[Any]]:
        """The program for these arguments, compiled if need be, and the leaves it takes."""
        leaves: Sequence[Any] = args
        is_flat = not kwargs and not self._statics
        if is_flat and all(type(x) is np.ndarray or type(x) in NUMBERS for x in args):
            key = _flat_key(args)
        else:
            dynamic, fixed = self._statics.split(args, kwargs)
            leaves, spec = tree.flatten(dynamic)
            key = spec, tuple([signature(x) for x in leaves]), fixed
        for program in self._programs.get(key, ()):
            if program.holds():
                self._programs.move_to_end(key)
                return program, leaves
        program = self._compile(key, leaves, args, kwargs)
        if leaves is args:
            self._latest = program
            self.set_quick(not is_profiled())
        return program, leaves

    def _compile(
        self, key: Any, leaves: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Program:
        surroundings = Surroundings(self.wrapped)
        traced = self.traced(*args, **kwargs)
        donated = self._donated_leaves(args)
        program = Program(traced, surroundings, leaves, donated, self.conv_precision)
        self._programs[key] = [program, *self._programs.get(key, ())][:MAX_VARIANTS]
        while len(self._programs) > MAX_PROGRAMS:
            self._programs.popitem(last=False)
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
        (dynamic_args, dynamic_kwargs), _ = self._statics.split(args, kwargs)
        return trace_body(
            lambda *a, **k: self.body(*self._statics.join(a, args), **{**kwargs, **k}),
            self.name,
            dynamic_args,
            dynamic_kwargs,
            lambda: self._statics.leaf_names(args, kwargs),
        )

    def __get__(self, instance: Any, owner: type | None = None) -> Function:
        """A decorated method, bound: the instance is part of the surroundings."""
        if instance is None:
            return self
        bound = Function(
            functools.partial(self.body, instance),
            types.MethodType(self.wrapped, instance),
            static_argnames=self._statics.names,
            donate_argnums=[n - 1 for n in self._donated],
            derivative=self.is_derivative,
            conv_precision=self.conv_precision,
        )
        vars(instance)[self.name] = bound  # found there from now on
        return bound

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
        program, leaves = self._find(args, kwargs)
        if not hasattr(program.executable, "profile"):
            raise UsageError(f"{self.name}: the interpreter has no kernels to profile")
        found: Profile = program.executable.profile([*leaves, *program.environment.arrays()])
        return found

    def stages(self, *args: Any, **kwargs: Any) -> Stages:
        """All stages of compilation for these arguments as attributes."""
        from symgrad.api_stages import Stages

        return Stages(self, args, kwargs)


def _flat_key(args: tuple[Any, ...]) -> Any:
    """What tells signatures apart when all arguments are arrays or numbers."""
    return tuple([(type(x), x.dtype, x.shape) if type(x) is np.ndarray else type(x) for x in args])
