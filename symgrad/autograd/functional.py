"""Whole derivatives of functions of tensors: ``jacobian``, ``hessian`` and products with them.

Arguments, shapes of the results and refusals are those of ``torch.autograd.functional``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symgrad.tensors import Tensor
from symgrad.tensors.batching import batched
from symgrad.tensors.creation import zeros_like
from symgrad.tensors.engine import grad
from symgrad.tensors.joining import stack
from symgrad.tensors.state import enable_grad

Tensors = Any
"""A tensor or a tuple of tensors."""
Function = Callable[..., Any]


def vjp(
    func: Function, inputs: Tensors, v: Tensors = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Tensors, Tensors]:  # fmt: skip
    """``func(*inputs)``, and ``v`` times its Jacobian by each input.

    ``v`` is shaped as the output; for an output of one element it may be left out.
    """
    call = _Call("vjp", func, inputs, create_graph, strict)
    weights = call.directions(v, call.outputs, "user-provided function returns")
    found = call.pulled(call.outputs, weights)
    return call.shown_outputs(), call.like_inputs(found)


def jvp(
    func: Function, inputs: Tensors, v: Tensors = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Tensors, Tensors]:  # fmt: skip
    """``func(*inputs)``, and its Jacobian times ``v``.

    By the derivative of the pull-back, which is linear in its weights.  ``v`` is shaped as the
    inputs; for an input of one element it may be left out.
    """
    call = _Call("jvp", func, inputs, create_graph, strict)
    directions = call.directions(v, call.inputs, "input to the user-provided function is")
    with enable_grad():
        weights = [zeros_like(out, requires_grad=True) for out in call.outputs]
        pulled = call.pulled(call.outputs, weights, create_graph=True)
        # No derivative passes through an output that does not depend on the inputs.
        found = grad(pulled, weights, directions, create_graph=create_graph, allow_unused=True)
    pushed = _filled(found, weights, create_graph)
    return call.shown_outputs(), _shaped(pushed, call.is_tuple_output)


def jacobian(
    func: Function, inputs: Tensors, create_graph: bool = False, strict: bool = False,
    vectorize: bool = False, strategy: str = "reverse-mode",
) -> Tensors:  # fmt: skip
    """The derivative of every element of every output by every element of every input.

    Shaped as the output followed by the input; for several outputs or inputs a tuple, by
    output first.  With ``vectorize`` all pull-backs are one, over a batch.  Only reverse rules
    exist: the strategy ``"forward-mode"``, which torch has for ``vectorize``, is the same.
    """
    if strategy == "forward-mode" and not vectorize:
        raise NotImplementedError(
            "torch.autograd.functional.jacobian: `strategy='forward-mode'` is only supported when "
            "`vectorize=True`"
        )
    call = _Call("jacobian", func, inputs, create_graph, strict)
    made = call.batched_rows if vectorize else call.rows
    rows = tuple([call.like_inputs(made(number)) for number in range(len(call.outputs))])
    return rows if call.is_tuple_output else rows[0]


def hessian(
    func: Function, inputs: Tensors, create_graph: bool = False, strict: bool = False,
    vectorize: bool = False, outer_jacobian_strategy: str = "reverse-mode",
) -> Tensors:  # fmt: skip
    """The second derivatives of a function of one number, shaped as an input twice.

    For several inputs a tuple of tuples.  For the other arguments see ``jacobian``.
    """
    is_tuple = isinstance(inputs, tuple)

    def gradient(*xs: Tensor) -> Tensors:
        call = _Call("hessian", func, xs if is_tuple else xs[0], True, strict, own=False)
        _check_single(call, "hessian")
        return call.like_inputs(call.pulled(call.outputs, [None]))

    return jacobian(gradient, inputs, create_graph, strict, vectorize, outer_jacobian_strategy)


def hvp(
    func: Function, inputs: Tensors, v: Tensors = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Tensors, Tensors]:  # fmt: skip
    """``func(*inputs)``, a number, and its Hessian times ``v``."""
    call = _Call("hvp", func, inputs, create_graph, strict)
    _check_single(call, "hvp")
    directions = call.directions(v, call.inputs, "input to the user-provided function is")
    with enable_grad():
        slopes = call.pulled(call.outputs, [None], create_graph=True)
        found = grad(slopes, call.inputs, directions, create_graph=create_graph, allow_unused=True)
    return call.shown_outputs(), call.like_inputs(_filled(found, call.inputs, create_graph))


def vhp(
    func: Function, inputs: Tensors, v: Tensors = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Tensors, Tensors]:  # fmt: skip
    """As ``hvp``: a Hessian is its own transpose."""
    return hvp(func, inputs, v, create_graph, strict)


class _Call:
    """A function called on inputs of its own, and its outputs."""

    def __init__(
        self, name: str, func: Function, inputs: Tensors, create_graph: bool, strict: bool,
        *, own: bool = True,
    ) -> None:  # fmt: skip
        """With ``own`` inputs derivatives do not lead into the graph behind those given, unless
        ``create_graph``."""
        self._create_graph, self._strict = create_graph, strict
        self.is_tuple_input = isinstance(inputs, tuple)
        given = _listed(inputs, "inputs", name)
        with enable_grad():
            if own and create_graph:
                self.inputs = [x.view_as(x) if x.requires_grad else _leaf(x) for x in given]
            else:
                self.inputs = [_leaf(x) for x in given] if own else given
            made = func(*self.inputs)
        self.is_tuple_output = isinstance(made, tuple)
        self.outputs = _listed(made, "outputs of the user-provided function", name)
        for number, out in enumerate(self.outputs):
            if strict and not out.requires_grad:
                raise RuntimeError(
                    f"Output {number} of the user-provided function does not require gradients. "
                    "The outputs must be computed in a differentiable manner from the input when "
                    "running in strict mode."
                )

    def pulled(
        self, outputs: Sequence[Tensor], weights: Sequence[Tensor | None],
        create_graph: bool | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """The derivatives of outputs, weighted, by the inputs; zeros where there are none."""
        create = self._create_graph if create_graph is None else create_graph
        pairs = [(o, w) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(self.inputs)
        if pairs:
            ends, given = zip(*pairs, strict=True)
            found = grad(
                ends, self.inputs, given, retain_graph=True, create_graph=create, allow_unused=True
            )
        if self._strict and any(g is None for g in found):
            number = next(i for i, g in enumerate(found) if g is None)
            raise RuntimeError(
                f"The output of the user-provided function is independent of input {number}. This "
                "is not allowed in strict mode."
            )
        return _filled(found, self.inputs, create)

    def rows(self, number: int) -> list[Tensor]:
        """The Jacobian of one output by each input, a pull-back for each element.

        All have one structure, so that one program is compiled and run for each.
        """
        out = self.outputs[number]
        collected: list[list[Tensor]] = [[] for _ in self.inputs]
        for place in np.ndindex(*out.shape):
            weight = np.zeros(out.shape, out.dtype.numpy)
            weight[place] = 1
            found = self.pulled([out], [Tensor.of_array(weight)])
            if not self._create_graph:
                Tensor._compute(found)
            for column, gradient in zip(collected, found, strict=True):
                column.append(gradient)
        return [
            stack(column).reshape((*out.shape, *x.shape))
            if column
            else Tensor.of_array(np.zeros((*out.shape, *x.shape), x.dtype.numpy))
            for column, x in zip(collected, self.inputs, strict=True)
        ]

    def batched_rows(self, number: int) -> list[Tensor]:
        """As ``rows``, by one pull-back of all elements at once."""
        out = self.outputs[number]
        basis = np.eye(out.numel(), dtype=out.dtype.numpy).reshape(-1, *out.shape)
        found = batched(
            lambda weights: self.pulled([out], weights), [Tensor.of_array(basis)], len(basis)
        )
        return [
            rows.reshape((*out.shape, *x.shape)) for rows, x in zip(found, self.inputs, strict=True)
        ]

    def directions(self, v: Tensors, like: Sequence[Tensor], what: str) -> list[Tensor]:
        """The vector of a product as tensors shaped as ``like``."""
        if v is None:
            if len(like) != 1 or like[0].numel() != 1:
                raise RuntimeError(
                    f"The vector v can only be None if the {what} a single Tensor with a single "
                    "element."
                )
            return [Tensor.of_array(np.ones(like[0].shape, like[0].dtype.numpy))]
        given = list(v) if isinstance(v, (tuple, list)) else [v]
        if len(given) != len(like):
            raise RuntimeError(
                f"v is a tuple of invalid length: should be {len(like)} but got {len(given)}."
            )
        for number, (direction, x) in enumerate(zip(given, like, strict=True)):
            if direction.shape != x.shape:
                prefix = f"Entry {number} in v" if len(like) > 1 else "v"
                raise RuntimeError(
                    f"{prefix} has invalid size: should be {x.shape} but got {direction.shape}."
                )
        return given

    def shown_outputs(self) -> Tensors:
        """The outputs, outside the graph unless one is wanted."""
        outputs = self.outputs if self._create_graph else [out.detach() for out in self.outputs]
        return _shaped(outputs, self.is_tuple_output)

    def like_inputs(self, found: Sequence[Tensor]) -> Tensors:
        """One tensor for each input, in a tuple if the inputs were."""
        return _shaped(found, self.is_tuple_input)


def _check_single(call: _Call, name: str) -> None:
    if call.is_tuple_output or call.outputs[0].numel() != 1:
        raise RuntimeError(
            f"The Tensor returned by the function given to {name} should contain a single element"
            if not call.is_tuple_output
            else f"The function given to {name} should return a single Tensor"
        )


def _leaf(x: Tensor) -> Tensor:
    copy: Tensor = x.detach().clone()
    return copy.requires_grad_(True)


def _listed(x: Any, what: str, name: str) -> list[Tensor]:
    xs = x if isinstance(x, tuple) else (x,)
    for number, item in enumerate(xs):
        if isinstance(item, Tensor):
            continue
        place = "" if not isinstance(x, tuple) else f"Value {number} in "
        raise TypeError(
            f"The {what} given to {name} must be either a Tensor or a tuple of Tensors but "
            f"{place}the given {what} has type {type(item)}."
        )
    return list(xs)


def _shaped(tensors: Sequence[Tensor], is_tuple: bool) -> Tensors:
    return tuple(tensors) if is_tuple else tensors[0]


def _filled(
    found: Sequence[Tensor | None], like: Sequence[Tensor], create_graph: bool
) -> list[Tensor]:
    return [
        Tensor.of_array(np.zeros(x.shape, x.dtype.numpy), requires_grad=create_graph)
        if gradient is None
        else gradient
        for gradient, x in zip(found, like, strict=True)
    ]
