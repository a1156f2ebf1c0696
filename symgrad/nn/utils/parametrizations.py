"""Parametrizations under torch's names: weights of given norms.

Each is also there in its older form, ``nn.utils.weight_norm`` and ``nn.utils.spectral_norm``,
which computes the weight before each call (see ``reparametrized``).
"""

from __future__ import annotations

from typing import Any

from symgrad.nn import functional as F
from symgrad.nn.functions.normalization import norm_except, scaled_to_norm
from symgrad.nn.module import Module
from symgrad.nn.modules.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from symgrad.nn.utils.parametrize import register_parametrization
from symgrad.tensors import Tensor
from symgrad.tensors.random import randn
from symgrad.tensors.state import no_grad


class _WeightNorm(Module):
    """``g v / |v|``, norms being over all axes but one."""

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        """The weight."""
        made: Tensor = scaled_to_norm(weight_v, weight_g, self.dim)
        return made

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Norms and directions of a weight."""
        return norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int = 0) -> Module:
    """Trains lengths ``original0`` and directions ``original1`` of a weight apart.

    T. Salimans and D. Kingma, "Weight normalization" (2016).
    """
    return register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


class PowerMethod:
    """The largest singular value of a weight as a matrix, from estimates of its vectors."""

    def __init__(self, dim: int, eps: float) -> None:
        self.dim, self.eps = dim, eps

    def matrix(self, weight: Tensor) -> Any:
        """``weight`` with the axis ``dim`` first, and the others as one."""
        return weight.movedim(self.dim, 0).flatten(1)

    def begun(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates after some iterations from random vectors."""
        with no_grad():
            matrix = self.matrix(weight.detach())
            u, v = (self._unit(randn(n, dtype=weight.dtype)) for n in matrix.shape)
            self.advance(weight, u, v, 15)
        return u, v

    def _unit(self, x: Tensor) -> Tensor:
        made: Tensor = F.normalize(x, dim=0, eps=self.eps)
        return made

    def advance(
        self, weight: Tensor, u: Tensor, v: Tensor, iterations: int, *, v_first: bool = False
    ) -> None:
        """Improves the estimates, in place."""
        with no_grad():
            matrix = self.matrix(weight.detach())
            first = (u, matrix, v)
            second = (v, matrix.mT, u)
            for _ in range(iterations):
                for better, map_, other in (second, first) if v_first else (first, second):
                    better.copy_(self._unit(map_.mv(other)))

    def norm(self, weight: Tensor, u: Tensor, v: Tensor) -> Any:
        """The singular value that belongs to the vectors."""
        # Copies: the next call changes the vectors, and this one's derivative reads them.
        return u.clone().dot(self.matrix(weight).mv(v.clone()))


class _SpectralNorm(Module):
    """A weight divided by its largest singular value."""

    def __init__(
        self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12
    ) -> None:
        super().__init__()
        if not -weight.ndim <= dim < weight.ndim:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [-{weight.ndim}, "
                f"{weight.ndim - 1}] but got {dim})"
            )
        if n_power_iterations <= 0:
            raise ValueError(
                "Expected n_power_iterations to be positive, but got n_power_iterations="
                f"{n_power_iterations}"
            )
        self.method = PowerMethod(dim % weight.ndim, eps)
        self.n_power_iterations = n_power_iterations
        if weight.ndim > 1:
            for name, vector in zip(("_u", "_v"), self.method.begun(weight), strict=True):
                self.register_buffer(name, vector)

    def forward(self, weight: Tensor) -> Any:
        """The weight; in training mode the estimate is improved first."""
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.method.eps)
        if self.training:
            self.method.advance(weight, self._u, self._v, self.n_power_iterations)
        return weight / self.method.norm(weight, self._u, self._v)

    def right_inverse(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value


def axis_of_outputs(module: Module, dim: int | None) -> int:
    """The axis that ``spectral_norm`` keeps: that of the outputs, unless given."""
    if dim is not None:
        return dim
    return int(isinstance(module, ConvTranspose1d | ConvTranspose2d | ConvTranspose3d))


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12,
    dim: int | None = None,
) -> Module:  # fmt: skip
    """Keeps the largest singular value of a weight at 1.

    T. Miyato et al., "Spectral normalization for generative adversarial networks" (2018).
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    made = _SpectralNorm(weight, n_power_iterations, axis_of_outputs(module, dim), eps)
    return register_parametrization(module, name, made)
