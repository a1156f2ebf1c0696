"""Vectorisation: a function of one example becomes a function of a batch of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from symgrad.ir.builder import Builder
from symgrad.ir.errors import UnsupportedError
from symgrad.ir.graph import Op, Region, Value, insertion
from symgrad.ir.ops.elementwise import select
from symgrad.ir.ops.shape import add_batch, broadcast_to, transpose


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


def _batch_when(op: Op, operands: list[Value], batched: list[bool], size: int) -> object:
    """A flag for all examples decides for all; with one for each, the body runs for all."""
    (region,), first = op.regions, 1 + op.attrs["count"]
    otherwise = add_batch(size, operands[1:first], batched[1:first])
    flag, inputs, flags = operands[0], operands[first:], batched[first:]
    if not batched[0]:
        body = _batched_region(region, flags, size)
        return op.opdef(flag, *otherwise, *inputs, regions=(body,), **op.attrs)
    made = batch_into(_this_builder(), region, inputs, flags, size)
    return tuple(_choose(flag, a, b) for a, b in zip(made, otherwise, strict=True))


def _batch_while(op: Op, operands: list[Value], batched: list[bool], size: int) -> object:
    """Steps run until all examples are through; those that are keep their state."""
    (region,), consts = op.regions, op.attrs["consts"]
    flags, *state = add_batch(size, operands[consts:], batched[consts:])
    builder = Builder(locations=False)
    fixed = [
        builder.param(p.type.with_shape((size, *p.shape)) if flag else p.type)
        for p, flag in zip(region.params, batched[:consts], strict=False)
    ]
    going = builder.param(flags.type)
    before = [builder.param(v.type) for v in state]
    for param in (*fixed, going, *before):
        param.facts = 0
    axes = [*batched[:consts], *(True for _ in state)]
    with builder:
        on, *after = batch_into(builder, region, [*fixed, *before], axes, size)
        still = builder.emit("and", going, on)
        any_left = builder.emit("reduce_any", still, axes=(0,))
        kept = [_choose(going, new, old) for new, old in zip(after, before, strict=True)]
    body = builder.region([*fixed, going, *before], [any_left, still, *kept])
    first = _this_builder().emit("reduce_any", flags, axes=(0,))
    made = op.opdef(*operands[:consts], first, flags, *state, regions=(body,), consts=consts)
    return made[1:] if len(made) > 2 else made[1]


def _choose(flags: Value, x: Value, y: Value) -> Value:
    """For each example ``x`` where its flag is true, else ``y``."""
    chosen: Value = select(broadcast_to(flags, shape=x.shape, axes=(0,)), x, y)
    return chosen


def _this_builder() -> Builder:
    builder = insertion.builder
    assert isinstance(builder, Builder)
    return builder


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
    "when": _batch_when,
    "while_loop": _batch_while,
}


def _swapped(x: Value) -> Value:
    """The first two axes the other way round: those of the batch and of the steps."""
    axes = (1, 0, *range(2, x.rank))
    swapped: Value = transpose(x, axes=axes)
    return swapped
