"""Derivatives of functions of tensors against finite differences, element by element.

``symgrad.check_grads`` does the same for functions of arrays, in random directions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad.autograd.functional import jacobian, jvp
from symgrad.ir.opdef import Array
from symgrad.tensors import Tensor
from symgrad.tensors.engine import grad


class GradcheckError(RuntimeError):
    """A derivative that differs from finite differences."""


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
) -> bool:
    """Whether the derivatives of ``func`` by those ``inputs`` that require one are right.

    Central differences with steps of ``eps`` must agree within ``atol + rtol |difference|``
    with the pull-back, and with ``check_forward_ad`` with the push-forward.  ``func`` takes and
    returns tensors; inputs should be float64.  Raises ``GradcheckError``, unless
    ``raise_exception`` is false.  torch's other arguments change nothing: every element is
    checked, and derivatives are the same each time.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    wanted = [i for i, x in enumerate(given) if isinstance(x, Tensor) and x.requires_grad]
    if not wanted:
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of them "
            "have requires_grad=True."
        )
    for i in wanted:
        if given[i].dtype.itemsize < 8:
            warnings.warn(
                f"Input #{i} requires gradient and is not a double precision floating point or "
                "complex. This check will likely fail if all the inputs are not of double "
                "precision floating point or complex. ",
                UserWarning,
                stacklevel=2,
            )
    check = _Check(func, given, wanted)
    numerical = check.numerical(eps)
    ways = {"analytical": check.pulled} if check_backward_ad else {}
    ways |= {"forward mode": check.pushed} if check_forward_ad else {}
    for name, way in ways.items():
        for (output, i), found in way().items():
            expected = numerical[output, i]
            if not np.allclose(found, expected, rtol, atol):
                if not raise_exception:
                    return False
                raise GradcheckError(
                    f"Jacobian mismatch for output {output} with respect to input {i},\n"
                    f"numerical:{Tensor.of_array(expected)}\n{name}:{Tensor.of_array(found)}\n"
                )
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """As ``gradcheck``, for the second derivatives: those of the pull-back of ``func``.

    ``grad_outputs`` are its weights, random ones where they are not given.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    wanted = [i for i, x in enumerate(given) if isinstance(x, Tensor) and x.requires_grad]
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        outputs = _outputs(func(*given))
        weights = [
            Tensor.of_array(rng.standard_normal(o.shape).astype(o.dtype.numpy), requires_grad=True)
            for o in outputs
        ]
    else:
        weights = list(grad_outputs) if isinstance(grad_outputs, tuple) else [grad_outputs]

    def pullback(*args: Any) -> Any:
        xs, ws = args[: len(given)], args[len(given) :]
        found = grad(
            _outputs(func(*xs)), [xs[i] for i in wanted], ws, create_graph=True, allow_unused=True
        )
        return tuple([g for g in found if g is not None])

    arguments = (*given, *weights)
    return gradcheck(
        pullback, arguments, eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception
    )


class _Check:
    """A function at a point, and its Jacobians by output and input."""

    def __init__(self, func: Callable[..., Any], given: Sequence[Any], wanted: Sequence[int]):
        self._func, self._given, self._wanted = func, given, wanted

    def _of_wanted(self, *xs: Tensor) -> tuple[Tensor, ...]:
        """The floating outputs as a function of the inputs that are differentiated by."""
        args = list(self._given)
        for i, x in zip(self._wanted, xs, strict=True):
            args[i] = x
        return tuple(_outputs(self._func(*args)))

    def _point(self) -> tuple[Tensor, ...]:
        return tuple([self._given[i].detach() for i in self._wanted])

    def numerical(self, eps: float) -> dict[tuple[int, int], Array]:
        """By central differences."""
        point = [np.array(x.tolist(), x.dtype.numpy) for x in self._point()]
        found: dict[tuple[int, int], Array] = {}
        for i, array in zip(self._wanted, point, strict=True):
            columns = []
            for place in np.ndindex(*array.shape):
                ends = []
                for step in (eps, -eps):
                    before = array[place]
                    array[place] = before + step
                    ends.append(self._values(point))
                    array[place] = before
                columns.append([(a - b) / (2 * eps) for a, b in zip(*ends, strict=True)])
            for output, slopes in enumerate(zip(*columns, strict=True)):
                found[output, i] = np.stack([s.reshape(-1) for s in slopes])
        return found

    def _values(self, point: Sequence[Array]) -> list[Array]:
        xs = [Tensor.of_array(x.copy(), requires_grad=True) for x in point]
        return [np.array(y.tolist(), y.dtype.numpy) for y in self._of_wanted(*xs)]

    def pulled(self) -> dict[tuple[int, int], Array]:
        """By the pull-back of each element of each output."""
        table = jacobian(self._of_wanted, self._point())
        return {
            (output, i): _flat(matrix, x)
            for output, row in enumerate(table)
            for i, matrix, x in zip(self._wanted, row, self._point(), strict=True)
        }

    def pushed(self) -> dict[tuple[int, int], Array]:
        """By the push-forward of each element of each input."""
        found: dict[tuple[int, int], list[Array]] = {}
        point = self._point()
        for number, i in enumerate(self._wanted):
            for place in np.ndindex(*point[number].shape):
                directions = [np.zeros(x.shape, x.dtype.numpy) for x in point]
                directions[number][place] = 1
                _, slopes = jvp(self._of_wanted, point, tuple(map(Tensor.of_array, directions)))
                for output, slope in enumerate(slopes):
                    found.setdefault((output, i), []).append(np.ravel(slope.tolist()))
        return {key: np.stack(rows) for key, rows in found.items()}


def _outputs(made: Any) -> list[Tensor]:
    outputs = list(made) if isinstance(made, (tuple, list)) else [made]
    return [y for y in outputs if isinstance(y, Tensor) and y.dtype.is_floating_point]


def _flat(matrix: Tensor, x: Tensor) -> Array:
    """A Jacobian with a row for each element of the input, as differences are arranged."""
    array = np.array(matrix.tolist(), matrix.dtype.numpy)
    return np.asarray(array.reshape(-1, x.numel()).T)
