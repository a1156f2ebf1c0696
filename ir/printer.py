"""Prints a ``Func`` as text that parses back to an equal one.

    func @loss(%x: f64[3]) -> (f64[]) {
      %0: f64[3] = sin %x                        # model.py:7
      %1: f64[] = reduce_sum %0 {axes=(0,)}      # model.py:7
      return %1
    }

Results are numbered in order; a region follows its op in braces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from symgrad.ir.graph import Func, Op, Region, Value
from symgrad.ir.types import DType, TensorType

_COMMENT_COLUMN = 64


def print_func(func: Func, *, locations: bool = True) -> str:
    """The text of a function; ``locations`` adds the user's lines as comments."""
    names = {id(p): f"%{p.name}" for p in func.params}
    params = ", ".join(f"{names[id(p)]}: {p.type}" for p in func.params)
    results = ", ".join(str(t) for t in func.result_types)
    lines = [f"func @{func.name}({params}) -> ({results}) {{"]
    _print_body(func, names, lines, "  ", "return", locations)
    return "\n".join([*lines, "}"]) + "\n"


Func.render = print_func


def _print_body(
    body: Region, names: dict[int, str], lines: list[str], indent: str, end: str, locations: bool
) -> None:
    for op in body.ops:
        for value in op.results:
            names[id(value)] = f"%{len(names) - len(body.params)}"
        _print_op(op, names, lines, indent, locations)
    lines.append(f"{indent}{end} {', '.join(names[id(v)] for v in body.results)}".rstrip())


def _print_op(
    op: Op, names: dict[int, str], lines: list[str], indent: str, locations: bool
) -> None:
    results = ", ".join([f"{names[id(v)]}: {v.type}" for v in op.results])
    text = f"{indent}{results} = {op.name}"
    if op.name == "constant":
        text += f" {format_attr(op.attrs['value'])}"
    elif op.operands:
        text += " " + ", ".join([names[id(v)] for v in op.operands])
    if op.attrs and op.name != "constant":
        text += f" {format_attrs(op.attrs)}"
    if op.regions:
        text += " {"
    if locations and op.loc:
        text = f"{text:<{_COMMENT_COLUMN}}  # {op.loc}"
    lines.append(text)
    for region in op.regions:
        inner = {id(p): f"%{_letter(i)}" for i, p in enumerate(region.params)}
        params = ", ".join(f"{inner[id(p)]}: {p.type}" for p in region.params)
        lines.append(f"{indent}  ({params}):")
        _print_body(region, inner, lines, indent + "  ", "yield", locations)
        lines.append(indent + "}")


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else f"a{i}"


def format_attrs(attrs: Mapping[str, Any]) -> str:
    """``{axes=(0,), shape=(3, 4)}``"""
    return "{" + ", ".join(f"{k}={format_attr(v)}" for k, v in attrs.items()) + "}"


def format_attr(value: Any) -> str:
    """One attribute value as a literal the parser reads back exactly."""
    if isinstance(value, tuple):
        inner = ", ".join(format_attr(v) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (DType, TensorType, bool)) or value is None:
        return str(value)
    if isinstance(value, complex):
        sign = "" if repr(value.imag).startswith("-") else "+"
        return f"{value.real!r} {sign}{value.imag!r}j"
    return repr(value)


def describe(value: Value) -> str:
    """A short name for error messages: ``%x: f64[3]`` or ``sin: f64[3]``."""
    return f"%{value.name}: {value.type}" if value.op is None else f"{value.op.name}: {value.type}"
