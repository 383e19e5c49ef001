"""Charts of the article's tables: measured against printed. No Streamlit.

`theme`: see `dashboard.charts.style`.
"""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from core.article.table_formats import cell, intervals_of, key_texts
from core.article.tables import DISTIL, FIGURES, WAY_ORDER, MeasuredTable, way_kind
from core.networks.inheritance import INITIALISE
from dashboard.charts.style import (
    MARK,
    empty_figure,
    log_axis,
    name_axis,
    palette,
    plain_text,
    titled_figure,
    translucent,
)

ROW_HEIGHT = 26  # pixels
TRAINED = (*INITIALISE, DISTIL)  # give networks of equal sizes
APART = 1.06  # between two of them, as a factor
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star")  # of `WAY_ORDER`


def measured_against_printed(table: MeasuredTable, metric: str, *, theme: str | None = None) -> go.Figure:
    """Draw a dumbbell for each row of a table: one end is the measured figure, the other the printed one.

    table: Table 4, 5 or 6 with intervals; the interval of each run is a bar behind the measured figure.
    metric: one of the table's.
    """
    figure = titled_figure(f"{FIGURES[metric].label}, measured and printed", theme)
    rows = table.rows
    names = [" · ".join(filter(None, key_texts(table, row))) for _, row in rows.iterrows()]
    if rows.empty:
        return empty_figure(figure, "Nothing measured or printed.")
    places = pd.Series([plain_text(name) for name in names], index=rows.index)
    colours = palette(theme)
    printed = rows[f"{metric}_printed"].astype("float64")
    _lines(figure, places, rows[metric], printed, "difference", {"color": MARK, "width": 2}, showlegend=False)
    intervals = [
        (place, *limits)
        for place, (_, row) in zip(places, rows.iterrows(), strict=True)
        for limits in intervals_of(row, metric)
        if limits is not None
    ]
    if intervals:
        at, low, high = (pd.Series(each) for each in zip(*intervals, strict=True))
        _lines(figure, at, low, high, "95 % interval of a run", {"color": translucent(colours[0], 0.35), "width": 9})
    texts = [cell(row, metric) for _, row in rows.iterrows()]
    for name, values, colour, symbol, shown in (
        ("printed", printed, 1, "diamond-open", [each.printed for each in texts]),
        ("measured", rows[metric], 0, "circle", [f"{each.whole}, {each.difference or '–'} points" for each in texts]),
    ):
        figure.add_scatter(
            x=values,
            y=places,
            name=name,
            mode="markers",
            marker={"color": colours[colour], "symbol": symbol, "size": 10, "line": {"width": 2}},
            customdata=shown,
            hovertemplate=f"%{{y}}: {name} %{{customdata}}<extra></extra>",
        )
    figure.update_yaxes(**name_axis(names), autorange="reversed", automargin=True)
    figure.update_xaxes(title=f"{FIGURES[metric].label}, %")
    figure.update_layout(height=150 + ROW_HEIGHT * len(rows))
    return figure


def ways_chart(table: MeasuredTable, network: str, *, theme: str | None = None) -> go.Figure:
    """Draw test accuracy against parameters of a network's rows in the table of ways, one colour for each kind of way.

    A point is the mean over the runs; the interval of each run is a bar behind it. Pruned networks of one size stand
    side by side.
    """
    figure = titled_figure("Accuracy against parameters: up and to the left is better", theme)
    rows = table.rows[(table.rows["network"] == network) & table.rows["test_accuracy"].notna()]
    if rows.empty:
        return empty_figure(figure, "Nothing measured yet.")
    colours, kinds = palette(theme), rows["way"].map(way_kind)
    for place, kind in enumerate(WAY_ORDER):
        own, colour = rows[kinds == kind], colours[place]
        aside = APART ** (TRAINED.index(kind) - 1.5) if kind in TRAINED else 1.0
        for _, row in own.iterrows():
            for low, high in filter(None, intervals_of(row, "test_accuracy")):
                figure.add_scatter(
                    x=[aside * row["parameters"]] * 2,
                    y=[low, high],
                    mode="lines",
                    line={"color": translucent(colour, 0.35), "width": 6},
                    legendgroup=kind,
                    showlegend=False,
                    hoverinfo="skip",
                )
        if own.empty:
            continue
        texts = [
            f"{row['name']}, {row['way']}, {row['total_epochs']} total epochs: {cell(row, 'test_accuracy').whole} %, "
            f"{row['parameters']:,.0f} parameters"
            for _, row in own.iterrows()
        ]
        figure.add_scatter(
            x=aside * own["parameters"],
            y=own["test_accuracy"],
            name=kind,
            legendgroup=kind,
            mode="markers",
            marker={"color": colour, "symbol": SYMBOLS[place], "size": 11},
            customdata=[plain_text(text) for text in texts],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.update_xaxes(title="learnable parameters", type="log", **log_axis(rows["parameters"]))
    figure.update_yaxes(title="test accuracy, %")
    return figure


def _lines(
    figure: go.Figure,
    places: pd.Series[str],
    starts: pd.Series[float],
    ends: pd.Series[float],
    name: str,
    line: dict[str, object],
    *,
    showlegend: bool = True,
) -> None:
    """Add a line from start to end at each place where both are known."""
    known = starts.notna() & ends.notna()
    gaps = pd.Series(float("nan"), index=starts.index)
    x = pd.concat([starts, ends, gaps], axis=1)[known].to_numpy().ravel()
    y = places[known].repeat(3)
    figure.add_scatter(x=x, y=y, name=name, mode="lines", line=line, hoverinfo="skip", showlegend=showlegend)
