"""Work on many files on the threads of all cores; NumPy, OpenCV and Pillow release the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_all_cores(
    work: Callable[[Item], Result], items: Sequence[Item], progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the result of `work`, in order; call `progress(done, total)` after each."""
    threads = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        for done, (item, result) in enumerate(zip(items, threads.map(work, items), strict=True), start=1):
            yield item, result
            if progress:
                progress(done, len(items))
    finally:  # an interrupted run does not finish the rest first
        threads.shutdown(cancel_futures=True)
