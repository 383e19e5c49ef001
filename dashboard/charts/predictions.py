"""Charts of predictions: one class against the rest, and how far probabilities can be trusted. No Streamlit.

`theme`: see `dashboard.charts.style`. Curves are given by the name of their step, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from core.predictions.curves import OneAgainstRest
from dashboard.charts.style import MARK, class_names, empty_figure, palette, plain_text, titled_figure

DASHES = ("solid", "dash", "dot")  # after the last colour the first one returns with other dashes
EMPTY = "No step is chosen, or this set has no image of the class."


def roc(curves: Mapping[str, OneAgainstRest], label: str, *, theme: str | None = None) -> go.Figure:
    """Draw the ROC curve of each step for one class against the rest."""
    figure = titled_figure(f"ROC of {shown_class(label)}: up and to the left is better", theme)
    if not curves:
        return empty_figure(figure, EMPTY)
    _diagonal(figure, "chance")
    for place, (name, curve) in enumerate(curves.items()):
        points = curve.roc[_corners(curve.roc["false_positive_rate"], curve.roc["sensitivity"])]
        _line(figure, place, name, points["false_positive_rate"], points["sensitivity"], points["threshold"], theme)
    _shares(figure, "1 − specificity, %", "sensitivity, %")
    return figure


def precision_recall(curves: Mapping[str, OneAgainstRest], label: str, *, theme: str | None = None) -> go.Figure:
    """Draw precision against recall of each step for one class; dotted: the precision of chance."""
    figure = titled_figure(f"Precision and recall of {shown_class(label)}: up and to the right is better", theme)
    if not curves:
        return empty_figure(figure, EMPTY)
    first = next(iter(curves.values()))
    figure.add_hline(y=100 * first.positives / first.images, line={"color": MARK, "dash": "dot", "width": 1.5})
    for place, (name, curve) in enumerate(curves.items()):
        points = curve.precision_recall[_corners(curve.precision_recall["recall"], curve.precision_recall["precision"])]
        _line(figure, place, name, points["recall"], points["precision"], points["threshold"], theme)
    _shares(figure, "recall, %", "precision, %")
    return figure


def reliability(tables: Mapping[str, pd.DataFrame], *, theme: str | None = None) -> go.Figure:
    """Draw accuracy against confidence of each step. tables: as `core.predictions.curves.reliability` makes them."""
    figure = titled_figure("Reliability: on the dotted line, confidence equals accuracy", theme)
    if not tables:
        return empty_figure(figure, EMPTY)
    _diagonal(figure, "confidence equals accuracy")
    for place, (name, table) in enumerate(tables.items()):
        figure.add_scatter(
            x=100 * table["confidence"],
            y=100 * table["accuracy"],
            customdata=table["images"],
            mode="lines+markers",
            hovertemplate="%{fullData.name}: confidence %{x:.1f} %, accuracy %{y:.1f} %, %{customdata} images"
            "<extra></extra>",
            **_style(place, name, theme),
        )
    _shares(figure, "confidence: the largest probability, %", "accuracy, %")
    return figure


def shown_class(label: str) -> str:
    """Return the displayed name of a class."""
    return class_names([label])[label]


def _corners(x: pd.Series[float], y: pd.Series[float]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which points of a curve of steps are not between two others on a horizontal or vertical line."""
    moves = [np.diff(values.to_numpy()) == 0 for values in (x, y)]
    between = np.any([each[:-1] & each[1:] for each in moves], axis=0)
    return np.concatenate([[True], ~between, [True]])


def _style(place: int, name: str, theme: str | None) -> dict[str, Any]:
    colours = palette(theme)
    turn, colour = divmod(place, len(colours))
    line = {"color": colours[colour], "width": 2, "dash": DASHES[turn % len(DASHES)]}
    return {"name": plain_text(name), "line": line, "marker": {"size": 5}}


def _line(
    figure: go.Figure,
    place: int,
    name: str,
    x: pd.Series[float],
    y: pd.Series[float],
    thresholds: pd.Series[float],
    theme: str | None,
) -> None:
    figure.add_scatter(
        x=100 * x,
        y=100 * y,
        customdata=thresholds,
        mode="lines",
        hovertemplate="%{fullData.name}: %{y:.1f} % at %{x:.1f} %, threshold %{customdata:.3f}<extra></extra>",
        **_style(place, name, theme),
    )


def _diagonal(figure: go.Figure, name: str) -> None:
    figure.add_scatter(
        x=[0, 100], y=[0, 100], name=name, mode="lines", line={"color": MARK, "dash": "dot", "width": 1.5},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def _shares(figure: go.Figure, x: str, y: str) -> None:
    """Give both axes the range from 0 to 100 percent, and room for a legend with many steps."""
    figure.update_xaxes(title=x, range=[-1, 101])
    figure.update_yaxes(title=y, range=[-1, 101])
    figure.update_layout(height=380 + 12 * len(figure.data))
