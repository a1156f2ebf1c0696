"""Where the kernels of weight gradients leave what they have summed up.

A finished *block pair*, the ``[kh][kw][b][16]`` matrix of 16 output and b input channels,
goes to plain or blocked weights as it is, or through an epilogue: an optimiser's update,
say, which then reads and writes momentum and weights while the gradient is still in cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from symgrad.codegen.access import Epilogue
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.kernels.blocked import BLOCK, Weights
from symgrad.codegen.kernels.conv_pack import emit_scatter, weight_block
from symgrad.codegen.registers import Int, Reg, bytes_of, vec


def emit_store_pair(k: Emitter, name: str, weights: Weights, epilogue: Epilogue | None) -> None:
    """Emits ``void name(ptr pair, i64 out_block, i64 in_block, ptr dw, ptr operand...)``.

    The epilogue's operands lie over the dimensions of blocked weights, as dw then does.
    """
    operands = len(epilogue.operands) if epilogue else 0
    if epilogue is None:
        emit_scatter(k, f"{name}_scatter", weights)
    params = ["ptr", "i64", "i64", "ptr", *["ptr"] * operands]
    with k.function(name, params, internal=True) as (pair, out_block, in_block, dw, *bases):
        target = weight_block(k, weights, dw, out_block, in_block)
        if epilogue is None:
            k.call(f"{name}_scatter", "void", [pair, target])
            return
        moved = _moved(k, epilogue, bases, (out_block, in_block, 0, 0, 0, 0))
        with k.loop(0, weights.kernel[0]) as h, k.loop(0, weights.kernel[1]) as w:
            tap = k.mul(k.add(k.mul(h, weights.kernel[1]), w), weights.block * BLOCK)
            _emit_tap(
                k, weights, epilogue,
                k.gep(pair, tap, weights.scalar),
                k.gep(target, tap, weights.scalar),
                _moved(k, epilogue, moved, (0, 0, h, w, 0, 0)),
            )  # fmt: skip


def operand_streams(
    k: Emitter,
    weights: Weights,
    epilogue: Epilogue | None,
    bases: Sequence[Reg],
    pair: tuple[Int, Int],
) -> list[Reg]:
    """Where a block pair begins in those operands that lie as blocked weights do.

    The lines of momentum, say, are worth asking for while the gradient is being summed, and
    with the intent to write: an update overwrites them, and a store waits long where another
    core has read the line meanwhile.
    """
    if epilogue is None:
        return []
    return [
        weight_block(k, weights, k.gep(base, access.offset, weights.scalar), *pair)
        for access, base in zip(epilogue.operands, bases, strict=True)
        if (access.dtype, access.strides) == (weights.dtype, weights.access.strides)
    ]


def _emit_tap(
    k: Emitter, weights: Weights, epilogue: Epilogue, source: Reg, target: Reg, bases: Sequence[Reg]
) -> None:
    """The epilogue on the ``[b][16]`` sums of one tap."""
    scalar = weights.scalar
    lanes = min(BLOCK, k.target.lanes(bytes_of(scalar)))
    with k.loop(0, weights.block) as channel:
        for lane in range(0, BLOCK, lanes):
            at = k.add(k.mul(channel, BLOCK), lane)
            value = k.load(vec(scalar, lanes), k.gep(source, at, scalar))
            value = epilogue.emit(k, value, bases, (0, 0, 0, 0, channel, lane), None)
            k.store(value, k.gep(target, at, scalar))


def _moved(k: Emitter, epilogue: Epilogue, bases: Sequence[Reg], point: Sequence[Int]) -> list[Reg]:
    """The operands' bases at a point; the epilogue itself adds their offsets."""
    return [
        replace(access, offset=0).address(k, base, point)
        for access, base in zip(epilogue.operands, bases, strict=True)
    ]
