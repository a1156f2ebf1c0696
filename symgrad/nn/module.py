"""Modules: named parameters and buffers, and a forward function that uses them.

A module holds tensors, as torch's do.  ``functional_call`` (see ``pure``) lends it other
values, traced ones among them, for one forward pass and collects the buffers it leaves
behind: that turns any module into a pure function of (parameters, state, input).  Called
with NumPy arrays or traced values, a module lends itself its own values as arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from symgrad.nn import pure
from symgrad.nn.hooks import BackwardHooks, Hook, ModuleHooks, RemovableHandle, register
from symgrad.nn.members import BUFFERS, MODULES, PARAMETERS
from symgrad.nn.parameter import Buffer, Parameter
from symgrad.nn.state import StateDict
from symgrad.tensors import Tensor
from symgrad.tracer import Tracer

Array = Any
"""A tensor, or a NumPy array or traced one inside a transformed function."""
M = TypeVar("M", bound="Module")

_ARRAYS = (np.ndarray, Tracer)


class Module(StateDict):
    """Base of all layers and models; assign parameters, buffers and submodules in ``__init__``.

    ``self.weight = Parameter(tensor)`` registers a parameter, ``register_buffer`` state that is
    not trained, any ``Module`` value a submodule.
    """

    training: bool
    _hooks: ModuleHooks | None = None
    """Made when the first one is registered."""

    if TYPE_CHECKING:  # members are attributes

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self) -> None:
        self.__dict__.update(training=True, _members={}, _transient_buffers=set())

    def forward(self, *inputs: Any) -> Any:
        """The computation; define it in the subclass."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function'
        )

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        for x in inputs:
            if not isinstance(x, Tensor) and isinstance(x, _ARRAYS) and pure.holds_tensors(self):
                with pure.own_arrays(self):
                    return self._call_with(self._hooks, inputs, options)
        if self._hooks is not None:
            return self._call_with(self._hooks, inputs, options)
        return self.forward(*inputs, **options) if options else self.forward(*inputs)

    def _call_with(
        self, hooks: ModuleHooks | None, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        if hooks is None:
            return self.forward(*inputs, **options)
        for hook, with_kwargs in list(hooks.forward_pre.values()):
            changed = hook(self, inputs, options) if with_kwargs else hook(self, inputs)
            if changed is not None and with_kwargs:
                inputs, options = changed
            elif changed is not None:
                inputs = changed if isinstance(changed, tuple) else (changed,)
        watch = None
        if hooks.backward or hooks.backward_pre:
            before, after = list(hooks.backward_pre.values()), list(hooks.backward.values())
            watch = BackwardHooks(self, before, after)
            inputs = watch.inputs(inputs)
        output = self.forward(*inputs, **options)
        for hook, with_kwargs in list(hooks.forward.values()):
            given = (self, inputs, options) if with_kwargs else (self, inputs)
            changed = hook(*given, output)
            output = output if changed is None else changed
        return output if watch is None else watch.output(output)

    # -- hooks -------------------------------------------------------------------------

    def _own_hooks(self) -> ModuleHooks:
        if self._hooks is None:
            self.__dict__["_hooks"] = ModuleHooks()
        return self._hooks  # type: ignore[return-value]

    def register_forward_pre_hook(
        self, hook: Hook, *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Calls ``hook(module, inputs)`` before ``forward``; a result replaces the inputs."""
        return register(self._own_hooks().forward_pre, (hook, with_kwargs), prepend=prepend)

    def register_forward_hook(
        self, hook: Hook, *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Calls ``hook(module, inputs, output)`` after ``forward``; a result replaces that."""
        return register(self._own_hooks().forward, (hook, with_kwargs), prepend=prepend)

    def register_full_backward_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Calls ``hook(module, grad_input, grad_output)`` in backward passes, with tuples.

        A result replaces ``grad_input``.  One input and one output may need a gradient.
        """
        return register(self._own_hooks().backward, hook, prepend=prepend)

    def register_full_backward_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Calls ``hook(module, grad_output)`` in backward passes; a result replaces that."""
        return register(self._own_hooks().backward_pre, hook, prepend=prepend)

    # -- attributes ----------------------------------------------------------------------

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Adds a parameter; ``None`` says that there is none under this name."""
        self._check_name("parameter", name, PARAMETERS)
        if param is not None and not isinstance(param, Parameter):
            if isinstance(param, Tensor) and param.grad_fn is not None:
                raise ValueError(
                    f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must "
                    f"be created explicitly. To express '{name}' as a function of another "
                    "Tensor, compute the value in the forward() method."
                )
            raise TypeError(
                f"cannot assign '{type_name(param)}' object to parameter '{name}' "
                "(torch.nn.Parameter or None required)"
            )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Adds state that is not trained, such as running statistics.

        It is saved with the parameters if it is ``persistent``.
        """
        self._check_name("buffer", name, BUFFERS)
        if isinstance(tensor, np.ndarray):
            tensor = Tensor.of_array(tensor.copy())
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type_name(tensor)}' object to buffer '{name}' "
                "(torch Tensor or None required)"
            )
        self._buffers[name] = tensor
        (self._transient_buffers.discard if persistent else self._transient_buffers.add)(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Adds a submodule."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type_name(module)} is not a Module subclass")
        self._check_name("module", name, MODULES)
        self._modules[name] = module

    add_module = register_module

    def _check_name(self, what: str, name: str, kind: str) -> None:
        if "_members" not in self.__dict__:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string. Got {type_name(name)}")
        if "." in name:
            got = f", got: {name}" if what == "module" else ""
            raise KeyError(f'{what} name can\'t contain "."{got}')
        if not name:
            raise KeyError(f'{what} name can\'t be empty string ""')
        if hasattr(self, name) and self._members.get(name) != kind:
            raise KeyError(f"attribute '{name}' already exists")

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._make_room(name, "parameters", PARAMETERS)
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._make_room(name, "module", MODULES)
            self._modules[name] = value
        elif isinstance(value, Buffer):
            self._make_room(name, "buffer", BUFFERS)
            self.register_buffer(name, value, value.persistent)
        elif (kind := self.__dict__.get("_members", _NONE).get(name)) is None:
            object.__setattr__(self, name, value)
        elif value is None or (kind == BUFFERS and isinstance(value, Tensor)):
            self.__dict__[name] = value
        else:
            what, wanted = _EXPECTED[kind]
            raise TypeError(
                f"cannot assign '{type_name(value)}' as {what} '{name}' ({wanted} expected)"
            )

    def _make_room(self, name: str, what: str, kind: str) -> None:
        """Forgets what else the name stood for: a plain value, such as None, for one."""
        if "_members" not in self.__dict__:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")
        if self._members.get(name) != kind:
            self._members.pop(name, None)
            self.__dict__.pop(name, None)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._members.pop(name, None)
        self._transient_buffers.discard(name)

    def __copy__(self: M) -> M:
        """A module of the same members, which may get others."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.__dict__["_members"] = dict(self._members)
        made.__dict__["_transient_buffers"] = set(self._transient_buffers)
        return made

    # -- traversal -------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Submodules and their names, each module once."""
        seen: set[int] = set()
        for name, module in self._of_kind(MODULES):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """Submodules, each once."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it with their dotted names; its own name is ``prefix``."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._of_kind(MODULES):
            path = f"{prefix}.{name}" if prefix else name
            yield from module.named_modules(memo, path, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Array]]:
        """Dotted names and tensors of all parameters, each once."""
        return self._named(PARAMETERS, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Array]:
        """All parameters."""
        return (value for _, value in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Array]]:
        """Dotted names and tensors of all buffers, each once."""
        return self._named(BUFFERS, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Array]:
        """All buffers."""
        return (value for _, value in self.named_buffers(recurse=recurse))

    def _named(
        self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Array]]:
        seen: set[int] = set()
        modules: Any = ((prefix, self),)
        if recurse:
            modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
        for path, module in modules:
            for name, value in module._of_kind(kind):
                if id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def get_submodule(self, target: str) -> Module:
        """The module under a dotted name; this one under the empty name."""
        module: Any = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module  # type: ignore[no-any-return]

    def get_parameter(self, target: str) -> Parameter:
        """The parameter under a dotted name."""
        return self._member(target, PARAMETERS, "an nn.Parameter")  # type: ignore[no-any-return]

    def get_buffer(self, target: str) -> Tensor:
        """The buffer under a dotted name."""
        return self._member(target, BUFFERS, "a buffer")  # type: ignore[no-any-return]

    def _member(self, target: str, kind: str, what: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
        if name not in dict(module._of_kind(kind)):
            raise AttributeError(f"`{name}` is not {what}")
        return module.__dict__[name]

    def apply(self: M, fn: Callable[[Module], None]) -> M:
        """Calls ``fn`` on every module below this one, then on itself."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # -- mode ------------------------------------------------------------------------------

    def train(self: M, mode: bool = True) -> M:
        """Switches to training mode: batch statistics, dropout."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        for module in self.modules():
            module.__dict__["training"] = mode
        return self

    def eval(self: M) -> M:
        """Switches to evaluation mode: running statistics, no dropout."""
        return self.train(False)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Freezes the parameters, or makes them be trained again."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of all parameters, or makes them zero."""
        for parameter in self.parameters():
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad.zero_()

    # -- text ------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What ``repr`` shows of a module's own options."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        own = [line for line in self.extra_repr().split("\n") if line]
        below = [f"({name}): {indented(repr(m))}" for name, m in self._modules.items()]
        if len(own) == 1 and not below:
            return f"{self._get_name()}({own[0]})"
        lines = "".join(f"\n  {line}" for line in (*own, *below))
        return f"{self._get_name()}({lines}\n)" if lines else f"{self._get_name()}()"


_NONE: dict[str, str] = {}
_EXPECTED = {
    PARAMETERS: ("parameter", "torch.nn.Parameter or None"),
    MODULES: ("child module", "torch.nn.Module or None"),
    BUFFERS: ("buffer", "torch.nn.Buffer, torch.Tensor or None"),
}
"""What a kind of members is called, and what may be assigned to one."""


def type_name(x: Any) -> str:
    """What torch's error texts call the type of ``x``."""
    return f"torch.{x.dtype.scalar_name}Tensor" if isinstance(x, Tensor) else type(x).__name__


def indented(text: str) -> str:
    """All lines but the first moved right by two, for a module within another's text."""
    return text.replace("\n", "\n  ")
