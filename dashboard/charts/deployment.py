"""Charts of converted networks."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from core.deployment.formats import FORMATS
from dashboard.charts.style import empty_figure, log_axis, palette, plain_text, titled_figure

COSTS = {
    "bytes": ("Size of the file", "bytes", "%{x:,} bytes"),
    "wall_median": ("Latency", "milliseconds for one image, one thread", "%{x:.2f} ms"),
    "peak_memory": ("Memory", "peak bytes of the process", "%{x:,} bytes"),
}


def cost_against_accuracy(networks: pd.DataFrame, cost: str, *, theme: str | None = None) -> go.Figure:
    """Draw the accuracy of each converted network, with its interval, against what it costs.

    networks: rows of `core.deployment.comparison.beside_each_other`. cost: one of `COSTS`. Networks that another beats
    in size, latency and accuracy together are hollow; flawed ones are crosses.
    """
    title, unit, hover = COSTS[cost]
    figure = titled_figure(f"{title} against test accuracy: up and to the left is better", theme)
    shown = networks[networks[cost].notna() & networks["accuracy"].notna()]
    if shown.empty:
        return empty_figure(figure, "Not measured yet.")
    for number, (name, known) in enumerate(FORMATS.items()):
        rows = shown[shown["format"] == name]
        if rows.empty:
            continue
        symbols = [
            "x" if flaw else "circle" if on_front else "circle-open"
            for flaw, on_front in zip(rows["flaw"], rows["front"], strict=True)
        ]
        figure.add_scatter(
            x=rows[cost],
            y=rows["accuracy"],
            name=known.title,
            mode="markers",
            customdata=rows[["name", "flaw"]].map(plain_text),
            marker={"color": palette(theme)[number], "symbol": symbols, "size": 11, "line": {"width": 2}},
            error_y={
                "type": "data",
                "array": rows["accuracy_high"] - rows["accuracy"],
                "arrayminus": rows["accuracy"] - rows["accuracy_low"],
                "thickness": 1.2,
                "width": 4,
            },
            hovertemplate="%{customdata[0]}, "
            + f"{known.title}: %{{y:.2f}} %, {hover}<br>%{{customdata[1]}}<extra></extra>",
        )
    figure.update_xaxes(title=unit, type="log", **log_axis(shown[cost]))
    figure.update_yaxes(title="test accuracy, %")
    return figure
