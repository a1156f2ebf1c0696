"""Every mistake names the operation, the shapes, the user's line and what to do instead."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from symgrad.ir import errors

import symgrad as sg

X = np.ones(3)
M = np.ones((3, 4))


def branch(x: Any) -> Any:
    if x.sum() > 0:
        return x
    return -x


def loop(x: Any) -> Any:
    while x[0] < 10:
        x = x * 2
    return x


def assign_element(x: Any) -> Any:
    out = np.zeros(3)
    out[0] = x[0]
    return out


def assign_slice(x: Any) -> Any:
    out = np.zeros(3)
    out[:2] = x[:2]
    return out


def inplace_on_array(x: Any) -> Any:
    out = np.zeros(3)
    out += x
    return out


def integer_buffer(x: Any) -> Any:
    n = np.zeros_like(x, dtype=int)
    n += x
    return n


def read_only(x: Any) -> Any:
    y = np.broadcast_to(x, (2, 3))
    y[0] = 1.0
    return y


TABLE: dict[str, tuple[Callable[..., Any], tuple[Any, ...], type[Exception], str]] = {
    "if": (
        branch,
        (X,),
        errors.TraceError,
        r"truth value of traced bool\[\] \(result of gt, .*np\.where.*static_argnums",
    ),
    "while": (loop, (X,), errors.TraceError, r"truth value"),
    "and": (lambda x: (x > 0) and x, (X,), errors.TraceError, r"`and`"),
    "in": (lambda x: 1.0 in x, (X,), errors.TraceError, r"truth value"),
    "if on argument": (
        lambda x, flag: x if flag else -x,
        (X, True),
        errors.TraceError,
        r"bool\[\] \(argument flag\)",
    ),
    "float()": (
        lambda x: float(x[0]),
        (X,),
        errors.TraceError,
        r"f64\[\] .*float\(\).*np\.sin for math\.sin",
    ),
    "int()": (lambda x: int(x[0]), (X,), errors.TraceError, r"int\(\)"),
    "math": (lambda x: math.sin(x[0]), (X,), errors.TraceError, r"math module"),
    "range": (range, (3,), errors.TraceError, r"i64\[\] \(argument arg0\).*range\(\)"),
    "slice bound": (
        lambda x, n: x[:n],
        (X, 2),
        errors.TraceError,
        r"slice bounds .*argument n.*np\.arange",
    ),
    "np.asarray": (
        np.asarray,
        (X,),
        errors.TraceError,
        r"f64\[3\] \(argument a\) cannot become .*np\.stack",
    ),
    "np.array": (lambda x: np.array([x[0], x[1]]), (X,), errors.TraceError, r"np\.stack"),
    "item": (lambda x: x[0].item(), (X,), errors.TraceError, r"item\(\)"),
    "tolist": (lambda x: x.tolist(), (X,), errors.TraceError, r"tolist\(\)"),
    "assign element": (
        assign_element,
        (X,),
        errors.TraceError,
        r"assigned into a plain NumPy array.*symgrad\.numpy\.zeros",
    ),
    "assign slice": (
        assign_slice,
        (X,),
        errors.TraceError,
        r"f64\[2\].*assigned into a plain NumPy array",
    ),
    "in-place on array": (
        inplace_on_array,
        (X,),
        errors.TraceError,
        r"assigned into a plain NumPy array",
    ),
    "in-place cast": (
        integer_buffer,
        (X,),
        errors.DTypeError,
        r"add: a result of dtype float64 .*astype\(float64\)",
    ),
    "read-only view": (read_only, (X,), errors.TraceError, r"read-only view.*copy\(\)"),
    "unsupported function": (
        np.linalg.eig,
        (M,),
        errors.UnsupportedError,
        r"np\.linalg\.eig cannot be traced \(operands traced f64\[3,4\]",
    ),
    "nearest": (
        np.nancumsum,
        (X,),
        errors.UnsupportedError,
        r"nearest supported: .*(cumsum|nansum)",
    ),
    "unsupported ufunc": (np.spacing, (X,), errors.UnsupportedError, r"np\.spacing"),
    "lexsort": (np.lexsort, (X,), errors.UnsupportedError, r"np\.lexsort .*np\.argsort"),
    "nonzero": (
        np.nonzero,
        (X,),
        errors.UnsupportedError,
        r"depends on the values.*np\.where",
    ),
    "mask": (lambda x: x[x > 0], (X,), errors.TraceError, r"bool\[3\].*np\.where\(mask, x, 0\)"),
    "mask with values": (
        lambda x: x.__setitem__(x > 0, np.ones(2)),
        (X,),
        errors.TraceError,
        r"np\.where\(mask, values, x\)",
    ),
    "broadcast": (
        lambda x, m: x + m,
        (X, M),
        errors.ShapeError,
        r"add: shapes do not broadcast, got f64\[3\], f64\[3,4\].*x\[:, None\]",
    ),
    "matmul": (
        lambda m: m @ m,
        (M,),
        errors.ShapeError,
        r"matmul: inner sizes differ, got f64\[3,4\] @ f64\[3,4\]; did you mean x\.T @ y\?",
    ),
    "matmul right": (
        lambda m: m @ np.ones((5, 4)),
        (M,),
        errors.ShapeError,
        r"did you mean x @ y\.T\?",
    ),
    "dot": (lambda m: np.dot(m, m), (M,), errors.ShapeError, r"dot: inner sizes differ"),
    "einsum": (
        lambda m: np.einsum("ij,jk", m, m),
        (M,),
        errors.ShapeError,
        r"label 'j' of 'ij,jk' has sizes 4 and 3",
    ),
    "tensordot": (
        lambda m: np.tensordot(m, m, 1),
        (M,),
        errors.ShapeError,
        r"tensordot: axes \(1,\) of f64\[3,4\]",
    ),
    "axis": (
        lambda m: np.sum(m, axis=2),
        (M,),
        errors.ShapeError,
        r"sum: axis 2 is out of bounds for f64\[3,4\]",
    ),
    "axis twice": (lambda m: np.max(m, axis=(0, -2)), (M,), errors.ShapeError, r"twice"),
    "reshape": (
        lambda m: m.reshape(5, -1),
        (M,),
        errors.ShapeError,
        r"reshape: f64\[3,4\] has 12 elements and does not fit shape \(5, -1\)",
    ),
    "concatenate": (
        lambda x, m: np.concatenate([x, m]),
        (X, M),
        errors.ShapeError,
        r"concatenate: .*f64\[3\], f64\[3,4\]",
    ),
    "stack": (
        lambda x: np.stack([x, x[:2]]),
        (X,),
        errors.ShapeError,
        r"stack: .*one shape.*f64\[3\], f64\[2\]",
    ),
    "squeeze": (lambda m: np.squeeze(m, 0), (M,), errors.ShapeError, r"squeeze: axes \(0,\)"),
    "split": (
        lambda m: np.split(m, 2),
        (M,),
        errors.ShapeError,
        r"split: f64\[3,4\] cannot be cut into 2",
    ),
    "index range": (
        lambda x: x[3],
        (X,),
        IndexError,
        r"index 3 is out of bounds for axis 0 of f64\[3\]",
    ),
    "index array range": (lambda x: x[[0, -4]], (X,), IndexError, r"index -4 is out of bounds"),
    "too many indices": (
        lambda x: x[0, 0],
        (X,),
        IndexError,
        r"f64\[3\] has 1 axes, but 2 were indexed",
    ),
    "mask shape": (
        lambda x: x[np.array([True])],
        (X,),
        IndexError,
        r"boolean index of shape \(1,\)",
    ),
    "float index": (
        lambda x, i: x[i],
        (X, 1.0),
        errors.DTypeError,
        r"cannot be an index.*astype\(int\)",
    ),
    "assignment shape": (
        lambda x: x.__setitem__(slice(0, 2), np.ones(3)),
        (X,),
        errors.ShapeError,
        r"f64\[3\] does not broadcast to the \(2,\)",
    ),
    "string operand": (lambda x: x + np.array("a"), (X,), errors.DTypeError, r"add"),
    "bool negative": (
        lambda x: -(x > 0),
        (X,),
        errors.DTypeError,
        r"negative: no loop for bool\[3\]",
    ),
    "complex absolute value": (
        abs,
        (np.array([1j]),),
        errors.UnsupportedError,
        r"np\.absolute of c128\[1\] cannot be traced",
    ),
    "complex arithmetic": (
        lambda z: z * 2,
        (np.array([1j]),),
        errors.NoKernelError,
        r"of c128\[1\]: complex numbers .* not compiled",
    ),
    "integer negative power": (
        lambda n: n**-2,
        (np.arange(3),),
        errors.DTypeError,
        r"power: integers to negative",
    ),
    "iterate a scalar": (lambda x: list(x.sum()), (X,), errors.TraceError, r"iteration over 0-d"),
    "len of a scalar": (lambda x: len(x.sum()), (X,), errors.TraceError, r"len\(\) of unsized"),
    "empty max": (lambda x: x[:0].max(), (X,), errors.ShapeError, r"max: f64\[0\] has no element"),
    "string argument": (
        lambda x, s: x,
        (X, "a"),
        errors.DTypeError,
        r"argument s cannot be traced \(a str is no array\).*static_argnums",
    ),
    "object argument": (lambda x, s: x, (X, np.array([None])), errors.DTypeError, r"object"),
}


@pytest.mark.parametrize("name", TABLE)
def test_text(name: str) -> None:
    f, args, kind, text = TABLE[name]
    with pytest.raises(kind, match=text) as caught:
        sg.jit(f)(*args)
    if isinstance(caught.value, errors.SymgradError):
        assert "test_errors.py:" in str(caught.value)


DERIVATIVES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "vector result": (
        lambda: sg.grad(lambda x: x * 2)(X),
        errors.DifferentiationError,
        r"grad: .*floating scalar, got f64\[3\].*\.sum\(\).*symgrad\.jacobian",
    ),
    "tuple result": (
        lambda: sg.grad(lambda x: (x.sum(), x))(X),
        errors.DifferentiationError,
        r"has_aux=True",
    ),
    "integer result": (
        lambda: sg.grad(np.argmax)(X),
        errors.DifferentiationError,
        r"got i64\[\]",
    ),
    "no result": (
        lambda: sg.grad(lambda x: None)(X),
        errors.DifferentiationError,
        r"one scalar, got a NoneType",
    ),
    "integer input": (
        lambda: sg.grad(lambda x: x * 1.0)(3),
        errors.DifferentiationError,
        r"argument x is i64\[\].*pass a float",
    ),
    "integer leaf": (
        lambda: sg.grad(lambda p: p["n"].sum())({"n": np.arange(3)}),
        errors.DifferentiationError,
        r"argument p\['n'\] is i64\[3\].*astype\(float\)",
    ),
    "string leaf": (lambda: sg.grad(lambda p: 1.0)({"n": "a"}), errors.DTypeError, r"p\['n'\]"),
    "argnums": (
        lambda: sg.grad(lambda x: x.sum(), argnums=2)(X),
        errors.UsageError,
        r"argnums=2.*1 positional",
    ),
    "aux missing": (
        lambda: sg.grad(lambda x: x.sum(), has_aux=True)(X),
        errors.UsageError,
        r"\(value, aux\)",
    ),
    "tangent shape": (
        lambda: sg.jvp(np.sin, (X,), (np.ones(2),)),
        errors.ShapeError,
        r"jvp: the tangent of f64\[3\]",
    ),
    "tangent count": (
        lambda: sg.jvp(np.sin, (X,), (X, X)),
        errors.UsageError,
        r"1 primals but 2 tangents",
    ),
    "cotangent shape": (
        lambda: sg.vjp(np.sin, X)[1](np.ones(2)),
        errors.ShapeError,
        r"vjp: the cotangent of f64\[3\]",
    ),
    "vmap sizes": (
        lambda: sg.vmap(lambda x, y: x)(X, np.ones(2)),
        errors.ShapeError,
        r"vmap: batch axes differ in size: 3 of f64\[3\], 2 of f64\[2\]",
    ),
    "vmap axis": (
        lambda: sg.vmap(lambda x: x, in_axes=1)(X),
        errors.ShapeError,
        r"vmap: f64\[3\] has no axis 1",
    ),
    "unhashable static": (
        lambda: sg.jit(lambda x, n: x, static_argnums=1)(X, [1]),
        errors.UsageError,
        r"hashable",
    ),
    "static name": (
        lambda: sg.jit(lambda x: x, static_argnames="n"),
        errors.UsageError,
        r"no parameter 'n'; it has x",
    ),
    "no function": (lambda: sg.grad(3), errors.UsageError, r"grad: needs a function, got int"),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivative_text(name: str) -> None:
    action, kind, text = DERIVATIVES[name]
    with pytest.raises(kind, match=text) as caught:
        action()
    assert "test_errors.py:" in str(caught.value)


def test_escaped_tracer() -> None:
    kept = []

    @sg.jit
    def leak(x: Any) -> Any:
        kept.append(x * 2)
        return x

    leak(X)
    for use in (
        lambda t: t + 1,
        np.sin,
        lambda t: t[0],
        sg.jit(lambda x: x + kept[0]),
        sg.stop_gradient,
    ):
        with pytest.raises(
            errors.TraceError, match=r"result of mul, test_errors\.py.*escaped.*leak.*Return it"
        ):
            use(kept[0]) if not isinstance(use, sg.api_function.Function) else use(X)


def test_outer_array_cannot_change_inside_vmap() -> None:
    def f(x: Any) -> Any:
        total = np.zeros_like(x)

        def row(v: Any) -> Any:
            total[0] = v
            return v

        return sg.vmap(row)(x)

    with pytest.raises(errors.TraceError, match=r"cannot be changed in place outside it"):
        sg.jit(f)(X)


def test_failed_trace_leaves_nothing_open() -> None:
    for f in (branch, lambda x: sg.vmap(branch)(x[None])):
        with pytest.raises(errors.TraceError):
            sg.jit(f)(X)
    assert isinstance(sg.numpy.zeros(2), np.ndarray)


def test_names_follow_numpy() -> None:
    with pytest.raises(AttributeError):
        _ = sg.numpy.no_such_function
    with pytest.raises(AttributeError):
        _ = sg.no_such_name
    assert sg.numpy.pi == np.pi
    assert sg.numpy.float32 is np.float32
    assert "einsum" in dir(sg.numpy)
