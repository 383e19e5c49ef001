"""What the benchmarks of resampling share: our time against a plain loop's, in the same rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def report(what: str, ours: Callable[[], object], peer: Callable[[], float], target: float, ratio_target: float) -> int:
    """Time three rounds of both, print the medians; return the exit status: 1 where a target is missed.

    peer: returns the seconds of the plain loop. target: seconds. ratio_target: times that the peer takes longer.
    """
    ours()  # imports and caches
    own_seconds, peer_seconds = [], []
    for _ in range(3):
        begin = time.perf_counter()
        ours()
        own_seconds.append(time.perf_counter() - begin)
        peer_seconds.append(peer())
    seconds = statistics.median(own_seconds)
    ratio = statistics.median(other / own for other, own in zip(peer_seconds, own_seconds, strict=True))
    met = seconds < target and ratio >= ratio_target
    print(
        f"{what}: {seconds:.2f} s (target {target:g}), the plain loop over resamples "
        f"{statistics.median(peer_seconds):.1f} s, {ratio:.1f} times as long (target {ratio_target:g}): "
        f"{'met' if met else 'MISSED'}"
    )
    return 0 if met else 1
