"""The members of a module: its parameters, buffers and submodules.

They are plain attributes, where Python finds them without a detour.  What a module keeps beside
them is their names, in the order of registration, and which kind each is of.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

PARAMETERS, BUFFERS, MODULES = "parameters", "buffers", "modules"


class Members(MutableMapping[str, Any]):
    """The members of one kind by name, as torch keeps them; ``None`` for one that is left out.

    To change it is to change the module.
    """

    __slots__ = ("_fields", "_kind", "_kinds")

    def __init__(self, fields: dict[str, Any], kinds: dict[str, str], kind: str) -> None:
        self._fields, self._kinds, self._kind = fields, kinds, kind

    def __getitem__(self, name: str) -> Any:
        if self._kinds.get(name) != self._kind:
            raise KeyError(name)
        return self._fields[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if self._kinds.get(name) != self._kind:
            self._kinds.pop(name, None)  # what is new comes last
            self._kinds[name] = self._kind
        self._fields[name] = value

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        del self._kinds[name], self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, kind in self._kinds.items() if kind == self._kind])

    def __len__(self) -> int:
        return list(self._kinds.values()).count(self._kind)

    def __repr__(self) -> str:
        return repr(dict(self))


class HasMembers:
    """A base with members by kind."""

    _members: dict[str, str]
    """The kind of each member by its name."""

    def _of_kind(self, kind: str) -> list[tuple[str, Any]]:
        """Names and members of a kind, but for those that are left out."""
        fields = self.__dict__
        named = [(name, fields[name]) for name, known in self._members.items() if known == kind]
        return [(name, member) for name, member in named if member is not None]

    @property
    def _parameters(self) -> Members:
        return Members(self.__dict__, self._members, PARAMETERS)

    @property
    def _buffers(self) -> Members:
        return Members(self.__dict__, self._members, BUFFERS)

    @property
    def _modules(self) -> Members:
        return Members(self.__dict__, self._members, MODULES)
