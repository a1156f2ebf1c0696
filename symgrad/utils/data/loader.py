"""The loader: batches of a data set, prepared by threads in the background if wanted."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from symgrad.utils.data.collate import default_collate
from symgrad.utils.data.datasets import IterableDataset
from symgrad.utils.data.samplers import BatchSampler, RandomSampler, SequentialSampler


class DataLoader:
    """Batches of a data set, anew at each iteration.

    With ``num_workers`` as many threads of this process prepare batches ahead,
    ``prefetch_factor`` for each (2 unless given); their order is kept, and an exception of
    theirs is raised where its batch would come.  With ``batch_size=None`` examples come
    singly.  ``generator`` is a ``symgrad.Generator``; otherwise ``manual_seed`` decides the
    order.  An iterable data set is read by one thread, whatever ``num_workers``.
    """

    def __init__(
        self, dataset: Any, batch_size: int | None = 1, shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None, batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0, collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False, drop_last: bool = False, *, generator: Any = None,
        prefetch_factor: int | None = None,
    ) -> None:  # fmt: skip
        if num_workers < 0:
            raise ValueError(
                "num_workers option should be non-negative; use num_workers=0 to disable "
                "multiprocessing."
            )
        if num_workers == 0 and prefetch_factor is not None:
            raise ValueError(
                "prefetch_factor option could only be specified in multiprocessing.let "
                "num_workers > 0 to enable multiprocessing, otherwise set prefetch_factor to None."
            )
        if prefetch_factor is not None and prefetch_factor < 1:
            raise ValueError("prefetch_factor option should be non-negative")
        self.dataset, self.num_workers = dataset, num_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.pin_memory, self.generator = pin_memory, generator
        self._iterable = isinstance(dataset, IterableDataset)
        if self._iterable and (shuffle or sampler is not None or batch_sampler is not None):
            what = "shuffle" if shuffle else "sampler" if sampler is not None else "batch_sampler"
            raise ValueError(f"DataLoader with IterableDataset: expected unspecified {what} option")
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, "
                    "sampler, and drop_last"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError(
                "batch_size=None option disables auto-batching and is mutually exclusive with "
                "drop_last"
            )
        if sampler is None and not self._iterable:
            sampler = (
                RandomSampler(dataset, generator=generator)
                if shuffle
                else SequentialSampler(dataset)
            )
        self.sampler: Any = sampler
        if batch_size is not None and batch_sampler is None:
            order: Any = itertools.repeat(0) if self._iterable else self.sampler
            batch_sampler = BatchSampler(order, batch_size, drop_last)
        self.batch_sampler: Any = batch_sampler
        self.batch_size, self.drop_last = batch_size, drop_last
        one = (lambda x: x) if batch_sampler is None else default_collate
        self.collate_fn: Callable[[Any], Any] = one if collate_fn is None else collate_fn

    def __len__(self) -> int:
        if self._iterable:
            count = len(self.dataset)
            if self.batch_size is None:
                return count
            return count // self.batch_size if self.drop_last else -(-count // self.batch_size)
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        jobs = self._jobs()
        if not self.num_workers:
            return (job() for job in jobs)
        ahead = self.num_workers * (self.prefetch_factor or 2)
        return _prefetched(jobs, 1 if self._iterable else self.num_workers, ahead)

    def _jobs(self) -> Iterator[Callable[[], Any]]:
        """How to make each batch, in order."""
        if self._iterable:
            return self._reading()
        if self.batch_sampler is None:
            numbers = iter(self.sampler)
            return (functools.partial(self._single, number) for number in numbers)
        batches = iter(self.batch_sampler)
        return (functools.partial(self._batch, numbers) for numbers in batches)

    def _single(self, number: Any) -> Any:
        return self.collate_fn(self.dataset[number])

    def _batch(self, numbers: list[Any]) -> Any:
        several = getattr(self.dataset, "__getitems__", None)
        examples = [self.dataset[i] for i in numbers] if several is None else several(numbers)
        return self.collate_fn(examples)

    def _reading(self) -> Iterator[Callable[[], Any]]:
        examples = iter(self.dataset)
        if self.batch_size is None:
            for example in examples:
                yield functools.partial(self.collate_fn, example)
            return
        while batch := list(itertools.islice(examples, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield functools.partial(self.collate_fn, batch)


def _prefetched(jobs: Iterator[Callable[[], Any]], workers: int, ahead: int) -> Iterator[Any]:
    """The results of jobs in their order, up to ``ahead`` of them under way.

    Begins with the first request.  When the iteration is given up, what has not begun is
    cancelled.
    """
    pool = ThreadPoolExecutor(workers, "symgrad-loader")
    waiting: deque[Future[Any]] = deque()
    try:
        for job in itertools.islice(jobs, ahead):
            waiting.append(pool.submit(job))
        while waiting:
            result = waiting.popleft().result()
            for job in itertools.islice(jobs, 1):
                waiting.append(pool.submit(job))
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def get_worker_info() -> None:
    """``None``: workers are threads, which share the data set."""
