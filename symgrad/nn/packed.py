"""Sequences of different lengths in one batch: padded, or packed without the padding.

A packed batch has the elements of all sequences at time 0, then those at time 1, and so on,
the longest sequence first: at each time the sequences that still go on are the first ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from symgrad.ir.errors import UsageError
from symgrad.nn.faces import FitError, for_tensors
from symgrad.tensors import NAMES, Tensor
from symgrad.tracing import emit

_torch: dict[str, Any] = NAMES
Array = np.ndarray[Any, Any]


class _Packed(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Packed):
    """``data`` ``[elements, ...]`` in order of time, ``batch_sizes`` of them at each time.

    ``sorted_indices`` has for each packed sequence its place in the batch, ``unsorted_indices``
    the other way round; ``None`` where the batch was in the order of lengths.
    """

    __slots__ = ()

    def __new__(
        cls, data: Any, batch_sizes: Tensor | None = None, sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:  # fmt: skip
        if batch_sizes is None:
            if not isinstance(data, (list, tuple)) or len(data) != 2:
                raise AssertionError("Expected data to be a list or tuple of length 2")
            data, batch_sizes = data
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """With ``data`` of another dtype."""
        return self._replace(data=self.data.to(*args, **kwargs))

    def cpu(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """Itself."""
        return self

    def pin_memory(self) -> PackedSequence:
        """Itself."""
        return self

    def double(self) -> PackedSequence:
        """With ``data`` in float64."""
        return self.to(_torch["float64"])

    def float(self) -> PackedSequence:
        """With ``data`` in float32."""
        return self.to(_torch["float32"])

    def half(self) -> PackedSequence:
        """With ``data`` in float16."""
        return self.to(_torch["float16"])

    def long(self) -> PackedSequence:
        """With ``data`` in int64."""
        return self.to(_torch["int64"])

    def int(self) -> PackedSequence:
        """With ``data`` in int32."""
        return self.to(_torch["int32"])

    def is_pinned(self) -> bool:
        """Memory is not pinned."""
        return False

    @property
    def is_cuda(self) -> bool:
        """Tensors are in the memory of the processor."""
        return False


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes one."""
    return None if permutation is None else Tensor.of_array(np.argsort(permutation._array()))


@for_tensors("PackPaddedSequenceBackward0")
def _picked(x: Any, places: Any) -> Any:
    """Elements along the first two axes, taken as one."""
    flat = emit("reshape", x, shape=(x.shape[0] * x.shape[1], *x.shape[2:]))
    return emit("gather", flat, places, axes=(0,))


def pick(x: Tensor, places: Array) -> Tensor:
    """The elements of ``x`` ``[A, B, ...]`` numbered ``places``, along its first two axes."""
    picked: Tensor = _picked(x, Tensor.of_array(places))
    return picked


def running(batch_sizes: Tensor) -> Array:
    """Which sequences go on at which time: ``[time, sequence]``, for packed sequences."""
    sizes = batch_sizes._array()
    going_on: Array = np.arange(sizes.max(initial=0)) < sizes[:, None]
    return going_on


def packed_places(batch_sizes: Tensor) -> Array:
    """Where the elements of a packed batch are among those of a padded one."""
    return np.flatnonzero(running(batch_sizes))


def padded_places(batch_sizes: Tensor) -> Array:
    """Where the elements of a padded batch are among those of a packed one; any for padding."""
    valid = running(batch_sizes)
    return np.where(valid, np.cumsum(valid).reshape(valid.shape) - 1, 0)


