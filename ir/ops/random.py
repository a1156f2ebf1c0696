"""Counter-based random bits: the key is an operand, so the op is pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from symgrad.ir.errors import DTypeError
from symgrad.ir.graph import Value, insertion
from symgrad.ir.opdef import Array, Sample, op
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.ops import shape as sh
from symgrad.ir.types import TensorType, u32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


@op(
    "random_bits",
    samples=[Sample(((2,),), {"shape": (3, 5)}, ((0, 100),), (u32,))],
    differentiable=False,
)
def random_bits(key: TensorType, *, shape: tuple[int, ...]) -> TensorType:
    """32 random bits per element: Threefry-2x32 with 20 rounds over the element's number.

    J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    if key != TensorType(u32, (2,)):
        raise DTypeError(f"random_bits: the key must be u32[2], got {key}")
    return TensorType(u32, shape)


@random_bits.evaluate
def _random_bits(key: Array, *, shape: tuple[int, ...]) -> Array:
    n = math.prod(shape)
    half = (n + 1) // 2
    counter = np.arange(half, dtype=np.uint32)
    x, y = _rounds(
        counter,
        counter + np.uint32(half),
        key[0],
        key[1],
        lambda a, n: (a << np.uint32(n)) | (a >> np.uint32(32 - n)),
        lambda k, n: k + np.uint32(n),
        np.uint32(PARITY),
    )
    return np.concatenate([x, y])[:n].reshape(shape)


def _rounds(
    x: Any, y: Any, k0: Any, k1: Any, rotate: Any, plus: Any, parity: Any
) -> tuple[Any, Any]:
    """The cipher, in whatever arithmetic the operands bring."""
    keys = (k0, k1, parity ^ k0 ^ k1)
    x, y = x + keys[0], y + keys[1]
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            x = x + y
            y = rotate(y, distance) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + plus(keys[(group + 2) % 3], group + 1)
    return x, y


class _Word:
    """A u32 value of the IR with the operators that ``_rounds`` uses."""

    def __init__(self, value: Value) -> None:
        self.value = value

    def __add__(self, other: _Word) -> _Word:
        return _Word(ew.add(self.value, other.value))

    def __xor__(self, other: _Word) -> _Word:
        return _Word(ew.xor(self.value, other.value))


@random_bits.expand
def _random_bits_expand(key: Value, *, shape: tuple[int, ...]) -> Value:
    n = math.prod(shape)
    half = (n + 1) // 2
    space = (half,)

    def number(k: int) -> Value:
        result: Value = insertion.builder.emit("constant", value=k, type=TensorType(u32, space))
        return result

    def word(i: int) -> _Word:
        scalar = sh.reshape(sh.take_range(key, 0, i, i + 1), shape=())
        return _Word(sh.broadcast_to(scalar, shape=space, axes=()))

    def rotate(a: _Word, distance: int) -> _Word:
        left = ew.shift_left(a.value, number(distance))
        return _Word(ew.or_(left, ew.shift_right(a.value, number(32 - distance))))

    counter = _Word(sh.iota(shape=space, axis=0, dtype=u32))
    x, y = _rounds(
        counter,
        counter + _Word(number(half)),
        word(0),
        word(1),
        rotate,
        lambda k, m: k + _Word(number(m)),
        _Word(number(PARITY)),
    )
    both = sh.concatenate(x.value, y.value, axis=0)
    result: Value = sh.reshape(sh.take_range(both, 0, 0, n), shape=shape)
    return result


@random_bits.batch
def _random_bits_batch(size: int, operands: Any, batched: Any, *, shape: tuple[int, ...]) -> Any:
    raise DTypeError(
        "random_bits: vectorising over keys is not supported; fold the batch into the shape"
    )
