"""Counting every network × two factors × four scopes × 8 iterations, without TensorFlow, against its bound of 0.1 s.

The fits of the same curves are timed beside it: a page recomputes both at every change.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from core.architectures import NETWORKS
from core.fits import fit_curves, fit_table
from core.parameters import curve_points, curve_table
from core.pruning import SCOPES

FACTORS = (50, 33.33)
ITERATIONS = 8
HEIGHT, WIDTH = 200, 100
COUNT_BOUND = 0.1  # seconds, issue 3
PAGE_BOUND = 0.2  # seconds, curves and fits together
SLOW_PACKAGES = ("tensorflow", "keras", "pandas", "scipy")


def best_of(repeats: int, work: Callable[[], object]) -> float:
    """Return the fewest seconds that `work` took: the machine's other users only ever add to it."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def heavy_imports() -> list[str]:
    """Return which slow packages counting has loaded in a fresh process."""
    code = f"import sys, core.parameters; print(*[name for name in {SLOW_PACKAGES} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def main() -> int:
    """Print each figure beside its bound; return 1 when one is missed."""
    networks = NETWORKS.values()
    points = len(list(curve_points(networks, FACTORS, SCOPES, ITERATIONS, HEIGHT, WIDTH)))
    counting = best_of(5, lambda: list(curve_points(networks, FACTORS, SCOPES, ITERATIONS, HEIGHT, WIDTH)))
    page = best_of(5, lambda: fit_table(fit_curves(curve_table(networks, FACTORS, SCOPES, ITERATIONS, HEIGHT, WIDTH))))
    loaded = heavy_imports()
    print(f"counting {points} networks: {counting:.3f} s (bound {COUNT_BOUND} s)")
    print(f"counting and fitting them:  {page:.3f} s (bound {PAGE_BOUND} s)")
    print(f"slow packages loaded by counting: {', '.join(loaded) or 'none'} (bound none)")
    return int(counting > COUNT_BOUND or page > PAGE_BOUND or bool(loaded))


if __name__ == "__main__":
    sys.exit(main())