def pack_padded_sequence(
    input: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:  # fmt: skip
    """Packs ``[time, batch, ...]``, or ``[batch, time, ...]``, of sequences of these lengths.

    They must be in decreasing order unless ``enforce_sorted`` is off.
    """
    known = lengths._array() if isinstance(lengths, Tensor) else np.asarray(lengths)
    if known.ndim != 1:
        raise FitError(
            f"'lengths' argument should be a 1D CPU int64 tensor, but got {known.ndim}D cpu Long "
            "tensor"
        )
    known = known.astype(np.int64)
    order = None
    if not enforce_sorted:
        order = np.argsort(-known, kind="stable")
        known = known[order]
        input = input.index_select(0 if batch_first else 1, Tensor.of_array(order))
    batch = input.shape[0 if batch_first else 1]
    if known.size != batch:
        raise FitError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {known.size} "
            f"(batch_size={batch})"
        )
    if known.size and known[-1] <= 0:
        raise UsageRuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' "
            "that is <= 0"
        )
    if (np.diff(known) > 0).any():
        raise UsageRuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. "
            "You can pass `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to "
            "sidestep this requirement if you do not need ONNX exportability."
        )
    time = input.shape[1 if batch_first else 0]
    if known.size and known[0] > time:
        raise FitError(
            f"pack_padded_sequence: a sequence of length {known[0]} is in an input of {time} steps"
        )
    goes_on = np.arange(known.max(initial=0))[:, None] < known
    sizes = Tensor.of_array(goes_on.sum(1))
    places = np.flatnonzero(goes_on)
    if batch_first:
        places = places % batch * time + places // batch
    indices = None if order is None else Tensor.of_array(order)
    return PackedSequence(pick(input, places), sizes, indices)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A packed batch padded, ``[time, batch, ...]``, and the lengths: undoes packing.

    ``total_length`` is the number of steps if not that of the longest sequence.
    """
    valid = running(sequence.batch_sizes)
    places = padded_places(sequence.batch_sizes)
    time = len(valid)
    if total_length is not None:
        if total_length < time:
            raise ValueError(
                "Expected total_length to be at least the length of the longest sequence in "
                f"input, but got total_length={total_length} and max sequence length being {time}"
            )
        more = ((0, total_length - time), (0, 0))
        valid, places = np.pad(valid, more), np.pad(places, more)
    lengths = valid.sum(0)
    if sequence.unsorted_indices is not None:
        order = sequence.unsorted_indices._array()
        valid, places, lengths = valid[:, order], places[:, order], lengths[order]
    if batch_first:
        valid, places = valid.T, places.T
    taken = _torch["index_select"](sequence.data, 0, Tensor.of_array(places.reshape(-1)))
    padded = taken.reshape(*valid.shape, *sequence.data.shape[1:])
    mask = Tensor.of_array(valid.reshape(*valid.shape, *[1] * (padded.ndim - 2)))
    return _torch["where"](mask, padded, padding_value), Tensor.of_array(lengths)


def pad_sequence(
    sequences: Iterable[Tensor], batch_first: bool = False, padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:  # fmt: skip
    """Sequences ``[length, ...]`` stacked along a new axis, the shorter ones filled up."""
    if not isinstance(sequences, Iterable):
        raise UsageRuntimeError(
            "pad_sequence: Expected iterable for input sequences, but got arg of type: "
            f"{type(sequences)}"
        )
    given = list(sequences)
    if not given:
        raise UsageRuntimeError("received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise UsageRuntimeError(
            f"Expected padding_side to be one of left or right, but got {padding_side}."
        )
    longest = max(x.shape[0] for x in given)
    filled = []
    for x in given:
        missing = longest - x.shape[0]
        rest = [x.new_full((missing, *x.shape[1:]), padding_value)] if missing else []
        parts = [*rest, x] if padding_side == "left" else [x, *rest]
        filled.append(_torch["cat"](parts) if rest else x)
    result: Tensor = _torch["stack"](filled, 0 if batch_first else 1)
    return result


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False
) -> list[Tensor]:
    """The sequences of a padded batch, without the padding."""
    each = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [x[: int(n)] for x, n in zip(each, lengths.tolist(), strict=True)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Packs sequences ``[length, ...]``."""
    lengths = [x.shape[0] for x in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a packed batch."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)


class UsageRuntimeError(UsageError, RuntimeError):
    """Bad arguments where torch raises ``RuntimeError``."""
