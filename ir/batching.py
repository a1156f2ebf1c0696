"""Vectorisation: a function of one example becomes a function of a batch of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from symgrad.ir.builder import Builder
from symgrad.ir.errors import UnsupportedError
from symgrad.ir.graph import Op, Region, Value
from symgrad.ir.ops.shape import add_batch, transpose


def batch_into(
    builder: Builder, body: Region, arguments: Sequence[Value], batched: Sequence[bool], size: int
) -> list[Value]:
    """Emits ``body`` over a leading batch axis of length ``size``.

    ``arguments[i]`` has that axis where ``batched[i]``; every result has it.  Ops that
    do not depend on a batched argument are emitted once, unbatched.
    """
    values = dict(zip(map(id, body.params), arguments, strict=True))
    has_axis = dict(zip(map(id, body.params), batched, strict=True))
    with builder:
        for op in body.ops:
            operands = [values[id(v)] for v in op.operands]
            flags = [has_axis[id(v)] for v in op.operands]
            with builder.at(op.loc):
                new = (
                    _batch_op(op, operands, flags, size)
                    if any(flags)
                    else builder.copy(op, operands)
                )
            for old, value in zip(
                op.results, new if isinstance(new, tuple) else (new,), strict=True
            ):
                values[id(old)], has_axis[id(old)] = value, any(flags)
        results = [values[id(v)] for v in body.results]
        return add_batch(size, results, [has_axis[id(v)] for v in body.results])


def _batch_op(op: Op, operands: list[Value], batched: list[bool], size: int) -> object:
    if op.regions:
        return _WITH_REGIONS[op.name](op, operands, batched, size)
    if op.opdef.elementwise:
        return op.opdef(*add_batch(size, operands, batched), **op.attrs)
    if op.opdef.batch_rule is None:
        raise UnsupportedError(f"{op.name} cannot be vectorised over a batch axis", loc=op.loc)
    return op.opdef.batch_rule(size, operands, batched, **op.attrs)


def _batch_scan(op: Op, operands: list[Value], batched: list[bool], size: int) -> object:
    """A loop whose body runs over the batch; all of its state has the batch axis."""
    (region,), consts, carries = op.regions, op.attrs["consts"], op.attrs["carries"]
    first = consts + carries
    state = add_batch(size, operands[consts:first], batched[consts:first])
    each = [_swapped(v) if b else v for v, b in zip(operands[first:], batched[first:], strict=True)]
    flags = [*batched[:consts], *(True for _ in state), *batched[first:]]
    made = op.opdef(
        *operands[:consts], *state, *each, regions=(_batched_region(region, flags, size),),
        **op.attrs,
    )  # fmt: skip
    values = made if isinstance(made, tuple) else (made,)
    return (*values[:carries], *map(_swapped, values[carries:]))


def _batch_checkpoint(op: Op, operands: list[Value], batched: list[bool], size: int) -> object:
    """The body runs over the batch."""
    region = _batched_region(op.regions[0], batched, size)
    return op.opdef(*operands, regions=(region,))


def _batch_custom_vjp(op: Op, operands: list[Value], batched: list[bool], size: int) -> object:
    """So does the rule; a residual may be the same for all examples."""
    first, last = op.attrs["inputs"], len(operands) - op.attrs["outputs"]
    (region,) = op.regions
    if region.results:
        cts = len(region.params) - (last - first)
        region = _batched_region(region, [*batched[first:last], *(True,) * cts], size)
    ends = add_batch(
        size, [*operands[:first], *operands[last:]], [*batched[:first], *batched[last:]]
    )
    return op.opdef(
        *ends[:first], *operands[first:last], *ends[first:], regions=(region,), **op.attrs
    )


def _batched_region(region: Region, flags: Sequence[bool], size: int) -> Region:
    builder = Builder(locations=False)
    params = []
    for old, flag in zip(region.params, flags, strict=True):
        shape = (size, *old.shape) if flag else old.shape
        params.append(builder.param(old.type.with_shape(shape)))
        params[-1].facts = old.facts
    return builder.region(params, batch_into(builder, region, params, flags, size))


_WITH_REGIONS: dict[str, Callable[[Op, list[Value], list[bool], int], object]] = {
    "scan": _batch_scan,
    "checkpoint": _batch_checkpoint,
    "custom_vjp": _batch_custom_vjp,
}


def _swapped(x: Value) -> Value:
    """The first two axes the other way round: those of the batch and of the steps."""
    axes = (1, 0, *range(2, x.rank))
    swapped: Value = transpose(x, axes=axes)
    return swapped
