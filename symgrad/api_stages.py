"""Every stage between the user's source and machine code, computed when asked for."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from symgrad.api_backend import optimize
from symgrad.ir import Func
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.errors import DifferentiationError

if TYPE_CHECKING:
    from symgrad.api_function import Function, Traced
    from symgrad.codegen.lower import Lowered


class Stages:
    """The stages of one function for given arguments.

    ``ir`` is the user's function as traced; ``adjoint`` has its derivative: the function's
    own if it is a derivative, else value and gradient by all floating arguments.
    ``optimized``, ``llvm``, ``asm`` and ``explain`` are of what is compiled; the last three
    compile the program that a call with these arguments runs.
    """

    def __init__(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._function, self._args, self._kwargs = function, args, kwargs

    @functools.cached_property
    def source(self) -> str:
        """The user's source text."""
        target = inspect.unwrap(self._function)
        if (text := getattr(target, "source_text", None)) is not None:  # it was no Python
            return str(text)
        try:
            return inspect.getsource(target)
        except (OSError, TypeError):
            return f"# the source of {self._function.name} is not available\n"

    @functools.cached_property
    def _traced(self) -> Traced:
        return self._function.traced(*self._args, **self._kwargs)

    @property
    def _own(self) -> Func:
        return self._traced.func

    @functools.cached_property
    def ir(self) -> Func:
        """The function before differentiation."""
        primal = self._function.primal
        if primal is self._function:
            return self._own
        func: Func = primal.traced(*self._args, **self._kwargs).func
        return func

    @functools.cached_property
    def adjoint(self) -> Func:
        """The function with its derivative."""
        if self._function.is_derivative:
            return self._own
        own, arguments = self._own, len(self._own.params) - len(self._traced.captures)
        wrt = [i for i in range(arguments) if own.params[i].type.dtype.is_float]
        if not wrt:
            raise DifferentiationError(f"{self._function.name} has no floating argument")
        return value_and_grad(own, wrt)

    @functools.cached_property
    def optimized(self) -> Func:
        """After the passes."""
        return optimize(self._own)

    @functools.cached_property
    def _lowered(self) -> Lowered:
        return self._function.lowered(*self._args, **self._kwargs)

    @functools.cached_property
    def llvm(self) -> str:
        """LLVM text of the kernels."""
        return self._lowered.llvm()

    @functools.cached_property
    def asm(self) -> str:
        """Assembly text of the kernels."""
        return self._lowered.asm()

    @functools.cached_property
    def explain(self) -> str:
        """Which kernels run, how often, why these, and how much memory they share."""
        return self._lowered.explain()
