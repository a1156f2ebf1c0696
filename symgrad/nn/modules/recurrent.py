"""Recurrent layers and cells: RNN, LSTM, GRU."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any, ClassVar

import symgrad.numpy as snp
from symgrad.ir.errors import ShapeError
from symgrad.nn import functional as F
from symgrad.nn import init
from symgrad.nn.faces import FitError
from symgrad.nn.functions.recurrent import GATES, join_directions, run_cell, run_layer
from symgrad.nn.module import Module
from symgrad.nn.packed import PackedSequence, packed_places, padded_places, pick, running
from symgrad.nn.parameter import Parameter
from symgrad.tensors import NAMES, Tensor

Array = Any
_torch: dict[str, Any] = NAMES


class _DimensionError(ShapeError, ValueError):
    """A wrong number of axes, where torch raises ``ValueError``."""


class RNNBase(Module):
    """What the recurrent layers share: their parameters, and the way of a sequence through them.

    Layer ``k`` has ``weight_ih_l{k}`` ``[gates, in]``, ``weight_hh_l{k}`` ``[gates, out]`` and
    ``bias_ih_l{k}``, ``bias_hh_l{k}`` ``[gates]``, with projections ``weight_hr_l{k}``
    ``[proj_size, hidden_size]``; those of the other direction end in ``_reverse``.
    """

    def __init__(
        self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1,
        bias: bool = True, batch_first: bool = False, dropout: float = 0.0,
        bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        _check_options(input_size, hidden_size, num_layers, bias, batch_first, dropout, proj_size)
        if mode not in GATES:
            raise ValueError("Unrecognized RNN mode: " + mode)
        self.mode, self.input_size, self.hidden_size = mode, input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional = float(dropout), bidirectional
        self.proj_size = proj_size
        rows, out = GATES[mode] * hidden_size, proj_size or hidden_size
        taken = input_size
        for layer in range(num_layers):
            for suffix in self._suffixes(layer):
                shapes = {
                    "weight_ih": (rows, taken), "weight_hh": (rows, out),
                    "bias_ih": (rows,) if bias else None, "bias_hh": (rows,) if bias else None,
                    "weight_hr": (proj_size, hidden_size) if proj_size else None,
                }  # fmt: skip
                for name, shape in shapes.items():
                    if shape is not None:
                        setattr(self, name + suffix, Parameter.blank(shape, dtype))
            taken = out * self._directions
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self._directions]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        return [
            [getattr(self, name + suffix) for name in names if hasattr(self, name + suffix)]
            for layer in range(self.num_layers)
            for suffix in self._suffixes(layer)
        ]

    def reset_parameters(self) -> None:
        """Draws all parameters anew, uniform within ``1 / sqrt(hidden_size)``."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing: parameters need not lie together."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        """``(output, state)``: ``output`` has the last layer's state at every step.

        ``input`` is ``[time, batch, in]``, ``[batch, time, in]`` with ``batch_first``, ``[time,
        in]`` unbatched, or packed; ``state``, and ``hx``, which is zero if not given, ``[layers *
        directions, batch, size]``, a pair of such for an LSTM.
        """
        if isinstance(input, PackedSequence):
            return self._on_packed(input, hx)
        self._check_rank(input, hx)
        batched = input.ndim == 3
        state = self._as_state(hx)
        if not batched:
            input = _moved(input, "unsqueeze", 0 if self.batch_first else 1)
            state = state and tuple(_moved(s, "unsqueeze", 1) for s in state)
        self._check_input(input, rank=3)
        self._check_state(state, input.shape[0 if self.batch_first else 1])
        if self.batch_first:
            input = _moved(input, "transpose", 0, 1)
        if input.shape[0] == 0:
            raise FitError("Expected sequence length to be larger than 0 in RNN")
        output, state = self._through_layers(input, state, None)
        if self.batch_first:
            output = _moved(output, "transpose", 0, 1)
        if not batched:
            output = _moved(output, "squeeze", 0 if self.batch_first else 1)
            state = tuple(_moved(s, "squeeze", 1) for s in state)
        return output, self._as_hx(state)

    def _on_packed(self, input: PackedSequence, hx: Any) -> Any:
        data, batch_sizes, sorted_indices, unsorted_indices = input
        state = self._as_state(hx)
        self._check_input(data, rank=2)
        self._check_state(state, int(batch_sizes[0]))
        if state is not None and sorted_indices is not None:
            state = tuple(s.index_select(1, sorted_indices) for s in state)
        places = Tensor.of_array(padded_places(batch_sizes))
        padded = data[places]
        output, state = self._through_layers(padded, state, Tensor.of_array(running(batch_sizes)))
        if unsorted_indices is not None:
            state = tuple(s.index_select(1, unsorted_indices) for s in state)
        packed = pick(output, packed_places(batch_sizes))
        return PackedSequence(packed, *input[1:]), self._as_hx(state)

    def _through_layers(
        self, x: Array, state: tuple[Array, ...] | None, valid: Array | None
    ) -> tuple[Array, tuple[Array, ...]]:
        last: list[tuple[Array, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in self._suffixes(layer):
                h, c = (*[s[len(last)] for s in state or ()], None, None)[:2]
                w_ih, w_hh, b_ih, b_hh, w_hr = (
                    getattr(self, name + suffix, None) for name in _WEIGHTS
                )
                reverse = suffix.endswith("reverse")
                y, *ended = run_layer(
                    x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, valid, self.mode, reverse
                )
                outputs.append(y)
                last.append(tuple(ended))
            x = join_directions(*outputs) if len(outputs) > 1 else outputs[0]
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(map(_stacked, zip(*last, strict=True)))

    # -- the state, alone or a pair --------------------------------------------------------

    def _as_state(self, hx: Any) -> tuple[Array, ...] | None:
        return None if hx is None else (hx,)

    def _as_hx(self, state: tuple[Array, ...]) -> Any:
        return state[0]

    # -- checks ----------------------------------------------------------------------------

    def _check_rank(self, input: Array, hx: Any) -> None:
        name = type(self).__name__
        if input.ndim not in (2, 3):
            tensor = " tensor" if name == "RNN" else ""
            raise _DimensionError(
                f"{name}: Expected input to be 2D or 3D, got {input.ndim}D{tensor} instead"
            )
        if hx is not None and hx.ndim != input.ndim:
            raise FitError(
                f"For {_batching(input)} input, hx should also be {input.ndim}-D but got "
                f"{hx.ndim}-D tensor"
            )

    def _check_input(self, input: Array, rank: int) -> None:
        weight = self.weight_ih_l0
        if input.dtype != weight.dtype:
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert input: input.to({weight.dtype}), or convert model: "
                f"model.to({input.dtype})"
            )
        if input.ndim != rank:
            raise FitError(f"input must have {rank} dimensions, got {input.ndim}")
        if input.shape[-1] != self.input_size:
            raise FitError(
                "input.size(-1) must be equal to input_size. Expected "
                f"{self.input_size}, got {input.shape[-1]}"
            )

    def _check_state(self, state: tuple[Array, ...] | None, batch: int) -> None:
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        for number, (s, size) in enumerate(zip(state or (), sizes, strict=False)):
            expected = (self.num_layers * self._directions, batch, size)
            if tuple(s.shape) != expected:
                which = f"hidden[{number}]" if len(state or ()) > 1 else "hidden"
                raise FitError(f"Expected {which} size {expected}, got {list(s.shape)}")

    def extra_repr(self) -> str:
        """Sizes, and what is not as by default."""
        usual = {
            "proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0,
            "bidirectional": False,
        }  # fmt: skip
        parts = [str(self.input_size), str(self.hidden_size)]
        parts += [f"{k}={getattr(self, k)}" for k, v in usual.items() if getattr(self, k) != v]
        return ", ".join(parts)


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def _batching(input: Array) -> str:
    return "batched 3-D" if input.ndim == 3 else "unbatched 2-D"


def _stacked(parts: tuple[Array, ...]) -> Array:
    stack = _torch["stack"] if isinstance(parts[0], Tensor) else snp.stack
    return stack(parts)


def _moved(x: Array, method: str, *places: int) -> Array:
    """A method of tensors that moves axes, on arrays as well."""
    if isinstance(x, Tensor):
        return getattr(x, method)(*places)
    moves = {"unsqueeze": snp.expand_dims, "squeeze": snp.squeeze, "transpose": snp.swapaxes}
    return moves[method](x, *places)


def _check_options(
    input_size: Any, hidden_size: Any, num_layers: int, bias: Any, batch_first: Any, dropout: Any,
    proj_size: int,
) -> None:  # fmt: skip
    """Refuses options that make no sense, in torch's words and order."""
    number = isinstance(dropout, numbers.Number) and not isinstance(dropout, bool)
    if not number or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an "
            "element being zeroed"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout "
            f"expects num_layers greater than 1, but got dropout={dropout} and "
            f"num_layers={num_layers}",
            stacklevel=4,
        )
    for name, value, kind in [
        ("bias", bias, bool), ("batch_first", batch_first, bool), ("input_size", input_size, int),
    ]:  # fmt: skip
        if not isinstance(value, kind):
            raise TypeError(
                f"{name} should be of type {kind.__name__}, got: {type(value).__name__}"
            )
    if input_size <= 0:
        raise ValueError("input_size must be greater than zero")
    if not isinstance(hidden_size, int):
        raise TypeError(f"hidden_size should be of type int, got: {type(hidden_size).__name__}")
    for name, value in [("hidden_size", hidden_size), ("num_layers", num_layers)]:
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj_size >= hidden_size:
        raise ValueError("proj_size has to be smaller than hidden_size")


