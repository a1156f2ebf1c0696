"""Sums, extremes, norms and the like under torch's names, with its result types.

Computed by the traced functions of ``symgrad.numpy``.  ``dim`` and ``keepdim`` may also be
called ``axis`` and ``keepdims``.
"""

from __future__ import annotations

import functools
import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

import symgrad.numpy as snp
from symgrad.tensors import dtypes, softmax
from symgrad.tensors.apply import INPUTS, NOTHING, RESULT, apply
from symgrad.tensors.axes import many_axes, one_axis
from symgrad.tensors.elementwise import FUNCTIONS, cast, enter, floating
from symgrad.tensors.handle import Tensor
from symgrad.tensors.joining import to
from symgrad.tensors.plans import remembered
from symgrad.tracer import Tracer
from symgrad.tracing import stage

F = TypeVar("F", bound=Callable[..., Any])
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}


def reduction(function: F) -> F:
    """Enters a function in ``FUNCTIONS``; it also takes NumPy's names of its arguments."""

    @remembered
    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if named:
            named = {_NUMPY_NAMES.get(name, name): value for name, value in named.items()}
        return function(*args, **named)

    FUNCTIONS[function.__name__] = call
    return call  # type: ignore[return-value]


def returned(name: str, fields: str) -> Any:
    """A named tuple with the text of torch's return types."""

    def text(self: Any) -> str:
        lines = ",\n".join(f"{f}={getattr(self, f)!r}" for f in self._fields)
        return f"torch.return_types.{name}(\n{lines})"

    kind = namedtuple(name, fields)  # type: ignore[misc]
    kind.__repr__ = text  # type: ignore[method-assign]
    return kind


def _variant(name: str, dim: Any) -> str:
    return f"{name}Backward{0 if dim is None else 1}"


def _axes(input: Tensor, dim: Any) -> tuple[int, ...]:
    return many_axes(dim, input.ndim)


@reduction
def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum of all elements or along axes; integers and booleans give int64."""
    wanted = dtypes.named(dtype).numpy if dtype else input._dtype
    if dtype is None and wanted.kind in "biu":
        wanted = np.dtype(np.int64)
    axes = _axes(input, dim)

    def compute(x: Tracer) -> Any:
        return snp.sum(cast(x, wanted), axis=axes, keepdims=keepdim)

    made: Tensor = apply(_variant("Sum", dim), compute, (input,), saves=NOTHING, dtype=wanted)
    return made


@reduction
def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean of all elements or along axes."""
    wanted = dtypes.named(dtype) if dtype else input.dtype
    if not wanted.is_floating_point:
        raise RuntimeError(
            "mean(): could not infer output dtype. Input dtype must be either a floating point or "
            f"complex dtype. Got: {wanted.scalar_name}"
        )
    axes = _axes(input, dim)

    def compute(x: Tracer) -> Any:
        return snp.mean(cast(x, wanted.numpy), axis=axes, keepdims=keepdim)

    made: Tensor = apply(
        _variant("Mean", dim), compute, (input,), saves=NOTHING, dtype=wanted.numpy
    )
    return made


