"""Modules: named parameters and buffers, and a forward function that uses them.

A module holds tensors, as torch's do.  ``functional_call`` (see ``pure``) lends it other
values, traced ones among them, for one forward pass and collects the buffers it leaves
behind: that turns any module into a pure function of (parameters, state, input).  Called
with NumPy arrays or traced values, a module lends itself its own values as arrays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from symgrad.nn import pure
from symgrad.nn.hooks import BackwardHooks, Hook, RemovableHandle, register
from symgrad.nn.parameter import Parameter
from symgrad.nn.state import StateDict
from symgrad.tensors import Tensor
from symgrad.tracer import Tracer

Array = Any
"""A tensor, or a NumPy array or traced one inside a transformed function."""
M = TypeVar("M", bound="Module")

_ARRAYS = (np.ndarray, Tracer)
_MEMBERS = ("_parameters", "_buffers", "_modules")
"""The last of them is made last."""
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class Module(StateDict):
    """Base of all layers and models; assign parameters, buffers and submodules in ``__init__``.

    ``self.weight = Parameter(tensor)`` registers a parameter, ``register_buffer`` state that is
    not trained, any ``Module`` value a submodule.
    """

    training: bool
    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    _modules: dict[str, Any]
    _forward_pre_hooks: OrderedDict[int, Any]
    _forward_hooks: OrderedDict[int, Any]
    _backward_pre_hooks: OrderedDict[int, Any]
    _backward_hooks: OrderedDict[int, Any]

    def __init__(self) -> None:
        fields = self.__dict__
        fields["training"] = True
        for kind in _MEMBERS:
            fields[kind] = {}
        for kind in _HOOKS:
            fields[kind] = OrderedDict()
        fields["_transient_buffers"] = set()

    def forward(self, *inputs: Any) -> Any:
        """The computation; define it in the subclass."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function'
        )

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        for x in inputs:
            if isinstance(x, _ARRAYS) and pure.holds_tensors(self):
                with pure.own_arrays(self):
                    return self._call(inputs, options)
        return self._call(inputs, options)

    def _call(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if (
            self._forward_hooks
            or self._forward_pre_hooks
            or self._backward_hooks
            or self._backward_pre_hooks
        ):
            return self._call_with_hooks(inputs, options)
        return self.forward(*inputs, **options)

    def _call_with_hooks(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        for hook, with_kwargs in list(self._forward_pre_hooks.values()):
            changed = hook(self, inputs, options) if with_kwargs else hook(self, inputs)
            if changed is not None and with_kwargs:
                inputs, options = changed
            elif changed is not None:
                inputs = changed if isinstance(changed, tuple) else (changed,)
        watch = None
        if self._backward_hooks or self._backward_pre_hooks:
            before, after = self._backward_pre_hooks.values(), self._backward_hooks.values()
            watch = BackwardHooks(self, list(before), list(after))
            inputs = watch.inputs(inputs)
        output = self.forward(*inputs, **options)
        for hook, with_kwargs in list(self._forward_hooks.values()):
            given = (self, inputs, options) if with_kwargs else (self, inputs)
            changed = hook(*given, output)
            output = output if changed is None else changed
        return output if watch is None else watch.output(output)

    # -- hooks -------------------------------------------------------------------------

    def register_forward_pre_hook(
        self, hook: Hook, *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Calls ``hook(module, inputs)`` before ``forward``; a result replaces the inputs."""
        return register(self._forward_pre_hooks, (hook, with_kwargs), prepend=prepend)

    def register_forward_hook(
        self, hook: Hook, *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Calls ``hook(module, inputs, output)`` after ``forward``; a result replaces that."""
        return register(self._forward_hooks, (hook, with_kwargs), prepend=prepend)

    def register_full_backward_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Calls ``hook(module, grad_input, grad_output)`` in backward passes, with tuples.

        A result replaces ``grad_input``.  One input and one output may need a gradient.
        """
        return register(self._backward_hooks, hook, prepend=prepend)

    def register_full_backward_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Calls ``hook(module, grad_output)`` in backward passes; a result replaces that."""
        return register(self._backward_pre_hooks, hook, prepend=prepend)

    # -- attributes ----------------------------------------------------------------------

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Adds a parameter; ``None`` says that there is none under this name."""
        self._check_name("parameter", name, self._parameters)
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
        self._check_name("buffer", name, self._buffers)
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
        self._check_name("module", name, self._modules)
        self._modules[name] = module

    add_module = register_module

    def _check_name(self, what: str, name: str, members: Mapping[str, Any]) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string. Got {type_name(name)}")
        if "." in name:
            got = f", got: {name}" if what == "module" else ""
            raise KeyError(f'{what} name can\'t contain "."{got}')
        if not name:
            raise KeyError(f'{what} name can\'t be empty string ""')
        if hasattr(self, name) and name not in members:
            raise KeyError(f"attribute '{name}' already exists")

    def __setattr__(self, name: str, value: Any) -> None:
        fields = self.__dict__
        if isinstance(value, Parameter):
            self._make_room(name, "parameters", "_parameters")
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._make_room(name, "module", "_modules")
            self._modules[name] = value
        elif name in fields.get("_parameters", ()):
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type_name(value)}' as parameter '{name}' "
                    "(torch.nn.Parameter or None expected)"
                )
            self._parameters[name] = None
        elif name in fields.get("_modules", ()):
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type_name(value)}' as child module '{name}' "
                    "(torch.nn.Module or None expected)"
                )
            self._modules[name] = None
        elif name in fields.get("_buffers", ()):
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"cannot assign '{type_name(value)}' as buffer '{name}' "
                    "(torch.nn.Buffer, torch.Tensor or None expected)"
                )
            self._buffers[name] = value
        else:
            object.__setattr__(self, name, value)

    def _make_room(self, name: str, what: str, kind: str) -> None:
        """Forgets what else the name stood for: a plain value, such as None, for one."""
        if kind not in self.__dict__:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")
        self.__dict__.pop(name, None)
        for other in _MEMBERS:
            if other != kind:
                self.__dict__[other].pop(name, None)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__
        if "_modules" in fields:  # and with it the other kinds
            for members in (fields["_parameters"], fields["_buffers"], fields["_modules"]):
                if name in members:
                    return members[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __delattr__(self, name: str) -> None:
        for kind in _MEMBERS:
            if name in self.__dict__[kind]:
                del self.__dict__[kind][name]
                self._transient_buffers.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        members = [name for kind in _MEMBERS for name in self.__dict__[kind]]
        return sorted({*super().__dir__(), *members})

    # -- traversal -------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Submodules and their names, each module once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
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
        for name, module in self._modules.items():
            if module is not None:
                path = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, path, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Array]]:
        """Dotted names and tensors of all parameters, each once."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Array]:
        """All parameters."""
        return (value for _, value in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Array]]:
        """Dotted names and tensors of all buffers, each once."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

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
            for name, value in module.__dict__[kind].items():
                if value is None or id(value) in seen:
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
        return self._member(target, "_parameters", "an nn.Parameter")  # type: ignore[no-any-return]

    def get_buffer(self, target: str) -> Tensor:
        """The buffer under a dotted name."""
        return self._member(target, "_buffers", "a buffer")  # type: ignore[no-any-return]

    def _member(self, target: str, kind: str, what: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
        if module.__dict__[kind].get(name) is None:
            raise AttributeError(f"`{name}` is not {what}")
        return module.__dict__[kind][name]

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


def type_name(x: Any) -> str:
    """What torch's error texts call the type of ``x``."""
    return f"torch.{x.dtype.scalar_name}Tensor" if isinstance(x, Tensor) else type(x).__name__


def indented(text: str) -> str:
    """All lines but the first moved right by two, for a module within another's text."""
    return text.replace("\n", "\n  ")
