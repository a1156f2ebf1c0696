"""A pickle interpreter that builds data and can do nothing else.

Python's own unpickler calls whatever a file names.  This one knows the opcodes that lists,
dictionaries, numbers and strings need; names and calls go through a table that the caller
gives, and every other name or opcode is refused.  The opcodes are those of Python's
``pickletools``, which also decodes their arguments.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from symgrad.io.errors import DamagedError, RefusedError

Constructor = Callable[..., Any]


class Name:
    """A global that stands for itself, such as a dtype; not callable."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def read_pickle(
    file: BinaryIO,
    names: Mapping[str, Constructor | Name],
    resolve: Callable[[Any], Any] | None = None,
) -> Any:
    """The object that the pickle at ``file``'s position describes; reads up to its end.

    ``names`` maps permitted globals (``"module.name"``) to what is called in their place;
    ``resolve`` turns a persistent id into its object.  Raises ``RefusedError`` or
    ``DamagedError``.
    """
    try:
        return _Machine(names, resolve).run(file)
    except (ValueError, LookupError) as error:
        raise DamagedError(f"its pickle breaks off or has a wrong reference ({error})") from error


class _Machine:
    """The stack machine: a stack, a memo, and the stacks set aside at each mark."""

    def __init__(
        self, names: Mapping[str, Constructor | Name], resolve: Callable[[Any], Any] | None
    ) -> None:
        self.names, self.resolve = names, resolve
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            self.step(opcode.name, argument)
        if len(self.stack) != 1 or self.marked:
            raise DamagedError("its pickle ends inside an object")
        return self.stack[0]

    def since_mark(self) -> list[Any]:
        """Take the items above the last mark."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            # values
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT"
                | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8"
                | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8"
            ):  # fmt: skip
                stack.append(argument)
            # containers
            case "MARK":
                self.marked.append(stack)
                self.stack = []
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                items = self.since_mark()
                self.stack.append(tuple(items))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                item = stack.pop()
                _expect(stack[-1], list).append(item)
            case "APPENDS":
                items = self.since_mark()
                _expect(self.stack[-1], list).extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _expect(stack[-1], dict)[_key(key)] = value
            case "SETITEMS":
                pairs = self.since_mark()
                target = _expect(self.stack[-1], dict)
                for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                    target[_key(key)] = value
            # names, calls, persistent objects
            case "GLOBAL":
                stack.append(self.name(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(self.name(f"{module}.{attribute}"))
            case "REDUCE":
                arguments, function = _expect(stack.pop(), tuple), stack.pop()
                if not callable(function):  # only what `names` gave is
                    raise RefusedError("its pickle calls an object that is no constructor")
                stack.append(function(*arguments))
            case "BUILD":  # attributes of a dictionary (torch's `_metadata`): not data
                stack.pop()
                _expect(stack[-1], dict)
            case "BINPERSID" if self.resolve:
                stack.append(self.resolve(stack.pop()))
            # memo
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case _:
                raise RefusedError(f"its pickle uses the opcode {opcode}, which data does not need")

    def name(self, text: str) -> Constructor | Name:
        if text not in self.names:
            raise RefusedError(f"its pickle names {text!r}, which a state dict does not need")
        return self.names[text]


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise DamagedError(f"its pickle has a {type(value).__name__} in place of a {kind.__name__}")
    return value


def _key(key: Any) -> Any:
    if not isinstance(key, str | int | float | None):
        raise RefusedError(f"its pickle has a dictionary key of type {type(key).__name__}")
    return key
