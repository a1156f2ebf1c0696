"""Pictures of data flow: Graphviz text, or SVG with a layout of its own.

The layout is the classical layered one (K. Sugiyama et al., 1981): layers by longest path,
order within a layer by the mean position of the neighbours, swept down and up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

CHARACTER, ROW, LAYER, GAP, MARGIN = 7.2, 34, 70, 24, 16
"""Pixels: width of a character, height of a node, distances of layers and nodes, border."""
SWEEPS = 6
ARROW = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#555555" stroke="none"/></marker>'
)
COLOURS = {"param": "#dbe9f6", "op": "#ffffff", "result": "#fde6d2"}


@dataclass(eq=False)
class Node:
    """A box: what goes in (a "param"), an operation ("op"), or what comes out ("result")."""

    kind: str
    label: str
    inputs: list[tuple[Node, str]] = field(default_factory=list)
    """Where the operands come from, with what is said of the arrow."""
    layer: int = 0
    x: float = 0.0

    @property
    def width(self) -> float:
        """In pixels."""
        return CHARACTER * max(3, len(self.label)) + 16


def as_dot(name: str, nodes: Sequence[Node]) -> str:
    """Text for Graphviz; ``nodes`` has operands before what uses them."""
    numbers = {id(node): i for i, node in enumerate(nodes)}
    lines = [f'digraph "{name}" {{', '  node [shape=box, style=filled, fontname="monospace"]']
    for node in nodes:
        label = node.label.replace('"', '\\"')
        lines.append(f'  n{numbers[id(node)]} [label="{label}", fillcolor="{COLOURS[node.kind]}"]')
    for node in nodes:
        for source, text in node.inputs:
            said = f' [label="{text}"]' if text else ""
            lines.append(f"  n{numbers[id(source)]} -> n{numbers[id(node)]}{said}")
    return "\n".join([*lines, "}"])


def as_svg(name: str, nodes: Sequence[Node]) -> str:
    """A picture that stands alone; ``nodes`` has operands before what uses them."""
    lines = _layered(nodes)
    boxes = [*nodes, *(bend for line in lines for bend in line.bends)]
    _place(boxes, lines)
    width = max(box.x + box.width / 2 for box in boxes) + MARGIN
    height = 2 * MARGIN + ROW + LAYER * max(node.layer for node in nodes)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            'font-family="monospace" font-size="12" fill="none" stroke="#555555">',
            f"<title>{escape(name)}</title>",
            ARROW,
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff" stroke="none"/>',
            *map(_drawn, lines),
            *map(_box, nodes),
            "</svg>",
        ]
    )


@dataclass(eq=False)
class _Line:
    """An arrow; where it passes layers between its ends, a bend keeps room for it."""

    source: Node
    target: Node
    text: str
    bends: list[Node]

    def points(self) -> list[Node]:
        """What the arrow goes through, ends included."""
        return [self.source, *self.bends, self.target]


def _layered(nodes: Sequence[Node]) -> list[_Line]:
    """Gives every node its layer; returns the arrows.

    What has no operands lies right above its first use.
    """
    lines = []
    first_use: dict[int, int] = {}
    for node in nodes:
        node.layer = max((source.layer + 1 for source, _ in node.inputs), default=0)
        for source, _ in node.inputs:
            first_use[id(source)] = min(first_use.get(id(source), node.layer), node.layer)
    for node in nodes:
        if not node.inputs:
            node.layer = first_use.get(id(node), 1) - 1
    for node in nodes:
        for source, text in node.inputs:
            between = range(source.layer + 1, node.layer)
            bends = [Node("bend", "", layer=layer) for layer in between]
            lines.append(_Line(source, node, text, bends))
    return lines


def _place(boxes: Sequence[Node], lines: Sequence[_Line]) -> None:
    """Gives every box its place within its layer."""
    layers: list[list[Node]] = [[] for _ in range(1 + max(box.layer for box in boxes))]
    above: dict[int, list[Node]] = {id(box): [] for box in boxes}
    below: dict[int, list[Node]] = {id(box): [] for box in boxes}
    for line in lines:
        for upper, lower in pairwise(line.points()):
            below[id(upper)].append(lower)
            above[id(lower)].append(upper)
    for box in boxes:
        layers[box.layer].append(box)
    for layer in layers:
        _spread(layer, {})
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        near = above if downwards else below
        for layer in layers if downwards else reversed(layers):
            wanted = {
                id(box): sum(n.x for n in near[id(box)]) / len(near[id(box)])
                for box in layer
                if near[id(box)]
            }
            layer.sort(key=lambda box: wanted.get(id(box), box.x))
            _spread(layer, wanted)
    left = min(box.x - box.width / 2 for box in boxes)
    for box in boxes:
        box.x += MARGIN - left


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


def _drawn(line: _Line) -> str:
    """Curves between the layers, straight lines across them."""
    x, y = line.source.x, _top(line.source) + ROW
    path = f"M{x:.1f},{y}"
    for node in line.points()[1:]:
        middle = (y + _top(node)) / 2
        path += f" C{x:.1f},{middle} {node.x:.1f},{middle} {node.x:.1f},{_top(node)}"
        x, y = node.x, _top(node) + ROW
        if node is not line.target:
            path += f" V{y}"
    said = f"<title>{escape(line.text)}</title>" if line.text else ""
    return f'<path d="{path}" marker-end="url(#arrow)">{said}</path>'
