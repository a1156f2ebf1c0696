"""The saved state of modules, and their conversion to other dtypes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from symgrad.nn.members import BUFFERS, MODULES, PARAMETERS, HasMembers
from symgrad.nn.parameter import Parameter, is_lazy
from symgrad.tensors import Tensor, dtypes

S = TypeVar("S", bound="StateDict")


class _IncompatibleKeys(NamedTuple):
    """Names that a loaded state lacked, and names in it that the module does not know."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"_IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )

    def __str__(self) -> str:
        return repr(self)


class StateDict(HasMembers):
    """What modules can do with all their values at once."""

    _transient_buffers: set[str]

    def state_dict(
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> Any:
        """Parameters and persistent buffers by dotted name, module by module.

        The tensors share the module's memory, outside the graph unless ``keep_vars``.
        """
        result = OrderedDict() if destination is None else destination
        for name, value in self._saved(prefix):
            result[name] = value if keep_vars or not isinstance(value, Tensor) else value.detach()
        return result

    def _saved(self, prefix: str) -> Iterator[tuple[str, Any]]:
        for kind in (PARAMETERS, BUFFERS):
            for name, value in self._of_kind(kind):
                if name not in self._transient_buffers:
                    yield prefix + name, value
        for name, module in self._of_kind(MODULES):
            yield from module._saved(f"{prefix}{name}.")

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """Copies tensors or arrays by name, keeping the module's dtypes.

        With ``assign`` they take the place of the module's own values, dtypes included.
        Raises ``RuntimeError`` for wrong shapes and, with ``strict``, for missing and
        unexpected names (the counters ``num_batches_tracked`` may be missing in old files).
        Nothing is changed unless everything fits.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        own = dict(self._saved(""))
        missing = [k for k in own if k not in state_dict and not k.endswith("num_batches_tracked")]
        unexpected = [k for k in state_dict if k not in own]
        problems: list[str] = []
        if strict and missing:
            problems.append(f"Missing key(s) in state_dict: {_quoted(missing)}. ")
        if strict and unexpected:
            problems.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
        given = {name: value for name, value in state_dict.items() if name in own}
        problems += [p for name, v in given.items() if (p := _misfit(name, own[name], v))]
        if problems:
            lines = "\n\t".join(problems)
            raise RuntimeError(
                f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{lines}"
            )
        self._take(given, assign, "")
        return _IncompatibleKeys(missing, unexpected)

    def _take(self, given: Mapping[str, Any], assign: bool, prefix: str) -> None:
        for kind in (PARAMETERS, BUFFERS):
            for name, old in self._of_kind(kind):
                if prefix + name in given:
                    new = given[prefix + name]
                    if is_lazy(old):
                        if is_lazy(new):
                            continue
                        old.materialize(new.shape)
                    array = new._array() if isinstance(new, Tensor) else new
                    old._set_array(np.array(array, None if assign else old._dtype, order="C"))
        for name, module in self._of_kind(MODULES):
            module._take(given, assign, f"{prefix}{name}.")

    # -- conversion ------------------------------------------------------------------------

    def to(self: S, *args: Any, dtype: Any = None, device: Any = None, **_: Any) -> S:
        """Converts floating-point parameters, gradients and buffers to a dtype, in place.

        A device, another tensor (whose dtype is taken) or ``non_blocking`` may be given as
        torch's; all memory is the CPU's.
        """
        for arg in args:
            if isinstance(arg, Tensor):
                dtype = arg.dtype
            elif isinstance(arg, (str, dtypes.device)):
                device = arg
            elif not isinstance(arg, bool) and arg is not None:
                dtype = arg
        if device is not None and str(device).split(":")[0] != "cpu":
            raise RuntimeError(f"symgrad computes on CPUs only, there is no device {device!r}")
        if dtype is None:
            return self
        wanted = dtypes.named(dtype)
        if not wanted.is_floating_point:
            raise TypeError(
                "nn.Module.to only accepts floating point or complex dtypes, but got desired "
                f"dtype={wanted}"
            )
        self._convert(wanted)
        return self

    def _convert(self, wanted: dtypes.dtype) -> None:
        for kind in (PARAMETERS, BUFFERS):
            for _, value in self._of_kind(kind):
                if not value.is_floating_point() or value.dtype is wanted:
                    continue
                gradient = value.grad if isinstance(value, Parameter) else None
                value.grad = None
                value._set_array(value._array().astype(wanted.numpy))
                if gradient is not None:
                    value.grad = gradient.detach().to(wanted)
        for _, module in self._of_kind(MODULES):
            module._convert(wanted)

    def float(self: S) -> S:
        """Converts floating-point values to float32."""
        return self.to(dtypes.float32)

    def double(self: S) -> S:
        """Converts floating-point values to float64."""
        return self.to(dtypes.float64)

    def bfloat16(self: S) -> S:
        """Converts floating-point values to bfloat16."""
        return self.to(dtypes.bfloat16)

    def half(self: S) -> S:
        """Converts floating-point values to float16."""
        return self.to(dtypes.float16)

    def type(self: S, dst_type: Any) -> S:
        """Converts floating-point values to a dtype."""
        return self.to(dst_type)

    def cpu(self: S) -> S:
        """The module itself: all memory is the CPU's."""
        return self


def _misfit(name: str, own: Any, given: Any) -> str:
    """What is wrong with a value to be loaded; nothing is the empty text."""
    if not isinstance(given, Tensor | np.ndarray | np.generic):
        return (
            f'While copying the parameter named "{name}", expected torch.Tensor or Tensor-like '
            f"object from checkpoint but received {type(given)}"
        )
    if is_lazy(own):
        return ""
    if tuple(given.shape) != tuple(own.shape):
        return (
            f"size mismatch for {name}: copying a param with shape {_size(given)} from "
            f"checkpoint, the shape in current model is {_size(own)}."
        )
    return ""


def _size(x: Any) -> str:
    return f"torch.Size({list(x.shape)})"


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
