"""How a matrix product is cut up: register tile, cache blocks, packing, threads.

Pure functions of the problem and the target, so that choices can be tested (and
read) without compiling anything.
"""

from __future__ import annotations

from itertools import product
from math import ceil, gcd

from symgrad.codegen.kernels.matrix import Matrix
from symgrad.codegen.kernels.pack import CACHE_LINE, packed_dtype, round_up
from symgrad.codegen.kernels.tile_unit import ACROSS, SIDE
from symgrad.codegen.target import Target
from symgrad.ir.record import record

WAYS = 8
"""Lines that a set of a cache holds, on most processors."""
STREAMS = 8
"""Sequences of addresses that are fetched ahead side by side."""
ALONE = 2
"""Lines of a factor of dot products that are quick enough to take the other's one by one."""
DEEPEST = 1024
"""Contraction steps of a block at most: longer sums would round more."""
ACROSS_LINES = 1.007
"""What a tile costs relatively whose rows of A do not fill cache lines evenly."""

GATHERED = 1.25
"""Cycles to gather an element."""

TILES = "tiles"
STARTING = 1000
"""Cycles to configure a matrix unit and to bring what it makes through memory."""

ITEM = {"f64": 8, "i64": 8, "u64": 8}
"""Bytes of an element to compute with, where it is not 4."""


@record
class Problem:
    """What decides a schedule: sizes, how A (M x K) and B (K x N) lie, and the team."""

    batch: int
    m: int
    n: int
    k: int
    a: Matrix
    b: Matrix
    holds_partials: bool
    """Whether unfinished sums may be kept in the result."""
    threads: int
    splits: int = 1

    @property
    def bytes(self) -> int:
        """Size of an element to compute with."""
        return ITEM.get(packed_dtype(self.a.dtype), 4)


@record
class Schedule:
    """The cut of a product.  Tiles and blocks count elements."""

    form: str
    """``outer`` or ``dot``: see ``microkernel.py``; ``tiles``: see ``gemm_tiles.py``."""
    lanes: int
    mr: int
    nr: int
    mc: int
    kc: int
    nc: int
    pack_a: bool
    pack_b: bool
    grid: tuple[int, int, int]
    """Threads along batch, M and N."""
    rows_first: bool = False
    """Whether the tiles of a block follow each other along rows of C, not columns."""
    ahead: bool = False
    """Whether tiles ask for the panel of B that comes next, a block being one panel."""


