"""Where the leaves of a call's arguments lie, for native code to find them there."""

from __future__ import annotations

import sys

from symgrad import tree
from symgrad.codegen.runtime.calltable import (
    ARGUMENT,
    DICT,
    KEYWORD,
    LIST,
    NONE,
    TUPLE,
    Item,
)

_KINDS = {tuple: TUPLE, list: LIST, dict: DICT, type(None): NONE}


def places(spec: tree.Spec) -> list[Item] | None:
    """The items of a call, whose arguments, by position and by name, have this structure.

    ``None`` if native code could not find them: in containers of other types than Python's own,
    or in a dict under keys other than texts and ints.
    """
    items: list[Item] = []

    def visit(spec: tree.Spec, holder: int, place: object) -> bool:
        if spec.is_leaf():
            items.append(Item(holder, place))
            return True
        kind = _KINDS.get(spec.type)
        keys = spec.entries()
        if kind is None or (kind == DICT and any(type(key) not in (str, int) for key in keys)):
            return False
        number = len(items)
        items.append(Item(holder, place, kind, len(keys)))
        pairs = zip(keys, spec.children(), strict=True)
        return all(visit(child, number, key) for key, child in pairs)

    by_place, by_name = spec.children()
    found = all(visit(x, ARGUMENT, i) for i, x in enumerate(by_place.children()))
    names = map(sys.intern, by_name.entries())
    pairs = zip(names, by_name.children(), strict=True)
    return items if found and all(visit(x, KEYWORD, name) for name, x in pairs) else None
