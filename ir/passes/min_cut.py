"""Minimum cuts of networks: the cheapest edges that part a source from a sink.

What a compiler chooses between two programs, "this here or that there", is often such a cut.
The method is Edmonds and Karp's (1972): shortest paths with capacity left carry flow until there
are none; what the source still reaches then is its side of the cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Node = TypeVar("Node", bound=Hashable)


class Network(Generic[Node]):
    """Directed edges with capacities; only those that are named exist."""

    def __init__(self) -> None:
        self._left: dict[Node, dict[Node, float]] = {}

    def add(self, start: Node, end: Node, capacity: float) -> None:
        """Adds capacity from a node to another: what it costs to have the edge in the cut."""
        edges = self._left.setdefault(start, {})
        edges[end] = edges.get(end, 0) + capacity
        self._left.setdefault(end, {}).setdefault(start, 0)

    def cut(self, source: Node, sink: Node) -> set[Node]:
        """The nodes on the source's side of a minimum cut: the fewest, where there are several.

        No path of infinite capacity may lead from source to sink.  Uses the network up.
        """
        while True:
            before = self._reached(source, sink)
            if sink not in before:
                return set(before)
            path, node = list[tuple[Node, Node]](), sink
            while node != source:
                path.append((before[node], node))
                node = before[node]
            flow = min(self._left[start][end] for start, end in path)
            for start, end in path:
                self._left[start][end] -= flow
                self._left[end][start] += flow

    def _reached(self, source: Node, sink: Node) -> dict[Node, Node]:
        """Nodes to which capacity is left, up to the sink, each by the node before it."""
        before, queue = {source: source}, deque([source])
        while queue and sink not in before:
            start = queue.popleft()
            for end, capacity in self._left.get(start, {}).items():
                if capacity > 0 and end not in before:
                    before[end] = start
                    queue.append(end)
        return before
