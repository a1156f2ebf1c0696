"""Tensors as arguments, captures and results of compiled functions.

A compiled function reads the contents of tensors as recorded programs do, in the form that
its program computes in (``codegen.runtime.resident``), and they stay in that form until
somebody looks; its results are tensors that hold what the program left.  Where a derivative
must be able to pass, the function is recorded instead, as one operation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from symgrad.ir import Func, TensorType, Value
from symgrad.ir.builder import inline
from symgrad.ir.errors import UsageError
from symgrad.tensors.apply import apply
from symgrad.tensors.handle import Tensor, own_handle
from symgrad.tensors.record import prepared, stamp_of
from symgrad.tensors.recorded import (
    Recorded,
    Unknown,
    are_shared,
    array_of,
    is_known,
    leaf_of,
    references_each,
)
from symgrad.tensors.several import need_gradient, values_of
from symgrad.tensors.standing import Standing, leave, left, writes, written
from symgrad.tensors.state import is_grad_enabled
from symgrad.tracer import Tracer
from symgrad.tracing import current_trace


class OnTensors:
    """A compiled program for arguments some of which, ``tensors``, are tensors.

    ``results`` are the types of its results, ``func`` gives the IR it was compiled from.
    Arguments from the number ``captured`` on are captured.
    Results are tensors, too, or arrays unless ``gives_tensors``.  They may take the memory
    of arguments ``donated``, where nothing but the argument itself refers to it.
    """

    def __init__(
        self,
        program: Any,
        func: Callable[[], Func],
        results: Sequence[TensorType],
        *,
        tensors: Sequence[int],
        captured: int,
        donated: Collection[int] = (),
        gives_tensors: bool = True,
    ) -> None:
        self.program = program
        self.tensors = tensors
        self.donated = [i for i in tensors if i in donated]
        self.gives_tensors = gives_tensors
        self._captured = captured
        self._leading = [i for i in tensors if i < captured]
        self._func = func
        self._types = results
        self._operation = _operation(func)

    def __call__(self, arguments: Sequence[Any]) -> Sequence[Any]:
        """Runs the program, or records it where a derivative must be able to pass."""
        if self.gives_tensors and is_grad_enabled():
            if need_gradient([arguments[i] for i in self.tensors]):
                return self._recorded(arguments)
        standing = left(self)
        if standing is not None and standing.is_of(arguments[self._captured :]):
            values = self._values(arguments[: self._captured], self._leading)
            contents = [*prepared(self.program, values), *standing.contents]
            made = self.program.run(contents, standing.stamp)
        else:
            made = self._run(arguments)
        if not self.gives_tensors:
            return [array_of(c)[()] for c in made]
        return [Tensor.of_value(leaf_of(c, t)) for c, t in zip(made, self._types, strict=True)]

    def _run(self, arguments: Sequence[Any]) -> Sequence[Any]:
        """Finds the contents of all tensors, and runs the program."""
        captured = arguments[self._captured :]
        handles: list[Any] = list(map(own_handle, captured))
        known = all(handle is not None for handle in handles)
        stands = bool(captured) and known and not self.donated
        if stands:  # from now on every write is counted
            for handle in handles:
                handle.stands = True
        before = writes()
        values = self._values(arguments, self.tensors)
        given = self._donate(arguments, values)
        contents = prepared(self.program, values)
        stamp = stamp_of(self.program, contents)
        made: Sequence[Any] = self.program.run(contents, stamp)
        if given:
            gone = Unknown(_GONE.format(self._func().name))
            for leaf in given:
                leaf.contents = gone
            written()
        if stands and all(map(operator.is_, map(own_handle, captured), handles)):
            leave(self, Standing(before, captured, contents[self._captured :], stamp))
        return made

    def is_settled(self, captured: Sequence[Any]) -> bool:
        """Whether these are the tensors that the last call captured, with the same contents."""
        standing = left(self)
        return standing is not None and standing.is_of(captured)

    @property
    def lowered(self) -> Any:
        """See ``Executable.lowered``."""
        return self.program.lowered

    def profile(self, arguments: Sequence[Any]) -> Any:
        """See ``Executable.profile``."""
        contents = list(map(_contents, self._values(arguments, self.tensors)))
        return self.program.profile(self.program.prepare(contents))

    def _values(self, arguments: Sequence[Any], places: Sequence[int]) -> list[Any]:
        """The arguments with values in place of the tensors in these places, computed where they
        are pending."""
        tensors = [arguments[i] for i in places]
        values: list[Any] = values_of(tensors)
        if not all(map(is_known, values)):
            known = list(map(_known, values))
            if None in known:
                Tensor._compute([t for t, v in zip(tensors, known, strict=True) if v is None])
                known = list(map(_known, values_of(tensors)))
            values = known
        found = list(arguments)
        for i, value in zip(places, values, strict=True):
            found[i] = value
        return found

    def _donate(self, arguments: Sequence[Any], values: list[Any]) -> list[Recorded]:
        """The arguments whose memory is handed over; of what is shared, a copy is."""
        held = [values[i] for i in self.donated]
        given: list[Recorded] = []
        shared: list[int] = []
        for i, value, count, is_shared in zip(
            self.donated, held, references_each(held), are_shared(held), strict=True
        ):
            # The handle of the argument refers to each leaf, and the list of all values.
            is_own = count == 2 and not is_shared and value.op is None
            if is_own and arguments[i]._tracer._view is None:
                given.append(value)
            else:
                shared.append(i)
        if shared:
            # Of what is not in the program's form copies are made anyway.
            unprepared = set(self.program.unprepared(list(map(_contents, values))))
            for i in shared:
                value = values[i]
                own = value.contents if i in unprepared else value.contents.copy()
                values[i] = leaf_of(own, value.type)
        return given

    def _recorded(self, arguments: Sequence[Any]) -> Sequence[Tensor]:
        func = self._func()
        for i in self.donated:
            if arguments[i].requires_grad:
                raise UsageError(
                    f"{func.name}: a donated argument requires a gradient, and its memory "
                    "cannot be overwritten while a derivative may need it; pass x.detach(), or "
                    "call under no_grad()"
                )
        types = func.param_types
        operands = [
            x if isinstance(x, Tensor) else Tensor.of_array(np.array(x, t.dtype.numpy))
            for x, t in zip(arguments, types, strict=True)
        ]
        name = "".join(part.capitalize() for part in func.name.split("_"))
        made: tuple[Tensor, ...] = apply(f"{name}Backward", self._operation, operands)
        for value in values_of(made):
            value.op.mates = [t._as_reference() for t in made]  # type: ignore[union-attr]
        return made


def _known(value: Value) -> Value | None:
    """A value that is known, or the one that it is another name of, such as a detached one."""
    while not is_known(value):
        if value.op is None or value.op.name not in _SAME:
            return None
        value = value.op.operands[0]
    return value


_SAME = ("identity", "stop_gradient")
_GONE = (
    "this tensor was donated to {}(), which may have put a result into its memory; use the result, "
    "or leave the argument out of donate_argnums"
)


def _contents(argument: Any) -> Any:
    return argument.contents if isinstance(argument, Recorded) else argument


def as_tensor(x: Any) -> Tensor:
    """A result, an array that nobody else writes to, as a tensor."""
    return Tensor.of_array(np.asarray(x))


def _operation(func: Callable[[], Func]) -> Callable[..., tuple[Tracer, ...]]:
    """A function as an operation that can be recorded."""

    def operation(*operands: Tracer) -> tuple[Tracer, ...]:
        trace = current_trace()
        assert trace is not None
        made = inline(trace.builder, func(), [trace.lift(x) for x in operands])
        return tuple([Tracer(trace, value) for value in made])

    operation.is_kept = True  # type: ignore[attr-defined]
    return operation
