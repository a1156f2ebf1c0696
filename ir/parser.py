"""Parses the text form of ``printer``; errors name line and column."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn

from symgrad.ir.builder import Builder
from symgrad.ir.errors import Loc, ParseError, SymgradError
from symgrad.ir.graph import Func, Region, Value
from symgrad.ir.types import DTYPES, TensorType, parse_type

_TOKEN = re.compile(
    rf"""(?P<space>[ \t\r\n]+) | (?P<comment>\#[^\n]*)
      | (?P<type>(?:{"|".join(DTYPES)})\[[\d,\s]*\])
      | (?P<number>[+-]?(?:\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+|inf|nan)j?(?![\w.]))
      | (?P<string>"[^"\n]*") | (?P<value>%\w+) | (?P<func>@[\w.]+)
      | (?P<arrow>->) | (?P<name>[A-Za-z_][\w.]*) | (?P<punct>[{{}}()=:,])
    """,
    re.VERBOSE,
)
_COMMENT = re.compile(r"#\s*(.+):(\d+)\s*$")
_WORDS = {"True": True, "False": False, "None": None}


def parse(text: str) -> Func:
    """The function written in ``text``; raises ``ParseError`` with line and column.

    Type rules run on the way, so a parsed function is well typed; a written result
    type that differs from the inferred one is an error.
    """
    return _Parser(text).func()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        self.comments: dict[int, Loc] = {}
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                self.fail(f"unexpected {text[at]!r}", at)
            kind = str(match.lastgroup)
            if kind == "comment" and (loc := _COMMENT.match(match[0])):
                self.comments[text.count("\n", 0, at)] = Loc(loc[1], int(loc[2]))
            elif kind not in ("space", "comment"):
                self.tokens.append((kind, match[0], at))
            at = match.end()
        self.tokens.append(("end", "end of text", len(text)))
        self.at = 0
        self._builders: list[Builder] = []

    def fail(self, message: str, offset: int | None = None) -> NoReturn:
        if offset is None:
            offset = self.tokens[min(self.at, len(self.tokens) - 1)][2]
        line = self.text.count("\n", 0, offset) + 1
        column = offset - (self.text.rfind("\n", 0, offset) + 1) + 1
        source = [*self.text.splitlines(), ""][line - 1]
        raise ParseError(
            f"line {line}, column {column}: {message}\n  {source}\n  {' ' * (column - 1)}^"
        )

    def peek(self, text: str) -> bool:
        return self.tokens[self.at][1] == text

    def accept(self, text: str) -> bool:
        if self.peek(text):
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail(f"expected {text!r}, found {self.tokens[self.at][1]!r}")

    def take(self, kind: str) -> str:
        found, text, _ = self.tokens[self.at]
        if found != kind:
            self.fail(f"expected a {kind}, found {text!r}")
        self.at += 1
        return text

    def separated(self, item: Callable[[], Any], close: str) -> list[Any]:
        items = []
        while not self.accept(close):
            items.append(item())
            if not self.accept(","):
                self.expect(close)
                break
        return items

    # -- grammar ------------------------------------------------------------

    def func(self) -> Func:
        self.expect("func")
        name = self.take("func")[1:]
        builder = Builder(locations=False)
        self.expect("(")
        params = self.separated(self.declaration, ")")
        scope = {text: builder.param(type, text[1:]) for text, type in params}
        if len(scope) != len(params):
            self.fail("two parameters have one name")
        self.expect("->")
        self.expect("(")
        types = self.separated(lambda: parse_type(self.take("type")), ")")
        self.expect("{")
        results = self.body(builder, scope, "return")
        self.expect("}")
        self.take("end")
        if [r.type for r in results] != types:
            actual, declared = (", ".join(map(str, t)) for t in ([r.type for r in results], types))
            self.fail(f"the function returns ({actual}), declared ({declared})")
        return builder.build(results, name)

    def declaration(self) -> tuple[str, TensorType]:
        name = self.take("value")
        self.expect(":")
        return name, parse_type(self.take("type"))

    def body(self, builder: Builder, scope: dict[str, Value], end: str) -> list[Value]:
        while not self.accept(end):
            self.operation(builder, scope)
        results = []
        if self.tokens[self.at][0] == "value":
            results.append(self.use(scope))
            while self.accept(","):
                results.append(self.use(scope))
        return results

    def use(self, scope: dict[str, Value]) -> Value:
        if self.tokens[self.at][1] not in scope and self.tokens[self.at][0] == "value":
            self.fail(f"{self.tokens[self.at][1]} is not defined")
        return scope[self.take("value")]

    def operation(self, builder: Builder, scope: dict[str, Value]) -> None:
        start = self.tokens[self.at][2]
        targets = [self.declaration()]
        while self.accept(","):
            targets.append(self.declaration())
        self.expect("=")
        name = self.take("name")
        operands: list[Value] = []
        attrs: dict[str, Any] = {}
        regions: tuple[Region, ...] = ()
        if name == "constant":
            attrs = {"value": self.literal(), "type": targets[0][1]}
        else:
            while self.tokens[self.at][0] == "value":
                operands.append(self.use(scope))
                if not self.accept(","):
                    break
            if self.peek("{") and self.tokens[self.at + 1][1] != "(":
                self.expect("{")
                attrs = dict(self.separated(self.attribute, "}"))
            if self.accept("{"):
                regions = (self.region(),)
        loc = self.comments.get(self.text.count("\n", 0, start))
        try:
            result = builder.emit(name, *operands, loc=loc, regions=regions, **attrs)
        except SymgradError as error:
            self.fail(error.message, start)
        values = result if isinstance(result, tuple) else (result,)
        if [v.type for v in values] != [t for _, t in targets]:
            self.fail(f"{name} gives {', '.join(str(v.type) for v in values)}", start)
        for (target, _), value in zip(targets, values, strict=True):
            if target in scope:
                self.fail(f"{target} is defined twice", start)
            scope[target] = value

    def region(self) -> Region:
        builder = Builder(locations=False)
        self.expect("(")
        params = self.separated(self.declaration, ")")
        self.expect(":")
        scope = {text: builder.param(type, text[1:]) for text, type in params}
        values = list(scope.values())
        for value in values:
            value.facts = 0  # nothing is known of what the op around passes in
        results = self.body(builder, scope, "yield")
        self.expect("}")
        return builder.region(values, results)

    def attribute(self) -> tuple[str, Any]:
        name = self.take("name")
        self.expect("=")
        return name, self.literal()

    def literal(self) -> Any:
        kind, text, _ = self.tokens[self.at]
        if self.accept("("):
            return tuple(self.separated(self.literal, ")"))
        self.at += 1
        if kind == "number":
            imaginary = self.tokens[self.at]
            if imaginary[0] == "number" and imaginary[1].endswith("j"):
                self.at += 1
                return complex(float(text), float(imaginary[1][:-1]))
            return _number(text)
        if kind == "string":
            return text[1:-1]
        if kind == "type":
            return parse_type(text)
        if text in _WORDS:
            return _WORDS[text]
        if text in DTYPES:
            return DTYPES[text]
        self.at -= 1
        self.fail(f"expected a literal, found {text!r}")


def _number(text: str) -> Any:
    if text.endswith("j"):
        return complex(text)
    try:
        return int(text)
    except ValueError:
        return float(text)
