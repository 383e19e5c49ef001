"""Work on many files on the threads of all cores; NumPy, OpenCV and Pillow release the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from core.settings import usable_cores

AHEAD = 4  # results of each thread that may wait, which limits the memory where the caller is slower

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_all_cores(
    work: Callable[[Item], Result], items: Sequence[Item], progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the result of `work`, in order; call `progress(done, total)` after each."""
    threads = ThreadPoolExecutor(usable_cores())
    try:
        begun = ((item, threads.submit(work, item)) for item in items)
        waiting = deque(islice(begun, AHEAD * usable_cores()))
        for done in range(1, len(items) + 1):
            item, result = waiting.popleft()
            yield item, result.result()
            waiting.extend(islice(begun, 1))
            if progress:
                progress(done, len(items))
    finally:  # an interrupted run does not finish the rest first
        threads.shutdown(cancel_futures=True)
