"""What a traced function makes of captured tensors alone.

Operations on tensors without a traced value among them are recorded as always, not traced.
Where their results meet the trace, what was recorded is put into it, so that it is computed
at every call from what the captured tensors hold then.
"""

from __future__ import annotations

from collections.abc import Iterable

from symgrad.ir import Value
from symgrad.tensors.graphs import ancestors, spliced
from symgrad.tensors.handle import Tensor
from symgrad.tensors.record import RECORDER
from symgrad.tensors.recorded import is_known
from symgrad.tracing import Trace


class Derivation:
    """Traces anew what a function, of which ``trace`` is made, records.

    ``tensors`` are those that the function can see.
    """

    def __init__(self, trace: Trace, tensors: Iterable[Tensor]) -> None:
        self._trace = trace
        self._start = RECORDER.builder.mark()
        seen = [(tensor._value(), tensor) for tensor in tensors]
        self._seen = {id(value): (value, tensor) for value, tensor in seen}

    def __call__(self, tensor: Tensor) -> Value | None:
        """The traced value of a tensor; ``None`` unless the function recorded all of it.

        A tensor whose value was looked at is a number like any other that shaped the trace.
        """
        value = tensor._value()
        if self._is_input(value):
            return None
        ops = ancestors([value], follow=lambda v: not self._is_input(v))
        if any(op.seq < self._start for op in ops):
            return None
        (traced,) = spliced(
            self._trace.builder, ops, [value], self._is_input,
            lambda v: self._trace.lift(self._tensor(v)),
        )  # fmt: skip
        return traced

    def _is_input(self, value: Value) -> bool:
        return id(value) in self._seen or is_known(value)

    def _tensor(self, value: Value) -> Tensor:
        _, tensor = self._seen.get(id(value), (value, None))
        return Tensor.of_value(value) if tensor is None else tensor
