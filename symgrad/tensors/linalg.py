"""``torch.linalg``, and what of it has a name at the top level or is a method.

What can fail (a singular matrix, one that is not positive definite) is computed at once,
so that the error is raised where torch raises it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import symgrad.numpy as snp
from symgrad.numpy import core
from symgrad.tensors.apply import INPUTS, RESULT, apply
from symgrad.tensors.axes import many_axes, one_axis
from symgrad.tensors.elementwise import FUNCTIONS, cast, declared
from symgrad.tensors.handle import Tensor
from symgrad.tensors.joining import to, vander
from symgrad.tensors.namespaces import Linalg
from symgrad.tensors.parts import diagonal
from symgrad.tensors.products import cross, matmul, multi_dot
from symgrad.tensors.reductions import norm, returned, sum
from symgrad.tracer import Tracer
from symgrad.tracing import stage

SlogDet = returned("linalg_slogdet", "sign logabsdet")
Eigh = returned("linalg_eigh", "eigenvalues eigenvectors")
QR = returned("linalg_qr", "Q R")
SVD = returned("linalg_svd", "U S Vh")
SVDOld = returned("svd", "U S V")
LstSq = returned("linalg_lstsq", "solution residuals rank singular_values")
Triangular = returned("triangular_solve", "solution cloned_coefficient")


class LinAlgError(RuntimeError):
    """A factorisation failed."""


LinAlgError.__name__ = "_LinAlgError"


def _check(name: str, a: Tensor, *, square: bool = True) -> None:
    if a.ndim < 2:
        raise RuntimeError(f"{name}: The input tensor A must have at least 2 dimensions.")
    if square and a.shape[-1] != a.shape[-2]:
        raise RuntimeError(
            f"{name}: A must be batches of square matrices, but they are {a.shape[-2]} by "
            f"{a.shape[-1]} matrices"
        )
    if a._dtype not in (np.float32, np.float64):
        raise RuntimeError(
            f"{name}: Expected a floating point or complex tensor as input. Got "
            f"{a.dtype.scalar_name}"
        )


def _finite(result: Tensor, *operands: Tensor) -> bool:
    """Whether a result is finite, or what it was computed from is not."""
    return bool(np.isfinite(result._array()).all()) or not all(
        np.isfinite(x._array()).all() for x in operands
    )


def _singular(name: str, what: str, a: Tensor) -> LinAlgError:
    """The error for the first singular matrix: its first pivot that is zero."""
    matrices = a._array().reshape(-1, *a.shape[-2:])
    batch, place = next(
        ((i, p) for i, m in enumerate(matrices) if (p := _zero_pivot(m))), (0, a.shape[-1])
    )
    which = f"(Batch element {batch}): " if a.ndim > 2 else ""
    if what == "solve":
        return LinAlgError(
            f"{name}: {which}The solver failed because the input matrix is singular."
        )
    return LinAlgError(
        f"{name}: {which}The diagonal element {place} is zero, the inversion could not be "
        "completed because the input matrix is singular."
    )


def _zero_pivot(matrix: Any) -> int:
    """The first zero pivot of an elimination with row exchanges, from 1; 0 if there is none."""
    m = matrix.astype(np.float64)
    for i in range(len(m)):
        pivot = i + int(np.argmax(abs(m[i:, i])))
        if m[pivot, i] == 0:
            return i + 1
        m[[i, pivot]] = m[[pivot, i]]
        m[i + 1 :] -= np.outer(m[i + 1 :, i] / m[i, i], m[i])
    return 0


# -- determinants, inverses, solving -------------------------------------------------------


@declared
def det(input: Tensor) -> Tensor:
    """The determinant of square matrices."""
    _check("linalg.det", input)

    made: Tensor = apply("LinalgDetBackward0", snp.linalg.det, (input,))
    return made


@declared
def slogdet(input: Tensor) -> Any:
    """Sign, and logarithm of the absolute value, of the determinant."""
    _check("linalg.slogdet", input)
    return SlogDet(*apply("LinalgSlogdetBackward0", lambda a: stage("slogdet", a), (input,)))


@declared
def logdet(input: Tensor) -> Tensor:
    """The logarithm of the determinant; nan where that is negative."""
    _check("logdet", input)

    def compute(a: Tracer) -> Any:
        sign, logarithm = stage("slogdet", a)
        return snp.where(sign == -1, math.nan, logarithm)

    made: Tensor = apply("WhereBackward0", compute, (input,))
    return made


@declared
def inverse(input: Tensor) -> Tensor:
    """The inverse of square matrices."""
    _check("linalg.inv", input)

    def compute(a: Tracer) -> Any:
        return stage("solve", a, _eye(a))

    made: Tensor = apply("LinalgInvExBackward0", compute, (input,), saves=RESULT)
    if not _finite(made, input):
        raise _singular("linalg.inv", "inv", input)
    return made


def _eye(like: Tracer, n: int | None = None) -> Any:
    n = like.shape[-1] if n is None else n
    return core.broadcast(core.traced(np.eye(n, dtype=like.dtype)), (*like.shape[:-2], n, n))


def _solved(label: str, a: Tensor, b: Tensor, structure: str, *, left: bool = True) -> Tensor:
    lead = np.broadcast_shapes(a._tracer.shape[:-2], b._tracer.shape[:-2])

    def compute(m: Tracer, v: Tracer) -> Any:
        m = core.broadcast(m, (*lead, *m.shape[-2:]))
        v = core.broadcast(v, (*lead, *v.shape[-2:]))
        if left:
            return stage("solve", m, v, structure=structure)
        return _t(stage("solve", _t(m), _t(v), structure=_flip(structure)))

    made: Tensor = apply(label, compute, (a, b))
    return made


def _flip(structure: str) -> str:
    prefix, _, kind = structure.rpartition("_")
    other = {"lower": "upper", "upper": "lower"}.get(kind, kind)
    return f"{prefix}_{other}" if prefix else other


def _t(x: Any) -> Any:
    return snp.swapaxes(x, -1, -2)


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """``X`` with ``A @ X = B``, or ``X @ A = B``; ``B`` may hold vectors."""
    _check("linalg.solve", A)
    vector = B.ndim == 1 or (B.ndim == A.ndim - 1 and B.shape == A.shape[:-1])
    columns = B.unsqueeze(-1) if vector else B
    made = _solved("LinalgSolveExBackward0", A, columns, "general", left=left)
    if not _finite(made, A, B):
        raise _singular("torch.linalg.solve", "solve", A)
    return _squeezed(made) if vector else made


def _squeezed(x: Tensor) -> Tensor:
    """Without the last axis, under the same ``grad_fn``."""
    node = x._node
    flat: Tensor = x.squeeze(-1)
    if node is not None:
        flat._node = node
    return flat


def solve_triangular(
    A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """``X`` with ``A @ X = B`` for triangular ``A``."""
    _check("linalg.solve_triangular", A)
    structure = ("unit_" if unitriangular else "") + ("upper" if upper else "lower")
    return _solved("LinalgSolveTriangularBackward0", A, B, structure, left=left)


@declared
def triangular_solve(
    input: Tensor, A: Tensor, upper: bool = True, transpose: bool = False,
    unitriangular: bool = False,
) -> Any:  # fmt: skip
    """As ``solve_triangular``, with its operands exchanged; also gives a copy of ``A``."""
    structure = ("unit_" if unitriangular else "") + ("upper" if upper else "lower")
    m, kind = (A.mT, _flip(structure)) if transpose else (A, structure)
    return Triangular(_solved("TriangularSolveBackward0", m, input, kind), A.clone())


# -- factorisations ------------------------------------------------------------------------


def _cholesky(label: str, name: str, input: Tensor, upper: bool) -> Tensor:
    _check(name, input)

    def compute(a: Tracer) -> Any:
        lower = stage("cholesky", a)
        return snp.copy(_t(lower)) if upper else lower

    made: Tensor = apply(label, compute, (input,), saves=RESULT)
    if not _finite(made, input):
        matrices = input._array().reshape(-1, *input.shape[-2:])
        batch, order = next(
            ((i, k) for i, m in enumerate(matrices) if (k := _bad_minor(m))), (0, 1)
        )
        which = f"(Batch element {batch}): " if input.ndim > 2 else ""
        raise LinAlgError(
            f"{name}: {which}The factorization could not be completed because the input is not "
            f"positive-definite (the leading minor of order {order} is not positive-definite)."
        )
    return made


def _bad_minor(matrix: Any) -> int:
    """The order of the first leading minor that is not positive definite; 0 if all are."""
    for k in range(1, len(matrix) + 1):
        try:
            np.linalg.cholesky(matrix[:k, :k])
        except np.linalg.LinAlgError:
            return k
    return 0


@declared
def cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """The triangular factor of positive definite matrices."""
    return _cholesky("CholeskyBackward0", "cholesky", input, upper)


def linalg_cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """The triangular factor of positive definite matrices."""
    return _cholesky("LinalgCholeskyExBackward0", "linalg.cholesky", A, upper)


@declared
def cholesky_solve(input: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """``X`` with ``A @ X = input`` from the triangular factor of ``A``."""

    def compute(b: Tracer, factor: Tracer) -> Any:
        lower = _t(factor) if upper else factor
        half = stage("solve", lower, b, structure="lower")
        return stage("solve", _t(lower), half, structure="upper")

    made: Tensor = apply("CholeskySolveBackward0", compute, (input, L))
    return made


@declared
def cholesky_inverse(L: Tensor, upper: bool = False) -> Tensor:
    """The inverse of a matrix from its triangular factor."""

    def compute(factor: Tracer) -> Any:
        lower = _t(factor) if upper else factor
        half = stage("solve", lower, _eye(factor), structure="lower")
        return stage("solve", _t(lower), half, structure="upper")

    made: Tensor = apply("CholeskyInverseBackward0", compute, (L,))
    return made


def eigh(A: Tensor, UPLO: str = "L") -> Any:
    """Eigenvalues in rising order and eigenvectors of symmetric matrices."""
    _check("linalg.eigh", A)

    def compute(a: Tracer) -> Any:
        return stage("eigh", _t(a) if UPLO.upper() == "U" else a)

    return Eigh(*apply("LinalgEighBackward0", compute, (A,), saves=INPUTS))


def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues in rising order of symmetric matrices."""
    return eigh(A, UPLO).eigenvalues  # type: ignore[no-any-return]


