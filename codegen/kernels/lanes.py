"""Vectors from and to memory: contiguous, reversed, strided, broadcast, transposed.

``stride`` is the distance, in elements, between neighbouring lanes.  A mask
says which lanes exist; memory behind the others is never touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from symgrad.codegen.access import MEMORY_TYPES
from symgrad.codegen.conversions import from_memory, to_memory
from symgrad.codegen.emitter import Emitter
from symgrad.codegen.registers import Int, Reg, bytes_of, lanes_of, mangle, scalar_of, vec


def load_lanes(
    k: Emitter, address: Reg, dtype: str, stride: int, lanes: int, mask: Reg | None = None
) -> Reg:
    """A register of ``lanes`` elements; ``address`` is that of lane 0.

    Lanes outside of ``mask`` are 0, but for a broadcast (stride 0): its one element fills
    them all, as most users never look at them and a select would cost in every loop.
    """
    scalar = MEMORY_TYPES[dtype]
    type = vec(scalar, lanes)
    if stride == 0 or lanes == 1:
        return k.splat(from_memory(k, k.load(scalar, address), dtype), lanes)
    if abs(stride) == 1:
        if stride < 0:
            address = k.gep(address, 1 - lanes, scalar)
            mask = None if mask is None else reverse(k, mask)
        value = k.load(type, address) if mask is None else k.masked_load(type, address, mask)
        value = reverse(k, value) if stride < 0 else value
    else:
        value = _gather(k, type, _lane_addresses(k, address, scalar, stride, lanes), mask)
    return from_memory(k, value, dtype)


def store_lanes(
    k: Emitter, value: Reg, address: Reg, dtype: str, stride: int, mask: Reg | None = None
) -> None:
    """Stores a register; ``address`` is that of lane 0."""
    value, scalar = to_memory(k, value, dtype), MEMORY_TYPES[dtype]
    lanes = lanes_of(value.type)
    if lanes == 1:
        k.store(value, address)
    elif abs(stride) == 1:
        if stride < 0:
            address, value = k.gep(address, 1 - lanes, scalar), reverse(k, value)
            mask = None if mask is None else reverse(k, mask)
        if mask is None:
            k.store(value, address)
        else:
            k.masked_store(value, address, mask)
    else:
        _scatter(k, value, _lane_addresses(k, address, scalar, stride, lanes), mask)


def vector_loop(
    k: Emitter, start: Int, stop: Int, lanes: int
) -> Iterator[tuple[Int, int, Reg | None]]:
    """The vectors of a range, with what remains: (position, lanes, mask) of each.

    Written once per form of the body: ``for i, n, mask in vector_loop(...): ...``
    """
    if lanes == 1:
        with k.loop(start, stop) as i:
            yield i, 1, None
        return
    count = k.sub(stop, start)
    main = k.add(start, k.mul(k.udiv(count, lanes), lanes))
    if not isinstance(count, int) or count >= lanes:
        with k.loop(start, main, lanes) as i:
            yield i, lanes, None
    if isinstance(count, int) and count % lanes == 0:
        return
    if k.target.has_masks:
        with k.if_(k.icmp("slt", k.as_reg(main), stop)):
            yield main, lanes, k.lane_mask(k.sub(stop, main), lanes)
    else:
        with k.loop(main, stop) as i:
            yield i, 1, None


def reverse(k: Emitter, vector: Reg) -> Reg:
    """The lanes in opposite order."""
    return k.shuffle(vector, vector, range(lanes_of(vector.type) - 1, -1, -1))


def scatter_lanes(
    k: Emitter, value: Reg, base: Reg, index: Reg, dtype: str, mask: Reg | None = None
) -> None:
    """Stores lane by lane to ``base[index]``; the last lane wins where indices repeat."""
    value, scalar = to_memory(k, value, dtype), MEMORY_TYPES[dtype]
    addresses = k.op(
        vec("ptr", lanes_of(index.type)),
        f"getelementptr {scalar}, ptr {base}, {index.type} {index}",
    )
    _scatter(k, value, addresses, mask)


def gather_lanes(k: Emitter, base: Reg, index: Reg, dtype: str, mask: Reg | None = None) -> Reg:
    """Elements ``base[index]`` for an i64 vector (or scalar) of element indices."""
    scalar = MEMORY_TYPES[dtype]
    lanes = lanes_of(index.type)
    if lanes == 1:
        return from_memory(k, k.load(scalar, k.gep(base, index, scalar)), dtype)
    addresses = k.op(vec("ptr", lanes), f"getelementptr {scalar}, ptr {base}, {index.type} {index}")
    return from_memory(k, _gather(k, vec(scalar, lanes), addresses, mask), dtype)


def _lane_addresses(k: Emitter, address: Reg, scalar: str, stride: int, lanes: int) -> Reg:
    offsets = ", ".join(f"i64 {stride * lane}" for lane in range(lanes))
    return k.op(
        vec("ptr", lanes), f"getelementptr {scalar}, ptr {address}, <{lanes} x i64> <{offsets}>"
    )


def _all_lanes(k: Emitter, lanes: int) -> Reg:
    return k.const(vec("i1", lanes), 1)


def _gather(k: Emitter, type: str, addresses: Reg, mask: Reg | None) -> Reg:
    mask = _all_lanes(k, lanes_of(type)) if mask is None else mask
    name = f"llvm.masked.gather.{mangle(type)}.{mangle(addresses.type)}"
    k.declare(name, type, (addresses.type, "i32 immarg", mask.type, type))
    align = bytes_of(scalar_of(type))
    return k.op(
        type,
        f"call {type} @{name}({addresses.type} {addresses}, i32 {align}, {mask.type} {mask}, "
        f"{type} zeroinitializer)",
    )


def _scatter(k: Emitter, value: Reg, addresses: Reg, mask: Reg | None) -> None:
    mask = _all_lanes(k, lanes_of(value.type)) if mask is None else mask
    name = f"llvm.masked.scatter.{mangle(value.type)}.{mangle(addresses.type)}"
    k.declare(name, "void", (value.type, addresses.type, "i32 immarg", mask.type))
    align = bytes_of(scalar_of(value.type))
    k.line(
        f"call void @{name}({value.type} {value}, {addresses.type} {addresses}, i32 {align}, "
        f"{mask.type} {mask})"
    )


def transpose(k: Emitter, rows: Sequence[Reg]) -> list[Reg]:
    """The transposes of square tiles that lie side by side: of one, as a rule.

    A tile has as many lanes as there are rows, a power of 2.  Each of log2(n) stages swaps the
    off-diagonal quadrants of blocks half the size.
    """
    rows, size, lanes = list(rows), len(rows), lanes_of(rows[0].type)
    half = size // 2
    while half:
        lower = [i if not i & half else i - half + lanes for i in range(lanes)]
        upper = [i + half if not i & half else i + lanes for i in range(lanes)]
        for i in range(size):
            if not i & half:
                a, b = rows[i], rows[i + half]
                rows[i], rows[i + half] = k.shuffle(a, b, lower), k.shuffle(a, b, upper)
        half //= 2
    return rows


def columns_of(k: Emitter, rows: Sequence[Reg]) -> list[Reg]:
    """The columns of a tile of at most as many rows as each has lanes.

    Their lanes are a power of 2; those beyond the rows are 0.
    """
    lanes, size = lanes_of(rows[0].type), 1 << (len(rows) - 1).bit_length()
    if size == 1:
        return [k.extract(rows[0], lane) for lane in range(lanes)]
    padded = [*rows, *[k.zero(rows[0].type)] * (size - len(rows))]
    turned = transpose(k, padded)
    if size == lanes:
        return turned
    starts = range(0, lanes, size)
    return [k.shuffle(row, row, range(s, s + size)) for s in starts for row in turned]
