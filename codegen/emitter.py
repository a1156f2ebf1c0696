"""Writes LLVM IR text: typed registers, context-manager control flow, vectors.

Text rather than an object tree: a training step is megabytes of IR, and LLVM
parses text anyway.  Registers are strings that know their type, so an operand
drops straight into an f-string and a type error shows where it is made.
Integer operands may be Python ints; arithmetic on them folds here, which keeps
constant strides and bounds in the addressing modes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from symgrad.codegen.registers import (
    FLOATS,
    Int,
    Reg,
    bytes_of,
    float_text,
    lanes_of,
    mangle,
    scalar_of,
    vec,
)
from symgrad.codegen.target import Target

ATTRIBUTES = "nounwind"
SHAPED = "; shaped"
"""First line of a module whose instructions are those that shall run: register tiles written
out, addresses in their final form.  LLVM need not look for better ones."""


class Emitter:
    """Builds one LLVM module.  One function is open at a time."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._functions: list[str] = []
        self._declarations: dict[str, str] = {}
        self._globals: list[str] = []
        self._defined: set[str] = set()
        self._lines: list[str] = []
        self._allocas: list[str] = []
        self._next = 0
        self._known: dict[str, Reg] = {}
        """Integers and addresses computed in the current block, by instruction."""
        self._hidden, self._sections = False, 0
        self.is_shaped = False
        """Whether the module is what ``SHAPED`` says."""

    # -- module ------------------------------------------------------------

    def module(self) -> str:
        """The text of the whole module."""
        width = self.target.vector_bytes * 8
        # Both are needed: LLVM prefers 256-bit vectors on some AVX-512 parts, and
        # would split explicit 512-bit ones where the ABI does not forbid it.
        attributes = (
            f'attributes #0 = {{ {ATTRIBUTES} "prefer-vector-width"="{width}" '
            f'"min-legal-vector-width"="{width}" "no-trapping-math"="true" }}'
        )
        mark = [SHAPED] if self.is_shaped else []
        declarations = sorted(self._declarations.values())
        parts = [*mark, *self._globals, *declarations, *self._functions, attributes]
        return "\n".join(parts) + "\n"

    def declare(self, name: str, result: str, params: Sequence[str]) -> None:
        """Declares an external function (idempotent)."""
        self._declarations[name] = f"declare {result} @{name}({', '.join(params)})"

    def constant_table(self, name: str, type: str, values: Sequence[str]) -> Reg:
        """A private constant array of literal texts; returns its address."""
        body = ", ".join(f"{type} {v}" for v in values)
        text = f"@{name} = private constant [{len(values)} x {type}] [{body}], align 64"
        if text not in self._globals:
            self._globals.append(text)
        return Reg(f"@{name}", "ptr")

    def misses(self, name: str) -> bool:
        """Whether no function ``name`` has been written yet; a shared helper then should be."""
        return not any(f" @{name}(" in text for text in self._functions)

    @contextmanager
    def function(
        self,
        name: str,
        params: Sequence[str],
        result: str = "void",
        *,
        internal: bool = False,
        attributes: str = "",
    ) -> Iterator[tuple[Reg, ...]]:
        """Opens a function; yields its parameters.  A void one returns by itself.

        A parameter is a type, optionally followed by attributes: ``"ptr noalias"``.
        """
        outer = self._lines, self._allocas, self._next, self._known
        self._lines, self._allocas, self._next, self._known = [], [], 0, {}
        types = (p[: p.find(">") + 1] or p.split(" ")[0] for p in params)
        regs = tuple(Reg(f"%a{i}", type) for i, type in enumerate(types))
        yield regs
        if result == "void":
            self.line("ret void")
        signature = ", ".join(f"{p} {r}" for p, r in zip(params, regs, strict=True))
        linkage = "internal " if internal or self._hidden else ""
        body = "\n".join([*self._allocas, "  br label %start", "start:", *self._lines])
        self._functions.append(
            f"define {linkage}{result} @{name}({signature}) #0 {attributes} {{\nentry:\n{body}\n}}"
        )
        self._lines, self._allocas, self._next, self._known = outer

    @contextmanager
    def hidden(self) -> Iterator[str]:
        """Functions written within are internal: parts of another kernel.  Yields a prefix for
        their names that is new in the module."""
        outer = self._hidden, self.is_shaped
        self._hidden = True
        self._sections += 1
        yield f"part{self._sections}"
        self._hidden, self.is_shaped = outer

    def define_once(
        self, name: str, result: str, params: Sequence[str], body: Callable[..., Reg | None]
    ) -> None:
        """Defines an internal function unless the module has it; ``body`` gives what it returns.

        May be called while another function is open.
        """
        if name in self._defined:
            return
        self._defined.add(name)
        with self.function(name, params, result, internal=True, attributes="noinline") as regs:
            value = body(*regs)
            if value is not None:
                self.line(f"ret {value.type} {value}")

    # -- raw lines ---------------------------------------------------------

    def line(self, text: str) -> None:
        """Appends one instruction that has no result."""
        self._lines.append("  " + text)

    def op(self, type: str, text: str) -> Reg:
        """Appends one instruction and names its result."""
        self._next += 1
        reg = Reg(f"%v{self._next}", type)
        self._lines.append(f"  {reg} = {text}")
        return reg

    def known(self, type: str, text: str) -> Reg:
        """The result of an instruction that depends on its operands alone: within a block it is
        written once.  Address arithmetic repeats itself, and what is not written need not be
        parsed, combined and selected."""
        reg = self._known.get(text)
        if reg is None:
            reg = self._known[text] = self.op(type, text)
        return reg

    def label(self) -> str:
        """A fresh block name."""
        self._next += 1
        return f"L{self._next}"

    def place(self, label: str) -> None:
        """Starts the block ``label``."""
        self._known = {}
        self._lines.append(f"{label}:")

    # -- constants ---------------------------------------------------------

    def const(self, type: str, value: float) -> Reg:
        """``value`` as a scalar, or in every lane of a vector type."""
        scalar = scalar_of(type)
        text = float_text(value, scalar) if scalar in FLOATS else str(int(value))
        if type.startswith("<"):
            return Reg(f"splat ({scalar} {text})", type)
        return Reg(text, type)

    def zero(self, type: str) -> Reg:
        """The all-zero value of any type."""
        return Reg("zeroinitializer" if type.startswith("<") else self.const(type, 0), type)

    def lane_index(self, scalar: str, lanes: int) -> Reg:
        """The constant vector 0, 1, 2, ... of an integer type."""
        if lanes == 1:
            return Reg("0", scalar)
        body = ", ".join(f"{scalar} {i}" for i in range(lanes))
        return Reg(f"<{body}>", vec(scalar, lanes))

    # -- integers (i64 unless a register says otherwise) --------------------

    def _int(self, name: str, a: Int, b: Int) -> Reg:
        type = a.type if isinstance(a, Reg) else b.type if isinstance(b, Reg) else "i64"
        return self.known(type, f"{name} {type} {self._lit(a, type)}, {self._lit(b, type)}")

    @staticmethod
    def _lit(value: Int, type: str) -> str:
        if isinstance(value, Reg) or not type.startswith("<"):
            return str(value)
        return f"splat ({scalar_of(type)} {value})"

    def add(self, a: Int, b: Int) -> Int:
        """``a + b``"""
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if isinstance(a, int) and a == 0:
            return b
        if isinstance(b, int) and b == 0:
            return a
        return self._int("add", a, b)

    def sub(self, a: Int, b: Int) -> Int:
        """``a - b``"""
        if isinstance(a, int) and isinstance(b, int):
            return a - b
        return a if isinstance(b, int) and b == 0 else self._int("sub", a, b)

    def mul(self, a: Int, b: Int) -> Int:
        """``a * b``"""
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        for x, y in ((a, b), (b, a)):
            if isinstance(x, int) and x in (0, 1):
                return y if x else 0
        return self._int("mul", a, b)

    def udiv(self, a: Int, b: Int) -> Int:
        """``a // b`` for non-negative numbers."""
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        return a if isinstance(b, int) and b == 1 else self._int("udiv", a, b)

    def urem(self, a: Int, b: Int) -> Int:
        """``a % b`` for non-negative numbers."""
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        return 0 if isinstance(b, int) and b == 1 else self._int("urem", a, b)

    def divmod(self, a: Int, b: Int) -> tuple[Int, Int]:
        """Quotient and remainder of non-negative numbers."""
        if isinstance(b, int) and b == 1:
            return a, 0
        q = self.udiv(a, b)
        return q, self.sub(a, self.mul(q, b))

    def bits(self, name: str, a: Int, b: Int) -> Reg:
        """``and``, ``or``, ``xor``, ``shl``, ``lshr`` or ``ashr``."""
        return self._int(name, a, b)

    def min(self, a: Int, b: Int) -> Int:
        """The smaller of two signed integers."""
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        return self._minmax("llvm.smin.i64", a, b)

    def max(self, a: Int, b: Int) -> Int:
        """The larger of two signed integers."""
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        return self._minmax("llvm.smax.i64", a, b)

    def _minmax(self, name: str, a: Int, b: Int) -> Reg:
        self.declare(name, "i64", ("i64", "i64"))
        return self.known("i64", f"call i64 @{name}(i64 {a}, i64 {b})")

    def icmp(self, predicate: str, a: Int, b: Int) -> Reg:
        """Integer (or pointer) comparison: ``eq ne slt sle sgt sge ult ule ...``."""
        type = a.type if isinstance(a, Reg) else b.type if isinstance(b, Reg) else "i64"
        result = vec("i1", lanes_of(type))
        return self.known(
            result, f"icmp {predicate} {type} {self._lit(a, type)}, {self._lit(b, type)}"
        )

    # -- floats ------------------------------------------------------------

    def fop(self, name: str, a: Reg, b: Reg, flags: str = "") -> Reg:
        """``fadd fsub fmul fdiv frem``, with optional fast-math flags."""
        return self.op(a.type, f"{name} {flags} {a.type} {a}, {b}")

    def fadd(self, a: Reg, b: Reg) -> Reg:
        """``a + b``, rounded once."""
        return self.fop("fadd", a, b)

    def fsub(self, a: Reg, b: Reg) -> Reg:
        """``a - b``"""
        return self.fop("fsub", a, b)

    def fmul(self, a: Reg, b: Reg) -> Reg:
        """``a * b``"""
        return self.fop("fmul", a, b)

    def fdiv(self, a: Reg, b: Reg) -> Reg:
        """``a / b``"""
        return self.fop("fdiv", a, b)

    def fneg(self, a: Reg) -> Reg:
        """``-a``"""
        return self.op(a.type, f"fneg {a.type} {a}")

    def fma(self, a: Reg, b: Reg, c: Reg) -> Reg:
        """``a * b + c`` in one rounding where the target has it, else in two."""
        if not self.target.has_fma:
            return self.fadd(self.fmul(a, b), c)
        return self.intrinsic("fma", a, b, c)

    def fcmp(self, predicate: str, a: Reg, b: Reg) -> Reg:
        """Float comparison: ``oeq ogt oge olt ole one une uno ord ...``."""
        return self.op(vec("i1", lanes_of(a.type)), f"fcmp {predicate} {a.type} {a}, {b}")

    def select(self, condition: Reg, a: Reg, b: Reg) -> Reg:
        """``a`` where the condition holds, else ``b``."""
        return self.op(a.type, f"select {condition.type} {condition}, {a.type} {a}, {b.type} {b}")

    def cast(self, name: str, value: Reg, type: str) -> Reg:
        """``bitcast sitofp fptosi fpext fptrunc zext sext trunc ptrtoint inttoptr``."""
        return self.op(type, f"{name} {value.type} {value} to {type}")

    def intrinsic(self, name: str, *args: Reg) -> Reg:
        """An overloaded ``llvm.<name>`` whose result has its first operand's type."""
        type = args[0].type
        full = f"llvm.{name}.{mangle(type)}"
        self.declare(full, type, [a.type for a in args])
        return self.op(type, f"call {type} @{full}({', '.join(f'{a.type} {a}' for a in args)})")

    def call(self, name: str, result: str, args: Sequence[Reg]) -> Reg | None:
        """Calls a function of this module or an external one (then declare it)."""
        operands = ", ".join(f"{a.type} {a}" for a in args)
        if result == "void":
            self.line(f"call void @{name}({operands})")
            return None
        return self.op(result, f"call {result} @{name}({operands})")

    # -- vectors -----------------------------------------------------------

    def splat(self, value: Reg, lanes: int) -> Reg:
        """A scalar in every lane."""
        if lanes == 1:
            return value
        type = vec(value.type, lanes)
        one = self.op(type, f"insertelement {type} poison, {value.type} {value}, i64 0")
        return self.shuffle(one, one, [0] * lanes)

    def shuffle(self, a: Reg, b: Reg, mask: Sequence[int]) -> Reg:
        """Lanes of ``a`` then ``b`` picked by ``mask``."""
        body = ", ".join(f"i32 {m}" for m in mask)
        type = vec(scalar_of(a.type), len(mask))
        return self.op(
            type, f"shufflevector {a.type} {a}, {b.type} {b}, <{len(mask)} x i32> <{body}>"
        )

    def extract(self, vector: Reg, lane: Int) -> Reg:
        """One lane of a vector; the value itself for a scalar."""
        if not vector.type.startswith("<"):
            return vector
        return self.op(scalar_of(vector.type), f"extractelement {vector.type} {vector}, i64 {lane}")

    def insert(self, vector: Reg, value: Reg, lane: Int) -> Reg:
        """The vector with one lane replaced."""
        return self.op(
            vector.type,
            f"insertelement {vector.type} {vector}, {value.type} {value}, i64 {lane}",
        )

    def reduce(self, name: str, vector: Reg) -> Reg:
        """Horizontal ``fadd fmul fmax fmin add mul and or xor smax umin ...`` of all lanes."""
        if not vector.type.startswith("<"):
            return vector
        scalar = scalar_of(vector.type)
        full = f"llvm.vector.reduce.{name}.{mangle(vector.type)}"
        if name in ("fadd", "fmul"):
            start = self.const(scalar, 0.0 if name == "fadd" else 1.0)
            self.declare(full, scalar, (scalar, vector.type))
            # reassoc: a tree over the lanes instead of a serial chain
            return self.op(
                scalar,
                f"call reassoc {scalar} @{full}({scalar} {start}, {vector.type} {vector})",
            )
        self.declare(full, scalar, (vector.type,))
        return self.op(scalar, f"call {scalar} @{full}({vector.type} {vector})")

    def lane_mask(self, count: Int, lanes: int) -> Reg:
        """Mask of the first ``count`` lanes; a constant where ``count`` is one."""
        if isinstance(count, int):
            return self.mask(range(count), lanes)
        return self.icmp("ult", self.lane_index("i64", lanes), self.splat(count, lanes))

    @staticmethod
    def mask(chosen: Container[int], lanes: int) -> Reg:
        """The constant mask of some lanes."""
        body = ", ".join(f"i1 {int(lane in chosen)}" for lane in range(lanes))
        return Reg(f"<{body}>" if lanes > 1 else body[3:], vec("i1", lanes))

    @staticmethod
    def as_reg(value: Int, type: str = "i64") -> Reg:
        """An int as a register of an integer type."""
        return value if isinstance(value, Reg) else Reg(str(value), type)

    # -- memory ------------------------------------------------------------

    def gep(self, ptr: Reg, index: Int, scalar: str) -> Reg:
        """Address of element ``index`` of type ``scalar`` behind ``ptr``."""
        if isinstance(index, int) and index == 0:
            return ptr
        return self.known("ptr", f"getelementptr {scalar}, ptr {ptr}, i64 {index}")

    def load(self, type: str, ptr: Reg, align: int | None = None) -> Reg:
        """Loads a scalar or vector; aligned to one element unless told more."""
        align = align or max(1, bytes_of(scalar_of(type)))
        return self.op(type, f"load {type}, ptr {ptr}, align {align}")

    def store(self, value: Reg, ptr: Reg, align: int | None = None) -> None:
        """Stores a scalar or vector; aligned to one element unless told more."""
        align = align or max(1, bytes_of(scalar_of(value.type)))
        self.line(f"store {value.type} {value}, ptr {ptr}, align {align}")

    def masked_load(self, type: str, ptr: Reg, mask: Reg) -> Reg:
        """Loads the lanes that ``mask`` selects; the others are zero."""
        full, mask_type = f"llvm.masked.load.{mangle(type)}.p0", mask.type
        align = bytes_of(scalar_of(type))
        self.declare(full, type, ("ptr", "i32 immarg", mask_type, type))
        return self.op(
            type,
            f"call {type} @{full}(ptr {ptr}, i32 {align}, {mask_type} {mask}, "
            f"{type} zeroinitializer)",
        )

    def masked_store(self, value: Reg, ptr: Reg, mask: Reg) -> None:
        """Stores the lanes that ``mask`` selects."""
        full = f"llvm.masked.store.{mangle(value.type)}.p0"
        align = bytes_of(scalar_of(value.type))
        self.declare(full, "void", (value.type, "ptr", "i32 immarg", mask.type))
        self.line(
            f"call void @{full}({value.type} {value}, ptr {ptr}, i32 {align}, {mask.type} {mask})"
        )

    def broadcast_load(self, type: str, ptr: Reg) -> Reg:
        """One scalar from memory in every lane."""
        return self.splat(self.load(scalar_of(type), ptr), lanes_of(type))

    def alloca(self, type: str, count: int = 1) -> Reg:
        """A stack slot of the function, zero cost once SROA has run."""
        self._next += 1
        reg = Reg(f"%v{self._next}", "ptr")
        size = f", i64 {count}" if count != 1 else ""
        self._allocas.append(f"  {reg} = alloca {type}{size}, align 64")
        return reg

    def prefetch(self, ptr: Reg, *, write: bool = False, locality: int = 3) -> None:
        """Asks for the cache line at ``ptr``."""
        self.declare("llvm.prefetch.p0", "void", ("ptr", "i32", "i32", "i32"))
        self.line(
            f"call void @llvm.prefetch.p0(ptr {ptr}, i32 {int(write)}, i32 {locality}, i32 1)"
        )

    # -- control flow ------------------------------------------------------

    @contextmanager
    def loop(self, start: Int, stop: Int, step: Int = 1) -> Iterator[Reg]:
        """``for i in range(start, stop, step)``; the body may run zero times.

        One that is known to run once is no loop: LLVM would go over all addresses in it to
        find cheap ways from one iteration to the next.
        """
        if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
            if start < stop <= start + step:
                yield self.as_reg(start)
                return
        body, done = self.label(), self.label()
        counter = self.alloca("i64")
        self.store(self.as_reg(start), counter)
        if isinstance(start, int) and isinstance(stop, int) and start < stop:
            self.line(f"br label %{body}")
        else:
            entered = self.icmp("slt", self.as_reg(start), stop)
            self.line(f"br i1 {entered}, label %{body}, label %{done}")
        self.place(body)
        index = self.load("i64", counter)
        yield index
        following = self.add(index, step)
        self.store(self.as_reg(following), counter)
        again = self.icmp("slt", following, stop)
        self.line(f"br i1 {again}, label %{body}, label %{done}")
        self.place(done)

    @contextmanager
    def while_(self, condition: Callable[[], Reg]) -> Iterator[None]:
        """The body runs as long as a scalar ``i1`` holds, which is computed before each run."""
        head, body, done = self.label(), self.label(), self.label()
        self.line(f"br label %{head}")
        self.place(head)
        self.line(f"br i1 {condition()}, label %{body}, label %{done}")
        self.place(body)
        yield
        self.line(f"br label %{head}")
        self.place(done)

    @contextmanager
    def if_(self, condition: Reg) -> Iterator[None]:
        """The body runs where a scalar ``i1`` holds."""
        body, done = self.label(), self.label()
        self.line(f"br i1 {condition}, label %{body}, label %{done}")
        self.place(body)
        yield
        self.line(f"br label %{done}")
        self.place(done)

    @contextmanager
    def if_else(
        self, condition: Reg
    ) -> Iterator[tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
        """``with k.if_else(c) as (then, other): with then: ...; with other: ...``"""
        yes, no, done = self.label(), self.label(), self.label()
        self.line(f"br i1 {condition}, label %{yes}, label %{no}")

        @contextmanager
        def branch(label: str) -> Iterator[None]:
            self.place(label)
            yield
            self.line(f"br label %{done}")

        yield branch(yes), branch(no)
        self.place(done)

    def slice(self, total: Int, tid: Int, nth: Int) -> tuple[Int, Int]:
        """This thread's contiguous share ``[lo, hi)`` of ``total`` tasks."""
        if isinstance(total, int) and total < 1 << 22 and isinstance(tid, Reg):
            # 64-bit division is slow, and LLVM branches around it; this is right for
            # teams of up to 1,024.
            first, count = (self.cast("trunc", self.as_reg(n), "i32") for n in (tid, nth))
            tasks = (self._int("mul", n, total) for n in (first, self._int("add", first, 1)))
            start, end = (self.cast("zext", self._int("udiv", n, count), "i64") for n in tasks)
            return start, end
        low = self.udiv(self.mul(tid, total), nth)
        high = self.udiv(self.mul(self.add(tid, 1), total), nth)
        return low, high
