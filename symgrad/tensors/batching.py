"""A function of tensors for one example, recorded once and run over a batch of them.

The function sees tensors that stand for any one example: leaves whose contents nobody can see.
What it records from them is taken out, gets a batch axis by the rules of
``symgrad.ir.batching``, and is recorded anew as one op on the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from symgrad.bounded import Bounded
from symgrad.ir import Builder, Value
from symgrad.ir.batching import batch_into
from symgrad.ir.graph import Region
from symgrad.tensors.contents import Handle
from symgrad.tensors.graphs import Recording, ancestors
from symgrad.tensors.handle import Tensor
from symgrad.tensors.record import RECORDER, recording
from symgrad.tensors.recorded import Unknown, contents_of, leaf_of

_LOOKED_AT = (
    "a value was looked at inside vmap, where it stands for those of all examples; choose with "
    "torch.where, and compute what does not depend on the batch outside"
)
LIMIT = 512
"""Batched regions kept."""
_regions: Bounded[Region] = Bounded(LIMIT)


def batched(
    function: Callable[[Sequence[Tensor]], Sequence[Tensor]], batches: Sequence[Tensor], size: int
) -> list[Tensor]:
    """What ``function`` makes of each of ``size`` examples, which lie along axis 0.

    Derivatives pass through to ``batches``, and to whatever tensors the function uses besides.
    """
    start = RECORDER.builder.mark()
    examples, unknown = [], [Unknown(_LOOKED_AT) for _ in batches]
    for batch, contents in zip(batches, unknown, strict=True):
        kind = batch._value().type
        example = Tensor(Handle(leaf_of(contents, kind.with_shape(kind.shape[1:]))))
        example._node = batch._edge()
        examples.append(example)
    outputs = function(examples)
    with recording():
        emit = RECORDER.builder.emit
        results = [emit("identity", output._value()) for output in outputs]
        given = {id(m): b._value() for m, b in zip(unknown, batches, strict=True)}
        made = RECORDER.builder.record(*_over_batches(results, given, start, size))
    found = []
    for value, output in zip(made, outputs, strict=True):
        tensor = Tensor.of_value(value)
        tensor._node = output._edge()
        found.append(tensor)
    return found


def _over_batches(
    results: Sequence[Value], given: dict[int, Value], start: int, size: int
) -> tuple[Region, list[Value]]:
    """What was recorded since ``start``, over a batch axis, and its operands.

    Those whose contents are in ``given`` are examples of the batches there.
    """

    def is_new(value: Value) -> bool:
        return value.op is not None and value.op.seq > start

    ops = ancestors(results, is_new)
    graph = Recording(ops, also=results, is_input=lambda value: not is_new(value))
    flags = tuple([id(contents_of(v)) in given for v in graph.inputs])
    operands = [given.get(id(contents_of(v)), v) for v in graph.inputs]
    key = graph.key, graph.numbered(results), flags, size
    region = _regions.get(key)
    if region is None:
        one = Builder(locations=False)
        params = [one.param(v.type) for v in graph.inputs]
        values = graph.splice(one, params)
        body = one.region(params, [values[n] for n in graph.numbered(results)])
        whole = Builder(locations=False)
        arguments = [whole.param(v.type) for v in operands]
        made = batch_into(whole, body, arguments, flags, size)
        region = _regions[key] = whole.region(arguments, made)
    return region, operands
