"""A function's data flow as boxes and arrows."""

from __future__ import annotations

from symgrad.drawing import Node
from symgrad.ir import Func, Value
from symgrad.ir.graph import scalar_constant


def nodes(func: Func) -> list[Node]:
    """Parameters, ops and results, in an order in which operands come first.

    Scalar constants are part of the label of the op that uses them.
    """
    made: dict[int, Node] = {}
    found: list[Node] = []

    def add(node: Node, operands: tuple[Value, ...]) -> Node:
        node.inputs = [(made[id(v)], str(v.type)) for v in operands if id(v) in made]
        found.append(node)
        return node

    for p in func.params:
        made[id(p)] = add(Node("param", f"{p.name}: {p.type}"), ())
    for op in func.ops:
        if op.name == "constant" and scalar_constant(op.result) is not None:
            continue
        numbers = [f"{scalar_constant(v):.6g}" for v in op.operands if id(v) not in made]
        label = " ".join([op.name, *numbers])
        node = add(Node("op", label), op.operands)
        made.update((id(v), node) for v in op.results)
    add(Node("result", "return"), func.results)
    return found
