"""Function transforms on tensors, as ``torch.func`` has them.

The functions run on tensors, with all that these can do; ``symgrad.grad`` and ``symgrad.vmap``
are the transforms of functions on arrays.  Transforms nest in any order.  Only reverse rules
exist: what torch pushes forward, ``jacfwd`` and ``jvp``, is pulled back twice here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from symgrad import tree
from symgrad.nn.module import Module
from symgrad.nn.pure import lent_tensors
from symgrad.randomness import Source
from symgrad.tensors import Tensor
from symgrad.tensors.batching import batched
from symgrad.tensors.creation import eye
from symgrad.tensors.engine import grad as pull_back
from symgrad.tensors.engine import leaves_behind
from symgrad.tensors.joining import stack
from symgrad.tensors.state import enable_grad, is_grad_enabled

__all__ = [
    "functional_call", "grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp",
    "stack_module_state", "vjp", "vmap",
]  # fmt: skip

Argnums = int | tuple[int, ...]


# -- derivatives ---------------------------------------------------------------------------


class _Call:
    """One call of a function on inputs of its own, to differentiate by."""

    def __init__(self, name: str, f: Callable[..., Any], argnums: Argnums, has_aux: bool) -> None:
        self._name, self._f, self._argnums, self._has_aux = name, f, argnums, has_aux
        self.aux: Any = None

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of the function, whose inputs are now ``inputs``."""
        chosen = (self._argnums,) if isinstance(self._argnums, int) else self._argnums
        given = list(args)
        for place in chosen:
            if not -len(args) <= place < len(args):
                raise RuntimeError(f"Got argnum={place}, but only {len(args)} positional inputs")
        wanted = tuple([given[place] for place in chosen])
        leaves, self._spec = tree.flatten(wanted[0] if isinstance(self._argnums, int) else wanted)
        self.inputs = [self._input(x) for x in leaves]
        fresh = tree.unflatten(self._spec, self.inputs)
        for place, x in zip(chosen, (fresh,) if isinstance(self._argnums, int) else fresh,
                            strict=True):  # fmt: skip
            given[place] = x
        self._was_enabled = is_grad_enabled()
        with enable_grad():
            output = self._f(*given, **kwargs)
        if self._has_aux:
            if not (isinstance(output, tuple) and len(output) == 2):
                raise RuntimeError(
                    f"{self._name}: output of function f should be a tuple: (output, aux) if "
                    "has_aux is True"
                )
            output, self.aux = output
        self._outputs, self._shape = tree.flatten(output)
        own = set(map(id, self.inputs))
        self.is_tracked = self._was_enabled and any(
            id(leaf) not in own for leaf in leaves_behind(self._outputs)
        )
        """Whether the results are part of a graph that leads to other tensors."""
        return output

    def _input(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor):
            raise RuntimeError(f"{self._name}: expected all inputs to be Tensors, got {type(x)}")
        if not x.is_floating_point():
            raise RuntimeError(
                f"{self._name}: derivatives are by floating-point tensors, got {x.dtype}"
            )
        if x.requires_grad and is_grad_enabled():
            copy: Tensor = x.clone()
            return copy
        return x.detach().requires_grad_()

    def pulled(self, weights: Sequence[Tensor | None]) -> Any:
        """The derivatives by the inputs, in their structure."""
        pairs = [(y, w) for y, w in zip(self._outputs, weights, strict=True) if y.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(self.inputs)
        if pairs:
            ends, given = zip(*pairs, strict=True)
            with enable_grad():
                found = pull_back(
                    ends, self.inputs, given, retain_graph=True, create_graph=self.is_tracked,
                    allow_unused=True,
                )  # fmt: skip
        filled = [x.new_zeros(x.shape) if g is None else g
                  for x, g in zip(self.inputs, found, strict=True)]  # fmt: skip
        return tree.unflatten(self._spec, filled)

    def shown(self, result: Any) -> Any:
        """A result, outside the graph of this call unless that leads further."""
        if self.is_tracked:
            return result
        return tree.map_leaves(lambda x: x.detach() if isinstance(x, Tensor) else x, result)


def grad_and_value(
    func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """``func`` of one number as a function of its gradient and value, ``(gradient, value)``.

    With ``has_aux`` the function returns ``(number, more)``, and this one
    ``(gradient, (number, more))``.
    """

    @functools.wraps(func)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        call = _Call("grad_and_value", func, argnums, has_aux)
        value = call(args, kwargs)
        if not isinstance(value, Tensor):
            raise RuntimeError(
                f"Expected f(*args) to return a scalar tensor, got {type(value).__name__}"
            )
        if value.ndim:
            raise RuntimeError(
                "Expected f(*args) to return a scalar tensor, got tensor with "
                f"{value.ndim} dims. Maybe you wanted to use the vjp or jacrev APIs instead?"
            )
        gradient = call.pulled([None])
        shown = call.shown(value)
        return call.shown(gradient), (shown, call.shown(call.aux)) if has_aux else shown

    return transformed


def grad(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Any:
    """The gradient of ``func``, which returns one number; with ``has_aux`` ``(number, more)``.

    ``argnums`` says which arguments to differentiate by: tensors, or containers of tensors.
    """
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        gradient, value = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return transformed


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """``func(*primals)``, and a function from cotangents of that to those of ``primals``."""
    call = _Call("vjp", func, tuple(range(len(primals))), has_aux)
    output = call(primals, {})

    def pullback(cotangents: Any) -> Any:
        found = call.pulled(tree.flatten(cotangents)[0])
        return call.shown(found)

    shown = call.shown(output)
    return (shown, pullback, call.shown(call.aux)) if has_aux else (shown, pullback)


def jvp(func: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """``func(*primals)``, and how it changes along ``tangents``: the pull-back of a pull-back."""
    call = _Call("jvp", func, tuple(range(len(primals))), has_aux=False)
    output = call(primals, {})
    call.is_tracked, is_tracked = True, call.is_tracked
    outputs, spec = tree.flatten(output)
    weights = [y.new_zeros(y.shape).requires_grad_() for y in outputs]
    pulled = tree.flatten(call.pulled(weights))[0]
    directions = tree.flatten(tangents)[0]
    pairs = [(g, t) for g, t in zip(pulled, directions, strict=True) if g.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(weights)
    if pairs:
        ends, given = zip(*pairs, strict=True)
        with enable_grad():
            found = pull_back(ends, weights, given, create_graph=is_tracked, allow_unused=True)
    call.is_tracked = is_tracked
    pushed = [w.detach() if g is None else g for w, g in zip(weights, found, strict=True)]
    return call.shown(output), call.shown(tree.unflatten(spec, pushed))


def jacrev(func: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False) -> Any:
    """The Jacobian of ``func``: for each output by each input, shaped as both together."""

    @functools.wraps(func)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        call = _Call("jacrev", func, argnums, has_aux)
        outputs, spec = tree.flatten(call(args, kwargs))
        jacobians = []
        for number, y in enumerate(outputs):
            basis = eye(y.numel(), dtype=y.dtype).reshape(y.numel(), *y.shape)

            def row(weight: Tensor, number: int = number) -> Any:
                weights = [z.new_zeros(z.shape) for z in outputs]
                weights[number] = weight
                return call.pulled(weights)

            rows = vmap(row)(basis)
            jacobians.append(
                tree.map_leaves(lambda j, y=y: j.reshape(*y.shape, *j.shape[1:]), rows)
            )
        found = call.shown(tree.unflatten(spec, jacobians))
        return (found, call.shown(call.aux)) if has_aux else found

    return transformed


jacfwd = jacrev


def hessian(func: Callable[..., Any], argnums: Argnums = 0) -> Any:
    """The Jacobian of the Jacobian."""
    return jacrev(jacrev(func, argnums), argnums)


# -- batches -------------------------------------------------------------------------------


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """``func`` of one example as a function of a batch of them, which is recorded once.

    ``in_dims`` gives the batch axis of each argument, ``None`` for what all examples share;
    keyword arguments are batched over axis 0.  The function may not look at values.  Random
    numbers are an error, or with ``randomness="same"`` the same for all examples.
    ``chunk_size`` is accepted: a batch is one program whatever its size.
    """
    if randomness not in ("error", "same"):
        raise NotImplementedError(f"vmap: randomness={randomness!r}; 'error' or 'same'")

    @functools.wraps(func)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        dims = list(in_dims) if isinstance(in_dims, (tuple, list)) else [in_dims] * len(args)
        if len(dims) != len(args):
            raise ValueError(
                f"vmap({_name(func)}, in_dims={in_dims}, ...)(<inputs>): in_dims is not compatible "
                f"with the structure of inputs: {len(dims)} entries for {len(args)} arguments"
            )
        leaves, spec = tree.flatten((args, kwargs))
        axes = [d for entry, x in zip(dims, args, strict=True)
                for d in tree.spread_prefix(entry, x)]  # fmt: skip
        axes += [0] * (len(leaves) - len(axes))
        places = [i for i, axis in enumerate(axes) if axis is not None]
        batches = [_front(func, leaves[i], axes[i]) for i in places]
        sizes = {len(b) for b in batches}
        if len(sizes) != 1:
            raise ValueError(
                f"vmap({_name(func)}): at least one input must have a batch axis" if not sizes else
                f"vmap: Expected all tensors to have the same size in the mapped dimension, got "
                f"sizes {[len(b) for b in batches]} for the mapped dimension"
            )  # fmt: skip
        structure: list[Any] = []

        def on_examples(examples: Sequence[Tensor]) -> list[Tensor]:
            for place, example in zip(places, examples, strict=True):
                leaves[place] = example
            new_args, new_kwargs = tree.unflatten(spec, leaves)
            outputs, made = tree.flatten(func(*new_args, **new_kwargs))
            structure.append(made)
            for y in outputs:
                if not isinstance(y, Tensor):
                    raise ValueError(
                        f"vmap({_name(func)}, ...): `{_name(func)}` must only return Tensors, got "
                        f"type {type(y)}."
                    )
            return outputs

        before = Source.default.state
        found = batched(on_examples, batches, sizes.pop())
        if randomness == "error" and Source.default.state != before:
            raise RuntimeError(
                "vmap: called random operation while in randomness error mode. Please either use "
                "the 'same' or 'different' randomness flags on vmap or perform the randomness "
                "operation out of vmap"
            )
        result = tree.unflatten(structure[0], found)
        ends = tree.spread_prefix(out_dims, result)
        moved = [y if not n else y.movedim(0, n) for y, n in zip(found, ends, strict=True)]
        return tree.unflatten(structure[0], moved)

    return transformed


def _front(func: Callable[..., Any], x: Any, axis: int) -> Tensor:
    if not isinstance(x, Tensor):
        raise ValueError(
            f"vmap({_name(func)}, ...): got in_dim={axis} for an input of type {type(x)}; only "
            "tensors can be mapped, use in_dim=None for others"
        )
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"vmap({_name(func)}, ...): got in_dim={axis} for some input, but that input is a "
            f"Tensor of dimensionality {x.ndim} so expected in_dim to satisfy -{x.ndim} <= in_dim "
            f"< {x.ndim}."
        )
    moved: Tensor = x.movedim(axis, 0) if axis else x
    return moved


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", repr(func))


# -- modules -------------------------------------------------------------------------------


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """The module's output with tensors in place of its own, by name; others stay its own.

    Weights that the module has under several names are replaced under all of them.
    """
    given = parameter_and_buffer_dicts
    dicts = [given] if isinstance(given, Mapping) else list(given)
    values = {name: value for part in dicts for name, value in part.items()}
    inputs = () if args is None else args if isinstance(args, tuple) else (args,)
    with lent_tensors(module, values, strict=strict):
        return module(*inputs, **(kwargs or {}))


def stack_module_state(models: Iterable[Module]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and buffers of alike models, stacked by name along a new first axis."""
    listed = list(models)
    if not listed:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    params = {
        name: stack([dict(m.named_parameters())[name].detach() for m in listed])
        .requires_grad_(p.requires_grad)
        for name, p in listed[0].named_parameters()
    }  # fmt: skip
    buffers = {
        name: stack([dict(m.named_buffers())[name] for m in listed])
        for name, _ in listed[0].named_buffers()
    }
    return params, buffers
