"""Records behave as frozen dataclasses with slots do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import dataclass, field

import pytest
from symgrad.ir.record import record


@record
class Point:
    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list)

    def moved(self, by: int) -> Point:
        return dataclasses.replace(self, x=self.x + by)


@record
class Named(Point):
    name: str = "?"


@dataclass(frozen=True, slots=True)
class Reference:
    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list)


@record
class Single:
    value: int


@record
class Checked:
    size: int
    double: int = field(init=False)

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("negative")
        object.__setattr__(self, "double", 2 * self.size)

    def __hash__(self) -> int:
        return 7


def test_fields_come_by_position_name_and_default() -> None:
    assert [Point(1).y, Point(1, 3).y, Point(y=4, x=0).y] == [2, 3, 4]
    assert Point(1).tags is not Point(1).tags
    assert (Named(1).name, Named(1, name="a").x) == ("?", 1)
    assert (Checked(3).double, hash(Checked(3))) == (6, 7)
    with pytest.raises(ValueError, match="negative"):
        Checked(-1)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "Point: the field 'x' is missing"),
        ((1,), {"z": 1}, "Point: no field 'z'"),
        ((1,), {"x": 1}, "Point: two values for field 'x'"),
        ((1, 2, [], 4), {}, "Point has 3 fields, got 4 values"),
    ],
)
def test_wrong_arguments_are_refused(
    args: tuple[object, ...], kwargs: dict[str, object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        Point(*args, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Reference(*args, **kwargs)  # type: ignore[arg-type]


def test_equality_and_hash_are_by_value_and_class() -> None:
    assert Single(1) == Single(1) != Single(2)
    assert hash(Single(1)) == hash(Single(1)) != hash(Single(2))
    assert Named(1) != Point(1)
    assert Point(1, tags=["a"]) == Point(1, tags=["a"]) != Point(1)
    assert Single(1) != (1,)
    with pytest.raises(TypeError):
        hash(Point(1))  # as that of the list in it


def test_nothing_can_be_changed() -> None:
    point = Point(1)
    for change in (lambda: setattr(point, "x", 3), lambda: delattr(point, "x")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    with pytest.raises(AttributeError):
        point.new = 1  # type: ignore[attr-defined]
    assert not hasattr(point, "__dict__")


def test_the_standard_library_takes_records() -> None:
    assert repr(Point(1)) == repr(Reference(1)).replace("Reference", "Point")
    assert Point(1).moved(2) == Point(3)
    assert dataclasses.asdict(Named(1)) == {"x": 1, "y": 2, "tags": [], "name": "?"}
    for same in (
        copy.copy(Named(1)),
        copy.deepcopy(Named(1)),
        pickle.loads(pickle.dumps(Named(1))),
    ):
        assert same == Named(1)
    match Named(1, 5):
        case Point(1, y):
            assert y == 5
