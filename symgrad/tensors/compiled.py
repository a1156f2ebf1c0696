"""Tensors as arguments, captures and results of compiled functions.

A compiled function reads the contents of tensors as recorded programs do, in the form that
its program computes in (``codegen.runtime.resident``), and they stay in that form until
somebody looks; its results are tensors that hold what the program left.  Where a derivative
must be able to pass, the function is recorded instead, as one operation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from symgrad.ir import Func, TensorType, Value
from symgrad.ir.builder import inline
from symgrad.ir.errors import UsageError
from symgrad.tensors.apply import apply
from symgrad.tensors.handle import Tensor
from symgrad.tensors.record import run
from symgrad.tensors.recorded import Leaf, Memory, are_shared, memory_of, references_each
from symgrad.tensors.state import is_grad_enabled
from symgrad.tracer import Tracer
from symgrad.tracing import current_trace


class OnTensors:
    """A compiled program for arguments some of which, ``tensors``, are tensors.

    ``results`` are the types of its results, ``func`` gives the IR it was compiled from.
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
        donated: Collection[int] = (),
        gives_tensors: bool = True,
    ) -> None:
        self.program = program
        self.tensors = tensors
        self.donated = [i for i in tensors if i in donated]
        self.gives_tensors = gives_tensors
        self._func = func
        self._types = results
        self._operation = _operation(func)

    def __call__(self, arguments: Sequence[Any]) -> Sequence[Any]:
        """Runs the program, or records it where a derivative must be able to pass."""
        if self.gives_tensors and is_grad_enabled():
            if any(arguments[i].requires_grad for i in self.tensors):
                return self._recorded(arguments)
        memories = self._memories(arguments)
        given = self._donate(arguments, memories)
        made = run(self.program, memories)
        for leaf in given:
            leaf.memory = _Donated(self._func)
        if not self.gives_tensors:
            return [m.array[()] for m in made]
        return [Tensor.of_value(Leaf(m, t)) for m, t in zip(made, self._types, strict=True)]

    @property
    def lowered(self) -> Any:
        """See ``Executable.lowered``."""
        return self.program.lowered

    def profile(self, arguments: Sequence[Any]) -> Any:
        """See ``Executable.profile``."""
        contents = [m.contents for m in self._memories(arguments)]
        return self.program.profile(self.program.prepare(contents))

    def _memories(self, arguments: Sequence[Any]) -> list[Memory]:
        """The contents of all arguments, computed where they are pending."""
        memories: list[Any] = list(arguments)
        for i in self.tensors:
            value = arguments[i]._value()
            memories[i] = value.memory if type(value) is Leaf else _contents(value)
        pending = [arguments[i] for i in self.tensors if memories[i] is None]
        if pending:
            Tensor._compute(pending)
            for i in self.tensors:
                memories[i] = _contents(arguments[i]._value())
        return [m if isinstance(m, Memory) else Memory(m) for m in memories]

    def _donate(self, arguments: Sequence[Any], memories: list[Memory]) -> list[Leaf]:
        """The arguments whose memory is handed over; of what is shared, a copy is."""
        leaves = [arguments[i]._tracer._value for i in self.donated]
        held = [memories[i] for i in self.donated]
        given: list[Leaf] = []
        shared: list[int] = []
        for i, leaf, handles, owners, is_shared in zip(
            self.donated, leaves, references_each(leaves), references_each(held),
            are_shared(held), strict=True,
        ):  # fmt: skip
            # A handle refers to each leaf, to each memory the leaf and the list of all.
            is_own = handles == 1 and owners == 2 and not is_shared
            if is_own and type(leaf) is Leaf and arguments[i]._tracer._view is None:
                given.append(leaf)
            else:
                shared.append(i)
        del held
        if shared:
            unprepared = set()  # of which copies are made anyway
            if getattr(self.program, "has_forms", False):
                unprepared = set(self.program.unprepared([m.contents for m in memories]))
            for i in shared:
                memory = memories[i]
                memories[i] = Memory(memory.contents) if i in unprepared else memory.copy()
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
        for tensor in made:
            tensor._mates = [weakref.ref(t) for t in made if t is not tensor]
        return made


def _contents(value: Value) -> Memory | None:
    """The memory of a value that is known, or is another name of one, such as a detached one."""
    memory = memory_of(value)
    while memory is None and value.op is not None and value.op.name in _SAME:
        value = value.op.operands[0]
        memory = memory_of(value)
    return memory


_SAME = ("identity", "stop_gradient")


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


class _Donated(Memory):
    """What is left of a tensor whose memory a compiled function took for its results."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], Func]) -> None:
        self._function = function

    @property
    def contents(self) -> Any:
        """Nothing: the memory holds something else."""
        raise UsageError(
            f"this tensor was donated to {self._function().name}(), which may have put a result "
            "into its memory; use the result, or leave the argument out of donate_argnums"
        )

    @property
    def array(self) -> Any:
        """As ``contents``."""
        return self.contents
