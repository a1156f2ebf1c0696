"""Makes a failing program small: fewer results, and parameters in place of computations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from symgrad.ir import Builder, Func, Value
from symgrad.ir.graph import Op
from symgrad.ir.interp import evaluate

from tests.fuzz.programs import Array, Program

Fails = Callable[[Program], bool]


def reduced(program: Program, fails: Fails) -> Program:
    """A program no smaller version of which (by one step) fails."""
    while (smaller := next(filter(fails, _smaller(program)), None)) is not None:
        program = smaller
    return program


def _smaller(program: Program) -> Iterator[Program]:
    func = program.func
    if len(func.results) > 1:
        for value in func.results:
            yield _rebuilt(program, (value,))
        for i in range(len(func.results)):
            yield _rebuilt(program, (*func.results[:i], *func.results[i + 1 :]))
    for op in reversed(func.ops):
        if op.operands:
            yield _rebuilt(program, func.results, op)


def _rebuilt(program: Program, results: tuple[Value, ...], cut: Op | None = None) -> Program:
    """The program with these results, and what ``cut`` computes given as parameters."""
    env: dict[Value, Array] = dict(zip(program.func.params, program.arguments, strict=True))
    ops = _needed(program.func, results, cut)
    builder = Builder(locations=False)
    mapping: dict[Value, Value] = {}
    used = {v for op in ops if op is not cut for v in op.operands} | set(results)
    donate = []
    for i, param in enumerate(program.func.params):
        if param in used:
            if i in program.donate:
                donate.append(len(mapping))
            mapping[param] = builder.param(param.type, param.name)
    arguments = [env[p] for p in mapping]
    for op in program.func.ops:
        env.update(zip(op.results, evaluate(op, [env[v] for v in op.operands]), strict=True))
    for op in ops:
        if op is cut:
            for value in op.results:
                mapping[value] = builder.param(value.type)
                arguments.append(env[value])
            continue
        new = builder.copy(op, [mapping[v] for v in op.operands])
        news = new if isinstance(new, tuple) else (new,)
        mapping.update(zip(op.results, news, strict=True))
    func = builder.build([mapping[v] for v in results], program.func.name)
    return Program(func, tuple(arguments), tuple(donate))


def _needed(func: Func, results: tuple[Value, ...], cut: Op | None) -> list[Op]:
    wanted = set(results)
    kept = []
    for op in reversed(func.ops):
        if wanted & set(op.results):
            kept.append(op)
            if op is not cut:
                wanted.update(op.operands)
    return kept[::-1]
