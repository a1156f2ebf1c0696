"""Activation layers: functions of ``nn.functional`` with their options kept."""

from __future__ import annotations

from typing import Any, ClassVar

from symgrad.nn import functional as F
from symgrad.nn import init
from symgrad.nn.module import Module
from symgrad.nn.parameter import Parameter

Array = Any


class _Activation(Module):
    """A function and its options, which are attributes of the same names."""

    _function: ClassVar[Any]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, input: Array) -> Array:
        """Elementwise, or along an axis: the shape stays, except for ``GLU``."""
        options = {name: getattr(self, name) for name in self._options}
        return type(self)._function(input, **options)

    def extra_repr(self) -> str:
        """The options; ``inplace`` if it is on."""
        values = {name: getattr(self, name) for name in self._options}
        if not values.get("inplace"):
            values.pop("inplace", None)
        return ", ".join(f"{name}={value!r}" for name, value in values.items())


class ReLU(_Activation):
    """``max(x, 0)``"""

    _function = F.relu

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(inplace=inplace)

    def forward(self, input: Array) -> Array:
        """As any activation, without detours: there is no more frequent one."""
        return F.relu(input, self.inplace)


class ReLU6(_Activation):
    """``min(max(x, 0), 6)``"""

    _function = F.relu6

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(inplace=inplace)


class Hardtanh(_Activation):
    """``x`` limited to ``[min_val, max_val]``."""

    _function = F.hardtanh

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__(min_val=min_val, max_val=max_val, inplace=inplace)


class LeakyReLU(_Activation):
    """``x`` where positive, else ``negative_slope x``."""

    _function = F.leaky_relu

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__(negative_slope=negative_slope, inplace=inplace)


class ELU(_Activation):
    """``x`` where positive, else ``alpha (exp(x) - 1)``."""

    _function = F.elu

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(alpha=alpha, inplace=inplace)


class CELU(_Activation):
    """``x`` where positive, else ``alpha (exp(x / alpha) - 1)``."""

    _function = F.celu

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(alpha=alpha, inplace=inplace)


class SELU(_Activation):
    """``elu`` scaled to keep mean and variance."""

    _function = F.selu

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(inplace=inplace)


class GELU(_Activation):
    """``x Phi(x)``, or its approximation by ``tanh``."""

    _function = F.gelu

    def __init__(self, approximate: str = "none") -> None:
        super().__init__(approximate=approximate)


class SiLU(_Activation):
    """``x sigmoid(x)``"""

    _function = F.silu

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(inplace=inplace)


class Mish(_Activation):
    """``x tanh(softplus(x))``"""

    _function = F.mish

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(inplace=inplace)


class Hardswish(_Activation):
    """``x hardsigmoid(x)``"""

    _function = F.hardswish

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(inplace=inplace)


class Hardsigmoid(_Activation):
    """``x / 6 + 1 / 2`` limited to [0, 1]."""

    _function = F.hardsigmoid

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(inplace=inplace)


class Softplus(_Activation):
    """``log(1 + exp(beta x)) / beta``"""

    _function = F.softplus

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__(beta=beta, threshold=threshold)


class Softsign(_Activation):
    """``x / (1 + |x|)``"""

    _function = F.softsign


class Tanh(_Activation):
    """Hyperbolic tangent."""

    _function = F.tanh


class Tanhshrink(_Activation):
    """``x - tanh(x)``"""

    _function = F.tanhshrink


class Sigmoid(_Activation):
    """``1 / (1 + exp(-x))``"""

    _function = F.sigmoid


class LogSigmoid(_Activation):
    """``log(sigmoid(x))``"""

    _function = F.logsigmoid


class _Shrink(_Activation):
    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__(lambd=lambd)

    def extra_repr(self) -> str:
        """The option's value."""
        return str(self.lambd)


class Hardshrink(_Shrink):
    """``x`` where ``|x| > lambd``, else 0."""

    _function = F.hardshrink


class Softshrink(_Shrink):
    """``x`` moved towards 0 by ``lambd``, not beyond it."""

    _function = F.softshrink


class Threshold(_Activation):
    """``x`` where above ``threshold``, else ``value``."""

    _function = F.threshold

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__(threshold=threshold, value=value, inplace=inplace)


class GLU(_Activation):
    """``a sigmoid(b)`` of the two halves of an axis."""

    _function = F.glu

    def __init__(self, dim: int = -1) -> None:
        super().__init__(dim=dim)


class _AlongAxis(_Activation):
    def __init__(self, dim: int | None = None) -> None:
        super().__init__(dim=dim)


class Softmax(_AlongAxis):
    """``exp(x) / sum(exp(x))`` along an axis."""

    _function = F.softmax


class Softmax2d(Module):
    """``Softmax`` over the channels of ``[N, C, H, W]`` or ``[C, H, W]``."""

    def forward(self, input: Array) -> Array:
        """The shape stays."""
        if input.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {input.ndim}D instead")
        return F.softmax(input, -3)


class Softmin(_AlongAxis):
    """``softmax(-x)`` along an axis."""

    _function = F.softmin


class LogSoftmax(_AlongAxis):
    """``log(softmax(x))`` along an axis."""

    _function = F.log_softmax


class PReLU(Module):
    """``x`` where positive, else ``weight x`` with one weight in all or one per channel."""

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = Parameter.blank((num_parameters,), dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets all weights to the initial one."""
        init.constant_(self.weight, self.init)

    def forward(self, input: Array) -> Array:
        """Elementwise."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """How many weights there are."""
        return f"num_parameters={self.num_parameters}"


class RReLU(_Activation):
    """``x`` where positive, else times a random slope; see ``functional.rrelu``."""

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False) -> None:
        super().__init__(lower=lower, upper=upper, inplace=inplace)

    def forward(self, input: Array) -> Array:
        """The shape stays; slopes are random in training mode."""
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)
