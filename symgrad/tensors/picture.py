"""The graph behind a tensor as a drawing in Graphviz's language."""

from __future__ import annotations

from symgrad.tensors.handle import Tensor
from symgrad.tensors.nodes import AccumulateGrad, Node, reachable


def to_dot(output: Tensor) -> str:
    """The operations behind a tensor, arrows in the direction of the forward pass.

    Leaves are blue, the output is green.  Raises ``RuntimeError`` for a tensor without
    graph.
    """
    root = output._edge()
    if root is None:
        raise RuntimeError("there is no graph behind a tensor that does not require grad")
    nodes = list(reachable([root]))
    numbers = {id(node): number for number, node in enumerate(nodes)}
    lines = [f'  n{numbers[id(node)]} [label="{_label(node)}"{_fill(node)}];' for node in nodes]
    lines += [
        f"  n{numbers[id(parent)]} -> n{numbers[id(node)]};"
        for node in nodes
        for parent in node.parents
        if parent is not None
    ]
    lines += [f'  out [label="{list(output.shape)}", style=filled, fillcolor=lightgreen];']
    return "\n".join(["digraph {", "  node [shape=box];", *lines, "  n0 -> out;", "}"]) + "\n"


def _label(node: Node) -> str:
    if isinstance(node, AccumulateGrad):
        return f"{node.name()} {list(node.variable.shape)}"
    return node.name()


def _fill(node: Node) -> str:
    return ", style=filled, fillcolor=lightblue" if isinstance(node, AccumulateGrad) else ""
