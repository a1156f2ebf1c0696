"""Modules and parameters in sequence, in lists and under names."""

from __future__ import annotations

import itertools
import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, overload

from symgrad.nn.members import MODULES
from symgrad.nn.module import Module, indented
from symgrad.nn.parameter import Parameter
from symgrad.tensors import Tensor

Array = Any
L = TypeVar("L", bound="_Listed")


class _Listed(Module):
    """Modules by number: they are named "0", "1", ..."""

    def _place(self, index: int) -> str:
        size = len(self)
        index = operator.index(index)
        if not -size <= index < size:
            raise IndexError(f"index {index} is out of range")
        return list(self._modules)[index % size]

    def _renumbered(self, modules: Iterable[Module]) -> None:
        members = list(modules)
        self._modules.clear()
        self._modules.update((str(i), module) for i, module in enumerate(members))

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __setitem__(self, index: int, module: Module) -> None:
        self.register_module(self._place(index), module)

    def append(self: L, module: Module) -> L:
        """Adds a module at the end."""
        self.register_module(str(len(self)), module)
        return self

    def extend(self: L, modules: Iterable[Module]) -> L:
        """Adds modules at the end."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self: L, index: int, module: Module) -> L:
        """Adds a module before the one numbered ``index``."""
        if not -len(self) <= index <= len(self):
            raise IndexError(f"Index out of range: {index}")
        members = list(self)
        members.insert(index, module)
        self._renumbered(members)
        return self

    def pop(self, index: int) -> Module:
        """Takes a module out; returns it."""
        module: Module = self._modules[self._place(index)]
        del self[index]
        return module

    def __delitem__(self, index: int | slice) -> None:
        members = list(self)
        del members[index]
        self._renumbered(members)

    def __iadd__(self: L, modules: Iterable[Module]) -> L:
        return self.extend(modules)


class Sequential(_Listed):
    """Modules applied one after the other.

    Given as arguments they are named "0", "1", ...; an ``OrderedDict`` names them itself.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for name, module in args[0].items():
                self.register_module(name, module)
        else:
            for number, module in enumerate(args):
                self.register_module(str(number), module)

    def forward(self, input: Array) -> Array:
        """Through all modules."""
        members = self.__dict__
        for name, kind in self._members.items():
            if kind == MODULES:
                input = members[name](input)
        return input

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return type(self)(OrderedDict(list(self._modules.items())[index]))
        module: Module = self._modules[self._place(index)]
        return module

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._modules)
        for name in names[index] if isinstance(index, slice) else [self._place(index)]:
            del self._modules[name]
        if all(name.isdigit() for name in names):
            self._renumbered(list(self._modules.values()))

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential(*self, *other)


class ModuleList(_Listed):
    """A list of modules, which are submodules of this one."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return ModuleList(list(self)[index])
        module: Module = self._modules[self._place(index)]
        return module

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __repr__(self) -> str:
        """As torch: equal neighbours in one line, ``(0-2): 3 x Linear(...)``."""
        if not len(self):
            return f"{self._get_name()}()"
        lines, start = [], 0
        for text, group in itertools.groupby(map(repr, self)):
            count = len(list(group))
            several = f"({start}-{start + count - 1}): {count} x {text}"
            lines.append(indented(f"({start}): {text}" if count == 1 else several))
            start += count
        body = "".join(f"\n  {line}" for line in lines)
        return f"{self._get_name()}({body}\n)"


class ModuleDict(Module):
    """Modules by name, which are submodules of this one."""

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def update(self, modules: Any) -> None:
        """Adds modules: a mapping, or pairs of name and module."""
        pairs = modules.items() if isinstance(modules, Mapping | ModuleDict) else modules
        for name, module in pairs:
            self[name] = module

    def __getitem__(self, key: str) -> Module:
        module: Module = self._modules[key]
        return module

    def __setitem__(self, key: str, module: Module) -> None:
        self.register_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Takes all modules out."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Takes a module out; returns it."""
        module: Module = self._modules.pop(key)
        return module

    def keys(self) -> Iterable[str]:
        """Names."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """Modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Names and modules."""
        return self._modules.items()


def _line(name: str, value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"({name}): Object of type: {type(value).__name__}"
    kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
    size = "x".join(map(str, value.shape))
    return f"({name}): {kind} containing: [{value.dtype} of size {size}]"


class ParameterList(Module):
    """A list of parameters; tensors put into it become parameters."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        self.extend(values or ())

    def _place(self, index: int) -> str:
        if not -self._size <= index < self._size:
            raise IndexError(f"index {index} is out of range")
        return str(index % self._size)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return ParameterList([self[i] for i in range(self._size)[index]])
        return getattr(self, self._place(index))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, self._place(index), _as_parameter(value))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter(self[i] for i in range(self._size))

    def append(self, value: Any) -> ParameterList:
        """Adds a parameter at the end."""
        self._size += 1
        self[self._size - 1] = value
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Adds parameters at the end."""
        for value in values:
            self.append(value)
        return self

    __iadd__ = extend

    def extra_repr(self) -> str:
        """The types and sizes of the parameters."""
        return "\n".join(_line(str(i), value) for i, value in enumerate(self))

    def __repr__(self) -> str:
        return _parameters_text(self)


class ParameterDict(Module):
    """Parameters by name; tensors put into it become parameters."""

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        if parameters is not None:
            self.update(parameters)

    def update(self, parameters: Any) -> None:
        """Adds parameters: a mapping, or pairs of name and tensor."""
        pairs = (
            parameters.items() if isinstance(parameters, Mapping | ParameterDict) else parameters
        )
        for name, value in pairs:
            self[name] = value

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._keys[key] = None
        setattr(self, key, _as_parameter(value))

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def keys(self) -> Iterable[str]:
        """Names."""
        return self._keys.keys()

    def values(self) -> Iterable[Any]:
        """Parameters."""
        return [self[key] for key in self._keys]

    def items(self) -> Iterable[tuple[str, Any]]:
        """Names and parameters."""
        return [(key, self[key]) for key in self._keys]

    def extra_repr(self) -> str:
        """The types and sizes of the parameters."""
        return "\n".join(_line(key, value) for key, value in self.items())

    def __repr__(self) -> str:
        return _parameters_text(self)


def _as_parameter(value: Any) -> Any:
    known = not isinstance(value, Tensor) or isinstance(value, Parameter)
    return value if known else Parameter(value)


def _parameters_text(module: Module) -> str:
    """torch indents the lines of these two by four."""
    lines = "".join(f"\n    {line}" for line in module.extra_repr().split("\n") if line)
    return f"{module._get_name()}({lines}\n)" if lines else f"{module._get_name()}()"
