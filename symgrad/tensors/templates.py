"""The IR of operations that are recorded again and again, traced once.

A tensor operation is a Python function on traced values.  What it emits depends on the
function, on the types of its tensor operands and on its other arguments: under that key its
IR is kept as a region, and recording it once more is making one op.  Functions whose
arguments have no such key (arrays in closures, say), that read concrete values or that
change their operands are run every time.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from symgrad.bounded import Bounded
from symgrad.ir import Value
from symgrad.ir.builder import Builder
from symgrad.ir.graph import Region
from symgrad.ir.opdef import Array
from symgrad.ir.types import DType, TensorType, f64, i64, type_of_array
from symgrad.tensors import dtypes
from symgrad.tensors.record import RECORDER
from symgrad.tensors.recorded import Recorded, leaf_of, shared_region
from symgrad.tracer import Tracer
from symgrad.tracing import Trace

T = TypeVar("T")

LIMIT = 4096
"""Templates kept."""
VARIANTS = 6
"""Different numbers in one place that have templates of their own."""


class _NoTemplateError(Exception):
    """This call cannot be recorded from a template."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A result with memory of its own: a result of the region."""

    index: int


@dataclass(frozen=True, slots=True)
class View:
    """A result that shows the memory of an operand: see ``Tracer.as_view_of``."""

    index: int
    operand: int
    read: Callable[[Tracer], Tracer]
    write: Callable[[Tracer, Tracer], Tracer] | None
    key: Any


@dataclass(frozen=True, slots=True)
class Given:
    """A result that is an operand, or a Python value."""

    operand: int | None
    value: Any = None


Output = Fresh | View | Given


@dataclass(frozen=True, slots=True)
class Template:
    """An operation's region and how its results come out of it."""

    region: Region
    constants: tuple[Recorded, ...]
    """Arrays that the function made: operands that follow its own."""
    lifted: tuple[int, ...]
    """Places of numbers that are operands of the region, after the tensors."""
    outputs: tuple[Output, ...]
    is_single: bool
    """Whether the function returns a bare result in place of a tuple."""

    def with_numbers(self, values: Sequence[Value], operands: Sequence[Any]) -> Sequence[Value]:
        """The values of tensors among ``operands``, and those of the numbers after them."""
        numbers = [operands[i] for i in self.lifted]
        return (*values, *[leaf_of(np.asarray(x), _number_type(x)) for x in numbers])

    def record(self, values: Sequence[Value], operands: Sequence[Any]) -> Sequence[Value]:
        """Records the operation on ``operands``, those that are tensors having ``values``;
        returns the region's results."""
        given = (*self.with_numbers(values, operands), *self.constants)
        return RECORDER.builder.record(self.region, given)


class _Numbers:
    """The numbers that one function was called with, all else being equal.

    A number is part of the template, as ``x ** 2`` and ``x * 0.5`` would want, until too many
    others have been seen in its place: then it is an operand.
    """

    __slots__ = ("lifted", "seen")

    def __init__(self) -> None:
        self.lifted: tuple[int, ...] = ()
        """Places of operands among all operands."""
        self.seen: set[Any] = set()

    def fixed(self, places: Sequence[int], operands: Sequence[Any]) -> Any:
        """The key of the numbers that are part of the template, after a look at new ones."""
        key = self._key(places, operands)
        if key not in self.seen:
            self.seen.add(key)
            if len(self.seen) > VARIANTS:
                columns = zip(places, zip(*self.seen, strict=True), strict=True)
                varying = [place for place, column in columns if len({*column}) > 1]
                self.lifted = tuple(sorted({*self.lifted, *varying}))
                key = self._key(places, operands)
                self.seen = {key}
        return key

    def _key(self, places: Sequence[int], operands: Sequence[Any]) -> Any:
        return tuple([None if p in self.lifted else key_of(operands[p]) for p in places])


_templates: Bounded[Template | Exception] = Bounded(LIMIT)
"""Templates by what they were traced for; an error where there can be none."""
_numbers: Bounded[_Numbers] = Bounded(LIMIT)


