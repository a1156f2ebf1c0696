"""Derivatives of tensors: ``backward``, ``grad``, functions with derivatives of their own."""

from __future__ import annotations

from symgrad.autograd import function, functional
from symgrad.autograd.function import Function
from symgrad.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from symgrad.tensors import Tensor
from symgrad.tensors.anomaly import (
    detect_anomaly,
    is_anomaly_check_nan_enabled,
    is_anomaly_enabled,
    set_detect_anomaly,
)
from symgrad.tensors.engine import backward, grad
from symgrad.tensors.picture import to_dot, to_svg
from symgrad.tensors.state import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)

__all__ = [
    "Function",
    "GradcheckError",
    "Variable",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "function",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_anomaly_check_nan_enabled",
    "is_anomaly_enabled",
    "is_grad_enabled",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
    "to_dot",
    "to_svg",
]


def Variable(data: Tensor, requires_grad: bool = False) -> Tensor:  # noqa: N802  (torch's name)
    """A tensor on the memory of ``data``: what tensors had to be wrapped in before 2018."""
    return data.detach().requires_grad_(requires_grad)
