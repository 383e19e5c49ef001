"""The table of metrics: one record per column of the measurements of an original and a compared image.

`core.compression.comparison` computes the values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One column of the measurements.

    better: "low" or "high", the direction of improvement. unit: empty where the number has none.
    """

    name: str
    label: str
    definition: str
    better: str
    unit: str = ""

    @property
    def sign(self) -> int:
        """1 where high is better, -1 where low is: a value times the sign is larger where it is better."""
        return 1 if self.better == "high" else -1

    def text(self, value: float) -> str:
        """Return a value with four digits and the unit: `38.12 dB`."""
        return f"{'infinite' if math.isinf(value) else f'{value:.4g}'} {self.unit}".strip()


METRICS: tuple[Metric, ...] = (
    Metric("mse", "MSE", "Mean squared error over all pixels and channels.", "low", "grey levels²"),
    Metric("rmse", "RMSE", "Square root of the mean squared error.", "low", "grey levels"),
    Metric("psnr", "PSNR", "10·log10(255²/MSE); undefined for identical images.", "high", "dB"),
    Metric(
        "ssim",
        "SSIM",
        "Structural similarity (Wang et al. 2004): uniform 7×7 window, sample covariance, data range 255, mean of "
        "the channels; undefined below 7 pixels.",
        "high",
    ),
    Metric(
        "hist_bhattacharyya",
        "Histogram Bhattacharyya distance",
        "OpenCV's HISTCMP_BHATTACHARYYA on 256-bin L1-normalised histograms, mean of the channels; 0 to 1.",
        "low",
    ),
    *(
        Metric(
            f"hist_bhattacharyya_{colour[0]}",
            f"Bhattacharyya distance, {colour}",
            f"Bhattacharyya distance of the {colour} channel.",
            "low",
        )
        for colour in ("blue", "green", "red")
    ),
    Metric(
        "hist_intersection",
        "Histogram intersection",
        "Σ min of the 256-bin L1-normalised histograms, mean of the channels; 1 for equal histograms.",
        "high",
    ),
    Metric(
        "hu_distance",
        "Hu moments, distance",
        "Euclidean distance of the 7 Hu moments of grey, each h taken as −sign(h)·log10|h| (0 as 0).",
        "low",
    ),
    Metric(
        "hu_correlation",
        "Hu moments, correlation",
        "Pearson correlation of the 7 Hu moments of grey, each h taken as −sign(h)·log10|h| (0 as 0).",
        "high",
    ),
    Metric(
        "haralick_distance",
        "Haralick texture, distance",
        "Euclidean distance of 13 Haralick features of grey, mean of 4 directions, as mahotas computes them.",
        "low",
    ),
    Metric(
        "haralick_correlation",
        "Haralick texture, correlation",
        "Pearson correlation of 13 Haralick features of grey, mean of 4 directions, as mahotas computes them.",
        "high",
    ),
    Metric(
        "changed_percent",
        "Changed pixels",
        "Share of the pixels whose largest channel difference exceeds the threshold (10 by default).",
        "low",
        "%",
    ),
    Metric(
        "variation_of_information", "Variation of information", "H(I|J) + H(J|I) of the grey levels.", "low", "bits"
    ),
    Metric(
        "normalized_mutual_information",
        "Normalised mutual information",
        "(H(I) + H(J)) / H(I,J) from the 256×256 joint histogram of grey levels; 1 (independent) to 2 (equal).",
        "high",
    ),
    Metric(
        "mse_low",
        "Spectral error, low frequencies",
        "Mean |F − G|² of the orthonormal 2-D Fourier transforms of grey over radial frequencies up to the cutoff "
        "(0.1 cycles/pixel by default).",
        "low",
        "grey levels²",
    ),
    Metric(
        "mse_high",
        "Spectral error, high frequencies",
        "Mean |F − G|² of the orthonormal 2-D Fourier transforms of grey over radial frequencies above the cutoff.",
        "low",
        "grey levels²",
    ),
    Metric("spectral_correlation", "Spectral correlation", "Pearson correlation of |F| and |G|.", "high"),
    Metric("spectral_loss", "Spectral loss", "‖|F| − |G|‖ / ‖|F|‖.", "low"),
    Metric(
        "explained_variance",
        "Explained variance",
        "Σ of the k largest s² over Σs² of the SVD, mean of the matrices; 0 to 1.",
        "high",
    ),
)
METRICS_BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
