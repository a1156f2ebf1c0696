"""Nested containers as flat lists of leaves, through optree.

Tuples, lists, dicts, named tuples and ``None`` are containers; dataclasses become such
when first met.  Everything else is a leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optree

NAMESPACE = "symgrad"
_leaf_types: set[type] = set()  # seen before, and no dataclasses
Spec = optree.PyTreeSpec


def flatten(tree: Any) -> tuple[list[Any], Spec]:
    """The leaves in order, and the structure to put them back."""
    leaves, spec = optree.tree_flatten(tree, namespace=NAMESPACE)
    unknown = set(map(type, leaves)) - _leaf_types
    if not unknown:
        return leaves, spec
    dataclass_types = {kind for kind in unknown if dataclasses.is_dataclass(kind)}
    for kind in dataclass_types:
        _register(kind)
    _leaf_types.update(unknown - dataclass_types)
    return flatten(tree)


def _register(kind: type) -> None:
    names = [f.name for f in dataclasses.fields(kind)]

    def take_apart(x: Any) -> tuple[list[Any], None, list[str]]:
        return [getattr(x, name) for name in names], None, names

    def put_together(_: Any, children: Iterable[Any]) -> Any:
        x: Any = object.__new__(kind)  # fields may hold tracers: no __init__, no checks
        for name, child in zip(names, children, strict=True):
            object.__setattr__(x, name, child)
        return x

    optree.register_pytree_node(
        kind, take_apart, put_together, path_entry_type=optree.GetAttrEntry, namespace=NAMESPACE
    )


def unflatten(spec: Spec, leaves: Sequence[Any]) -> Any:
    """The tree with these leaves."""
    return optree.tree_unflatten(spec, leaves)


def map_leaves(f: Callable[..., Any], tree: Any) -> Any:
    """The tree with ``f`` applied to every leaf."""
    leaves, spec = flatten(tree)
    return unflatten(spec, [f(x) for x in leaves])


def names(tree: Any, root: str) -> list[str]:
    """How to write each leaf in Python: ``params['w'][0]``."""
    flatten(tree)  # registers dataclasses
    return [a.codify(root) for a in optree.tree_accessors(tree, namespace=NAMESPACE)]


def spread_prefix(prefix: Any, tree: Any) -> list[Any]:
    """One entry of ``prefix`` per leaf: a leaf of ``prefix`` stands for a whole subtree.

    ``None`` in ``prefix`` is an entry, not an empty container.
    """
    if prefix is None or isinstance(prefix, int):
        return [prefix] * len(flatten(tree)[0])
    wrapped = optree.tree_map(lambda x: (x,), prefix, none_is_leaf=True, namespace=NAMESPACE)
    out: list[Any] = []
    optree.tree_map(
        lambda entry, subtree: out.extend([entry[0]] * len(flatten(subtree)[0])),
        wrapped,
        tree,
        is_leaf=lambda x: isinstance(x, tuple) and len(x) == 1 and not isinstance(x[0], tuple),
        namespace=NAMESPACE,
    )
    return out