@reduction
def prod(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The product of all elements or along an axis; integers and booleans give int64."""
    wanted = dtypes.named(dtype).numpy if dtype else input._dtype
    if dtype is None and wanted.kind in "biu":
        wanted = np.dtype(np.int64)
    axes = _axes(input, dim)

    def compute(x: Tracer) -> Any:
        return snp.prod(cast(x, wanted), axis=axes, keepdims=keepdim)

    made: Tensor = apply(_variant("Prod", dim), compute, (input,), dtype=wanted)
    return made


def _declare_truth(name: str, function: Any) -> None:
    def truth(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        axes = _axes(input, dim)
        made: Tensor = apply(
            "", lambda x: function(cast(x, np.dtype(bool)), axis=axes, keepdims=keepdim), (input,)
        )
        return made if input._dtype != np.uint8 else made.to(input.dtype)

    truth.__name__ = name
    truth.__doc__ = f"Whether {name} elements, or those along axes, are true."
    reduction(truth)


_declare_truth("any", snp.any)
_declare_truth("all", snp.all)


# -- extremes ------------------------------------------------------------------------------


def refuse_empty(name: str, input: Tensor, dim: Any, error: type[Exception] = RuntimeError) -> None:
    """Raises where there is no element to choose: ``error`` of all, ``IndexError`` of an axis."""
    if dim is None and not input.numel():
        remedy = " Specify the reduction dim with the 'dim' argument."
        raise error(
            f"{name}(): Expected reduction dim to be specified for input.numel() == 0."
            f"{remedy if error is RuntimeError else ''}"
        )
    for axis in _axes(input, dim) if dim is not None else ():
        if input.shape[axis] == 0:
            raise IndexError(f"{name}(): Expected reduction dim {axis} to have non-zero size.")


def _declare_position(name: str, function: Any) -> None:
    def position(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        refuse_empty(name, input, dim, IndexError)
        axis = None if dim is None else one_axis(dim, input.ndim)

        def compute(x: Tracer) -> Any:
            whole = snp.reshape(x, (1,)) if not x.ndim else x
            found = function(whole, axis=axis, keepdims=keepdim)
            return snp.reshape(found, ()) if not x.ndim else found

        made: Tensor = apply("", compute, (input,))
        return made

    position.__name__ = name
    position.__doc__ = "The position of the extreme element, of the flattened tensor or an axis."
    reduction(position)


_declare_position("argmax", snp.argmax)
_declare_position("argmin", snp.argmin)


def _declare_extremes(name: str, function: Any) -> None:
    def extreme(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
        refuse_empty(name, input, dim if dim not in ((), None) else None)
        axes = _axes(input, dim)
        made: Tensor = apply(
            f"{name.title()}Backward0",
            lambda x: function(x, axis=axes, keepdims=keepdim),
            (input,),
        )
        return made

    extreme.__name__ = name
    extreme.__doc__ = "The extreme elements along axes; ties share the cotangent."
    reduction(extreme)


_declare_extremes("amax", snp.max)
_declare_extremes("amin", snp.min)


def _declare_extreme(name: str, function: Any, position: str, elementwise: str) -> None:
    kind = returned(name, "values indices")

    def extreme(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, Tensor):
            return FUNCTIONS[elementwise](input, dim)
        refuse_empty(name, input, dim)
        label = f"{name.title()}Backward{1 if dim is None else 0}"
        axis = None if dim is None else one_axis(dim, input.ndim)
        along = axis if input.ndim else None
        values = apply(label, lambda x: function(x, axis=along, keepdims=keepdim), (input,))
        if dim is None:
            return values
        return kind(values, FUNCTIONS[position](input, axis, keepdim))

    extreme.__name__ = name
    extreme.__doc__ = f"The {name}imum of all elements; along an axis, with its positions."
    reduction(extreme)


_declare_extreme("max", snp.max, "argmax", "maximum")
_declare_extreme("min", snp.min, "argmin", "minimum")
_Both = returned("aminmax", "min max")


@reduction
def aminmax(input: Tensor, *, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest and the largest element, of all or along an axis."""
    axes = _axes(input, dim)

    def compute(x: Tracer) -> Any:
        return [f(x, axis=axes, keepdims=keepdim) for f in (snp.min, snp.max)]

    return _Both(*apply("AminmaxBackward0", compute, (input,)))


# -- moments -------------------------------------------------------------------------------


def _ddof(unbiased: Any, correction: Any) -> Any:
    if correction is not None:
        return correction
    return 1 if unbiased is None else int(unbiased)


def _declare_spread(name: str, function: Any, saves: str) -> None:
    def arguments(dim: Any, unbiased: Any) -> tuple[Any, Any]:
        return (None, dim) if isinstance(dim, bool) else (dim, unbiased)

    def spread(
        input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
        correction: Any = None,
    ) -> Tensor:  # fmt: skip
        dim, unbiased = arguments(dim, unbiased)
        axes, ddof = _axes(input, dim), _ddof(unbiased, correction)
        _check_floating(name, input)

        def compute(x: Tracer) -> Any:
            return function(x, axis=axes, ddof=ddof, keepdims=keepdim)

        made: Tensor = apply(f"{name.title()}Backward0", compute, (input,), saves=saves)
        return made

    def with_mean(
        input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
        correction: Any = None,
    ) -> Any:  # fmt: skip
        dim, unbiased = arguments(dim, unbiased)
        axes, ddof = _axes(input, dim), _ddof(unbiased, correction)
        _check_floating(f"{name}_mean", input)

        def compute(x: Tracer) -> Any:
            first = function(x, axis=axes, ddof=ddof, keepdims=keepdim)
            return [first, snp.mean(x, axis=axes, keepdims=keepdim)]

        return apply(f"{name.title()}MeanBackward0", compute, (input,), saves=INPUTS)

    spread.__name__, with_mean.__name__ = name, f"{name}_mean"
    spread.__doc__ = f"``{name}``, divided by n - 1 unless ``correction`` says otherwise."
    with_mean.__doc__ = f"``{name}`` and the mean."
    reduction(spread)
    reduction(with_mean)


def _check_floating(name: str, input: Tensor) -> None:
    if input._kind not in "fc":
        raise RuntimeError(
            f"{name}: only support floating point and complex dtypes"
            if "mean" in name
            else "std and var only support floating point and complex dtypes"
        )


_declare_spread("var", snp.var, INPUTS)
_declare_spread("std", snp.std, INPUTS)

# -- norms ---------------------------------------------------------------------------------


def vector_norm(x: Tracer, order: float, axes: tuple[int, ...], keepdim: bool) -> Any:
    """The p-norm over axes, with subgradient 0 where it is 0; ties of extremes share."""
    if order in (math.inf, -math.inf):
        return (snp.max if order > 0 else snp.min)(abs(x), axis=axes, keepdims=keepdim)
    return snp.linalg.vector_norm(x, ord=order, axis=axes, keepdims=keepdim)


def _nuclear(input: Tensor, keepdim: bool) -> Tensor:
    """The sum of the singular values of matrices."""

    def compute(x: Tracer) -> Any:
        total = snp.sum(stage("svd", x)[1], axis=-1)
        return snp.expand_dims(total, (-2, -1)) if keepdim else total

    made: Tensor = apply("SumBackward1", compute, (input,))
    return made


@reduction
def norm(
    input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    """The vector norm of all elements or along axes."""
    if p == "nuc":
        return _nuclear(input, keepdim)
    order = 2 if p in (None, "fro") else p
    axes = _axes(input, dim)
    if (dtypes.named(dtype) if dtype else input.dtype).ir.kind not in "fc":
        raise RuntimeError(
            "linalg.vector_norm: Expected a floating point or complex tensor as input. Got "
            f"{input.dtype.scalar_name}"
        )
    made: Tensor = apply(
        "LinalgVectorNormBackward0",
        lambda x: vector_norm(x, order, axes, keepdim),
        (to(input, dtype=dtype),),
    )
    return made


@reduction
def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """``log(sum(exp(input)))`` along axes, without overflow."""
    axes, dtype = _axes(input, dim), floating((input,))

    def compute(x: Tracer) -> Any:
        total = softmax.logsumexp(cast(x, dtype), axes)
        return total if keepdim else snp.squeeze(total, axis=axes)

    made: Tensor = apply("LogsumexpBackward0", compute, (input,))
    return made


@reduction
def count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    """The number of elements that are not zero."""
    axes = _axes(input, dim)
    made: Tensor = apply("", lambda x: snp.count_nonzero(x, axis=axes), (input,))
    return made


@reduction
def nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum of the elements that are numbers."""
    if input._kind != "f":
        return sum(input, dim, keepdim, dtype=dtype)
    axes = _axes(input, dim)
    made: Tensor = apply(
        "NansumBackward0",
        lambda x: snp.nansum(x, axis=axes, keepdims=keepdim),
        (to(input, dtype=dtype),),
    )
    return made


@reduction
def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean of the elements that are numbers."""
    axes = _axes(input, dim)
    if input._kind != "f" and dtype is None:
        raise RuntimeError(
            "nanmean(): expected input to have floating point or complex dtype but got "
            f"{input.dtype.scalar_name}"
        )
    made: Tensor = apply(
        "DivBackward0",
        lambda x: snp.nanmean(x, axis=axes, keepdims=keepdim),
        (to(input, dtype=dtype),),
    )
    return made


@reduction
def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """Summed over the axes that have size 1 in, or are missing from, another shape."""
    wanted = size[0] if len(size) == 1 and isinstance(size[0], (tuple, list)) else size
    extra = input.ndim - len(wanted)
    axes = [*range(extra)]
    axes += [i + extra for i, n in enumerate(wanted) if n == 1 != input.shape[i + extra]]
    total = sum(input, tuple(axes), True) if axes else input
    return total.reshape(tuple(wanted)) if extra else total


# -- running along an axis -----------------------------------------------------------------


def _declare_running(name: str, function: Any, saves: str) -> None:
    def running(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
        axis = one_axis(dim, input.ndim)
        wanted = dtypes.named(dtype).numpy if dtype else input._dtype
        if dtype is None and wanted.kind in "biu":
            wanted = np.dtype(np.int64)

        def compute(x: Tracer) -> Any:
            x = cast(x, wanted)
            return function(x, axis=axis, dtype=x.dtype) if x.ndim else x

        made: Tensor = apply(
            f"{name.title()}Backward0", compute, (input,), saves=saves, dtype=wanted
        )
        return made

    running.__name__ = name
    running.__doc__ = f"Running {'sums' if name == 'cumsum' else 'products'} along an axis."
    reduction(running)


_declare_running("cumsum", snp.cumsum, NOTHING)
_declare_running("cumprod", snp.cumprod, INPUTS)


def _declare_softmax(name: str, label: str, formula: Callable[[Tracer, int], Any]) -> None:
    def function(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
        operand = to(input, dtype=dtype)
        if operand._kind != "f":
            raise RuntimeError(
                f"\"{name}_lastdim_kernel_impl\" not implemented for '{operand.dtype.scalar_name}'"
            )
        made: Tensor = apply(label, lambda x: formula(x, dim), (operand,), saves=RESULT)
        return made

    enter(function, name, f"``{name}`` along an axis.")
    reduction(function)


_declare_softmax("softmax", "SoftmaxBackward0", softmax.softmax)
_declare_softmax("log_softmax", "LogSoftmaxBackward0", softmax.log_softmax)
