"""How fast one core measures an SVD sweep, with the same numbers as plain code: `python -m benchmarks.sweep_speed`.

Three ways to compute the same table of six k with all metrics are timed in turns on the same files, on one thread: the
article's loop as printed, the plain loop that decomposes once, and DermSlim's `core.compression.measure.measure`. The
exit status is 1 if a target ratio or the equality with the plain loops is missed.
"""
# ruff: noqa: E402 - the number of threads is read when NumPy is imported, so it is set before

from __future__ import annotations

import os

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from benchmarks.peers import plain_loop, printed_loop
from core.compression import reference
from core.compression.comparison import Original, warm_up
from core.compression.measure import measure
from core.compression.specs import SweepSpec
from core.compression.svd import decompose
from core.data.datasets import DatasetImage
from core.data.images import decode, encode, probe

KS = (100, 200, 300, 350, 400, 450)
TARGET_ARTICLE, TARGET_ONCE = 8.0, 5.0
TARGET_PIXELS, TARGET_DEVIATION = 1e-3, 1e-6


@dataclass(frozen=True)
class Equality:
    """The worst values over all images and k: share of pixels that differ, by how much, and a metric's deviation."""

    pixel_share: float
    pixel_difference: int
    deviation: float
    metric: str

    @property
    def met(self) -> bool:
        """Whether the targets are met."""
        return self.pixel_share <= TARGET_PIXELS and self.pixel_difference <= 1 and self.deviation <= TARGET_DEVIATION


def textured_image(seed: int, height: int = 450, width: int = 600) -> npt.NDArray[np.uint8]:
    """Return a photograph-like image: smooth shading, texture at several scales, a dark blob, sensor noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    layers = [
        amplitude * field / field.std()
        for sigma, amplitude in ((40, 12), (8, 6), (2, 4), (0.8, 3))
        for field in [gaussian_filter(random.standard_normal((height, width)), sigma)]
    ]
    centre, size = random.uniform(-0.3, 0.3, 2), random.uniform(0.2, 0.5)
    blob = 70 / (1 + np.exp((np.hypot(rows - centre[0], columns - centre[1]) - size) * 18))
    shading = sum(layers) - blob - 25 * (rows**2 + columns**2)
    tone = np.array([130, 150, 200]) + random.uniform(-15, 15, 3)
    noise = 2 * random.standard_normal((height, width, 3))
    image = tone + shading[:, :, None] * np.array([1.0, 0.95, 0.8]) + noise
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def measure_here(path: Path) -> tuple[dict[str, object], ...]:
    """Return the rows of one file as a worker measures them."""
    data = path.read_bytes()
    size = probe(data)
    record = DatasetImage(path.stem, path.name, len(data), size.height, size.width, hashlib.sha256(data).hexdigest())
    result = measure(record, path.parent, SweepSpec(dataset="benchmark", ks=KS))
    if result.reason:
        raise SystemExit(f"{path}: {result.reason}")
    return tuple(result.rows)


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time of a call on one thread, without that of other processes."""
    started = time.process_time()
    call()
    return time.process_time() - started


def times(paths: Sequence[Path], rounds: int) -> Iterator[tuple[float, float, float]]:
    """Yield (article, decompose once, DermSlim) seconds for each file and round, measured one after another."""
    for _ in range(rounds):
        for path in paths:
            article = seconds(lambda path=path: list(printed_loop(path.read_bytes(), KS)))
            once = seconds(lambda path=path: list(plain_loop(path.read_bytes(), KS)))
            # the shortest of the three times varies most, so it is the median of three calls
            ours = statistics.median(seconds(lambda path=path: measure_here(path)) for _ in range(3))
            yield article, once, ours


def equality(paths: Sequence[Path]) -> Equality:
    """Compare reconstructions and metrics with those of the plain loop on the same decoded image."""
    pixel_share, pixel_difference, deviation, metric = 0.0, 0, 0.0, "none"
    for path in paths:
        image = decode(path)
        plain_factors, factors, original = reference.decompose(image), decompose(image), Original(image)
        features = reference.features(image)
        for k, reconstruction in factors.reconstructions(KS):
            plain = reference.reconstruct(plain_factors, k)
            difference = cv2.absdiff(plain, reconstruction).max(axis=2)
            pixel_share = max(pixel_share, float(np.mean(difference > 0)))
            pixel_difference = max(pixel_difference, int(difference.max()))
            other = decode(encode(reconstruction, "jpeg", 95))
            expected = {
                **reference.compare(features, reference.features(other)),
                "explained_variance": reference.explained_variance(plain_factors, k),
            }
            received = {**original.compare(other), "explained_variance": factors.explained_variance(k)}
            for name, value in expected.items():
                deviating = relative_deviation(value, received[name])
                if deviating > deviation:
                    deviation, metric = deviating, name
    return Equality(pixel_share, pixel_difference, deviation, metric)


def relative_deviation(expected: float | None, received: float | None) -> float:
    """Return |received − expected| / |expected|; infinite if only one of the two is defined."""
    if received is None or expected is None:
        return 0.0 if received is expected else np.inf
    return abs(received - expected) / abs(expected) if expected else abs(received)


def write_images(folder: Path, count: int) -> list[Path]:
    """Write synthetic originals as JPEG 100, like those of HAM10000, and return their paths."""
    paths = [folder / f"textured_{seed}.jpg" for seed in range(count)]
    for seed, path in enumerate(paths):
        path.write_bytes(encode(textured_image(seed), "jpeg", 100))
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Print times, ratios and deviations; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_speed", description=__doc__)
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="JPEG files to use instead of synthetic ones")
    parser.add_argument("--count", type=int, default=6, help="how many images (default 6)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each image is timed (default 2)")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    warm_up()
    with tempfile.TemporaryDirectory() as temporary:
        if options.images:
            found = sorted(options.images.glob("*.jpg"))
            paths = found[:: max(1, len(found) // options.count)][: options.count]
        else:
            paths = write_images(Path(temporary), options.count)
        if not paths:
            parser.error(f"expected *.jpg files in {options.images}; found none")
        next(times(paths[:1], 1))  # first calls import and compile
        measured = np.array(list(times(paths, options.rounds)))
        equal = equality(paths)
    article, once, ours = np.median(measured, axis=0)
    # the median of the ratios of each turn, because the three times of one turn had the same load
    article_ratio, once_ratio = np.median(measured[:, :2] / measured[:, 2:], axis=0)
    pixels = f"{equal.pixel_share:.1e}, by {equal.pixel_difference}"
    print(
        f"{len(paths)} images × {len(KS)} k, {options.rounds} rounds, one thread; processor seconds an image\n"
        f"  the article's loop        {article:8.3f}  {article_ratio:5.2f} times ours (target {TARGET_ARTICLE:g})\n"
        f"  decomposing once          {once:8.3f}  {once_ratio:5.2f} times ours (target {TARGET_ONCE:g})\n"
        f"  DermSlim                  {ours:8.3f}\n"
        f"  pixels that differ, worst  {pixels} (target {TARGET_PIXELS:g}, by 1)\n"
        f"  metric deviation, worst    {equal.deviation:.1e} {equal.metric} (target {TARGET_DEVIATION:g})"
    )
    fast = article_ratio >= TARGET_ARTICLE and once_ratio >= TARGET_ONCE
    return 0 if fast and equal.met else 1


if __name__ == "__main__":
    sys.exit(main())
