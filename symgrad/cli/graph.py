"""A function as a picture of its data flow: Graphviz text, or SVG with a layout of its own.

The layout is the classical layered one (K. Sugiyama et al., 1981): layers by longest path,
order within a layer by the mean position of the neighbours, swept down and up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from symgrad.ir import Func, Value
from symgrad.ir.graph import scalar_constant

CHARACTER, ROW, LAYER, GAP, MARGIN = 7.2, 34, 70, 24, 16
"""Pixels: width of a character, height of a node, distances of layers and nodes, border."""
SWEEPS = 6
COLOURS = {"param": "#dbe9f6", "op": "#ffffff", "result": "#fde6d2"}


@dataclass(eq=False)
class Node:
    """A parameter, an op, or the function's results."""

    kind: str
    label: str
    inputs: list[tuple[Node, str]] = field(default_factory=list)
    """Where the operands come from, with their types."""
    layer: int = 0
    x: float = 0.0

    @property
    def width(self) -> float:
        """In pixels."""
        return CHARACTER * max(3, len(self.label)) + 16


def nodes(func: Func) -> list[Node]:
    """The nodes in an order in which operands come first.

    Scalar constants are part of the label of the op that uses them.
    """
    made: dict[int, Node] = {}
    found: list[Node] = []

    def add(node: Node, operands: tuple[Value, ...]) -> Node:
        node.inputs = [(made[id(v)], str(v.type)) for v in operands if id(v) in made]
        node.layer = max((source.layer + 1 for source, _ in node.inputs), default=0)
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


def as_dot(func: Func) -> str:
    """Text for Graphviz."""
    found = nodes(func)
    numbers = {id(node): i for i, node in enumerate(found)}
    lines = [f'digraph "{func.name}" {{', '  node [shape=box, style=filled, fontname="monospace"]']
    for node in found:
        label = node.label.replace('"', '\\"')
        lines.append(f'  n{numbers[id(node)]} [label="{label}", fillcolor="{COLOURS[node.kind]}"]')
    for node in found:
        for source, type_ in node.inputs:
            lines.append(f'  n{numbers[id(source)]} -> n{numbers[id(node)]} [label="{type_}"]')
    return "\n".join([*lines, "}"])


def as_svg(func: Func) -> str:
    """A picture that stands alone."""
    found = nodes(func)
    _place(found)
    width = max(node.x + node.width / 2 for node in found) + MARGIN
    height = 2 * MARGIN + ROW + LAYER * max(node.layer for node in found)
    shapes = [_edge(source, node, text) for node in found for source, text in node.inputs]
    shapes += [_box(node) for node in found]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            'font-family="monospace" font-size="12" fill="none" stroke="#555555">',
            f"<title>{escape(func.name)}</title>",
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff" stroke="none"/>',
            *shapes,
            "</svg>",
        ]
    )


def _place(found: list[Node]) -> None:
    """Gives every node its place within its layer."""
    layers: list[list[Node]] = [[] for _ in range(1 + max(node.layer for node in found))]
    users: dict[int, list[Node]] = {id(node): [] for node in found}
    for node in found:
        layers[node.layer].append(node)
        for source, _ in node.inputs:
            users[id(source)].append(node)
    for layer in layers:
        _spread(layer, {})
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for layer in layers if downwards else reversed(layers):
            wanted = {}
            for node in layer:
                near = [s for s, _ in node.inputs] if downwards else users[id(node)]
                if near:
                    wanted[id(node)] = sum(n.x for n in near) / len(near)
            layer.sort(key=lambda node: wanted.get(id(node), node.x))
            _spread(layer, wanted)
    left = min(node.x - node.width / 2 for node in found)
    for node in found:
        node.x += MARGIN - left


def _spread(layer: list[Node], wanted: dict[int, float]) -> None:
    """Puts nodes near where they are wanted, in order and without overlap."""
    edge = float("-inf")
    for node in layer:
        node.x = max(wanted.get(id(node), node.x), edge + node.width / 2)
        edge = node.x + node.width / 2 + GAP
    pairs = [node.x - wanted[id(node)] for node in layer if id(node) in wanted]
    shift = sum(pairs) / len(pairs) if pairs else 0.0
    for node in layer:
        node.x -= shift


def _top(node: Node) -> float:
    return MARGIN + LAYER * node.layer


def _box(node: Node) -> str:
    x, y = node.x - node.width / 2, _top(node)
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{node.width:.1f}" height="{ROW}" rx="5" '
        f'fill="{COLOURS[node.kind]}"/>'
        f'<text x="{node.x:.1f}" y="{y + ROW / 2 + 4}" text-anchor="middle" fill="#222222" '
        f'stroke="none">{escape(node.label)}</text>'
    )


def _edge(source: Node, node: Node, text: str) -> str:
    x0, y0, x1, y1 = source.x, _top(source) + ROW, node.x, _top(node)
    middle = (y0 + y1) / 2
    return (
        f'<path d="M{x0:.1f},{y0} C{x0:.1f},{middle} {x1:.1f},{middle} {x1:.1f},{y1}">'
        f"<title>{escape(text)}</title></path>"
    )
