"""The chart of the guided tour."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard.charts.networks import OUTSIDE
from dashboard.charts.style import name_axis, palette, plain_text, titled_figure


def bars(
    title: str, names: Sequence[str], values: Sequence[float], texts: Sequence[str], *, theme: str | None = None
) -> go.Figure:
    """Draw one bar for each name, from above to below, with its value as a text at its end. names: all different."""
    figure = titled_figure(title, theme)
    figure.add_bar(
        y=[plain_text(name) for name in names],
        x=list(values),
        orientation="h",
        text=[plain_text(text) for text in texts],
        textangle=0,
        **OUTSIDE,
        marker={"color": palette(theme)[0]},
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    figure.update_xaxes(visible=False, range=[0, 1.6 * max(values)])
    figure.update_yaxes(**name_axis(list(names)[::-1]), automargin=True)
    figure.update_layout(height=150 + 36 * len(names), bargap=0.25)
    return figure
