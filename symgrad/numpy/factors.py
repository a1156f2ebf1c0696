"""``symgrad.numpy.linalg``: determinants, inverses, factorisations, and what is solved with them.

Where NumPy raises ``LinAlgError`` because of values (a singular matrix, one that is not
positive definite), a traced function gives nan.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from symgrad.dispatch import HANDLERS
from symgrad.ir.errors import DTypeError, ShapeError, UnsupportedError
from symgrad.numpy.core import astype, broadcast, float_type, implements, reshape, traced
from symgrad.numpy.products import matmul
from symgrad.tracer import Tracer
from symgrad.tracing import constant, stage


class SlogdetResult(NamedTuple):
    """Sign, and logarithm of the absolute value, of a determinant."""

    sign: Any
    logabsdet: Any


class EighResult(NamedTuple):
    """Eigenvalues in rising order, and eigenvectors as columns."""

    eigenvalues: Any
    eigenvectors: Any


class QRResult(NamedTuple):
    """Orthonormal columns and an upper triangle."""

    Q: Any
    R: Any


class SVDResult(NamedTuple):
    """Singular vectors and values: ``U @ diag(S) @ Vh``."""

    U: Any
    S: Any
    Vh: Any


def _matrices(name: str, a: Any, *, square: bool = True) -> Tracer:
    """The operand in floating point, checked."""
    x = traced(a)
    if x.ndim < 2 or (square and x.shape[-1] != x.shape[-2]):
        kind = "square matrices" if square else "matrices"
        raise ShapeError(f"{name}: needs {kind} in the last two axes, got {x._value.type}")
    dtype = float_type(x, name)
    if dtype not in (np.float32, np.float64):
        raise DTypeError(f"{name}: needs float32 or float64, got {x._value.type}")
    return astype(x, dtype)


def _of_hermitian(name: str, a: Any, hermitian: bool) -> Tracer:
    """Matrices, of which only the lower triangle is read if they are known as symmetric."""
    x = _matrices(name, a, square=hermitian)
    return _mirrored(x, upper=False) if hermitian else x


def _mirrored(x: Tracer, *, upper: bool) -> Tracer:
    """The symmetric matrices of which one triangle is given, to which all cotangents go.

    The other triangle is not read: what depends on it does not depend on the result.
    """
    lower: Tracer = HANDLERS[np.tril](_t(x) if upper else x)
    mirrored: Tracer = lower + _t(HANDLERS[np.tril](lower, -1))
    return mirrored


def _t(x: Tracer) -> Tracer:
    result: Tracer = HANDLERS[np.swapaxes](x, -1, -2)
    return result


def _joined(name: str, a: Any, b: Any, *, square: bool = True) -> tuple[Tracer, Tracer]:
    """Matrices and another operand, of one dtype."""
    x, y = _matrices(name, a, square=square), traced(b)
    dtype = np.result_type(x.dtype, float_type(y, name))
    return astype(x, dtype), astype(y, dtype)


@implements(np.linalg.slogdet, name="linalg.slogdet")
def slogdet(a: Any) -> SlogdetResult:
    """Sign, and logarithm of the absolute value, of determinants."""
    return SlogdetResult(*stage("slogdet", _matrices("slogdet", a)))


@implements(np.linalg.det, name="linalg.det")
def det(a: Any) -> Tracer:
    """Determinants; small ones as the polynomials that they are."""
    x = _matrices("det", a)
    n = x.shape[-1]
    result: Tracer = stage("det", x) if n > 3 else _minor(x, 0, range(n))
    return result


def _minor(x: Tracer, row: int, columns: Sequence[int]) -> Any:
    """The determinant of the rows from one on and of some columns, along the first row."""
    if not columns:
        return constant(1, x.dtype, x.shape[:-2])
    terms = [
        x[..., row, c] * _minor(x, row + 1, [*columns[:i], *columns[i + 1 :]])
        for i, c in enumerate(columns)
    ]
    return functools.reduce(operator.add, [-t if i % 2 else t for i, t in enumerate(terms)])


@implements(np.linalg.solve, name="linalg.solve")
def solve(a: Any, b: Any) -> Tracer:
    """``x`` with ``a @ x = b``; ``b`` is a vector only if it has one axis."""
    x, y = _joined("solve", a, b)
    columns = reshape(y, (y.size, 1)) if y.ndim == 1 else y
    if not columns.ndim or columns.shape[-2] != x.shape[-1]:
        raise ShapeError(
            f"solve: {y._value.type} does not fit {x._value.type}; its rows must be as many as "
            "those of the matrices (a vector per matrix goes in as b[..., None])"
        )
    lead = np.broadcast_shapes(x.shape[:-2], columns.shape[:-2])
    operands = [broadcast(m, (*lead, *m.shape[-2:])) for m in (x, columns)]
    result: Tracer = stage("solve", *operands, structure="general")
    return reshape(result, result.shape[:-1]) if y.ndim == 1 else result


@implements(np.linalg.inv, name="linalg.inv")
def inv(a: Any) -> Tracer:
    """Inverses."""
    x = _matrices("inv", a)
    return solve(x, np.eye(x.shape[-1], dtype=x.dtype))


@implements(np.linalg.cholesky, name="linalg.cholesky")
def cholesky(a: Any, /, *, upper: bool = False) -> Tracer:
    """Triangular factors of positive definite matrices, of which one triangle is read."""
    x = _mirrored(_matrices("cholesky", a), upper=upper)
    lower: Tracer = stage("cholesky", x)
    return _t(lower) if upper else lower


@implements(np.linalg.qr, name="linalg.qr")
def qr(a: Any, mode: str = "reduced") -> Any:
    """Orthonormal columns and an upper triangle; with ``mode="r"`` the latter alone."""
    if mode not in ("reduced", "r"):
        raise UnsupportedError(f"qr: mode={mode!r} cannot be traced; use 'reduced' or 'r'")
    result = QRResult(*stage("qr", _matrices("qr", a, square=False)))
    return result if mode == "reduced" else result.R


@implements(np.linalg.eigh, name="linalg.eigh")
def eigh(a: Any, UPLO: str = "L") -> EighResult:
    """Eigenvalues and eigenvectors of symmetric matrices, of which one triangle is read."""
    x = _matrices("eigh", a)
    if UPLO.upper() not in ("L", "U"):
        raise UnsupportedError("eigh: UPLO must be 'L' or 'U'")
    return EighResult(*stage("eigh", _mirrored(x, upper=UPLO.upper() == "U")))


@implements(np.linalg.eigvalsh, name="linalg.eigvalsh")
def eigvalsh(a: Any, UPLO: str = "L") -> Tracer:
    """Eigenvalues of symmetric matrices in rising order."""
    result: Tracer = eigh(a, UPLO).eigenvalues
    return result


@implements(np.linalg.svd, name="linalg.svd")
def svd(
    a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False
) -> Any:
    """Singular vectors and values; all vectors only of square matrices."""
    x = _of_hermitian("svd", a, hermitian)
    if compute_uv and full_matrices and x.shape[-1] != x.shape[-2]:
        raise UnsupportedError(
            f"svd: full_matrices of {x._value.type} cannot be traced; full_matrices=False gives "
            "all that the product needs"
        )
    result = SVDResult(*stage("svd", x))
    return result if compute_uv else result.S


@implements(np.linalg.svdvals, name="linalg.svdvals")
def svdvals(x: Any, /) -> Tracer:
    """Singular values, falling."""
    result: Tracer = svd(x, compute_uv=False)
    return result


@implements(np.linalg.cond, name="linalg.cond")
def cond(x: Any, p: Any = None) -> Tracer:
    """The largest singular value by the smallest, or a norm by that of the inverse."""
    if p in (None, 2, -2):
        s = svdvals(x)
        ratio: Tracer = s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
        return ratio
    norm = HANDLERS[np.linalg.norm]
    product: Tracer = norm(x, p, (-2, -1)) * norm(inv(x), p, (-2, -1))
    return product


def _tolerance(name: str, given: Any, default: float) -> float:
    if given is None or given is np._NoValue:
        return default
    if isinstance(given, Tracer) or np.ndim(given):
        raise UnsupportedError(f"{name}: the tolerance must be a number that is known in tracing")
    return float(given)


@implements(np.linalg.pinv, name="linalg.pinv")
def pinv(a: Any, rcond: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Tracer:
    """Pseudoinverses; singular values up to ``rcond`` times the largest count as 0."""
    x = _of_hermitian("pinv", a, hermitian)
    small = max(x.shape[-2:]) * float(np.finfo(x.dtype).eps)
    tolerance = 1e-15 if rtol is None or rtol is np._NoValue else _tolerance("pinv", rtol, small)
    result: Tracer = stage("pinv", x, rtol=_tolerance("pinv", rcond, tolerance), atol=0.0)
    return result


@implements(np.linalg.matrix_rank, name="linalg.matrix_rank")
def matrix_rank(A: Any, tol: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Tracer:
    """How many singular values are above a tolerance."""
    x = _of_hermitian("matrix_rank", A, hermitian)
    s = svdvals(x)
    part = _tolerance("matrix_rank", rtol, max(x.shape[-2:]) * float(np.finfo(x.dtype).eps))
    limit = HANDLERS[np.max](s, -1, keepdims=True) * part if tol is None else tol
    result: Tracer = HANDLERS[np.count_nonzero](s > limit, -1)
    return result


@implements(np.linalg.lstsq, name="linalg.lstsq")
def lstsq(a: Any, b: Any, rcond: Any = None) -> tuple[Tracer, Tracer, Tracer, Tracer]:
    """The shortest of the least-squares solutions, residuals, rank and singular values.

    Residuals are given wherever there are more rows than columns, whatever the rank is.
    """
    x, y = _joined("lstsq", a, b, square=False)
    dtype, (m, n) = x.dtype, x.shape[-2:]
    if x.ndim != 2 or y.ndim not in (1, 2) or y.shape[0] != m:
        raise ShapeError(f"lstsq: {y._value.type} does not fit {x._value.type}")
    part = _tolerance("lstsq", rcond, max(m, n) * float(np.finfo(dtype).eps))
    solution = matmul(stage("pinv", x, rtol=part, atol=0.0), y)
    rest = y - matmul(x, solution)
    residuals = HANDLERS[np.sum](rest * rest, 0)
    residuals = reshape(residuals, (residuals.size,)) if m > n else traced(np.zeros(0, dtype))
    s = svdvals(x)
    rank = HANDLERS[np.count_nonzero](s > s[:1] * part)
    return solution, residuals, astype(rank, np.int32), s