def find(
    function: Callable[..., Any],
    operands: Sequence[Any],
    types: Sequence[TensorType | None],
    tracked: int | None = None,
) -> Template | None:
    """The template of ``function`` on operands, those with a type being traced values.

    Derivatives pass through the first ``tracked`` results, or all of them.  ``None`` if the
    function has to be run.
    """
    places = [i for i, x in enumerate(operands) if type(x) is float or type(x) is int]
    try:
        key: Any = (
            key_of(function),
            tracked,
            dtypes.get_default_dtype(),
            *[
                t if t is not None else type(x) if i in places else key_of(x)
                for i, (x, t) in enumerate(zip(operands, types, strict=True))
            ],
        )
    except _NoTemplateError:
        return None
    if not places:
        return _found(key, function, operands, types, tracked, ())
    numbers = _numbers.get(key)
    if numbers is None:
        numbers = _numbers[key] = _Numbers()
    fixed = numbers.fixed(places, operands)
    if numbers.lifted:
        template = _found((key, fixed), function, operands, types, tracked, numbers.lifted)
        if template is not None:
            return template
        fixed = tuple([key_of(operands[p]) for p in places])  # it must know the numbers
    return _found((key, fixed), function, operands, types, tracked, ())


def find_for(function: Callable[..., Any], values: Sequence[Value]) -> Template | None:
    """As ``find``, of nothing but traced values, for results that no derivative passes through."""
    types = [v.type for v in values]
    try:
        key = key_of(function), 0, dtypes.get_default_dtype(), *types
    except _NoTemplateError:
        return None
    return _found(key, function, values, types, 0, ())


def _found(
    key: Any,
    function: Callable[..., Any],
    operands: Sequence[Any],
    types: Sequence[TensorType | None],
    tracked: int | None,
    lifted: tuple[int, ...],
) -> Template | None:
    found = _templates.get(key)
    if found is None:
        try:
            found = _trace(function, operands, types, tracked, lifted)
        except _NoTemplateError as refusal:
            found = refusal.with_traceback(None)
        except Exception:  # whatever it is, running the function itself will raise it
            return None
        _templates[key] = found
    return found if isinstance(found, Template) else None


def kept(make: Callable[..., T]) -> Callable[..., T]:
    """Decorates a maker of functions: those for equal arguments are one, and its own key."""

    @functools.lru_cache(maxsize=LIMIT)
    def make_once(*args: Any) -> T:
        function = make(*args)
        function.is_kept = True  # type: ignore[attr-defined]
        return function

    return make_once


# -- keys ----------------------------------------------------------------------------------

_BY_VALUE = frozenset({bool, int, str, bytes, type(None), type(...), TensorType, DType})
_AS_IS = (
    type, np.dtype, np.ufunc, type(np.transpose), types.BuiltinFunctionType, types.ModuleType,
    dtypes.dtype,
)  # fmt: skip
_DEPTH = 6
"""Functions within functions looked into."""


def key_of(x: Any, depth: int = 0) -> Any:
    """A key that is equal for arguments that mean the same, of any type that has one."""
    kind = type(x)
    if kind in _BY_VALUE:
        return kind, x
    if kind is float:
        return x.hex()  # tells 0.0 from -0.0
    if kind is types.FunctionType:
        return _function_key(x, depth)
    if kind in (tuple, list) or isinstance(x, tuple):
        return kind, *[key_of(item, depth) for item in x]
    if kind is slice:
        return kind, key_of(x.start), key_of(x.stop), key_of(x.step)
    if kind is dict:
        return kind, *[(name, key_of(item, depth)) for name, item in x.items()]
    if isinstance(x, np.generic):
        return kind, x.tobytes()
    if kind is complex:
        return kind, x.real.hex(), x.imag.hex()
    if isinstance(x, _AS_IS):
        return x
    if dataclasses.is_dataclass(x) and kind.__hash__ is not None:
        return kind, *[key_of(getattr(x, f.name), depth) for f in dataclasses.fields(x)]
    raise _NoTemplateError


