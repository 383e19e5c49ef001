"""Charts of a data set: images per class, and by age, sex and localisation. No Streamlit."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go

from dashboard.charts.style import class_names, empty_figure, name_axis, palette, plain_text, titled_figure

CLASSES = ("melanoma", "nevus", "non_melanoma", "negative")


def class_counts(classes: pd.DataFrame, *, theme: str | None = None) -> go.Figure:
    """Draw the number of images per class, divided by diagnosis where it is known.

    classes: columns label, dx ('' where unknown), images, lesions.
    """
    figure = titled_figure("Images per class", theme)
    if classes.empty:
        return empty_figure(figure, "The data set has no images.")
    names = class_names(classes["label"])
    totals = classes.groupby("label")["images"].sum()
    for position, (diagnosis, rows) in enumerate(classes.groupby("dx", sort=False)):
        figure.add_bar(
            y=[plain_text(names[label]) for label in rows["label"]],
            x=rows["images"],
            orientation="h",
            name=plain_text(diagnosis) or "no diagnosis",
            text=[f"{plain_text(diagnosis)} {count:,}".strip() for count in rows["images"]],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            customdata=["unknown" if pd.isna(count) else f"{int(count):,}" for count in rows["lesions"]],
            marker={"color": palette(theme)[position % 8]},
            hovertemplate="%{y}, %{fullData.name}: %{x:,} images of %{customdata} lesions<extra></extra>",
        )
    for place, label in enumerate(names, start=1):
        total, row = totals[label], len(names) - place  # not the name: Plotly would read "1" as the second position
        figure.add_annotation(x=total, y=row, text=f"{total:,}", xanchor="left", xshift=4, showarrow=False)
    figure.update_yaxes(**name_axis(list(reversed(names.values()))))
    figure.update_xaxes(title="images", range=[0, 1.12 * totals.max()])
    texts = {"minsize": 11, "mode": "hide"}
    figure.update_layout(barmode="stack", height=150 + 50 * len(names), showlegend=False, uniformtext=texts)
    return figure


def distribution(counts: pd.DataFrame, variable: str, *, theme: str | None = None) -> go.Figure:
    """Draw the distribution of the images over one metadata variable, stacked by class.

    counts: columns value, label, images, in drawing order. variable: its displayed name, such as 'Age'. The bars are
    horizontal where many names are long.
    """
    figure = titled_figure(f"Images by {variable.lower()}", theme)
    if counts.empty:
        return empty_figure(figure, f"{variable} is not known for any image.")
    values = list(dict.fromkeys(counts["value"]))
    sideways = len(values) > 4 and max(map(len, values)) > 4 and not _numeric(values)
    along, across = ("x", "y") if sideways else ("y", "x")
    names = class_names([*CLASSES, *sorted(set(counts["label"]) - set(CLASSES))])
    for position, (label, name) in enumerate(names.items()):
        rows = counts[counts["label"] == label]
        if rows.empty:
            continue
        figure.add_bar(
            **{across: rows["value"].map(plain_text), along: rows["images"]},
            orientation="h" if sideways else "v",
            name=plain_text(name),
            marker={"color": palette(theme)[position % 8]},
            hovertemplate=f"{plain_text(name)}, {variable.lower()} %{{{across}}}: %{{{along}:,}} images<extra></extra>",
        )
    years = f"{variable}, years" if _numeric(values) else None
    names_axis = {"title": years, **name_axis(values[::-1] if sideways else values)}
    figure.update_layout(
        {f"{across}axis": names_axis, f"{along}axis": {"title": "images"}},
        barmode="stack",
        height=max(340, 24 * len(values) + 140) if sideways else 340,
    )
    return figure


def _numeric(values: Iterable[str]) -> bool:
    return all(value.replace(".", "", 1).isdigit() for value in values if value != "unknown")
