"""Counting parameters without TensorFlow, and the computations of the page of parameter curves, against their bounds.

Every network × two factors × four scopes × 8 iterations are counted in under 0.1 s. The page counts, fits,
judges and draws its default view in under 0.2 s of processor time: `python -m benchmarks.curves`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from benchmarks.processes import run_command
from core.networks.architectures import ALEXNET, NETWORKS
from core.networks.costs import compare_layers, curve_points, curve_table
from core.networks.fits import claim_sentences, fit_curves, fit_table
from core.networks.pruning import SCOPES, prune
from dashboard.charts import networks as network_charts

FACTORS = (50, 33.33)
ITERATIONS = 8
HEIGHT, WIDTH = 200, 100
COUNT_BOUND = 0.1  # seconds
PAGE_BOUND = 0.2
START_BOUND = 0.5  # for the command, which imports no heavy package
SLOW_PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "scipy")


def best_of(repeats: int, work: Callable[[], object]) -> float:
    """Return the fewest seconds that `work` took, because other processes can only slow it down."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def recompute() -> None:
    """Compute everything that the page of parameter curves shows when it opens, its residuals and its files."""
    table = curve_table(NETWORKS.values(), FACTORS, SCOPES, ITERATIONS, HEIGHT, WIDTH)
    curves = tuple(fit_curves(table))
    list(claim_sentences(curves))
    shown = [curve for curve in curves if curve.network == ALEXNET.name]
    for figure in (
        network_charts.curves_chart(curves),
        network_charts.fits_chart(shown),
        network_charts.residuals_chart(shown),
    ):
        figure.to_json()
    compare_layers(ALEXNET, prune(ALEXNET, 50), HEIGHT, WIDTH)
    fit_table(curves).to_csv()
    table.to_csv()


def heavy_imports() -> list[str]:
    """Return which slow packages counting has loaded in a fresh process."""
    code = f"import sys, core.networks.costs; print(*[name for name in {SLOW_PACKAGES} if name in sys.modules])"
    return run_command([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def command() -> None:
    """Run the command line once."""
    run_command([sys.executable, "-m", "jobs", "curves", "alexnet"], capture_output=True, check=True)


def main() -> int:
    """Print each figure beside its bound; return 1 if one is missed."""
    networks = NETWORKS.values()
    points = len(list(curve_points(networks, FACTORS, SCOPES, ITERATIONS, HEIGHT, WIDTH)))
    counting = best_of(5, lambda: list(curve_points(networks, FACTORS, SCOPES, ITERATIONS, HEIGHT, WIDTH)))
    page = best_of(5, recompute)
    start = best_of(3, command)
    loaded = heavy_imports()
    print(f"counting {points} networks: {counting:.3f} s (bound {COUNT_BOUND} s)")
    print(f"all computations of the page: {page:.3f} s (bound {PAGE_BOUND} s)")
    print(f"the command, from its start: {start:.3f} s (bound {START_BOUND} s)")
    print(f"slow packages loaded by counting: {', '.join(loaded) or 'none'} (bound none)")
    return int(counting > COUNT_BOUND or page > PAGE_BOUND or start > START_BOUND or bool(loaded))


if __name__ == "__main__":
    sys.exit(main())