class RNN(RNNBase):
    """``h' = tanh(x w_ih^T + b_ih + h w_hh^T + b_hh)``, or with ``relu``."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh",
        *args: Any, **kwargs: Any,
    ) -> None:  # fmt: skip
        _refuse_projections(kwargs)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(mode, input_size, hidden_size, num_layers, *args, **kwargs)
        self.nonlinearity = nonlinearity


class GRU(RNNBase):
    """Gated recurrent units: ``h' = (1 - z) n + z h``; see ``functions.recurrent``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projections(kwargs)
        super().__init__("GRU", *args, **kwargs)


class LSTM(RNNBase):
    """Long short-term memory: ``c' = f c + i g``, ``h' = o tanh(c')``, maybe projected."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def _as_state(self, hx: Any) -> tuple[Array, ...] | None:
        return None if hx is None else (hx[0], hx[1])

    def _as_hx(self, state: tuple[Array, ...]) -> Any:
        return state

    def _check_rank(self, input: Array, hx: Any) -> None:
        super()._check_rank(input, None)
        if hx is not None and not hx[0].ndim == hx[1].ndim == input.ndim:
            raise FitError(
                f"For {_batching(input)} input, hx and cx should also be {input.ndim}-D but got "
                f"({hx[0].ndim}-D, {hx[1].ndim}-D) tensors"
            )


def _refuse_projections(options: dict[str, Any]) -> None:
    if "proj_size" in options:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


# -- cells ---------------------------------------------------------------------------------


class RNNCellBase(Module):
    """What the cells share: a step of a layer."""

    _mode: ClassVar[str] = ""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = GATES[self._mode] * hidden_size
        self.weight_ih = Parameter.blank((rows, input_size), dtype)
        self.weight_hh = Parameter.blank((rows, hidden_size), dtype)
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter.blank((rows,), dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew, uniform within ``1 / sqrt(hidden_size)``."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def forward(self, input: Array, hx: Array | None = None) -> Array:
        """The next state, ``[batch, size]`` or ``[size]``; ``hx`` is zero unless given."""
        return self._step(input, (hx,), "hidden")[0]

    def _step(self, input: Array, state: tuple[Array | None, ...], *names: str) -> Any:
        kind = type(self).__name__
        given = [("input", input), *zip(names, state, strict=True)]
        for name, x in given:
            if x is not None and x.ndim not in (1, 2):
                raise _DimensionError(
                    f"{kind}: Expected {name} to be 1D or 2D, got {x.ndim}D instead"
                )
        if input.shape[-1] != self.input_size:
            raise FitError(
                f"input has inconsistent input_size: got {input.shape[-1]} expected "
                f"{self.input_size}"
            )
        for number, s in enumerate(state):
            self._check_state(input, number, s)
        h, c = (*state, None)[:2]
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return run_cell(input, h, c, *weights, self._mode)

    def _check_state(self, input: Array, number: int, s: Array | None) -> None:
        if s is None:
            return
        rows, own = (x.shape[0] if x.ndim == 2 else 1 for x in (input, s))
        if rows != own:
            raise FitError(f"Input batch size {rows} doesn't match hidden{number} batch size {own}")
        if s.shape[-1] != self.hidden_size:
            raise FitError(
                f"hidden{number} has inconsistent hidden_size: got {s.shape[-1]}, expected "
                f"{self.hidden_size}"
            )

    def extra_repr(self) -> str:
        """Sizes, and what is not as by default."""
        text = f"{self.input_size}, {self.hidden_size}"
        text += "" if self.bias is True else f", bias={self.bias}"
        nonlinearity = getattr(self, "nonlinearity", "tanh")
        return text if nonlinearity == "tanh" else f"{text}, nonlinearity={nonlinearity}"


class RNNCell(RNNCellBase):
    """A step of ``RNN``."""

    _mode = "RNN_TANH"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh",
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Array, hx: Array | None = None) -> Array:
        """The next state."""
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        self.__dict__["_mode"] = f"RNN_{self.nonlinearity.upper()}"
        return super().forward(input, hx)


class GRUCell(RNNCellBase):
    """A step of ``GRU``."""

    _mode = "GRU"


class LSTMCell(RNNCellBase):
    """A step of ``LSTM``, from and to ``(h, c)``."""

    _mode = "LSTM"

    def forward(self, input: Array, hx: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
        """The next state."""
        state = (None, None) if hx is None else (hx[0], hx[1])
        h, c = self._step(input, state, "hx[0]", "hx[1]")
        return h, c
