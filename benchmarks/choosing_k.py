"""The chosen k of a large sweep, against the plain loop over resamples: `python -m benchmarks.choosing_k`.

10,000 images at six k with every metric. `choose_k` applies all rules and repeats each on 200 bootstrap resamples. The
peer only draws the same resamples and computes the mean curves with pandas, one resample after the other; it applies no
rule. It does a twentieth of the resamples, and its time is multiplied by 20, because all of them would take minutes.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import numpy as np
import pandas as pd

from benchmarks.resampling import report
from core.compression.optimal_k import SIZES, VOTERS, RuleParameters, choose_k

TARGET, RATIO_TARGET = 3.0, 5.0  # seconds; times the peer
IMAGES, KS, PART = 10_000, (100, 200, 300, 350, 400, 450), 20


def large_sweep() -> pd.DataFrame:
    """Return measurements with seeded noise around curves that rise with k."""
    generator = np.random.default_rng(0)
    names = np.array([f"ISIC_{number:07}" for number in range(IMAGES)])
    frames = []
    for position, k in enumerate(KS):
        frame = pd.DataFrame({"image_id": names, "variant": f"k={k}", "k": k, "reason": None})
        for voter in VOTERS:
            frame[voter] = (1 + position / 5) ** 0.2 * (1 + 0.1 * generator.standard_normal(IMAGES))
        frame["explained_variance"] = 1.0
        for size, value in zip(SIZES, (1_000_000, 260_000, 265_000), strict=True):
            frame[size] = value
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def plain_loop(measurements: pd.DataFrame, resamples: int) -> float:
    """Return the seconds for the mean curves of this many resamples."""
    columns = [*VOTERS, *SIZES]
    generator = np.random.default_rng(1)
    by_k = {k: frame.set_index("image_id")[columns] for k, frame in measurements.groupby("k")}
    images = measurements["image_id"].unique()
    begin = time.perf_counter()
    for _ in range(resamples):
        drawn = generator.choice(images, len(images))
        pd.DataFrame({k: frame.loc[drawn].mean() for k, frame in by_k.items()})
    return time.perf_counter() - begin


def main() -> int:
    measurements = large_sweep()
    resamples = RuleParameters().resamples
    what = f"{IMAGES:,} images × {len(KS)} k, {resamples} resamples"
    ours, peer = partial(choose_k, measurements), lambda: plain_loop(measurements, resamples // PART) * PART
    return report(what, ours, peer, TARGET, RATIO_TARGET)


if __name__ == "__main__":
    sys.exit(main())
