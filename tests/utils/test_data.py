"""Data sets, samplers and the loader, with and without threads."""

from __future__ import annotations

import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import symgrad as torch
from symgrad.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

WORKERS = pytest.mark.parametrize("workers", [0, 1, 3])


class Squares(Dataset):
    """Numbers and their squares; slow at times, so that threads would change the order."""

    def __getitem__(self, index: int) -> tuple[int, float]:
        if index % 3 == 0:
            time.sleep(0.001)
        return index, float(index**2)

    def __len__(self) -> int:
        return 11


class Stream(IterableDataset):
    """Seven numbers."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(7))


def numbers(loader: Any) -> list[Any]:
    return [x[0].tolist() if isinstance(x, list) else x.tolist() for x in loader]


@WORKERS
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_in_order(workers: int, drop_last: bool) -> None:
    loader = DataLoader(Squares(), 4, num_workers=workers, drop_last=drop_last)
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert numbers(loader) == expected[: 2 if drop_last else 3]
    assert len(loader) == (2 if drop_last else 3)
    index, square = next(iter(loader))
    assert (index.dtype, square.dtype) == (torch.int64, torch.float64)


@WORKERS
def test_shuffling_repeats_with_the_seed(workers: int) -> None:
    loader = DataLoader(Squares(), 4, shuffle=True, num_workers=workers)
    torch.manual_seed(3)
    first, second = numbers(loader), numbers(loader)
    torch.manual_seed(3)
    assert numbers(loader) == first != second
    assert sorted(i for batch in first for i in batch) == list(range(11))
    orders = [
        numbers(DataLoader(Squares(), 4, shuffle=True, generator=torch.Generator().manual_seed(5)))
        for _ in range(2)
    ]
    assert orders[0] == orders[1]


@WORKERS
def test_exceptions_come_where_their_batch_would(workers: int) -> None:
    class Broken(Squares):
        def __getitem__(self, index: int) -> tuple[int, float]:
            if index == 9:
                raise ZeroDivisionError("nine")
            return super().__getitem__(index)

    batches = iter(DataLoader(Broken(), 4, num_workers=workers))
    assert [index.tolist()[0] for index, _ in (next(batches), next(batches))] == [0, 4]
    with pytest.raises(ZeroDivisionError, match="nine") as caught:
        next(batches)
    assert any(entry.name == "__getitem__" for entry in caught.traceback)
    wait_for_threads()


def wait_for_threads() -> None:
    for _ in range(500):
        if not any(t.name.startswith("symgrad-loader") for t in threading.enumerate()):
            return
        time.sleep(0.01)
    raise AssertionError("threads of a loader are still there")


def test_an_iteration_given_up_leaves_no_threads() -> None:
    made = []

    class Counting(Squares):
        def __getitem__(self, index: int) -> tuple[int, float]:
            made.append(index)
            return index, 0.0

        def __len__(self) -> int:
            return 1000

    iterator = iter(DataLoader(Counting(), 1, num_workers=2, prefetch_factor=3))
    next(iterator)
    del iterator
    wait_for_threads()
    assert len(made) <= 8


@WORKERS
def test_streams(workers: int) -> None:
    assert numbers(DataLoader(Stream(), 3, num_workers=workers)) == [[0, 1, 2], [3, 4, 5], [6]]
    loader = DataLoader(Stream(), 3, num_workers=workers, drop_last=True)
    assert numbers(loader) == [[0, 1, 2], [3, 4, 5]]
    assert list(DataLoader(Stream(), None, num_workers=workers)) == list(range(7))


def test_collating() -> None:
    Pair = namedtuple("Pair", "x y")
    made = default_collate([{"a": Pair(1, 2.5), "b": "u"}, {"a": Pair(3, 4.5), "b": "v"}])
    assert made["a"].x.tolist() == [1, 3] and made["a"].y.tolist() == [2.5, 4.5]
    assert made["b"] == ["u", "v"]
    assert default_collate([np.ones(2, np.float32)] * 3).shape == (3, 2)
    with pytest.raises(RuntimeError, match="should be of equal size"):
        default_collate([[1], [1, 2]])
    with pytest.raises(TypeError, match="found <class 'object'>"):
        default_collate([object()])
    doubled = DataLoader(Squares(), 2, collate_fn=lambda xs: [2 * x for x, _ in xs])
    assert next(iter(doubled)) == [0, 2]


def test_tensors_as_data() -> None:
    x, y = torch.rand(10, 3), torch.arange(10)
    data = TensorDataset(x, y)
    assert len(data) == 10 and data[3][1].item() == 3
    batches = list(DataLoader(data, 4, num_workers=2))
    assert [tuple(b[0].shape) for b in batches] == [(4, 3), (4, 3), (2, 3)]
    np.testing.assert_array_equal(torch.cat([b[0] for b in batches]).numpy(), x.numpy())
    with pytest.raises(AssertionError, match="Size mismatch between tensors"):
        TensorDataset(x, y[:3])


def test_parts_and_sums() -> None:
    both = ConcatDataset([Squares(), Subset(Squares(), [10, 3])])
    assert len(both) == 13 and [both[i][0] for i in (0, 10, 11, -1)] == [0, 10, 10, 3]
    assert len(Squares() + Squares()) == 22
    torch.manual_seed(0)
    parts = random_split(Squares(), [0.5, 0.5])
    assert [len(p) for p in parts] == [6, 5]
    assert sorted(p[i][0] for p in parts for i in range(len(p))) == list(range(11))
    with pytest.raises(ValueError, match="Sum of input lengths does not equal"):
        random_split(Squares(), [5, 5])


def test_samplers() -> None:
    torch.manual_seed(0)
    assert list(SequentialSampler(Squares())) == list(range(11))
    assert sorted(RandomSampler(Squares())) == list(range(11))
    assert len(list(RandomSampler(Squares(), num_samples=25))) == 25
    assert len(list(RandomSampler(Squares(), replacement=True, num_samples=4))) == 4
    assert sorted(SubsetRandomSampler([5, 7])) == [5, 7]
    assert set(WeightedRandomSampler([0, 1, 0], 9)) == {1}
    batches = list(BatchSampler(SequentialSampler(range(5)), 2, drop_last=False))
    assert batches == [[0, 1], [2, 3], [4]]
    loader = DataLoader(Squares(), batch_sampler=[[3, 1], [2]])
    assert numbers(loader) == [[3, 1], [2]]
    assert numbers(DataLoader(Squares(), 2, sampler=[9, 0, 4])) == [[9, 0], [4]]


def test_refusals() -> None:
    data: Any = Squares()
    for options, text in [
        ({"sampler": [1], "shuffle": True}, "sampler option is mutually exclusive with shuffle"),
        ({"batch_size": 0}, "batch_size should be a positive integer value, but got batch_size=0"),
        ({"batch_sampler": [[1]], "batch_size": 4}, "batch_sampler option is mutually exclusive"),
        ({"batch_size": None, "drop_last": True}, "batch_size=None option disables auto-batching"),
        ({"num_workers": -1}, "num_workers option should be non-negative"),
        ({"prefetch_factor": 2}, "prefetch_factor option could only be specified"),
    ]:
        with pytest.raises(ValueError, match=text):
            DataLoader(data, **options)
    with pytest.raises(ValueError, match="expected unspecified shuffle option"):
        DataLoader(Stream(), shuffle=True)
    with pytest.raises(TypeError, match="no len"):
        len(DataLoader(Stream()))
