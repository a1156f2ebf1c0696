"""``Executable``: a compiled function that takes and gives NumPy arrays."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from symgrad.codegen import profile
from symgrad.codegen.image import Image
from symgrad.codegen.memory_report import memory_of
from symgrad.codegen.runtime.ahead import load_calls_ahead
from symgrad.codegen.runtime.calltable import Interface, Table
from symgrad.codegen.runtime.memory import SMALL, allocator, give_back
from symgrad.codegen.runtime.native import aligned_bytes
from symgrad.codegen.runtime.program import NativeProgram
from symgrad.codegen.runtime.resident import Form, Resident
from symgrad.ir.errors import UsageError
from symgrad.ir.record import record
from symgrad.ir.types import type_of_array

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from symgrad.codegen.lower import Lowered

Array = np.ndarray[Any, Any]

_MAX_RUNS = 1000
"""Of one profile."""
_SHARED: dict[Form, Form] = {}
"""One object for each form: what a program left is known by identity as what another wants."""


@record
class _Kept:
    """What a prologue left."""

    stamp: Sequence[object]
    """Of the arguments that it was made from."""
    slots: list[int | None]
    """Where these lie, by their numbers.  References to them would keep them from being
    donated to other programs."""
    open: list[int]
    """Numbers of all other arguments."""
    memory: list[Array]
    """What the prologue filled."""

    def holds(self, stamp: Sequence[object]) -> bool:
        """Whether a stamp says that the arguments are unchanged."""
        if stamp is self.stamp:
            return True
        return len(stamp) == len(self.stamp) and all(map(operator.is_, stamp, self.stamp))


_NOTHING_KEPT = _Kept((), [], [], [])


class Executable:
    """A compiled function: NumPy arrays of its parameters' types in, arrays out.

    State may be resident instead, see ``runtime.resident``: ``forms`` tells the form of
    every parameter, then of every result, ``None`` for a plain array.

    ``addresses`` has the machine code of the image's kernels, ``lower`` gives the kernel
    calls behind it to whoever looks.  It ``is_bound`` if it calls back into this process.
    """

    def __init__(
        self,
        image: Image,
        addresses: Mapping[str, int],
        lower: Callable[[], Lowered],
        *,
        is_bound: bool = False,
    ) -> None:
        self.image = image
        self.is_bound = is_bound
        self.forms = tuple(None if f is None else _SHARED.setdefault(f, f) for f in image.forms)
        self._lower = lower
        self._state = [(i, f) for i, f in enumerate(self.forms[: len(image.params)]) if f]
        self._params = [
            (form, t.dtype.numpy, t.shape)
            for form, t in zip(self.forms, image.params, strict=False)
        ]
        self._results = [
            (form, t.dtype.numpy, t.shape if form is None else (form.size,))
            for form, t in zip(self.forms[len(image.params) :], image.results, strict=True)
        ]
        self._makers = [
            image.homes.get(slot, allocator(shape, dtype))
            for slot, (_, dtype, shape) in enumerate(self._results, len(image.params))
        ]
        """For each result what makes its memory, or the number of the argument it overwrites."""
        before = image.prologue
        slots = len(image.params) + len(image.results) + bool(before)
        fixed = {slots + i: array.ctypes.data for i, array in enumerate(image.constants)}
        self._program = NativeProgram(
            image.steps,
            addresses,
            slots,
            arena_bytes=image.arena_bytes,
            fixed=fixed,
            threads=image.threads,
            release_gil=not image.brief,
        )
        self._prologue: NativeProgram | None = None
        if before is not None:
            self._prologue = NativeProgram(
                before.steps, addresses, slots,
                arena_bytes=before.arena_bytes, fixed=fixed, threads=image.threads,
            )  # fmt: skip
        self.invariant = before.invariant if before else ()
        """Arguments of which something is kept from run to run, see ``codegen.prologue``."""
        self._kept: _Kept | None = None
        self._direct = self._first_call if self.interface() else None

    @property
    def has_forms(self) -> bool:
        """Whether any parameter or result has a form."""
        return any(self.forms)

    @property
    def lowered(self) -> Lowered:
        """The kernel calls; lowered anew where the program came from the disk."""
        return self._lower()

    def interface(self, **details: Any) -> Interface | None:
        """How native code may call the program without going through here; ``None`` if not.

        It may not where results are large or overwrite donated arrays, or where anything
        is resident or kept.  ``details`` are further fields of an ``Interface``.
        """
        # Large results come from recycled memory, which the direct call does not know.
        large = any(t.bytes >= SMALL for t in self.image.results)
        if self.image.homes or self.image.prologue or large or any(self.forms):
            return None
        params, results = (
            [(dtype, shape) for _, dtype, shape in side] for side in (self._params, self._results)
        )
        return Interface(params, results, **details)

    def call_table(self, **details: Any) -> Table | None:
        """What native code needs to answer calls with this program; see ``interface``."""
        interface = self.interface(**details)
        return None if interface is None else self._program.call_table(interface, with_entry=True)

    def __call__(
        self, arguments: Sequence[Any], out: Sequence[Array | None] | None = None
    ) -> Sequence[Any]:
        """Runs the program; results are fresh C-contiguous arrays, NumPy scalars where 0-d,
        and residents where they have a form.

        ``out`` may give a writeable array of its result's dtype and shape for each result, which
        then is that array.  It may overlap with arguments: what it takes is computed first.
        Raises ``UsageError`` when the arguments do not have the parameters' types.
        """
        if self._direct is not None and not profile.active:
            fast = self._direct(*arguments, *(out or ()))
            if fast is not NotImplemented:
                results: Sequence[Any] = fast
                return results
        arrays = self._memory(arguments)
        self._protect(arrays)
        kept = self._keep(arguments, arrays, None)
        places = out or [None] * len(self._results)
        made = self._results_for(arrays, places)
        self._run([*arrays, *made, *kept.memory])
        return [
            _delivered(array, place) if form is None else Resident(form, array)
            for array, place, (form, _, _) in zip(made, places, self._results, strict=True)
        ]

    def run(
        self, arguments: Sequence[Any], stamp: Sequence[object] | None = None
    ) -> Sequence[Array | Resident]:
        """As a call, but results that are 0-d are arrays, too.

        ``stamp`` has an object for each of the arguments ``invariant``: where it is the one of
        the last run, so is the argument, and its contents are unchanged.  Where all are, what
        was kept of them holds; without a stamp the prologue, if there is one, runs every time.
        """
        if self._direct is not None and not profile.active:
            fast = self._direct(*arguments)
            if fast is not NotImplemented:
                return [np.asarray(x) if isinstance(x, np.generic) else x for x in fast]
        kept = self._kept
        if kept is None or stamp is None or not kept.holds(stamp):
            arrays: list[Any] = self._memory(arguments)
            kept = self._keep(arguments, arrays, stamp)
        else:
            self._check_count(arguments)
            arrays = list(kept.slots)
            for i in kept.open:
                arrays[i] = self._memory_of(i, arguments[i])
        made = self._results_for(arrays)
        self._run([*arrays, *made, *kept.memory])
        return [
            array if form is None else Resident(form, array)
            for array, (form, _, _) in zip(made, self._results, strict=True)
        ]

    def _first_call(self, *_: Any) -> Any:
        """In place of the direct call, which the first call does not wait for."""
        self._direct = self._second_call
        load_calls_ahead()
        return NotImplemented

    def _second_call(self, *arguments: Any) -> Any:
        interface = self.interface()
        assert interface is not None
        self._direct = self._program.bind(interface)
        return self._direct(*arguments)

    def unprepared(self, arguments: Sequence[Any]) -> list[int]:
        """Numbers of the state that is not in the form the program wants it in, among all
        arguments or the first of them."""
        count = len(arguments)
        return [
            number
            for number, form in self._state
            if number < count
            and (type(arguments[number]) is not Resident or arguments[number].form is not form)
        ]

    def prepared(self, number: int, argument: Any) -> Any:
        """An argument in the form that the program wants it in: what to keep for later calls."""
        form = self.forms[number]
        return argument if form is None else Resident(form, self._memory_of(number, argument))

    @staticmethod
    def give_back() -> None:
        """See ``runtime.memory``: for whoever lets go of what was prepared."""
        give_back()

    def prepare(self, arguments: Sequence[Any]) -> list[Any]:
        """The arguments with all state in its form: what to keep from call to call."""
        self._check_count(arguments)
        return [self.prepared(number, argument) for number, argument in enumerate(arguments)]

    def _protect(self, arrays: list[Array]) -> None:
        """Copies what is donated if other arguments lie there as well: results overwrite it."""
        donated = set(self.image.homes.values())
        if not donated:
            return
        spans = [(a.ctypes.data, i) for i, a in enumerate(arrays) if a.size]
        end, before = 0, -1
        for start, i in sorted(spans):
            if start < end:
                for shared in donated & {i, before}:
                    arrays[shared] = arrays[shared].copy()
            if start + arrays[i].nbytes > end:
                end, before = start + arrays[i].nbytes, i

    def _results_for(
        self, arrays: Sequence[Array], places: Sequence[Array | None] = ()
    ) -> list[Array]:
        """Memory for the results: donated, given and recycled."""
        if not places:
            return [arrays[m] if isinstance(m, int) else m() for m in self._makers]
        made: list[Array] = []
        for maker, (form, _, _), place in zip(self._makers, self._results, places, strict=True):
            if isinstance(maker, int):
                made.append(arrays[maker])
            elif place is not None and form is None and _lies_apart(place, [*arrays, *made]):
                made.append(place)
            else:
                made.append(maker())
        return made

    def _keep(
        self, arguments: Sequence[Any], arrays: Sequence[Array], stamp: Sequence[object] | None
    ) -> _Kept:
        """Runs the prologue, if there is one.

        What it fills is never written to again, and each run holds what it reads: runs of
        several threads, with other parameters, do not meet.
        """
        if self._prologue is None or self.image.prologue is None:
            return _NOTHING_KEPT
        self._kept = None  # its memory may go before its successor's comes
        memory = aligned_bytes(self.image.prologue.kept_bytes)
        self._prologue.run([*arrays, *[0] * len(self._results), memory])
        slots: list[int | None] = [None] * len(arrays)
        for i in self.invariant:
            own = arguments[i].memory if type(arguments[i]) is Resident else arguments[i]
            if arrays[i] is own:  # and no copy, which may be gone by the next run
                slots[i] = arrays[i].ctypes.data
        others = [i for i, slot in enumerate(slots) if slot is None]
        kept = _Kept(stamp or (), slots, others, [memory])
        if stamp is not None:
            self._kept = kept
        return kept

    def _run(self, slots: Sequence[Array]) -> None:
        if not profile.active:
            self._program.run(slots)
            return
        run = profile.timed(self, slots)
        for recording in profile.active:
            recording.add(self, run)

    @property
    def threads(self) -> int:
        """Threads that a run uses at most."""
        return self._program.threads

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of the arena, the parameters and the results that have memory of their own."""
        image = self.image
        kept = image.prologue.kept_bytes if image.prologue else 0
        return memory_of(image.params, image.results, image.arena_bytes, image.homes, kept)

    def run_timed(self, slots: Sequence[Array]) -> NDArray[np.float64]:
        """See ``NativeProgram.run_timed``."""
        return self._program.run_timed(slots)

    def profile(self, arguments: Sequence[Any], seconds: float = 0.3) -> profile.Profile:
        """Runs again and again for about so long: the time of each kernel call.

        Donated arguments are copied first: the caller's stay as they are.
        """
        donated = set(self.image.homes.values())
        arrays = [
            array.copy() if slot in donated else array
            for slot, array in enumerate(self._memory(arguments))
        ]
        slots = [*arrays, *self._results_for(arrays), *self._keep(arguments, arrays, None).memory]
        self._program.run(slots)  # the first run may start the team
        found = profile.Profile(self)
        end = time.perf_counter() + seconds
        while found.count < 3 or (time.perf_counter() < end and found.count < _MAX_RUNS):
            found.add(profile.timed(self, slots))
        return found

    def _memory(self, arguments: Sequence[Any]) -> list[Array]:
        """The memory to pass for each argument, checked and converted where need be."""
        self._check_count(arguments)
        return [
            x.memory
            if type(x) is Resident and x.form is form
            else x
            if form is None and type(x) is np.ndarray and _is_plain(x, dtype, shape)
            else self._memory_of(number, x)
            for number, (x, (form, dtype, shape)) in enumerate(
                zip(arguments, self._params, strict=True)
            )
        ]

    def _check_count(self, arguments: Sequence[Any]) -> None:
        if len(arguments) != len(self._params):
            raise UsageError(
                f"@{self.image.name} takes {len(self._params)} arguments, got {len(arguments)}"
            )

    def _memory_of(self, number: int, argument: Any) -> Array:
        form = self.forms[number]
        if isinstance(argument, Resident):
            if argument.form is form or argument.form == form:
                return argument.memory
            argument = argument.numpy()
        array = self._checked(argument, number)
        return array if form is None else form.prepare(array)

    def _checked(self, argument: Any, number: int) -> Array:
        """An argument as an array of its parameter's type."""
        _, dtype, shape = self._params[number]
        if type(argument) is np.ndarray and _is_plain(argument, dtype, shape):
            return argument
        array = argument if isinstance(argument, np.ndarray) else np.asarray(argument)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.dtype != dtype or array.shape != shape:
            expected = ", ".join(map(str, self.image.params))
            raise UsageError(
                f"@{self.image.name} was compiled for ({expected}), "
                f"got {type_of_array(array)} among its arguments"
            )
        # Not ascontiguousarray: that would turn a scalar's array into one axis.
        return array if array.flags.c_contiguous else array.copy(order="C")


def _is_plain(array: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Whether a kernel may take an array as it is for one of this dtype and shape."""
    return array.dtype is dtype and array.shape == shape and array.flags.c_contiguous


def _lies_apart(array: Array, others: Sequence[Array]) -> bool:
    """Whether a kernel may write to an array while it reads others."""
    return array.flags.carray and not any(np.may_share_memory(array, x) for x in others)


def _delivered(made: Array, place: Array | None) -> Any:
    """A result as it is returned: in the array that was given for it, if one was."""
    if place is None:
        return made[()]
    if place is not made:
        place[...] = made
    return place