def schedule(p: Problem, target: Target) -> Schedule:
    """The cut of problem ``p`` for ``target``."""
    if on_tiles(p.a.dtype, p.m, p.n, p.k, target):
        return _tile_schedule(p, target)
    lanes = target.lanes(p.bytes)
    grid = thread_grid(p, lanes)
    m, n = ceil(p.m / grid[1]), ceil(p.n / grid[2])
    form = "dot" if _prefers_dot(p, lanes) else "outer"
    if form == "dot":
        far = (p.m + p.n) * p.k * p.bytes > target.l1d
        mr, nr = dot_tile_shape(m, n, target, far)
        waits = _waits_for_lines(p, max(m, n), max(mr, nr), target)
        if waits and min(m, n) <= ALONE:  # one after the other, lines are a single stream
            mr, nr = (m, 1) if m < n else (1, n)
        pack_a = p.a.strides is None or p.a.strides[1] != 1
        pack_b = p.b.strides is None or p.b.strides[0] != 1
        kc = p.k
    else:
        mr, nr = outer_tile_shape(m, n, lanes, target, _rows_that_fit(p, target), _row_group(p))
        if (vectors := vectors_beside(m, target)) > 1 and _streams_b(p, n, target):
            mr, nr = m, vectors * lanes
        pack_a, pack_b = _packs_a(p, m, n, nr, target), _packs_b(p, m, n, mr, target)
        kc = _depth(p, m <= mr and not pack_b, n, nr, target)
    if p.splits > 1:  # at least one block for every part
        kc = min(kc, round_up(ceil(p.k / p.splits), lanes))
    mc, nc = round_up(m, mr), round_up(n, nr)
    step = p.bytes * max(1, kc)
    if pack_a or pack_b:  # a block of A leaves most of L2 to the panels of B that pass by
        mc = min(mc, max(mr, target.l2 // 4 // step // mr * mr))
    if pack_b:
        # Every block of B passes over all of A.  Where its rows are streams that costs
        # little; else A is packed or gathered again, and B better comes from L3.
        room = target.l2 if _has_streams(p) else max(target.l2, target.l3 // (2 * p.threads))
        nc = min(nc, max(nr, room // step // nr * nr))
    if form == "dot":
        ahead = waits and not (pack_a or pack_b) and ALONE < m < n
    else:
        ahead = pack_b and not pack_a and _fetches_ahead(p, m, n, kc, target)
    if ahead:
        mc, nc = round_up(m, mr), nr
    # Products of little depth are stores above all: those of a row in one go.
    rows_first = not ahead and nc * step <= target.l1d and p.k <= 4 * lanes
    return Schedule(form, lanes, mr, nr, mc, kc, nc, pack_a, pack_b, grid, rows_first, ahead)


def on_tiles(dtype: str, m: int, n: int, k: int, target: Target) -> bool:
    """Whether a matrix unit multiplies these pairs sooner than vectors do."""
    if not target.tile_unit or dtype != "bf16x2":
        return False
    # A tile takes a cycle for each of its rows, full or not; a vector of products takes one, too.
    # Both operands are packed for tiles, at two cycles a vector.
    tiles = ceil(m / SIDE) * ceil(n / SIDE) * ceil(k / SIDE) * SIDE
    packing = 2 * (m + n) * ceil(k / SIDE)
    return tiles + packing + STARTING < m * ceil(n / SIDE) * k


def _tile_schedule(p: Problem, target: Target) -> Schedule:
    """The cut of a product for a matrix unit.

    A panel of B stays in L1 where sums may be kept in the result meanwhile; A comes from L2.
    """
    grid = thread_grid(p, SIDE)
    m, n = ceil(p.m / grid[1]), ceil(p.n / grid[2])
    mr, nr = (round_up(min(size, ACROSS * SIDE), SIDE) for size in (m, n))
    kc = p.k
    if p.holds_partials:
        most = max(4 * SIDE, target.l1d // 2 // (nr * p.bytes) // SIDE * SIDE)
        kc = round_up(ceil(p.k / ceil(p.k / most)), SIDE)
    if p.splits > 1:
        kc = min(kc, round_up(ceil(p.k / p.splits), SIDE))
    step = p.bytes * kc
    mc = min(round_up(m, mr), max(mr, target.l2 // 4 // step // mr * mr))
    room = max(target.l2, target.l3 // (2 * p.threads))
    nc = min(round_up(n, nr), max(nr, room // step // nr * nr))
    return Schedule(TILES, SIDE, mr, nr, mc, kc, nc, pack_a=True, pack_b=True, grid=grid)


def thread_grid(p: Problem, lanes: int) -> tuple[int, int, int]:
    """Splits the batch if it is large enough, else M x N so that little is packed twice."""
    threads = max(1, p.threads // p.splits)
    best, grid = float("inf"), (1, 1, 1)
    for tb in range(1, min(threads, p.batch) + 1):
        for tm in range(1, threads // tb + 1):
            tn = threads // tb // tm
            share = ceil(p.batch / tb), ceil(p.m / tm), round_up(ceil(p.n / tn), min(lanes, 4))
            work = share[0] * share[1] * share[2]
            # The thinner the share, the less often each loaded element is used.
            cost = work * (1 + 2 / share[1] + 2 / share[2])
            if cost < best * (1 - 1e-9):
                best, grid = cost, (tb, tm, tn)
    return grid


def outer_tile_shape(
    m: int, n: int, lanes: int, target: Target, most_rows: int = 1 << 30, row_group: int = 1
) -> tuple[int, int]:
    """Rows and columns of the register tile that needs the fewest cycles for m x n.

    Tiles whose rows divide ``row_group``, or the other way round, read A with fewer loads.
    """
    spare = 1 if target.has_fma else 2
    best, shape = float("inf"), (1, lanes)
    for vectors in range(1, min(8, ceil(n / lanes)) + 1):
        most = min(most_rows, (target.vector_registers - spare - vectors) // vectors)
        if most < 1:
            continue
        rows = ceil(m / ceil(m / most))
        if vectors > 4 and rows > 4:  # then B's panel is too wide for L1
            break
        for height in (rows, max(r for r in range(1, rows + 1) if _in_step(r, row_group))):
            cost = _tiles_cost(m, height, ceil(n / lanes), vectors)
            cost *= 1 if _in_step(height, row_group) else ACROSS_LINES
            if cost < best:
                best, shape = cost, (height, vectors * lanes)
    return shape


def _in_step(rows: int, group: int) -> bool:
    """Whether tiles of so many rows never share a group in part."""
    return group % rows == 0 or rows % group == 0


def _tiles_cost(m: int, rows: int, n_vectors: int, vectors: int) -> float:
    """Cycles per contraction step, with two multipliers of four cycles' latency."""

    def tile(r: int, v: int) -> float:
        return max(r * v / 2, 4.0, (r + v) / 2) + (r + v) / 16 if r and v else 0.0

    (mt, me), (nt, ne) = divmod(m, rows), divmod(n_vectors, vectors)
    return (
        mt * nt * tile(rows, vectors) + mt * tile(rows, ne) + nt * tile(me, vectors) + tile(me, ne)
    )


def dot_tile_shape(m: int, n: int, target: Target, far: bool = False) -> tuple[int, int]:
    """Rows and columns of the dot tile that needs the fewest cycles; powers of two.

    A load takes twice as long where operands come from a cache that is ``far``.
    """
    best, shape = float("inf"), (1, 1)

    def tile(r: int, c: int) -> float:
        if not r or not c:
            return 0.0
        loads = (r + c) * (2 if far else 1)
        return max(r * c / target.vector_ports, loads / target.vector_ports, 4.0) + (r + c) / 16

    for mr, nr in product((1, 2, 4, 8), repeat=2):
        if mr * nr + mr + 2 <= target.vector_registers:
            (mt, me), (nt, ne) = divmod(m, mr), divmod(n, nr)
            cost = mt * (nt * tile(mr, nr) + tile(mr, ne)) + nt * tile(me, nr) + tile(me, ne)
            if cost < best:
                best, shape = cost, (mr, nr)
    return shape


def vectors_beside(rows: int, target: Target) -> int:
    """The most vectors, up to 4, in a tile of so many rows that the registers hold."""
    free = target.vector_registers - (1 if target.has_fma else 2)
    return max((v for v in range(1, 5) if rows * v + v <= free), default=0)


def _streams_b(p: Problem, n: int, target: Target) -> bool:
    """Whether B, in order and too large to be kept, should pass by once: see ``_depth``."""
    in_order = p.b.strides is not None and p.b.strides[1] == 1
    lanes = target.lanes(p.bytes)
    return in_order and p.holds_partials and n > 8 * lanes and p.k * n * p.bytes > target.l2


def _rows_that_fit(p: Problem, target: Target) -> int:
    """How many rows of A, read in place side by side, L1 holds a line of each of."""
    if p.a.strides is None or p.a.strides[1] != 1 or p.n > 8 * target.lanes(p.bytes):
        return 1 << 30  # or A is packed: see ``_packs_a``
    return max(4, _room(p.a.strides[0] * p.bytes, target.l1d) - 2)


def _room(pitch: int, cache: int) -> int:
    """How many lines that are ``pitch`` bytes apart a cache of so many bytes holds.

    Those a power of two apart share few of its sets.
    """
    sets = max(1, cache // (WAYS * CACHE_LINE))
    apart = abs(pitch) // CACHE_LINE if pitch % CACHE_LINE == 0 else 1
    return WAYS * sets // gcd(apart, sets)


def _prefers_dot(p: Problem, lanes: int) -> bool:
    """Whether summing along the contraction beats transposing one of the operands."""
    a, b = p.a.strides, p.b.strides
    if a is None or b is None or p.k < 2 * lanes or p.a.dtype == "bf16x2":
        return False
    is_one_tile = p.m <= 4 and p.n <= 4
    if not is_one_tile and p.k * min(p.m, p.n) * p.bytes > 1 << 20:
        return False
    # Transposing B takes about six cycles per vector of it, against one for each row of A;
    # a dot tile waits for more loads, and adds up lanes at its end.
    pays = p.m <= 8 or 6 / p.m > 0.1 + 3 * lanes / p.k
    if b[0] == 1 and b[1] != 1 and pays:
        return True
    # A few columns would leave lanes idle; but those across B's rows are gathered, once.
    gathering = 0 if b[0] == 1 else GATHERED
    return a[1] == 1 and p.n <= lanes // 2 and p.n * (p.m / lanes + gathering) < p.m + 1


def _row_group(p: Problem) -> int:
    """Rows of A that lie in one cache line, side by side; 1 where rows are streams."""
    return CACHE_LINE // p.bytes if p.a.strides is not None and p.a.strides[0] == 1 else 1


def _has_streams(p: Problem) -> bool:
    """Whether the rows of A are contiguous along the contraction."""
    return p.a.strides is not None and p.a.strides[1] == 1


def _packs_a(p: Problem, m: int, n: int, nr: int, target: Target) -> bool:
    """Whether A is copied in the order of its use.

    Not where its rows are streams: a tile has few, and they are fetched ahead.  Where its
    columns are contiguous, a tile has a line for each contraction step, and the next tiles
    need the same lines again; they must not chase each other out of L2.
    """
    if p.a.strides is None:
        return True
    if _has_streams(p) or n < 4 * nr or m * p.k * p.bytes < target.l2 // 2:
        return False
    room = _room(p.a.strides[1] * p.bytes, target.l2)
    return p.a.strides[0] != 1 or room < min(2 * p.k, DEEPEST)


def _packs_b(p: Problem, m: int, n: int, mr: int, target: Target) -> bool:
    """Whether B is copied in the order of its use: where that takes less than using it.

    Or where its rows chase each other out of L2 before the next tile needs them.
    """
    if p.b.strides is None or p.b.strides[1] != 1:
        return True
    if m >= 12 * mr:
        return n * p.k * p.bytes > target.l1d
    return m > mr and _room(p.b.strides[0] * p.bytes, target.l2) < min(p.k, DEEPEST // 2)


def _waits_for_lines(p: Problem, lines: int, together: int, target: Target) -> bool:
    """Whether dot products wait for memory if their tiles take some lines of a factor at once.

    Hardware does not fetch ahead along lines of a few kilobytes that are read side by side,
    and a few lines of the other factor are too little to compute meanwhile.
    """
    line = p.k * p.bytes
    return lines * line > target.l2 * 3 // 4 and together * line <= target.l2 // 4


def _fetches_ahead(p: Problem, m: int, n: int, kc: int, target: Target) -> bool:
    """Whether B is packed panel by panel, and the next one asked for meanwhile.

    That pays where B comes from beyond L2.  All of A then passes by each panel, which must
    not be from memory.
    """
    has_lines = p.b.strides is not None and 1 in p.b.strides
    far, near = target.l2, target.l3 // (4 * p.threads)
    return has_lines and n * p.k * p.bytes > far and m * kc * p.bytes < near


def _depth(p: Problem, in_place_once: bool, n: int, nr: int, target: Target) -> int:
    """Contraction steps per block, evenly: few, as each reads and writes all of C.

    A panel of B may come from L2: a tile computes longer on a row of it than that takes.
    But where B is read once, and where it lies, a block is as many of its rows as can be
    streamed side by side: that is worth the accesses to C.
    """
    if not p.holds_partials or not p.k:
        return p.k
    deepest = DEEPEST if _has_streams(p) else DEEPEST // 2  # else a line of A for each step
    most = min(deepest, max(128, target.l2 // 4 // (nr * p.bytes)))
    if in_place_once and n > 2 * nr and p.k * n * p.bytes > target.l2:
        most = STREAMS
    return min(p.k, round_up(ceil(p.k / ceil(p.k / most)), 4))