def linalg_qr(A: Tensor, mode: str = "reduced") -> Any:
    """Orthonormal columns and an upper triangle with the product ``A``."""
    _check("linalg.qr", A, square=False)
    if mode != "reduced":
        raise NotImplementedError("linalg.qr: only mode='reduced' is supported")
    return QR(*apply("LinalgQrBackward0", lambda a: stage("qr", a), (A,)))


FUNCTIONS["qr"] = lambda input, some=True: linalg_qr(input, "reduced" if some else "complete")


def _factors(A: Tensor) -> Any:
    _check("linalg.svd", A, square=False)
    return apply("LinalgSvdBackward0", lambda a: stage("svd", a), (A,))


def linalg_svd(A: Tensor, full_matrices: bool = True, *, driver: str | None = None) -> Any:
    """Singular values and vectors: ``U @ diag(S) @ Vh``."""
    if full_matrices and A.shape[-1] != A.shape[-2]:
        raise NotImplementedError(
            "linalg.svd: full_matrices=True is only supported for square matrices; the thin "
            "form, full_matrices=False, has all that the product needs"
        )
    return SVD(*_factors(A))


def svdvals(A: Tensor, *, driver: str | None = None) -> Tensor:
    """Singular values, falling."""
    return _factors(A)[1]  # type: ignore[no-any-return]


