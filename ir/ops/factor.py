"""Factorisations of matrices and what is solved with them.

They run over the last two axes, for all others in turn.  The references are NumPy's
(LAPACK); compiled code calls them back where it has no kernel.  Adjoints: Giles, "An extended
collection of matrix derivative results", 2008; for ``qr`` Walter and Lehmann, 2012; written
with the ops themselves, so that they are differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from symgrad.ir.errors import DTypeError, ShapeError
from symgrad.ir.graph import Value, insertion
from symgrad.ir.opdef import Array, OpDef, Sample, op
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.ops import linalg as la
from symgrad.ir.ops import reduce as re
from symgrad.ir.ops import shape as sh
from symgrad.ir.types import TensorType, i64


def _matrix(name: str, x: TensorType, *, square: bool = True) -> tuple[int, int]:
    if x.dtype.name not in ("f32", "f64"):
        raise DTypeError(f"{name}: needs f32 or f64, got {x}")
    if x.rank < 2 or (square and x.shape[-1] != x.shape[-2]):
        raise ShapeError(f"{name}: needs {'square ' if square else ''}matrices, got {x}")
    return x.shape[-2], x.shape[-1]


def _batched(opdef: OpDef) -> OpDef:
    """Batches an op: leading axes are batch axes anyway."""

    @opdef.batch
    def _(size: int, operands: Sequence[Value], batched: Sequence[bool], **attrs: Any) -> Any:
        return opdef(*sh.add_batch(size, operands, batched), **attrs)

    return opdef


# -- matrices in adjoint rules -------------------------------------------------------------


def _t(x: Value) -> Value:
    """Transposed."""
    axes = (*range(x.rank - 2), x.rank - 1, x.rank - 2)
    result: Value = sh.transpose(x, axes=axes)
    return result


def _mm(x: Value, y: Value) -> Value:
    """The matrix product over leading axes."""
    lead = tuple(range(x.rank - 2))
    result: Value = la.dot_general(
        x, y, lhs_contract=(x.rank - 1,), rhs_contract=(y.rank - 2,), lhs_batch=lead, rhs_batch=lead
    )
    return result


def _over_columns(v: Value, like: Value) -> Value:
    """A row vector per matrix, the same in every row."""
    axes = (*range(like.rank - 2), like.rank - 1)
    result: Value = sh.broadcast_to(v, shape=like.shape, axes=axes)
    return result


def _over_rows(v: Value, like: Value) -> Value:
    """A column vector per matrix, the same in every column."""
    result: Value = sh.broadcast_to(v, shape=like.shape, axes=tuple(range(like.rank - 1)))
    return result


def _places(x: Value) -> tuple[Value, Value]:
    """The row and the column of each element of matrices."""
    i, j = (sh.iota(shape=x.shape, axis=a, dtype=i64) for a in (x.rank - 2, x.rank - 1))
    return i, j


def _part(x: Value, *, lower: bool = False, upper: bool = False, half: bool = False) -> Value:
    """Strict triangles of square matrices and, unless neither, the diagonal (or half of it)."""
    i, j = _places(x)
    result = ew.where(ew.eq(i, j), 0.5 * x if half else x, 0.0)
    if lower:
        result = ew.where(ew.gt(i, j), x, result)
    if upper:
        result = ew.where(ew.lt(i, j), x, result)
    return result


def _diagonal(v: Value) -> Value:
    """Diagonal matrices."""
    shape = (*v.shape, v.shape[-1])
    spread = sh.broadcast_to(v, shape=shape, axes=tuple(range(v.rank)))
    return _part(spread)


def _by_gaps(x: Value, gap: Value) -> Value:
    """``x / gap`` off the diagonals of square matrices, and zero on them."""
    on = ew.eq(*_places(x))
    return ew.where(on, 0.0, x / ew.where(on, 1.0, gap))


def _symmetric(x: Value) -> Value:
    return 0.5 * (x + _t(x))


def _eye(like: Value) -> Value:
    one = insertion.builder.operand_like(1, like)
    return _part(one)


def _zero(ct: Value | None, like: Value) -> Value:
    return ew.zeros_like(like) if ct is None else ct


# -- solving -------------------------------------------------------------------------------

_STRUCTURES = ("general", "lower", "upper", "unit_lower", "unit_upper")


@op(
    "solve",
    samples=[
        Sample(((3, 3), (3, 2)), {}, ((0.5, 1.0), (-2, 2))),
        Sample(((2, 3, 3), (2, 3, 1)), {"structure": "lower"}, ((0.5, 1.0), (-2, 2))),
    ],
)
def solve(a: TensorType, b: TensorType, *, structure: str = "general") -> TensorType:
    """``x`` with ``a @ x = b``; of a triangular ``a`` only that triangle counts.

    Singular matrices give nan, and inf or nan where they are triangular.
    """
    _matrix("solve", a)
    if structure not in _STRUCTURES:
        raise ShapeError(f"solve: structure must be one of {', '.join(_STRUCTURES)}")
    if b.dtype != a.dtype or b.rank != a.rank or b.shape[:-1] != a.shape[:-1]:
        raise ShapeError(f"solve: {b} does not fit {a}")
    return b


_batched(solve)


@solve.evaluate
def _solve(a: Array, b: Array, *, structure: str) -> Array:
    if structure != "general":
        return _substitute(a, b, "lower" in structure, "unit" in structure)
    try:
        return np.asarray(np.linalg.solve(a, b))
    except np.linalg.LinAlgError:
        return _each(_solve_one, (a, b), [b.shape[-2:]])[0]


def _solve_one(a: Array, b: Array) -> tuple[Array]:
    try:
        return (np.linalg.solve(a, b),)
    except np.linalg.LinAlgError:
        return (np.full_like(b, np.nan),)


def _each(function: Any, arrays: Sequence[Array], shapes: Sequence[Any]) -> list[Array]:
    """Runs a function on every matrix of a batch."""
    lead = arrays[0].shape[:-2]
    results = [np.empty((*lead, *shape), arrays[0].dtype) for shape in shapes]
    for place in np.ndindex(lead):
        for result, part in zip(results, function(*(a[place] for a in arrays)), strict=True):
            result[place] = part
    return results


_BLOCK = 64
"""Rows that are substituted together: NumPy takes longer to be called than to compute."""


def _substitute(a: Array, b: Array, lower: bool, unit: bool) -> Array:
    """Forward or back substitution, block of rows by block of rows."""
    n, x = a.shape[-1], b.copy()
    starts = range(0, n, _BLOCK)
    with np.errstate(all="ignore"):
        for start in starts if lower else reversed(starts):
            rows = slice(start, min(start + _BLOCK, n))
            known = slice(0, rows.start) if lower else slice(rows.stop, n)
            rest = x[..., rows, :] - a[..., rows, known] @ x[..., known, :]
            x[..., rows, :] = _solve_triangle(a[..., rows, rows], rest, lower, unit)
    return x


def _solve_triangle(a: Array, b: Array, lower: bool, unit: bool) -> Array:
    triangle = np.tril(a) if lower else np.triu(a)
    if unit:
        places = np.arange(a.shape[-1])
        triangle[..., places, places] = 1
    try:
        return np.asarray(np.linalg.solve(triangle, b))
    except np.linalg.LinAlgError:
        return _substitute_rows(triangle, b, lower)


def _substitute_rows(a: Array, b: Array, lower: bool) -> Array:
    """Row by row: what does not depend on a division by zero stays finite."""
    n, x = a.shape[-1], b.copy()
    for i in range(n) if lower else range(n - 1, -1, -1):
        known = slice(0, i) if lower else slice(i + 1, n)
        x[..., i, :] -= np.squeeze(a[..., i : i + 1, known] @ x[..., known, :], -2)
        x[..., i, :] /= a[..., i : i + 1, i]
    return x


@solve.adjoint
def _solve_adjoint(
    ct: Value, x: Value, a: Value, b: Value, *, structure: str
) -> tuple[Value, Value]:
    swapped = structure.replace("lower", "?").replace("upper", "lower").replace("?", "upper")
    to_b = solve(_t(a), ct, structure=swapped)
    to_a = -_mm(to_b, _t(x))
    if structure != "general":
        low = "lower" in structure
        to_a = _part(to_a, lower=low, upper=not low)
        if "unit" in structure:
            to_a = to_a - _part(to_a)
    return to_a, to_b


@op("slogdet", samples=[Sample(((3, 3),), {}, ((0.5, 2.0),)), Sample(((2, 2, 2),))])
def slogdet(a: TensorType) -> tuple[TensorType, TensorType]:
    """Sign, and logarithm of the absolute value, of the determinant."""
    _matrix("slogdet", a)
    return a.with_shape(a.shape[:-2]), a.with_shape(a.shape[:-2])


_batched(slogdet)


@slogdet.evaluate
def _slogdet(a: Array) -> tuple[Array, Array]:
    with np.errstate(all="ignore"):
        sign, logarithm = np.linalg.slogdet(a)
    return np.asarray(sign, a.dtype), np.asarray(logarithm, a.dtype)


@slogdet.adjoint
def _slogdet_adjoint(
    cts: Sequence[Value | None], results: Sequence[Value], a: Value
) -> tuple[Value | None]:
    if cts[1] is None:
        return (None,)
    inverse = solve(_t(a), _eye(a))
    axes = tuple(range(a.rank - 2))
    return (ew.scale(sh.broadcast_to(cts[1], shape=a.shape, axes=axes), inverse),)


@op("det", samples=[Sample(((4, 4),), {}, ((0.5, 2.0),)), Sample(((2, 2, 2),))])
def det(a: TensorType) -> TensorType:
    """The determinant."""
    _matrix("det", a)
    return a.with_shape(a.shape[:-2])


_batched(det)


@det.evaluate
def _det(a: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(np.linalg.det(a), a.dtype)


@det.expand
def _det_expansion(a: Value) -> Value:
    sign, logarithm = slogdet(a)
    result: Value = sign * ew.exp(logarithm)
    return result


_LOST = {"f32": 1e3, "f64": 1e8}
"""A condition beyond which an inverse has few digits."""


@det.adjoint
def _det_adjoint(ct: Value, y: Value, a: Value) -> tuple[Value]:
    """Cofactors: ``det(a) inv(a).T``, or where that has lost its digits the same with singular
    values that are multiplied instead of divided by."""
    unit, lead = _eye(a), tuple(range(a.rank - 2))

    def spread(x: Value) -> Value:
        result: Value = sh.broadcast_to(x, shape=a.shape, axes=lead)
        return result

    axes = (a.rank - 2, a.rank - 1)
    squares = [re.reduce_sum(m * m, axes=axes) for m in (a, solve(a, unit))]
    limit = insertion.builder.operand_like(_LOST[a.type.dtype.name] ** 2, y)
    is_kept = spread(ew.lt(squares[0] * squares[1], limit))  # not so where the inverse is nan
    inverse = solve(_t(ew.where(is_kept, a, unit)), unit)
    # What is not chosen has derivatives, too: its singular values are all different.
    steps = ew.convert(_places(a)[0] + 1, dtype=a.type.dtype)
    u, s, vh = svd(ew.where(is_kept, _part(steps), a))
    others = ew.where(ew.eq(*_places(a)), 1.0, _over_columns(s, a))
    products = _diagonal(re.reduce_prod(others, axes=axes[1:]))
    sign = spread(slogdet(u)[0] * slogdet(vh)[0])
    turned = sign * _mm(_mm(u, products), vh)
    return (ew.scale(spread(ct), ew.where(is_kept, spread(y) * inverse, turned)),)


# -- factors -------------------------------------------------------------------------------


@op("cholesky", samples=[Sample(((1, 1),), {}, ((1.0, 2.0),))])
def cholesky(a: TensorType) -> TensorType:
    """Lower triangular ``l`` with ``l @ l.T = a``, of which only the lower triangle is read.

    nan where the matrix is not positive definite.
    """
    _matrix("cholesky", a)
    return a


_batched(cholesky)


@cholesky.evaluate
def _cholesky(a: Array) -> Array:
    return _each(_cholesky_one, (a,), [a.shape[-2:]])[0]


def _cholesky_one(a: Array) -> tuple[Array]:
    try:
        return (np.linalg.cholesky(a),)
    except np.linalg.LinAlgError:
        return (np.tril(np.full_like(a, np.nan)),)


@cholesky.adjoint
def _cholesky_adjoint(ct: Value, lower: Value, a: Value) -> tuple[Value]:
    inner = _part(_mm(_t(lower), ct), lower=True, half=True)
    left = solve(_t(lower), inner, structure="upper")
    whole = _t(solve(_t(lower), _t(left), structure="upper"))
    return (_symmetric(whole),)


@op("eigh", samples=[Sample(((2, 1, 1),), {}, ((0.5, 2.0),))])
def eigh(a: TensorType) -> tuple[TensorType, TensorType]:
    """Eigenvalues in rising order, and eigenvectors as columns, of symmetric matrices.

    Only the lower triangle is read.  Vectors of equal eigenvalues have no derivative, nor has
    what is made of them: it is nan.
    """
    _matrix("eigh", a)
    return a.with_shape(a.shape[:-1]), a


_batched(eigh)


@eigh.evaluate
def _eigh(a: Array) -> tuple[Array, Array]:
    values, vectors = np.linalg.eigh(a)
    return np.asarray(values), np.asarray(vectors)


@eigh.adjoint
def _eigh_adjoint(cts: Sequence[Value | None], results: Sequence[Value], a: Value) -> tuple[Value]:
    w, v = results
    inner = _diagonal(_zero(cts[0], w))
    if cts[1] is not None:
        gap = _over_columns(w, v) - _over_rows(w, v)
        inner = inner + _by_gaps(_mm(_t(v), cts[1]), gap)
    return (_symmetric(_mm(_mm(v, inner), _t(v))),)


@op("qr", samples=[Sample(((3, 2),), {}, ((0.5, 2.0),)), Sample(((2, 3, 3),))])
def qr(a: TensorType) -> tuple[TensorType, TensorType]:
    """Orthonormal columns ``q`` and upper triangular ``r`` with ``q @ r = a``."""
    m, n = _matrix("qr", a, square=False)
    k = min(m, n)
    return a.with_shape((*a.shape[:-1], k)), a.with_shape((*a.shape[:-2], k, n))


_batched(qr)


@qr.evaluate
def _qr(a: Array) -> tuple[Array, Array]:
    q, r = np.linalg.qr(a)
    return np.asarray(q), np.asarray(r)


@qr.adjoint
def _qr_adjoint(cts: Sequence[Value | None], results: Sequence[Value], a: Value) -> tuple[Value]:
    q, r = results
    if r.shape[-2] != r.shape[-1]:
        raise ShapeError(f"qr: no derivative where there are more columns than rows, got {a.type}")
    ct_q, ct_r = _zero(cts[0], q), _zero(cts[1], r)
    inner = _mm(r, _t(ct_r)) - _mm(_t(ct_q), q)
    lower = _part(inner, lower=True) - _part(inner)
    full = lower + _t(lower) + _part(inner)
    whole = ct_q + _mm(q, full)
    return (_t(solve(r, _t(whole), structure="upper")),)


@op("svd", samples=[Sample(((3, 2),), {}, ((0.5, 2.0),)), Sample(((2, 2, 3),))])
def svd(a: TensorType) -> tuple[TensorType, TensorType, TensorType]:
    """``u``, ``s`` falling and ``vh`` with ``u @ diag(s) @ vh = a``, the thin form.

    Vectors of equal singular values have no derivative, nor has what is made of them: it is
    nan.
    """
    m, n = _matrix("svd", a, square=False)
    k, lead = min(m, n), a.shape[:-2]
    return a.with_shape((*lead, m, k)), a.with_shape((*lead, k)), a.with_shape((*lead, k, n))


_batched(svd)


@svd.evaluate
def _svd(a: Array) -> tuple[Array, Array, Array]:
    u, s, vh = np.linalg.svd(a, full_matrices=False)
    return np.asarray(u), np.asarray(s), np.asarray(vh)


@svd.adjoint
def _svd_adjoint(cts: Sequence[Value | None], results: Sequence[Value], a: Value) -> tuple[Value]:
    u, s, vh = results
    inner = _diagonal(_zero(cts[1], s))
    whole = None
    if cts[0] is not None or cts[2] is not None:
        ct_u, ct_v = _zero(cts[0], u), _t(_zero(cts[2], vh))
        v = _t(vh)
        rows, columns = _over_rows(s, inner), _over_columns(s, inner)
        gap = (columns - rows) * (columns + rows)
        left = _by_gaps(_mm(_t(u), ct_u) - _mm(_t(ct_u), u), gap)
        right = _by_gaps(_mm(_t(v), ct_v) - _mm(_t(ct_v), v), gap)
        inner = inner + left * columns + rows * right
        whole = _outside(u, ct_u, s, vh) if u.shape[-2] > u.shape[-1] else None
        if v.shape[-2] > v.shape[-1]:
            beside = _t(_outside(v, ct_v, s, _t(u)))
            whole = beside if whole is None else whole + beside
    result = _mm(_mm(u, inner), vh)
    return (result if whole is None else result + whole,)


def _outside(u: Value, ct: Value, s: Value, vh: Value) -> Value:
    """The part of a cotangent of ``u`` outside the space that its columns span."""
    beyond = ct - _mm(u, _mm(_t(u), ct))
    return _mm(beyond / _over_columns(s, ct), vh)


@op(
    "pinv",
    samples=[
        Sample(((3, 2),), {"rtol": 1e-15}, ((0.5, 2.0),)),
        Sample(((2, 2, 3),), {"rtol": 1e-15, "atol": 1e-3}),
    ],
)
def pinv(a: TensorType, *, rtol: float, atol: float = 0.0) -> TensorType:
    """The pseudoinverse: singular values up to ``max(atol, rtol * the largest)`` count as 0."""
    m, n = _matrix("pinv", a, square=False)
    return a.with_shape((*a.shape[:-2], n, m))


_batched(pinv)


@pinv.evaluate
def _pinv(a: Array, *, rtol: float, atol: float) -> Array:
    u, s, vh = _svd(a)
    limit = np.maximum(s.max(-1, keepdims=True, initial=0) * rtol, atol)
    inverted = np.divide(1, s, out=np.zeros_like(s), where=s > limit)
    return np.asarray(np.swapaxes(vh, -1, -2) * inverted[..., None, :] @ np.swapaxes(u, -1, -2))


@pinv.adjoint
def _pinv_adjoint(ct: Value, p: Value, a: Value, *, rtol: float, atol: float) -> tuple[Value]:
    """Golub and Pereyra, "The differentiation of pseudo-inverses ...", 1973: as long as the
    rank stays the same."""
    rows = _mm(_t(ct), _mm(p, _t(p)))
    columns = _mm(_mm(_t(p), p), _t(ct))
    to_a = rows - _mm(a, _mm(p, rows)) + columns - _mm(_mm(columns, p), a)
    return (to_a - _mm(_mm(_t(p), ct), _t(p)),)
