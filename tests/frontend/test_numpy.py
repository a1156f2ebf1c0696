"""Every traced NumPy function against NumPy itself: values, dtypes and shapes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import symgrad as sg

RNG = np.random.default_rng(0)
X = RNG.uniform(0.5, 1.5, (3, 5))
Y = RNG.uniform(-1.0, 1.0, (3, 5))
V = RNG.uniform(-1.0, 1.0, 5)
U = RNG.uniform(0.1, 0.9, 5)
T = RNG.uniform(-1.0, 1.0, (2, 3, 5))
A = RNG.uniform(-1.0, 1.0, (5, 5))
N = RNG.integers(-9, 9, (3, 5))
B = RNG.uniform(size=(3, 5)) < 0.5
S = np.float64(0.3)
P = A @ A.T + np.eye(5)
Q = np.stack([P, 2 * P - A, P + 1])


def same(actual: Any, expected: Any) -> None:
    """Structure, shapes, dtypes and values agree."""
    if isinstance(expected, (tuple, list)):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            same(a, e)
        return
    assert np.shape(actual) == np.shape(expected)
    assert np.asarray(actual).dtype == np.asarray(expected).dtype
    tolerance = 1e-6 if np.asarray(expected).dtype == np.float32 else 1e-13
    np.testing.assert_allclose(actual, expected, tolerance, tolerance)


Case = tuple[Callable[..., Any], tuple[Any, ...]]

UNARY = (
    "negative positive absolute fabs sign rint floor ceil trunc exp exp2 expm1 log log2 log10 "
    "log1p sqrt square cbrt reciprocal sin cos tan arcsin arccos arctan sinh cosh tanh "
    "arcsinh arctanh deg2rad rad2deg radians degrees isnan isinf isfinite signbit "
    "logical_not conjugate modf"
).split()
BINARY = (
    "add subtract multiply divide power float_power maximum minimum fmax fmin arctan2 hypot "
    "copysign remainder mod fmod floor_divide divmod logaddexp logaddexp2 heaviside equal "
    "not_equal less less_equal greater greater_equal logical_and logical_or logical_xor"
).split()
INTEGER = (
    "add subtract multiply floor_divide remainder bitwise_and bitwise_or bitwise_xor maximum"
).split()

TABLE: dict[str, Case] = {
    **{f: (getattr(np, f), (U,)) for f in UNARY},
    "arccosh": (np.arccosh, (U + 1,)),
    **{f: (getattr(np, f), (U, V + 2)) for f in BINARY},
    **{f"{f} of integers": (getattr(np, f), (N, abs(N) + 1)) for f in INTEGER},
    "shifts": (lambda n: (n << 2, n >> 1, ~n), (N,)),
    "bool logic": (lambda a, b: (a & b, a | b, a ^ b, ~a), (B, ~B)),
    "broadcast": (lambda x, v: x * v + x[:, :1] - v[None, :1], (X, V)),
    "scalar operands": (
        lambda x: (1 - x, 2 / x, x**2, 2.0**x, x // 0.3, x % 0.3, -x, abs(x)),
        (X,),
    ),
    "array operand": (lambda x: Y * x - Y, (X,)),
    "reflected array": (lambda x: Y - x, (V,)),
    "integer promotion": (lambda n: (np.sin(n), n / 2, n + 0.5, n**2, n.mean(), n.sum()), (N,)),
    "int32": (lambda n: (n + 1, n.sum(), n.cumsum(), n / n.dtype.type(2)), (N.astype(np.int32),)),
    "float32 stays": (
        lambda x: (x * 2.0, x + 1, np.sin(x), x.mean(), x.sum(), x.var()),
        (X.astype("f4"),),
    ),
    "float32 and float64": (lambda x, y: x + y, (X.astype("f4"), Y)),
    "uint8": (lambda x: (x + 1, x // 2, x.sum(), x.astype(float)), (np.arange(5, dtype=np.uint8),)),
    "bool arithmetic": (lambda b: (b + b, b * 2, b.sum(), b.mean(), b.astype(int)), (B,)),
    "where": (lambda x, y: np.where(x > 1, x, y), (X, Y)),
    "where scalar": (lambda x: np.where(x > 0, x, 0), (Y,)),
    "where mask": (lambda x: np.where(B, x, -x), (X,)),
    "clip": (lambda x: (np.clip(x, -0.5, 0.5), x.clip(0), np.clip(x, None, 0.1)), (Y,)),
    "clip array": (lambda x, v: np.clip(x, -abs(v), abs(v)), (Y, V)),
    "round": (lambda x: (np.round(x), x.round(2), np.round(x * 100, -1)), (Y,)),
    "nan_to_num": (np.nan_to_num, (np.array([1.0, np.nan, np.inf, -np.inf]),)),
    "isclose": (lambda x: np.isclose(x, x + 1e-9), (X,)),
    "allclose": (lambda x: (np.allclose(x, x), np.array_equal(x, x + 1)), (X,)),
    "select": (lambda x: np.select([x < -0.3, x < 0.3], [x, x**2], 7.0), (Y,)),
    "sinc": (np.sinc, (V,)),
    "real and imag": (lambda x: (np.real(x), np.imag(x), x.real, np.conj(x)), (X,)),
    # reductions
    **{
        f"{f} axis={axis} keepdims={keep}": (
            lambda t, f=f, axis=axis, keep=keep: getattr(np, f)(t, axis=axis, keepdims=keep),
            (T,),
        )
        for f in ("sum", "prod", "mean", "var", "std", "max", "min", "any", "all")
        for axis, keep in ((None, False), (1, True), (-1, False), ((0, 2), False))
    },
    **{
        f"{f} axis={axis}": (lambda t, f=f, axis=axis: getattr(np, f)(t, axis), (T,))
        for f in (
            "argmax",
            "argmin",
            "cumsum",
            "cumprod",
            "ptp",
            "count_nonzero",
            "nansum",
            "nanmax",
        )
        for axis in (None, 0, -1)
    },
    "argmax keepdims": (lambda t: np.argmax(t, 1, keepdims=True), (T,)),
    "methods": (lambda t: (t.sum(), t.mean(0), t.std(1), t.var(ddof=1), t.max(), t.min(2)), (T,)),
    "sum dtype": (lambda x: np.sum(x, dtype=np.float32), (X,)),
    "sum where": (lambda x: np.sum(x, axis=0, where=B), (X,)),
    "sum initial": (lambda x: np.sum(x, initial=3.0), (X,)),
    "max initial": (lambda x: np.max(x, axis=1, initial=0.1, where=B), (X,)),
    "mean where": (lambda x: np.mean(x, where=B), (X,)),
    "mean of integers": (lambda n: np.mean(n, 0), (N,)),
    "average": (lambda x, w: np.average(x, axis=1, weights=w), (X, U)),
    "reduce methods": (lambda x: (np.add.reduce(x), np.maximum.reduce(x, axis=1)), (X,)),
    "accumulate": (lambda x: np.add.accumulate(x, axis=1), (X,)),
    "diff": (lambda x: (np.diff(x), np.diff(x, 2, axis=1), np.diff(x, prepend=0.0)), (X,)),
    "trapezoid": (lambda x: (np.trapezoid(x), np.trapezoid(x, dx=0.5, axis=0)), (X,)),
    "trapezoid points": (lambda x: np.trapezoid(x, np.arange(5.0) ** 2), (X,)),
    "nan moments": (
        lambda x: (np.nanvar(x), np.nanstd(x, 1, ddof=1), np.nanmean(x, 0, keepdims=True)),
        (np.where(np.eye(3, 5, dtype=bool), np.nan, X),),
    ),
    "ediff1d": (np.ediff1d, (X,)),
    "gradient": (lambda x: (*np.gradient(x), np.gradient(x, 0.5, axis=1)), (X,)),
    "cov": (lambda x, v: (np.cov(x), np.cov(x, rowvar=False), np.cov(v), np.cov(v, v**2)), (X, V)),
    "corrcoef": (lambda x: (np.corrcoef(x), np.cov(x, bias=True)), (X,)),
    "nanmean": (np.nanmean, (np.array([1.0, np.nan, 3.0]),)),
    # shapes
    "reshape": (
        lambda x: (x.reshape(5, 3), np.reshape(x, -1), x.reshape((-1, 1)), x.ravel()),
        (X,),
    ),
    "reshape F": (lambda x: np.reshape(x, (5, 3), order="F"), (X,)),
    "transpose": (lambda t: (t.T, t.transpose(1, 0, 2), np.transpose(t, (2, 0, 1)), t.mT), (T,)),
    "swapaxes": (
        lambda t: (t.swapaxes(0, 2), np.moveaxis(t, 0, -1), np.moveaxis(t, (0, 1), (2, 0))),
        (T,),
    ),
    "rollaxis": (lambda t: np.rollaxis(t, 2), (T,)),
    "expand": (
        lambda x: (np.expand_dims(x, 1), np.expand_dims(x, (0, -1)), x[None, :, None]),
        (X,),
    ),
    "squeeze": (lambda x: (np.squeeze(x[:1]), np.squeeze(x[:, None], 1)), (X,)),
    "broadcast_to": (lambda v: np.broadcast_to(v, (2, 5)), (V,)),
    "broadcast_arrays": (np.broadcast_arrays, (X, V)),
    "atleast": (lambda s, v: (np.atleast_1d(s), np.atleast_2d(v), np.atleast_3d(v)), (S, V)),
    "concatenate": (lambda x, y: np.concatenate([x, y, np.ones((2, 5))]), (X, Y)),
    "concatenate axis": (lambda x, n: np.concatenate([x, n], axis=-1), (X, N)),
    "concatenate flat": (lambda x, v: np.concatenate([x, v], axis=None), (X, V)),
    "stack": (
        lambda x, y: (np.stack([x, y]), np.stack([x, y], -1), np.stack([x, y], axis=1)),
        (X, Y),
    ),
    "vstack": (lambda x, v: (np.vstack([x, v]), np.hstack([v, v]), np.hstack([x, x])), (X, V)),
    "dstack": (lambda x, v: (np.dstack([x, x]), np.column_stack([v, v])), (X, V)),
    "append": (lambda v: np.append(v, 1.0), (V,)),
    "block": (lambda a: np.block([[a, a], [a, a * 2]]), (A,)),
    "split": (
        lambda x: (np.split(x, 3), np.split(x, [1, 3], axis=1), np.array_split(x, 2, 1)),
        (X,),
    ),
    "hsplit": (lambda t: (np.vsplit(t, 2), np.hsplit(t, 3), np.dsplit(t, 5)), (T,)),
    "unstack": (lambda t: np.unstack(t, axis=1), (T,)),
    "tile": (lambda x: (np.tile(x, 2), np.tile(x, (2, 1)), np.tile(x, (2, 1, 3))), (X,)),
    "repeat": (
        lambda x: (np.repeat(x, 2), np.repeat(x, 3, axis=0), np.repeat(x, [1, 0, 2], 0)),
        (X,),
    ),
    "flip": (lambda x: (np.flip(x), np.flip(x, 0), np.fliplr(x), np.flipud(x)), (X,)),
    "rot90": (lambda x: [np.rot90(x, k) for k in range(4)], (X,)),
    "roll": (lambda x: (np.roll(x, 2), np.roll(x, -1, 1), np.roll(x, (1, 2), (0, 1))), (X,)),
    "pad": (lambda x: (np.pad(x, 1), np.pad(x, ((1, 0), (0, 2)), constant_values=3.0)), (X,)),
    "pad values": (lambda x: np.pad(x, 1, constant_values=((1, 2), (3, 4))), (X,)),
    "pad modes": (
        lambda x: [np.pad(x, 2, mode=m) for m in ("edge", "reflect", "symmetric", "wrap")],
        (X,),
    ),
    "meshgrid": (
        lambda v, u: np.meshgrid(v, u[:3]) + np.meshgrid(v, u, indexing="ij", sparse=True),
        (V, U),
    ),
    "triangles": (lambda a: (np.tril(a), np.triu(a), np.tril(a, 1), np.triu(a, -1)), (A,)),
    "diagonals": (lambda a: (np.diag(a), np.diagonal(a, 1), np.trace(a), a.diagonal(-2)), (A,)),
    "diag of vector": (lambda v: (np.diag(v), np.diag(v, 1), np.diag(v, -2)), (V,)),
    "diagonal axes": (lambda t: np.diagonal(t, 0, 1, 2), (T,)),
    "astype": (lambda x: (np.astype(x, np.float32), x.astype(int), x.astype(bool)), (X,)),
    "flat copies": (lambda x: (x.flatten(), x.copy(), np.copy(x), x.astype(np.float32)), (X,)),
    "sizes": (lambda x: x * np.size(x) + np.shape(x)[0] + np.ndim(x) + len(x), (X,)),
    # products
    "matmul": (lambda x, a: x @ a, (X, A)),
    "matmul vectors": (lambda v, a: (v @ a, a @ v, v @ v), (V, A)),
    "matmul batch": (lambda t, a: (t @ a, a[:3, :3] @ t, t @ t.swapaxes(1, 2)), (T, A)),
    "matmul stretched": (lambda t: t[:, None] @ t[None].swapaxes(2, 3), (T,)),
    "matmul constant": (lambda x: x @ A, (X,)),
    "matmul bool": (lambda b: (b @ b.T, b.T @ b, b[:, :2] @ b[:2], b[0] @ b.T), (B,)),
    "matmul bool, nothing summed": (lambda b: b[:, :0] @ b[:0], (B,)),
    "dot": (lambda x, a, v: (np.dot(x, a), np.dot(v, v), x.dot(v), np.dot(2.0, v)), (X, A, V)),
    "dot of 3-d": (np.dot, (T, A)),
    "inner": (lambda x, v: (np.inner(x, v), np.inner(x, x), np.vdot(v, v)), (X, V)),
    "outer": (lambda u, v: (np.outer(u, v), np.multiply.outer(u, v)), (U, V)),
    "tensordot": (lambda t, x: (np.tensordot(t, x, 2), np.tensordot(t, x, ([1], [0]))), (T, X)),
    "vecdot": (np.vecdot, (X, V)),
    "kron": (lambda x, v: (np.kron(x, x), np.kron(v, v)), (X, V)),
    "cross": (np.cross, (X[:, :3], Y[:, :3])),
    "convolve": (
        lambda v, u: [np.convolve(v, u[:3], m) for m in ("full", "same", "valid")],
        (V, U),
    ),
    "convolve swapped": (
        lambda v, u: [np.convolve(u[:2], v, m) for m in ("full", "same", "valid")],
        (V, U),
    ),
    "convolve even": (
        lambda v, u: [np.convolve(v, u[:4], m) for m in ("full", "same", "valid")],
        (V, U),
    ),
    "correlate": (
        lambda v, u: [np.correlate(v, u[:3], m) for m in ("full", "same", "valid")],
        (V, U),
    ),
    "correlate swapped": (
        lambda v, u: [np.correlate(u[:2], v, m) for m in ("full", "same", "valid")],
        (V, U),
    ),
    **{
        f"einsum {s}": (lambda *ops, s=s: np.einsum(s, *ops), ops)
        for s, ops in (
            ("ij,jk->ik", (X, A)),
            ("ij,kj", (X, X)),
            ("ii->i", (A,)),
            ("ii", (A,)),
            ("ij->ji", (X,)),
            ("ij->", (X,)),
            ("i,j->ij", (U, V)),
            ("ij,ij->i", (X, Y)),
            ("bij,bkj->bik", (T, T)),
            ("...ij,jk->...ik", (T, A)),
            ("...j,j", (T, V)),
            ("ij,jk,kl->il", (X, A, A)),
            ("i,ij,j->", (U[:3], X, V)),
            ("ij,kl->ikjl", (X, X)),
            ("bij,ij->b", (T, X)),
            ("i,i,i->i", (U, V, U)),
            ("ij,j->ij", (X, V)),
            ("ab,bc,ad->cd", (X, A, X)),
        )
    },
    "einsum lists": (lambda x, a: np.einsum(x, [0, 1], a, [1, 2], [0, 2]), (X, A)),
    **{
        f"norm ord={order} axis={axis}": (
            lambda x, order=order, axis=axis: np.linalg.norm(x, order, axis),
            (X,),
        )
        for order, axis in itertools.chain(
            ((o, None) for o in (None, "fro", 1, -1, np.inf, -np.inf)),
            ((o, 1) for o in (None, 0, 1, 2, 3, np.inf, -np.inf, 0.5)),
            ((o, (1, 0)) for o in (None, 1, np.inf)),
        )
    },
    "norm keepdims": (
        lambda x: (np.linalg.norm(x, axis=1, keepdims=True), np.linalg.norm(x, keepdims=True)),
        (X,),
    ),
    "norm 3-d": (
        lambda t: (np.linalg.norm(t), np.linalg.norm(t, axis=(1, 2)), np.linalg.norm(t, 1, (2, 0))),
        (T,),
    ),
    "vector_norm": (
        lambda t: (np.linalg.vector_norm(t), np.linalg.vector_norm(t, axis=(0, 2), ord=3)),
        (T,),
    ),
    "multi_dot": (
        lambda x, a, v: (np.linalg.multi_dot([x, a, a]), np.linalg.multi_dot([x, a, v])),
        (X, A, V),
    ),
    "matrix_power inverse": (lambda p: np.linalg.matrix_power(p, -2), (P,)),
    "determinants": (lambda p, q: (np.linalg.det(p), *np.linalg.slogdet(q)), (P, Q)),
    "inverses": (lambda p, q: (np.linalg.inv(p), np.linalg.inv(q)), (P, Q)),
    "solve": (
        lambda p, q, v, x: (
            np.linalg.solve(p, v),
            np.linalg.solve(p, x.T),
            np.linalg.solve(q, x.T),
            np.linalg.solve(p, q),
        ),
        (P, Q, V, X),
    ),
    "solve float32": (np.linalg.solve, (P.astype("f4") * 4, V.astype("f4"))),
    "solve integers": (np.linalg.solve, (np.array([[2, 1], [1, 3]]), np.array([1, 2]))),
    "cholesky": (lambda p, q: (np.linalg.cholesky(p), np.linalg.cholesky(q, upper=True)), (P, Q)),
    "qr": (lambda x: (*np.linalg.qr(x), np.linalg.qr(x, "r")), (X,)),
    "eigh": (lambda a: (*np.linalg.eigh(a), np.linalg.eigvalsh(a, UPLO="U")), (A,)),
    "svd": (
        lambda x, a: (
            *np.linalg.svd(x, full_matrices=False),
            *np.linalg.svd(a),
            np.linalg.svdvals(x),
            np.linalg.svd(x, compute_uv=False),
        ),
        (X, A),
    ),
    "pinv": (
        lambda x, t: (
            np.linalg.pinv(x),
            np.linalg.pinv(t),
            np.linalg.pinv(x.T, 0.3),
            np.linalg.pinv(x, rtol=0.2),
        ),
        (X, T),
    ),
    "lstsq": (
        lambda x, v: (np.linalg.lstsq(x.T, v), np.linalg.lstsq(x, x[:, :2], rcond=0.2)),
        (X, V),
    ),
    "matrix_rank": (lambda x, a: [np.linalg.matrix_rank(m) for m in (x, a @ a.T)], (X, A)),
    "cond": (lambda p, x: [np.linalg.cond(p, n) for n in (None, 1, -2, "fro")], (P, X)),
    "norms by singular values": (
        lambda x, t: [
            *(np.linalg.norm(x, n) for n in (2, -2, "nuc")),
            np.linalg.norm(t, 2, (2, 0)),
            np.linalg.norm(t, "nuc", (0, 1)),
        ],
        (X, T),
    ),
    "interp": (
        lambda x, p, f: (
            np.interp(x, p, f),
            np.interp(x, p, f, left=-7.0, right=9.0),
            np.interp(p, p, f),
            np.interp(x * 9, p, f, period=1.3),
            np.interp(0.3, p[:1], f[:1]),
        ),
        (Y, np.sort(V), U),
    ),
    "digitize": (
        lambda x: (np.digitize(x, [-0.5, 0.0, 0.5]), np.digitize(x, [0.5, 0.0, -0.5], right=True)),
        (np.array([-0.7, -0.5, 0.0, 0.2, 0.5, 3.0]),),
    ),
    "bincount": (
        lambda v: (
            np.bincount([0, 2, 2, 5, 0], v),
            np.bincount(np.array([1, 1, 0, 1, 1]), v, minlength=4),
        ),
        (V,),
    ),
    "running extrema": (
        lambda x, n: (
            np.maximum.accumulate(x, 1),
            np.minimum.accumulate(x),
            np.maximum.accumulate(n, axis=1),
            np.fmax.accumulate(x, axis=-1),
        ),
        (np.where(B, Y, np.nan), N),
    ),
    "cumulative": (
        lambda x, v: (
            np.cumulative_sum(x, axis=1),
            np.cumulative_prod(v, include_initial=True),
            np.cumulative_sum(x, axis=0, include_initial=True),
        ),
        (X, V),
    ),
    "insert": (
        lambda x, v: (
            np.insert(x, 1, v, axis=0),
            np.insert(x, [0, 3], 7.0, axis=1),
            np.insert(v, 2, x[0]),
            np.insert(x, slice(0, 2), 1, axis=0),
            np.insert(x, [3, 1], x[:, :2], axis=1),
        ),
        (X, V),
    ),
    "delete": (
        lambda x: (
            np.delete(x, 1, 0),
            np.delete(x, [0, -1], axis=1),
            np.delete(x, slice(None, None, 2)),
            np.delete(x, np.arange(5) > 2, axis=1),
        ),
        (X,),
    ),
    "piecewise": (
        lambda x: (
            np.piecewise(x, [x < 0, x >= 0.5], [lambda t: -t, 2.0, np.square]),
            np.piecewise(x, [x < 0, x < 0.5], [lambda t, k: t * k, -1], 3),
        ),
        (Y,),
    ),
    "unwrap": (
        lambda x: (np.unwrap(x * 9), np.unwrap(x * 9, axis=0, period=4.0), np.unwrap(x * 9, 4.0)),
        (Y,),
    ),
    "matrix_power": (lambda a: [np.linalg.matrix_power(a, n) for n in (0, 1, 2, 5)], (A,)),
    # creation
    "like": (
        lambda x: (
            np.zeros_like(x),
            np.ones_like(x, dtype=int),
            np.full_like(x, 2),
            np.zeros_like(np.empty_like(x)),
        ),
        (X,),
    ),
    "linspace": (lambda s: (np.linspace(s, 2.0, 5), np.linspace(0, s, 4, endpoint=False)), (S,)),
    "vander": (lambda v: (np.vander(v), np.vander(v, 3, increasing=True)), (V,)),
    "polyval": (lambda v: (np.polyval(v, 0.5), np.polyval([1.0, 2.0, 3.0], v)), (V,)),
    # indexing
    **{
        f"index {text}": (eval(f"lambda t: t[{text}]"), (T,))
        for text in (
            "0",
            "-1",
            "0, 1",
            "0, 1, 2",
            "1:",
            ":, 1:3",
            "..., 0",
            "..., ::2",
            "::-1",
            ":, ::-2, 1:4:2",
            "None, 0",
            ":, None, 1",
            "..., None",
            "0, ..., 1",
            "1:1",
            "5:",
            "-2:, -1, ::-1",
            "[0, 1]",
            "[1, -1, 0]",
            ":, [0, 2]",
            ":, [[0, 1], [2, -1]]",
            "[0, 1], [2, 0]",
            "[0, 1], :, [2, 0]",
            "0, :, [1, 2]",
            ":, 0, [1, 2]",
            ":, [1, 2], 0",
            "[1, 0], None, [2, 1]",
            "..., [0, 1], [0, 4]",
            "[[0], [1]], [0, 2]",
            "1:, [0, 2], ::2",
            "None, [0, 1]",
            "[]",
            "np.array([0, 1]), 1:, np.array([1, 2])",
            "t.shape[0] - 1",
            "np.array([True, False])",
            "np.arange(30).reshape(2, 3, 5) % 3 == 0",
            ":, np.array([True, False, True])",
            "np.array([True, True]), [0, 2]",
            "np.ix_([0, 1], [0, 2], [1, 3])",
            "np.int64(1), np.array(2)",
            "slice(None, None, -1), 1",
            "0, ..., np.array([[True, False, True, True, True]] * 3)",
        )
    },
    "traced index": (lambda t, i: (t[i], t[:, i], t[i, i], t[i[0]]), (T, np.array([1, -1, 0]))),
    "argmax as index": (lambda x: x[np.arange(3), x.argmax(axis=1)], (X,)),
    "take": (lambda x: (np.take(x, [0, 2], 0), np.take(x, 7), x.take([1, 9], mode="clip")), (X,)),
    "take wrap": (lambda x: np.take(x, [-1, 9], axis=1, mode="wrap"), (X,)),
    "take_along_axis": (lambda x: np.take_along_axis(x, np.argmax(x, 1, keepdims=True), 1), (X,)),
    "choose": (lambda n, x, y: np.choose(n, [x, y]), (N % 2, X, Y)),
}


@pytest.mark.parametrize("name", TABLE)
def test_matches_numpy(name: str) -> None:
    f, args = TABLE[name]
    with np.errstate(all="ignore"):
        same(sg.jit(f)(*args), f(*args))


@pytest.mark.parametrize(
    "name", ["sum", "einsum", "concatenate", "where", "reshape", "linalg.norm"]
)
def test_public_function_is_numpy_on_plain_arrays(name: str) -> None:
    ours, theirs = sg.numpy, np
    for part in name.split("."):
        ours, theirs = getattr(ours, part), getattr(theirs, part)
    args = {
        "einsum": ("ij->j", X),
        "concatenate": ([X, Y],),
        "where": (B, X, Y),
        "reshape": (X, (5, 3)),
    }.get(name, (X,))
    same(ours(*args), theirs(*args))
    assert isinstance(ours(*args), (np.ndarray, np.generic))
    same(
        sg.jit(ours, static_argnums={"einsum": 0, "reshape": 1}.get(name, ()))(*args), theirs(*args)
    )


@pytest.mark.parametrize(
    "function",
    [
        np.linalg.det, np.linalg.inv, np.linalg.cholesky, np.linalg.eigvalsh, np.linalg.pinv,
        np.linalg.svdvals, np.linalg.cond, lambda p: np.linalg.slogdet(p).logabsdet,
        lambda p: np.linalg.solve(p, p[0] ** 2), lambda p: np.linalg.lstsq(p[:, :2], p[:, 2])[:2],
        lambda p: np.linalg.pinv(p[:3]), lambda p: np.linalg.norm(p, "nuc"),
        lambda p: abs(np.linalg.eigh(p)[1]), lambda p: np.linalg.svd(p[:, :2], False).U ** 2,
        lambda p: np.linalg.matrix_power(p, -2), lambda p: np.linalg.qr(p[:, :3]).R ** 2,
        lambda p: np.interp(p, np.sort(p[0]), p[1]), lambda p: np.maximum.accumulate(p, 1),
        lambda p: np.insert(np.delete(p, 1, 0), 2, p[1], axis=0),
        lambda p: np.bincount([0, 2, 2, 0, 1], p[0] ** 2), lambda p: np.unwrap(p * 3),
    ],
)  # fmt: skip
def test_derivatives(function: Callable[..., Any]) -> None:
    def loss(p: Any) -> Any:
        results = function((p + p.T) / 2)
        results = results if isinstance(results, tuple) else (results,)
        return sum(np.sum(np.sin(r)) for r in results)

    sg.check_grads(loss, (P,), order=2)


def test_the_pseudoinverse_of_matrices_that_are_not_of_full_rank() -> None:
    """Where all singular values are equal, too, it has a derivative along equal ranks."""
    rng = np.random.default_rng(5)
    for u, v in (
        (np.eye(3, 2), np.eye(2)), (np.eye(4, 2), np.eye(3, 2)),
        (rng.normal(size=(4, 2)), rng.normal(size=(3, 2))),
    ):  # fmt: skip
        weights = rng.normal(size=(v.shape[0], u.shape[0]))

        def loss(u: Any, v: Any, weights: Any = weights) -> Any:
            return np.sum(weights * np.linalg.pinv(u @ v.T, 1e-10))

        found = sg.grad(loss, (0, 1))(u, v)
        for k, (x, gradient) in enumerate(zip((u, v), found, strict=True)):
            for at in np.ndindex(x.shape):
                step = np.zeros_like(x)
                step[at] = 1e-6
                ends = [[u, v] for _ in range(2)]
                ends[0][k], ends[1][k] = x + step, x - step
                slope = (loss(*ends[0]) - loss(*ends[1])) / 2e-6
                np.testing.assert_allclose(gradient[at], slope, rtol=1e-6, atol=1e-6)


def test_vectors_of_equal_eigenvalues_have_no_derivative() -> None:
    def root(x: Any) -> Any:
        w, v = np.linalg.eigh(x)
        return np.sum((v * np.sqrt(w)) @ v.T)

    assert np.isnan(sg.grad(root)(np.eye(2))[np.tril_indices(2)]).all()
    assert np.isnan(sg.grad(lambda x: np.sum(np.matmul(*np.linalg.svd(x)[::2])))(np.eye(2))).all()
    np.testing.assert_array_equal(
        sg.grad(lambda x: np.linalg.eigvalsh(x).sum())(np.eye(3)), np.eye(3)
    )


def test_what_decides_a_shape_is_looked_at_in_every_call() -> None:
    places = np.array([0, 1])
    f = sg.jit(lambda v: (np.delete(v, places), np.bincount(places, v[:2]), np.digitize(v, edges)))
    edges = np.array([-0.5, 0.5])
    f(V)
    places[:], edges[:] = [1, 3], [0.5, -0.5]
    same(f(V), (np.delete(V, places), np.bincount(places, V[:2]), np.digitize(V, edges)))


def test_sinc_has_derivatives_at_0() -> None:
    """Of ``1 - t**2 / 6 + t**4 / 120``, ``t = pi x``."""
    f = np.sinc
    wants = [1.0, 0.0, -(np.pi**2) / 3, 0.0, np.pi**4 / 5]
    for order, want in enumerate(wants):
        for x in (0.0, 1e-9):
            near = want + x * wants[order + 1] if order + 1 < len(wants) else want
            np.testing.assert_allclose(float(f(np.float64(x))), near, 1e-12, 1e-12)
        f = sg.grad(f)
