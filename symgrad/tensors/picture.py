"""The graph behind a tensor as a picture."""

from __future__ import annotations

from symgrad import drawing
from symgrad.tensors.handle import Tensor
from symgrad.tensors.nodes import AccumulateGrad, Node, reachable


def to_dot(output: Tensor) -> str:
    """The operations behind a tensor in Graphviz's language, arrows in the forward direction.

    Leaves are blue.  Raises ``RuntimeError`` for a tensor without a graph.
    """
    return drawing.as_dot("autograd", _boxes(output)) + "\n"


def to_svg(output: Tensor) -> str:
    """The same picture as SVG, which browsers and notebooks show."""
    return drawing.as_svg("autograd", _boxes(output)) + "\n"


def _boxes(output: Tensor) -> list[drawing.Node]:
    root = output._edge()
    if root is None:
        raise RuntimeError("there is no graph behind a tensor that does not require grad")
    boxes: dict[int, drawing.Node] = {}
    for node in _operands_first(root):
        if isinstance(node, AccumulateGrad):
            box = drawing.Node("param", f"{type(node).__name__} {list(node.variable.shape)}")
        else:
            box = drawing.Node("op", type(node).__name__)
        box.inputs = [(boxes[id(parent)], "") for parent in node.parents if parent is not None]
        boxes[id(node)] = box
    result = drawing.Node("result", f"{list(output.shape)}", [(boxes[id(root)], "")])
    return [*boxes.values(), result]


def _operands_first(root: Node) -> list[Node]:
    """The nodes behind ``root``, each after its parents."""
    waiting = {id(node): len(_parents(node)) for node in reachable([root])}
    users: dict[int, list[Node]] = {}
    for node in reachable([root]):
        for parent in _parents(node):
            users.setdefault(id(parent), []).append(node)
    ready = [node for node in reachable([root]) if not waiting[id(node)]][::-1]
    ordered = []
    while ready:
        node = ready.pop(0)
        ordered.append(node)
        for user in users.get(id(node), ()):
            waiting[id(user)] -= 1
            if not waiting[id(user)]:
                ready.append(user)
    return ordered


def _parents(node: Node) -> list[Node]:
    return [parent for parent in node.parents if parent is not None]
