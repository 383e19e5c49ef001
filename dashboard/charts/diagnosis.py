"""The chart of a diagnosis: a figure of a network's predictions against the bytes of an image. No Streamlit."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from core.compression.image_results import ORIGINAL
from core.compression.specs import Way
from core.predictions.diagnosis import RECALL, way_text
from dashboard.charts.measuring import CODECS
from dashboard.charts.style import MARK, empty_figure, palette, titled_figure, translucent
from dashboard.words import codec_text

FIGURES = {
    "agreement": "Predictions that stay",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    RECALL: "Melanoma recall",
    "auc": "Melanoma AUC",
}
# Of the lines of reconstructions, which follow each other in mode, codec and quality.
SVD_COLOURS, SVD_SYMBOLS = (1, 4, 5, 7), ("diamond", "star", "hexagon", "cross", "pentagon", "bowtie")


def diagnosis_chart(table: pd.DataFrame, ways: Sequence[Way], figure: str, *, theme: str | None = None) -> go.Figure:
    """Draw one of `FIGURES` against the bytes of an image, with 95 % intervals.

    A line for each codec without SVD, and a dotted one over k for each mode, codec and quality of the reconstructions.
    The images as they came are a dotted horizontal line with their interval. table: of
    `core.predictions.diagnosis.way_figures`.
    """
    chart = titled_figure(f"{FIGURES[figure]} (higher is better) against the bytes of an image", theme)
    described = [
        {"variant": way.variant, "text": way_text(way), "line": line_text(way), **way._asdict()} for way in ways
    ]
    points = table.merge(pd.DataFrame(described), on="variant")
    points = points[points[figure].notna()]
    if points.empty:
        return empty_figure(chart, f"{FIGURES[figure]}: no way has a value.")
    colours, reconstructions = palette(theme), 0
    for name, own in points.groupby("line", sort=False):
        rows = own.sort_values(["k", "quality"])
        dash = "solid"
        if rows["k"].isna().all():
            colour, symbol = CODECS[rows["codec"].iloc[0]]
        else:
            colour = SVD_COLOURS[reconstructions % len(SVD_COLOURS)]
            symbol = SVD_SYMBOLS[reconstructions % len(SVD_SYMBOLS)]
            dash, reconstructions = "dot", reconstructions + 1
        chart.add_scatter(
            x=rows["bytes"] / 1000,
            y=rows[figure],
            error_y={
                "array": rows[f"{figure}_high"] - rows[figure],
                "arrayminus": rows[figure] - rows[f"{figure}_low"],
                "thickness": 1,
                "width": 3,
                "color": translucent(colours[colour], 0.5),
            },
            customdata=rows[["text", f"{figure}_low", f"{figure}_high"]],
            name=name,
            mode="lines+markers",
            line={"color": colours[colour], "dash": dash},
            marker={"symbol": symbol, "size": 9},
            hovertemplate="%{customdata[0]}: %{y:.1f} % [%{customdata[1]:.1f}, %{customdata[2]:.1f}] at %{x:.3g} kB"
            "<extra></extra>",
        )
    original = table[table["variant"] == ORIGINAL]
    if figure != "agreement" and len(original):
        limits = {"y0": original[f"{figure}_low"].iloc[0], "y1": original[f"{figure}_high"].iloc[0]}
        chart.add_hline(y=original[figure].iloc[0], line={"color": MARK, "dash": "dot", "width": 1.5})
        chart.add_hrect(**limits, line_width=0, fillcolor=translucent(MARK, 0.12), layer="below")
    chart.update_xaxes(title="kB an image, logarithmic", type="log", tickformat="~g", dtick="D2")
    chart.update_yaxes(title=f"{FIGURES[figure]}, %")
    chart.update_layout(height=440 + 12 * len(chart.data))
    return chart


def line_text(way: Way) -> str:
    """Return the name of the line that a way is a point of: JPEG; SVD as JPEG 95; SVD unfolded as PNG."""
    if way.k is None:
        return codec_text(way.codec)
    return f"SVD{' unfolded' if way.mode == 'unfolded' else ''} as {codec_text(way.codec, way.quality)}"
