"""``backward`` and ``grad``: the IR's adjoint sweep over what tensors have recorded.

The graph of nodes only tells which leaves to differentiate by and what to check; the
derivative is made by ``symgrad.ir.adjoint`` and is recorded like everything else, to be
computed when somebody looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from symgrad.bounded import Bounded
from symgrad.ir import Value
from symgrad.tensors import anomaly
from symgrad.tensors.contents import origin
from symgrad.tensors.derivatives import Cotangent, cotangents, graph_behind
from symgrad.tensors.handle import Tensor
from symgrad.tensors.hooks import Retaining
from symgrad.tensors.nodes import (
    AccumulateGrad,
    ByHand,
    Node,
    make_node,
    on_the_way,
    reachable,
    told,
)
from symgrad.tensors.record import RECORDER, recording
from symgrad.tensors.recorded import is_known
from symgrad.tensors.several import values_of
from symgrad.tensors.state import enable_grad, no_grad


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Any = None,
) -> None:
    """Adds derivatives of ``tensors``, weighted by ``grad_tensors``, to the ``grad`` of leaves.

    Only that of ``inputs``, where these are given: leaves or not.  Unless ``retain_graph``, the
    graph can be used once; with ``create_graph`` the gradients can be differentiated in turn.
    Raises ``RuntimeError`` as torch does.
    """
    outputs = _listed(tensors)
    if inputs is not None and not _listed(inputs):
        raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
    weights = grad_tensors if grad_tensors is not None else grad_variables
    ends = None if inputs is None else _listed(inputs)
    sweep = _Sweep(outputs, _listed(weights), retain_graph, create_graph, ends)
    computed = [t for t in ends or () if t.grad_fn is not None]
    for tensor in computed:
        tensor.retain_grad()
    chosen = None if ends is None else {id(t) for t in ends}
    leaves = {
        id(e.variable): e.variable
        for e in sweep.leaves
        if e.variable._requires_grad and (chosen is None or id(e.variable) in chosen)
    }
    found = sweep.by([*leaves.values(), *computed])
    totals = [
        (leaf, total)
        for leaf, total in zip(leaves.values(), found, strict=False)
        if total is not None  # a function of the user's own may say that there is no derivative
    ]
    seen: list[Tensor] = list(outputs)  # a loss looked at next costs no second forward pass
    bare: list[Value] = []
    for leaf, total in totals:
        gradient = _hooked(leaf, _as_tensor(total)) if leaf._hooks else total
        if leaf._gradient is None:
            leaf._gradient = gradient
            if isinstance(gradient, Value):
                bare.append(gradient)
                continue
        elif create_graph:
            leaf._grad = leaf._grad + _as_tensor(gradient)  # type: ignore[operator]
        else:
            with no_grad():
                before: Any = leaf._grad
                before._array()  # a second pass shall not repeat the first one's work
                before._replace(before + _as_tensor(gradient))
        seen.append(leaf._grad)  # type: ignore[arg-type]
    mates = [t._as_reference() for t in (*[leaf for leaf, _ in totals], *seen)]
    for op in dict.fromkeys([v.op for v in (*bare, *values_of(seen))]):
        if op is not None:
            op.mates = mates  # type: ignore[attr-defined]
    Tensor._await(outputs)
    for leaf in [leaf for leaf, _ in totals if leaf._accumulated]:
        for hook in list(leaf._accumulated.values()):  # type: ignore[union-attr]
            hook(leaf)


def backward_from(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Adds the derivative of this tensor, weighted by ``gradient``, to its leaves' ``grad``."""
    backward(self, gradient, retain_graph, create_graph, inputs=inputs)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The derivatives of ``outputs``, weighted by ``grad_outputs``, by each of ``inputs``."""
    if is_grads_batched:
        raise NotImplementedError("is_grads_batched: use symgrad.vmap or symgrad.jacobian")
    wanted = _listed(inputs)
    if not all(tensor.requires_grad for tensor in wanted):
        raise RuntimeError("One of the differentiated Tensors does not require grad")
    sweep = _Sweep(_listed(outputs), _listed(grad_outputs), retain_graph, create_graph, wanted)
    results: list[Tensor | None] = []
    for tensor, found in zip(wanted, sweep.by(wanted), strict=True):
        if found is not None:
            derivative = _as_tensor(found)
            results.append(_hooked(tensor, derivative) if tensor._hooks else derivative)
        elif materialize_grads:
            results.append(_zeros(tensor._value()))
        else:
            if not allow_unused:
                raise RuntimeError(
                    "One of the differentiated Tensors appears to not have been used in the graph. "
                    "Set allow_unused=True if this is the desired behavior."
                )
            results.append(None)
    return tuple(results)


def leaves_behind(tensors: Sequence[Any]) -> list[Tensor]:
    """The leaves that tensors depend on."""
    edges = [t._edge() for t in tensors if isinstance(t, Tensor)]
    nodes = reachable([edge for edge in edges if edge is not None])
    return [node.variable for node in nodes if isinstance(node, AccumulateGrad)]


def _as_tensor(derivative: Tensor | Value) -> Tensor:
    return Tensor.of_value(derivative) if isinstance(derivative, Value) else derivative


def _zeros(value: Value) -> Tensor:
    """The derivative by a value that the result depends on in name only."""
    return Tensor.of_value(RECORDER.builder.constant(0, value.type))


def _hooked(leaf: Tensor, gradient: Tensor) -> Tensor:
    for hook in list(leaf._hooks.values()):  # type: ignore[union-attr]
        result = hook(gradient)
        gradient = gradient if result is None else result
    return gradient


# -- losses that are looked at first ---------------------------------------------------------

HABITS_LIMIT = 256
_habits: Bounded[bool] = Bounded(HABITS_LIMIT)
"""Structures of graphs whose loss was looked at, and then differentiated."""


def _note_habit(outputs: Sequence[Value]) -> None:
    if len(outputs) == 1 and is_known(outputs[0]) and outputs[0].op is not None:
        _habits[graph_behind(outputs).key] = True


def foresee(loss: Tensor) -> list[Value]:
    """The derivatives that will be asked for once a loss was looked at, if earlier losses
    of this kind are any guide.

    Computed together with the loss they cost no second forward pass.
    """
    value = loss._value()
    if not _habits or not _habits.get(graph_behind([value]).key):
        return []
    nodes = reachable([edge for edge in [loss._edge()] if edge is not None])
    if any(node._watchers for node in nodes):
        return []
    inputs = [v for n in nodes if isinstance(n, AccumulateGrad) and (v := n.value) is not None]
    with recording(), no_grad():
        found = cotangents([value], [None], inputs, {}, detached=True)
    loss._foreseen = inputs, found
    return [value for value, _ in (c for c in found if c is not None)]


Tensor._foresee = foresee


class _Sweep:
    """One backward pass: its outputs, the nodes behind them, and the weights."""

    def __init__(
        self,
        outputs: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        retain_graph: bool | None,
        create_graph: bool,
        ends: Sequence[Tensor] | None = None,
    ) -> None:
        """``ends`` are the tensors to differentiate by: all leaves unless given."""
        weights = weights or [None] * len(outputs)
        if len(weights) != len(outputs):
            raise RuntimeError(f"got {len(outputs)} tensors and {len(weights)} gradients")
        self.create_graph = create_graph
        self._losses = outputs
        self._outputs = [t._value() for t in outputs]
        self._weights = [
            _weight(i, t, w) for i, (t, w) in enumerate(zip(outputs, weights, strict=True))
        ]
        roots = [edge for t in outputs if (edge := t._edge()) is not None]
        self.nodes = reachable(roots)
        self.leaves = [n for n in self.nodes if isinstance(n, AccumulateGrad)]
        self._roots = roots
        retain = create_graph if retain_graph is None else retain_graph
        passed, self._watched = self.nodes, self.nodes  # every node leads to a leaf
        if ends is not None:
            targets = {id(edge): edge for t in ends if (edge := t._edge()) is not None}
            passed = on_the_way(roots, targets)
            self._watched = [*passed, *(n for i, n in targets.items() if n in self.nodes)]
            self._watched = list(dict.fromkeys(self._watched))
        for node in passed:
            if type(node) is not AccumulateGrad:
                node.use(retain=retain)
        spent = not retain and any(node.saves for node in passed)
        for tensor in outputs:
            tensor._spent = tensor._spent or spent
        tracked = [w for w in weights if w is not None and w.requires_grad]
        self._edges = [*roots, *(e for w in tracked if (e := w._edge()) is not None)]

    def by(self, tensors: Sequence[Tensor]) -> list[Tensor | Value | None]:
        """The derivatives by tensors; ``None`` for one that the outputs do not depend on.

        They are bare values unless they are part of the graph, or several were added up.
        A leaf that was written to unseen has had several values: they all count.
        """
        own: dict[int, list[AccumulateGrad]] = {}
        for edge in self.leaves:
            own.setdefault(id(edge.variable), []).append(edge)
        places: list[int] = []
        values: list[Value] = []
        for place, tensor in enumerate(tensors):
            if tensor._node is not None:
                places.append(place)
                values.append(origin(tensor._value()))
                continue
            for edge in own.get(id(tensor), ()):
                if (value := edge._value()) is not None:
                    places.append(place)
                    values.append(value)
        results: list[Tensor | Value | None] = [None] * len(tensors)
        for place, derivative in zip(places, self._run(values), strict=True):
            if derivative is not None and (total := results[place]) is not None:
                results[place] = _as_tensor(total) + _as_tensor(derivative)
            elif derivative is not None:
                results[place] = derivative
        if any(total is None for total in results):
            reached = self._told()
            for place, tensor in enumerate(tensors):
                nodes = own.get(id(tensor), ()) if tensor._node is None else (tensor._node,)
                if results[place] is None and any(node in reached for node in nodes):
                    results[place] = _zeros(tensor._value())
        return results

    def _told(self) -> set[Node]:
        """The nodes that the pass brought a gradient to, if only one of zeros."""
        is_by_hand = any(isinstance(node, ByHand) for node in self.nodes)
        return set(told(self._roots) if is_by_hand else self.nodes)

    def _run(self, inputs: Sequence[Value]) -> Sequence[Tensor | Value | None]:
        """The derivatives by ``inputs``: part of the graph if that is wanted, else outside it."""
        anomaly.begin()
        watchers: dict[Value, list[Any]] = {}
        for seen in [node._watchers for node in self._watched if node._watchers]:
            for value, watcher in seen:
                watchers.setdefault(value, []).append(watcher)
        for seeing in watchers.values():
            seeing.sort(key=lambda watcher: isinstance(watcher, Retaining))
        found = None if watchers or self.create_graph else self._foreseen(inputs)
        if found is None:
            mode = enable_grad() if self.create_graph else no_grad()
            with recording(), mode:
                found = cotangents(
                    self._outputs, self._weights, inputs, watchers, detached=not self.create_graph
                )
            _note_habit(self._outputs)
        anomaly.check_leaves(self.leaves, inputs, [c and c[0] for c in found])
        if self.create_graph:
            return [c and self._tracked(*c) for c in found]
        return [c and c[0] for c in found]

    def _foreseen(self, inputs: Sequence[Value]) -> list[Cotangent | None] | None:
        """The derivatives that were computed with the loss."""
        if self._weights != [None] or self._losses[0]._foreseen is None:
            return None
        known, found = self._losses[0]._foreseen
        same = len(known) == len(inputs) and all(a is b for a, b in zip(known, inputs, strict=True))
        return found if same else None

    def _tracked(self, value: Value, made_by: str) -> Tensor:
        result = Tensor.of_value(value)
        result._node = make_node(_node_name(made_by), self._edges)
        return result


_NAMES = {"reduce_sum": "SumBackward1", "scale": "MulBackward0", "dot_general": "MmBackward0"}


def _node_name(op: str) -> str:
    """The name of the operation that a derivative ends in."""
    return _NAMES.get(op) or f"{op.title().replace('_', '')}Backward0"


def _weight(number: int, output: Tensor, weight: Tensor | None) -> Value | None:
    if not output.requires_grad:
        raise RuntimeError(
            f"element {number} of tensors does not require grad and does not have a grad_fn"
        )
    if weight is None:
        if output.numel() != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        return None
    if weight.shape != output.shape:
        raise RuntimeError(
            f"Mismatch in shape: grad_output[{number}] has a shape of {weight.shape} and "
            f"output[{number}] has a shape of {output.shape}."
        )
    return weight.to(output.dtype)._value()  # type: ignore[no-any-return]


def _listed(tensors: Any) -> list[Any]:
    if tensors is None:
        return []
    return list(tensors) if isinstance(tensors, (tuple, list)) else [tensors]