@declared
def svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> Any:
    """As ``linalg.svd``, with ``V`` in place of ``Vh``, the thin form."""
    u, s, vh = _factors(input)
    return SVDOld(u, s, vh.mT)


@declared
def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    """The pseudoinverse."""
    return pinv(input, rtol=rcond)


def pinv(A: Tensor, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Tensor:
    """The pseudoinverse: singular values below the tolerance count as 0."""
    _check("linalg.pinv", A, square=False)
    small = max(A.shape[-2:]) * float(np.finfo(A._dtype).eps) if rtol is None else float(rtol)

    def compute(a: Tracer) -> Any:
        return stage("pinv", a, rtol=small, atol=0.0 if atol is None else float(atol))

    made: Tensor = apply("LinalgPinvBackward0", compute, (A,))
    return made


def lstsq(A: Tensor, B: Tensor, rcond: Any = None, *, driver: str | None = None) -> Any:
    """The least-squares solution of ``A @ X = B``."""
    _check("linalg.lstsq", A, square=False)

    def compute(a: Tracer, b: Tracer) -> Any:
        q, r = stage("qr", a)
        return stage("solve", r, snp.matmul(_t(q), b), structure="upper")

    if A.shape[-2] < A.shape[-1]:
        raise NotImplementedError("linalg.lstsq: needs at least as many rows as columns")
    solution = apply("LinalgLstsqBackward0", compute, (A, B))
    none = Tensor.of_array(np.zeros(0, A._dtype))
    rank = matrix_rank(A)
    residuals = none
    if A.shape[-2] > A.shape[-1] and (rank._array() == A.shape[-1]).all():
        residuals = sum(FUNCTIONS["square"](FUNCTIONS["sub"](matmul(A, solution), B)), -2)
    return LstSq(solution, residuals, Tensor.of_array(np.zeros(0, np.int64)), none)


def matrix_rank(
    A: Tensor, *, atol: Any = None, rtol: Any = None, hermitian: bool = False
) -> Tensor:
    """The number of singular values above the tolerance."""
    small = max(A.shape[-2:]) * float(np.finfo(A._dtype).eps) if rtol is None else float(rtol)

    def compute(a: Tracer) -> Any:
        _, s, _ = stage("svd", a)
        limit = snp.max(s, axis=-1, keepdims=True) * small
        return snp.sum(s > (limit if atol is None else snp.maximum(limit, float(atol))), axis=-1)

    made: Tensor = apply("", compute, (A,))
    return made


@declared
def matrix_power(input: Tensor, n: int) -> Tensor:
    """Square matrices to an integer power, by repeated squaring."""
    if input.ndim < 2 or input.shape[-1] != input.shape[-2]:
        _check("linalg.matrix_power", input)  # raises
    if n < 0:
        return inverse(input) if n == -1 else matrix_power(inverse(input), -n)
    if n == 0:
        made: Tensor = apply("CopyBackwards", lambda a: cast(_eye(a) + 0 * a, a.dtype), (input,))
        return made
    if n == 1:
        return FUNCTIONS["clone"](input)  # type: ignore[no-any-return]
    result, square = None, input
    while n:
        if n % 2:
            result = square if result is None else matmul(result, square)
        n //= 2
        square = matmul(square, square) if n else square
    assert result is not None
    return result


# -- norms ---------------------------------------------------------------------------------


def vector_norm(
    x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """The p-norm of all elements or along axes."""
    return norm(x, ord, dim, keepdim, dtype)


def matrix_norm(
    A: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """The norm of the matrices in two axes."""
    x = to(A, dtype=dtype)
    rows, columns = (one_axis(d, x.ndim) for d in dim)
    if ord == "fro":
        return vector_norm(x, 2, (rows, columns), keepdim)
    if ord in (2, -2, "nuc"):
        matrices = x.movedim((rows, columns), (-2, -1))
        s = svdvals(matrices)
        reduce = "sum" if ord == "nuc" else "amax" if ord > 0 else "amin"
        found = FUNCTIONS[reduce](s, -1)
        if keepdim:
            for axis in sorted((rows, columns)):
                found = found.unsqueeze(axis)
        return found  # type: ignore[no-any-return]
    if abs(ord) not in (1, math.inf):
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    added, kept = (rows, columns) if abs(ord) == 1 else (columns, rows)
    extreme = FUNCTIONS["amax"] if ord > 0 else FUNCTIONS["amin"]
    if not keepdim:
        kept -= added < kept
    return extreme(vector_norm(x, 1, added, keepdim), kept, keepdim)  # type: ignore[no-any-return]


def linalg_norm(
    A: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """A vector norm, or for two axes and an order a matrix norm."""
    axes = None if dim is None else many_axes(dim, A.ndim)
    if ord is not None and (len(axes) == 2 if axes is not None else A.ndim == 2):
        return matrix_norm(A, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    return vector_norm(A, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


def cond(A: Tensor, p: Any = None) -> Tensor:
    """The condition number: of the 2-norm, or the product of a norm of ``A`` and its inverse."""
    if p in (None, 2, -2):
        s = svdvals(A)
        first, last = s[..., :1], s[..., -1:]
        ratio = FUNCTIONS["div"](last, first) if p == -2 else FUNCTIONS["div"](first, last)
        return ratio.squeeze(-1)  # type: ignore[no-any-return]
    return matrix_norm(A, p) * matrix_norm(inverse(A), p)


def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Sums of products along an axis."""
    return sum(FUNCTIONS["mul"](x, y), dim)


def _linalg_diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    return diagonal(A, offset, dim1, dim2)


def _linalg_cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    return cross(input, other, dim)


namespace = Linalg(
    norm=linalg_norm, vector_norm=vector_norm, matrix_norm=matrix_norm, det=det, slogdet=slogdet,
    inv=inverse, solve=solve, solve_triangular=solve_triangular, cholesky=linalg_cholesky,
    eigh=eigh, eigvalsh=eigvalsh, qr=linalg_qr, svd=linalg_svd, svdvals=svdvals, pinv=pinv,
    lstsq=lstsq, matrix_rank=matrix_rank, matrix_power=matrix_power, multi_dot=multi_dot,
    cond=cond, vecdot=vecdot, diagonal=_linalg_diagonal, cross=_linalg_cross, matmul=matmul,
    vander=lambda x, *, N=None: vander(x, N, True), LinAlgError=LinAlgError,
)  # fmt: skip
"""``torch.linalg``"""