def _function_key(function: types.FunctionType, depth: int) -> Any:
    cells = function.__closure__
    if cells is None and "<l" not in function.__qualname__:  # <locals>, <lambda>: made anew
        return function
    if hasattr(function, "is_kept"):
        return function
    defaults, named = function.__defaults__, function.__kwdefaults__
    if depth > _DEPTH:
        raise _NoTemplateError
    try:
        held = tuple([key_of(cell.cell_contents, depth + 1) for cell in cells or ()])
    except ValueError:  # a cell that is not filled yet
        raise _NoTemplateError from None
    if defaults is None and named is None:
        return function.__code__, held
    return function.__code__, held, key_of(defaults or (), depth), key_of(named or {}, depth)


# -- tracing -------------------------------------------------------------------------------


class _TemplateTrace(Trace):
    """Traces a function that may not ask for values."""

    def __init__(self) -> None:
        super().__init__("template")
        self.builder = Builder(locations=False)
        self.parent = None
        self.constants: list[tuple[Value, Recorded]] = []

    def concrete(self, x: Tracer, wanted: str) -> Any:
        raise _NoTemplateError

    def guard(self, array: Array) -> None:
        raise _NoTemplateError

    def _capture(self, array: Array) -> Value:
        value = self.builder.param(type_of_array(array))
        self.constants.append((value, leaf_of(array.copy())))
        return value

    def _lift_outer(self, x: Tracer) -> Value:
        raise _NoTemplateError


def _number_type(x: float) -> TensorType:
    return TensorType(f64 if type(x) is float else i64)


def _trace(
    function: Callable[..., Any],
    operands: Sequence[Any],
    types: Sequence[TensorType | None],
    tracked: int | None,
    lifted: tuple[int, ...],
) -> Template:
    trace = _TemplateTrace()
    with trace:
        inputs = [
            x if t is None else trace.parameter(t) for x, t in zip(operands, types, strict=True)
        ]
        given = [x for x in inputs if isinstance(x, Tracer)]
        for place in lifted:  # weak: it decides no dtype, as the number would not
            x = operands[place]
            inputs[place] = trace.parameter(_number_type(x), weak=type(x))
            given.append(inputs[place])
        for x in given:
            x._value.facts = 0  # operands may be anything
        made = function(*inputs)
        results = tuple(made) if isinstance(made, (tuple, list)) else (made,)
        values: list[Value] = []
        outputs = tuple([_output(x, inputs, values) for x in results])
        free = len([x for x in outputs[:tracked] if not isinstance(x, Given)])
        if any(x.version for x in given):
            raise _NoTemplateError
        emit = trace.builder.emit
        for i, v in enumerate(values):
            if i >= free:
                values[i] = emit("stop_gradient", v)
            elif v.op is None or any(v is w for w in values[:i]):
                values[i] = emit("identity", v)
        params = [*[x._value for x in given], *[value for value, _ in trace.constants]]
        region = shared_region(trace.builder.region(params, values))
    constants = tuple([leaf for _, leaf in trace.constants])
    return Template(region, constants, lifted, outputs, not isinstance(made, (tuple, list)))


def _output(x: Any, inputs: Sequence[Any], values: list[Value]) -> Output:
    for i, given in enumerate(inputs):
        if x is given:
            if isinstance(x, Tracer) and x.weak is not None:
                raise _NoTemplateError
            return Given(i)
    if not isinstance(x, Tracer):
        key_of(x)  # it must be immutable
        return Given(None, x)
    values.append(x.value)
    view = x._view
    if view is None:
        return Fresh(len(values) - 1)
    base = next((i for i, given in enumerate(inputs) if view.base is given), None)
    if base is None or any(map(_holds_tracer, (view.read, view.write))):
        raise _NoTemplateError
    return View(len(values) - 1, base, view.read, view.write, view.key)


def _holds_tracer(function: Any, depth: int = 0) -> bool:
    """Whether a closure holds a traced value, which would not be there at the next call."""
    for cell in getattr(function, "__closure__", None) or ():
        held = cell.cell_contents
        items = held if isinstance(held, (tuple, list)) else (held,)
        for item in items:
            if isinstance(item, Tracer) or (
                depth < _DEPTH and callable(item) and _holds_tracer(item, depth + 1)
            ):
                return True
    return False
