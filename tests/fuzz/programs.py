"""Random programs: Hypothesis strategies that grow IR functions from the op table.

A ``Grower`` holds an open builder and the concrete array of every value, so that each
step can choose operands within an op's domain and drop what overflows.  Steps are
small methods; ``STEPS`` and ``NETWORK_STEPS`` weigh them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import samples
from hypothesis import strategies as st
from symgrad.ir import Builder, DType, Func, TensorType, Value
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.builder import inline
from symgrad.ir.interp import evaluate
from symgrad.ir.opdef import REGISTRY, OpDef
from symgrad.ir.ops import shape as sh
from symgrad.ir.types import DTYPES, bool_, f32, f64, i64

Array = np.ndarray[Any, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 17, 33)
IMAGES = (1, 2, 3, 4, 5, 7, 9, 12)
MAX_ELEMENTS = 4096
MAX_MAGNITUDE = 1e4
FLOATS = (f32, f64)
INTEGERS = tuple(DTYPES[name] for name in ("i32", "i64", "u8", "i8", "i16", "u32"))
ELEMENTWISE = [d for d in REGISTRY.values() if d.elementwise and d.samples]


@dataclass(frozen=True)
class Program:
    """A function with arguments for it."""

    func: Func
    arguments: tuple[Array, ...]
    donate: tuple[int, ...] = ()
    """Parameters whose memory results may take over."""


@dataclass
class Grower:
    """A program while it grows."""

    draw: Draw
    dtype: DType
    builder: Builder = field(default_factory=lambda: Builder(locations=False))
    values: list[Value] = field(default_factory=list)
    params: list[Value] = field(default_factory=list)
    arrays: dict[Value, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.number(0, 2**16))

    # -- choices --------------------------------------------------------------

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def one_of(self, choices: Sequence[Any]) -> Any:
        return choices[self.number(0, len(choices) - 1)]

    def chance(self, percent: int) -> bool:
        return self.number(0, 99) < percent

    def pick(self, fits: Callable[[Value], bool] = lambda v: True) -> Value | None:
        """A value that fits; late ones are likelier, so that programs get deep."""
        found = [v for v in self.values if fits(v)]
        if not found:
            return None
        return self.one_of(found[-4:] if self.chance(60) else found)

    def pick_float(self, min_rank: int = 0) -> Value | None:
        return self.pick(lambda v: v.type.dtype == self.dtype and v.rank >= min_rank)

    def shape(self, max_rank: int = 4) -> tuple[int, ...]:
        """Odd sizes; size 1 often, size 0 rarely."""
        shape: tuple[int, ...] = ()
        for _ in range(self.number(0, max_rank)):
            n = 0 if self.chance(1) else self.one_of(SIZES)
            if math.prod(shape) * n <= MAX_ELEMENTS:
                shape = (*shape, n)
        return shape

    def axes(self, rank: int, min_count: int = 0) -> tuple[int, ...]:
        """Some axes in rising order."""
        chosen = [a for a in range(rank) if self.chance(45)]
        while len(chosen) < min(min_count, rank):
            chosen = sorted({*chosen, self.number(0, rank - 1)})
        return tuple(chosen)

    def permutation(self, rank: int) -> tuple[int, ...]:
        return tuple(self.draw(st.permutations(range(rank))))

    # -- values -----------------------------------------------------------------

    def array(self, value: Value) -> Array:
        """What a value is for the program's arguments."""
        if value not in self.arrays:
            assert value.op is not None
            operands = [self.array(v) for v in value.op.operands]
            with np.errstate(all="ignore"):
                results = evaluate(value.op, operands)
            self.arrays.update(zip(value.op.results, results, strict=True))
        return self.arrays[value]

    def param(self, type: TensorType, low: float = -2, high: float = 2) -> Value:
        """A parameter; half of them hold whole numbers, which brings ties and zeros."""
        drawn = self.rng.uniform(low, high, type.shape)
        if type.dtype == bool_:
            drawn = drawn > 0
        elif self.chance(40):
            drawn = np.round(drawn)
        value = self.builder.param(type)
        self.arrays[value] = np.asarray(drawn).astype(type.dtype.numpy)
        self.params.append(value)
        return self.keep(value)

    def keep(self, value: Value) -> Value:
        """Offers a value to later steps unless it overflows."""
        array = self.array(value)
        tame = array.dtype.kind in "biu" or (
            np.isfinite(array).all() and np.max(np.abs(array), initial=0) < MAX_MAGNITUDE
        )
        if tame and array.size <= 4 * MAX_ELEMENTS and value not in self.values:
            self.values.append(value)
        return value

    def emit(self, name: str, *operands: Value, **attrs: Any) -> Any:
        result = self.builder.emit(name, *operands, **attrs)
        for value in result if isinstance(result, tuple) else (result,):
            self.keep(value)
        return result

    def within(self, value: Value, low: float, high: float) -> Value:
        """The value, moved into a range if it is not there."""
        array = self.array(value)
        if array.size == 0 or array.dtype == bool or (low <= array.min() and array.max() <= high):
            return value
        if array.dtype.kind == "u":
            low = max(low, 0)
        if array.dtype.kind == "f":
            unit = self.emit("sigmoid", value)
            return self.emit(
                "add", self.emit("mul", unit, self.fill(high - low, unit)), self.fill(low, unit)
            )
        floor = self.emit("maximum", value, self.fill(math.ceil(low), value))
        return self.emit("minimum", floor, self.fill(math.floor(high), value))

    def fill(self, number: float, like: Value) -> Value:
        return self.builder.constant(number, like.type)

    def like(self, type: TensorType) -> Value:
        """A value of a type: one there is, a converted or broadcast one, or a parameter."""
        if self.chance(70) and (same := self.pick(lambda v: v.type == type)) is not None:
            return same
        fits = lambda v: v.shape == type.shape and v.type.dtype.kind != "c"  # noqa: E731
        if self.chance(30) and (shaped := self.pick(fits)) is not None:
            return self.cast(shaped, type.dtype)
        axes = self.axes(len(type.shape))
        source = TensorType(type.dtype, tuple(type.shape[a] for a in axes))
        if self.chance(50) and source != type:
            known = self.pick(lambda v: v.type == source)
            small = self.param(source) if known is None else known
            return self.emit("broadcast_to", small, shape=type.shape, axes=axes)
        return self.param(type)

    def cast(self, value: Value, dtype: DType) -> Value:
        if dtype.kind in "iu":  # conversions out of range have no value to agree on
            value = self.within(value, 0, 100)
        return self.emit("convert", value, dtype=dtype)

    def indices(self, shape: tuple[int, ...], n: int) -> Value:
        """Indices into an axis of ``n``; some beyond its ends, where they are clamped."""
        return self.param(TensorType(self.one_of((i64, DTYPES["i32"])), shape), -1, n + 1)

    # -- steps ------------------------------------------------------------------------

    def elementwise(self) -> None:
        opdef: OpDef = self.one_of(ELEMENTWISE)
        (sample,) = opdef.samples
        first = self.pick(lambda v: not opdef.kinds or v.type.dtype.kind in opdef.kinds)
        if first is None:
            return
        operands = []
        for i, domain in enumerate(sample.domains or ((-2.0, 2.0),) * len(sample.shapes)):
            own = sample.dtypes[i] if sample.dtypes else None
            type = first.type.with_dtype(own or first.type.dtype)
            value = first if type == first.type and not operands else self.like(type)
            wide = domain == (-2.0, 2.0)
            operands.append(value if wide else self.within(value, *domain))
        self.emit(opdef.name, *operands)

    def compare_and_select(self) -> None:
        if (x := self.pick()) is not None and x.type.dtype.kind != "c":
            y = self.like(x.type)
            hit = self.emit(self.one_of(("lt", "ge", "eq", "ne")), x, y)
            chosen = self.pick_float()
            if chosen is not None and chosen.shape == hit.shape:
                self.emit("select", hit, chosen, self.like(chosen.type))
            self.emit("select", hit, y, x)

    def convert(self) -> None:
        if (x := self.pick()) is not None:
            self.cast(x, self.one_of((*FLOATS, *INTEGERS, bool_)))

    def broadcast(self) -> None:
        x = self.pick(lambda v: v.rank < 4)
        if x is None:
            return
        axes, shape = [], []
        for n in x.shape:
            while len(shape) + x.rank - len(axes) < 4 and self.chance(40):
                shape.append(self.one_of(SIZES[:5]))
            axes.append(len(shape))
            shape.append(n)
        if self.chance(50):
            shape.append(self.one_of(SIZES[:5]))
        if math.prod(shape) <= MAX_ELEMENTS:
            self.emit("broadcast_to", x, shape=tuple(shape), axes=tuple(axes))

    def reduce(self) -> None:
        x = self.pick(lambda v: v.rank > 0)
        if x is None:
            return
        axes = self.axes(x.rank, 1)
        kind = x.type.dtype.kind
        names = ["reduce_any", "reduce_all"] if kind == "b" else ["reduce_sum", "reduce_prod"]
        if kind == "b" or all(x.shape[a] for a in axes):
            names += ["reduce_max", "reduce_min"]
        if kind == "f" and all(x.shape[a] for a in axes):
            names += ["moments"]
        name = self.one_of(names)
        attrs: dict[str, Any] = {"axes": axes}
        if name in ("reduce_max", "reduce_min"):
            if not all(x.shape[a] for a in axes):
                return
            attrs["ties"] = "first" if len(axes) == 1 and self.chance(50) else "split"
        self.emit(name, self.within(x, 0.7, 1.3) if name == "reduce_prod" else x, **attrs)

    def scan(self) -> None:
        x = self.pick(lambda v: v.rank > 0 and v.type.dtype.kind in "fiu")
        if x is None:
            return
        axis = self.number(0, x.rank - 1)
        name = self.one_of(("cumsum", "cumprod", "argmax", "argmin", "recurrence"))
        if name in ("argmax", "argmin") and x.shape[axis] == 0:
            return
        if name == "recurrence":
            if x.type.dtype.kind == "f":
                self.emit(name, self.within(self.like(x.type), -0.9, 0.9), x, axis=axis)
            return
        self.emit(name, self.within(x, 0.7, 1.3) if name == "cumprod" else x, axis=axis)

    def reshape(self) -> None:
        if (x := self.pick()) is None:
            return
        factors = [p for n in x.shape for p in _factors(n)]
        shape: list[int] = []
        for p in factors if self.chance(70) else reversed(factors):
            if shape and len(shape) < 4 and self.chance(50):
                shape[-1] *= p
            else:
                shape.append(p)
        while len(shape) > 4:
            shape[-2:] = [shape[-2] * shape[-1]]
        if self.chance(20):
            shape.insert(self.number(0, len(shape)), 1)
        self.emit("reshape", x, shape=tuple(shape))

    def transpose(self) -> None:
        if (x := self.pick(lambda v: v.rank > 1)) is not None:
            self.emit("transpose", x, axes=self.permutation(x.rank))

    def reverse(self) -> None:
        if (x := self.pick(lambda v: v.rank > 0)) is not None:
            self.emit("reverse", x, axes=self.axes(x.rank, 1))

    def slice(self) -> None:
        if (x := self.pick(lambda v: v.rank > 0)) is not None:
            whole = self.axes(x.rank)
            starts, stops, steps = [], [], []
            for a, n in enumerate(x.shape):
                start = 0 if a in whole else self.number(0, max(n - 1, 0))
                stop = n if a in whole or self.chance(30) else self.number(min(start + 1, n), n)
                starts.append(min(start, n))
                stops.append(stop)
                steps.append(1 if a in whole else self.number(1, 3))
            self.emit("slice", x, start=tuple(starts), stop=tuple(stops), step=tuple(steps))

    def pad(self) -> None:
        if (x := self.pick(lambda v: v.rank > 0)) is not None:
            some = self.axes(x.rank, 1)
            low, high, interior = (
                tuple(self.number(0, 2) if a in some else 0 for a in range(x.rank))
                for _ in range(3)
            )
            value = 0 if x.type.dtype == bool_ else self.number(0, 1)
            self.emit("pad", x, low=low, high=high, interior=interior, value=value)

    def concatenate(self) -> None:
        first = self.pick(lambda v: v.rank > 0)
        if first is None:
            return
        axis = self.number(0, first.rank - 1)
        parts = [first]
        for _ in range(self.number(1, 2)):
            shape = list(first.shape)
            if not self.chance(40):
                shape[axis] = self.one_of(SIZES[:5])
            parts.append(self.like(TensorType(first.type.dtype, tuple(shape))))
        self.emit("concatenate", *parts, axis=axis)

    def dot(self) -> None:
        x = self.pick_float()
        if x is None:
            return
        order = self.permutation(x.rank)
        contracts, batches = self.number(0, x.rank), self.number(0, 1)
        lhs_contract, lhs_batch = order[:contracts], order[contracts : contracts + batches]
        free = tuple(self.one_of(SIZES) for _ in range(self.number(0, 2)))
        groups = [*((x.shape[a], "c", i) for i, a in enumerate(lhs_contract)),
                  *((x.shape[a], "b", i) for i, a in enumerate(lhs_batch)),
                  *((n, "f", i) for i, n in enumerate(free))]  # fmt: skip
        groups = [groups[i] for i in self.permutation(len(groups))]
        shape = tuple(n for n, _, _ in groups)
        result = math.prod(x.shape) // max(1, math.prod(x.shape[a] for a in lhs_contract))
        if math.prod(shape) > MAX_ELEMENTS or result * math.prod(free) > MAX_ELEMENTS:
            return

        def places(kind: str) -> tuple[int, ...]:
            found = {i: at for at, (_, k, i) in enumerate(groups) if k == kind}
            return tuple(found[i] for i in sorted(found))

        y = self.like(TensorType(self.dtype, shape))
        product = self.emit(
            "dot_general", x, y, lhs_contract=lhs_contract, rhs_contract=places("c"),
            lhs_batch=lhs_batch, rhs_batch=places("b"),
        )  # fmt: skip
        self.finish(product)

    def gather(self) -> None:
        x = self.pick(lambda v: v.rank > 0 and 0 not in v.shape)
        if x is None:
            return
        axes = self.axes(x.rank, 1)
        shape = tuple(self.number(1, 4) for _ in range(self.number(0, 2)))
        indices = [self.indices(shape, x.shape[a]) for a in axes]
        if self.chance(50):
            self.emit("gather", x, *indices, axes=axes)
        elif x.type.dtype.kind in "fiu":
            kept = tuple(n for a, n in enumerate(x.shape) if a not in axes)
            updates = self.like(x.type.with_shape((*shape, *kept)))
            self.emit("scatter_add", x, updates, *indices, axes=axes)

    def dynamic(self) -> None:
        x = self.pick(lambda v: v.rank > 0 and 0 not in v.shape)
        if x is None:
            return
        sizes = tuple(self.number(1, n) for n in x.shape)
        starts = [self.indices((), n) for n in x.shape]
        if self.chance(50):
            self.emit("dynamic_slice", x, *starts, sizes=sizes)
        else:
            self.emit("dynamic_update_slice", x, self.like(x.type.with_shape(sizes)), *starts)

    def convolution(self) -> None:
        """Over an image, of two spatial axes mostly; blocked sizes where channels allow."""
        x = self.pick_float(3)
        if x is None or 0 in x.shape:
            return
        rank = x.rank - 2
        channels = x.shape[1]
        groups = self.one_of([g for g in (1, 1, 1, 2, 16) if channels % g == 0])
        outputs = groups * self.one_of((16, 32) if channels % (16 * groups) == 0 else (1, 2, 5, 16))
        kernel = (self.one_of((1, 3)),) * rank if self.chance(60) else self.small(rank, 1, 3)
        attrs = {
            "stride": (self.number(1, 2),) * rank if self.chance(70) else self.small(rank, 1, 3),
            "padding": tuple((k // 2, k // 2) for k in kernel)
            if self.chance(60)
            else tuple(self.small(2, 0, 3) for _ in kernel),
            "dilation": (1,) * rank if self.chance(80) else self.small(rank, 1, 2),
            "lhs_dilation": (1,) * rank if self.chance(90) else self.small(rank, 1, 2),
            "groups": groups,
        }
        weight = self.like(TensorType(self.dtype, (outputs, channels // groups, *kernel)))
        if math.prod(x.shape) * math.prod(weight.shape) < 5e7:
            y = self.emit("conv", x, self.scaled(weight), **attrs)
            if math.prod(y.shape) == 0:
                return
            self.finish(y)

    def finish(self, y: Value) -> None:
        """What often follows a product: an activation, or a vector joined to it."""
        if self.chance(30):
            self.emit(self.one_of(("relu", "tanh")), y)
        elif y.rank and self.chance(60):
            axis = self.number(0, y.rank - 1)
            vector = self.like(TensorType(self.dtype, (y.shape[axis],)))
            spread = self.emit("broadcast_to", vector, shape=y.shape, axes=(axis,))
            pair = (y, spread) if self.chance(40) else (spread, y)
            self.emit(self.one_of(("add", "sub", "mul", "maximum")), *pair)

    def scaled(self, weight: Value) -> Value:
        """A weight whose outputs stay near 1; a power of two keeps whole numbers short."""
        scale = 2.0 ** -round(math.log2(max(1, math.prod(weight.shape[1:]))) / 2)
        return self.emit("mul", weight, self.fill(scale, weight))

    def small(self, count: int, low: int, high: int) -> tuple[int, ...]:
        return tuple(self.number(low, high) for _ in range(count))

    def pool(self) -> None:
        x = self.pick_float(3)
        if x is None or 0 in x.shape:
            return
        rank = x.rank - 2
        window = self.small(rank, 1, 3)
        attrs = {
            "window": window,
            "stride": self.small(rank, 1, 2),
            "padding": tuple((self.number(0, k - 1), self.number(0, k - 1)) for k in window),
            "dilation": (1,) * rank if self.chance(80) else self.small(rank, 1, 2),
        }
        self.emit(self.one_of(("window_max", "window_sum")), x, **attrs)

    def normalise(self) -> None:
        """Batch normalisation of an image."""
        x = self.pick_float(3)
        if x is None or math.prod(x.shape) // max(1, x.shape[1]) < 2:
            return
        axes = (0, *range(2, x.rank))
        mean, variance = self.emit("moments", x, axes=axes)
        with self.builder:
            spread: Callable[[Value], Value] = lambda v: sh.broadcast_to(  # noqa: E731
                v, shape=x.shape, axes=(1,)
            )
            factor = self.builder.emit("rsqrt", variance + 0.1)
            y = (x - spread(mean)) * spread(factor * self.like(mean.type))
        self.keep(y)

    def residual(self) -> None:
        x = self.pick_float(3)
        if x is not None:
            pair = self.like(x.type), x
            self.emit(self.one_of(("add", "sub", "mul", "maximum", "copysign")), *pair)

    def activation(self) -> None:
        if (x := self.pick_float(3)) is not None:
            self.emit(self.one_of(("relu", "tanh", "sigmoid", "abs", "neg")), x)


def _factors(n: int) -> list[int]:
    p = next((p for p in (2, 3, 5, 7, 11) if n % p == 0), n) if n > 1 else n
    return [n] if n <= 1 or p == n else [p, *_factors(n // p)]


Step = Callable[[Grower], None]
STEPS: tuple[Step, ...] = (
    *(Grower.elementwise,) * 10, *(Grower.reduce,) * 4, *(Grower.broadcast,) * 3,
    Grower.compare_and_select, Grower.convert, *(Grower.scan,) * 2, *(Grower.reshape,) * 2,
    *(Grower.transpose,) * 2, Grower.reverse, *(Grower.slice,) * 2, Grower.pad,
    Grower.concatenate, *(Grower.dot,) * 2, Grower.gather, Grower.dynamic, Grower.convolution,
    Grower.pool, Grower.normalise,
)  # fmt: skip
NETWORK_STEPS: tuple[Step, ...] = (
    *(Grower.convolution,) * 6, *(Grower.normalise,) * 3, *(Grower.pool,) * 2,
    *(Grower.residual,) * 3, *(Grower.activation,) * 3, *(Grower.elementwise,) * 2,
    *(Grower.reduce,) * 2, Grower.slice, Grower.transpose, Grower.concatenate, Grower.pad,
    Grower.reshape, Grower.reverse, Grower.scan, Grower.gather, Grower.dynamic,
)  # fmt: skip


@st.composite
def programs(draw: Draw, max_steps: int = 30) -> Program:
    """Any ops on any shapes, gradients included."""
    grower = Grower(draw, draw(st.sampled_from(FLOATS)))
    for _ in range(grower.number(1, 3)):
        grower.param(TensorType(grower.dtype, grower.shape()))
    if grower.chance(30):
        grower.param(TensorType(grower.one_of((*INTEGERS, bool_, *FLOATS)), grower.shape()))
    return _grown(grower, STEPS, grower.number(1, max_steps))


@st.composite
def networks(draw: Draw, max_steps: int = 12) -> Program:
    """Convolutions on blocked channels, mixed with ops that want them plain."""
    grower = Grower(draw, draw(st.sampled_from(FLOATS)))
    channels = grower.one_of((16, 16, 32, 3, 5))
    size = grower.one_of(IMAGES), grower.one_of(IMAGES)
    grower.param(TensorType(grower.dtype, (grower.number(1, 3), channels, *size)))
    grower.convolution()
    return _grown(grower, NETWORK_STEPS, grower.number(1, max_steps))


def _grown(grower: Grower, steps: Sequence[Step], count: int) -> Program:
    for _ in range(count):
        grower.one_of(steps)(grower)
    used = {id(v) for x in grower.values if x.op for v in x.op.operands}
    results = [v for v in grower.values if id(v) not in used][-6:]
    if grower.chance(15):
        results.append(grower.one_of(grower.values))  # an operand, a parameter, a result twice
    func = grower.builder.build(results)
    arguments = [grower.arrays[p] for p in func.params]
    if grower.chance(60):
        func, arguments = with_gradient(func, arguments, grower.rng)
    donate = [i for i in range(len(arguments)) if grower.chance(25)] if grower.chance(30) else []
    return Program(func, tuple(arguments), tuple(donate))


def with_gradient(
    func: Func, arguments: list[Array], rng: np.random.Generator
) -> tuple[Func, list[Array]]:
    """The function's results and the gradient of a weighted sum of its floating ones."""
    wrt = [i for i, p in enumerate(func.params) if p.type.dtype.is_float]
    dtype = max(
        (v.type.dtype for v in func.results if v.type.dtype.is_float), key=str, default=None
    )
    if not wrt or dtype is None:
        return func, arguments
    smooth = tuple(v for v in func.results if v.type.dtype == dtype)
    total = samples.projected(Func(func.name, func.params, func.ops, smooth))
    weights = samples.random_like(total.param_types[len(arguments) :], rng)
    builder = Builder(locations=False)
    params = [builder.param(p.type, p.name) for p in total.params]
    (loss,) = inline(builder, total, params)
    results = inline(builder, func, params[: len(func.params)])
    both = builder.build([loss, *results], func.name)
    return value_and_grad(both, wrt), [*arguments, *weights]
