"""Charts of trainings: learning curves, size against accuracy, layers, confusion matrices. No Streamlit.

`theme`: see `dashboard.charts.style`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.networks.architectures import CLASSES
from dashboard.charts.style import (
    MARK,
    band,
    class_names,
    empty_figure,
    log_axis,
    name_axis,
    palette,
    plain_text,
    titled_figure,
)

QUANTITIES = {"loss": "Loss", "accuracy": "Accuracy", "precision": "Precision", "recall": "Recall"}
SIGNS = {  # of a network that learns or does not: name and the axis
    "dead_units": ("Dead units of the head", "units that are 0 for every validation image"),
    "gradient_norm": ("Gradient norm", "L2 norm of Adam's mean of the gradient"),
    "spread": ("Difference between images", "largest difference of a class's probability"),
    "learning_rate": ("Learning rate", "at the epoch's end"),
}
METRICS = {
    "test_accuracy": "Test accuracy",
    "test_balanced_accuracy": "Balanced test accuracy",
    "test_lesion_accuracy": "Test accuracy over the lesion classes",
}
SETS = {"train": ("training", 0), "validation": ("validation", 1)}  # name, place in the palette
SHADES = {"light": ("#F1F6FA", "#86BFE3", "#14212B"), "dark": ("#1B262D", "#2C6B95", "#FFFFFF")}  # none, all, text
CURVE_HEIGHT = 300
ROW_HEIGHT = 26  # pixels of a layer


def learning_curve(
    epochs: pd.DataFrame,
    quantity: str,
    needed: Mapping[str, float] | None = None,
    total: int | None = None,
    *,
    theme: str | None = None,
) -> go.Figure:
    """Draw one step's `QUANTITIES` by epoch on training and validation; the epoch whose weights are kept is marked.

    epochs: the store's rows of one step. needed: the baseline in percent by set, drawn as lines. total: epochs in all,
    the length of the axis while the step is trained.
    """
    figure = titled_figure(f"{QUANTITIES[quantity]}, {_better(quantity)}", theme)
    figure.update_layout(height=CURVE_HEIGHT, hovermode="x unified", margin={"r": 45})
    if epochs.empty:
        return empty_figure(figure, "No epoch has ended yet.")
    colours, unit = palette(theme), "" if quantity == "loss" else " %"
    lines = "lines+markers" if len(epochs) < 40 else "lines"
    for split, (name, colour) in SETS.items():
        figure.add_scatter(
            x=epochs["epoch"],
            y=epochs[f"{split}_{quantity}"],
            name=name,
            mode=lines,
            line={"color": colours[colour], "width": 2},
            marker={"size": 5},
            hovertemplate=f"{name} %{{y:.4~g}}{unit}<extra></extra>",
        )
    for split, limit in (needed or {}).items():
        if limit:
            of_split = {"color": colours[SETS[split][1]]}
            figure.add_hline(
                y=limit,
                line={"dash": "dot", "width": 1.5, **of_split},
                annotation={"text": f"≥ {limit:g}", "font": {"size": 11, **of_split}},
                annotation_position="right",
            )
    kept = epochs.loc[epochs["best"].astype(bool), "epoch"]
    if len(kept):
        figure.add_vline(
            x=int(kept.iloc[-1]),
            line={"color": MARK, "dash": "dash", "width": 1.5},
            annotation={"text": f"kept: epoch {int(kept.iloc[-1])}", "font": {"size": 11}, "yanchor": "bottom"},
            annotation_position="top",
        )
    last = max(total or 0, int(epochs["epoch"].max()))
    _epoch_axes(figure, quantity, last)
    figure.update_xaxes(range=[0.5, last + 0.5])
    return figure


def sign_chart(epochs: pd.DataFrame, sign: str, *, theme: str | None = None) -> go.Figure:
    """Draw one of `SIGNS` by epoch. epochs: the store's rows of one step, where older versions recorded no signs."""
    name, axis = SIGNS[sign]
    figure = titled_figure(name, theme)
    figure.update_layout(height=CURVE_HEIGHT)
    known = epochs[epochs[sign].notna()]
    if known.empty:
        return empty_figure(figure, "No epoch has recorded it: the training is older than these figures.")
    figure.add_scatter(
        x=known["epoch"],
        y=known[sign],
        mode="lines+markers",
        line={"color": palette(theme)[0], "width": 2},
        marker={"size": 5},
        hovertemplate="epoch %{x}: %{y:.4~g}<extra></extra>",
    )
    figure.update_xaxes(title="epoch", tickformat="d", nticks=min(int(known["epoch"].max()), 8) + 1)
    most = int(known["hidden_units"].max()) if sign == "dead_units" else None
    figure.update_yaxes(title=axis, tickformat=".3~g", rangemode="tozero")
    if most is not None:
        figure.update_yaxes(range=[0, most * 1.05])
        figure.add_hline(y=most, line={"dash": "dot", "width": 1.5}, annotation={"text": f"all {most} units"})
    return figure


def _better(quantity: str) -> str:
    return f"{'lower' if quantity == 'loss' else 'higher'} is better"


def _epoch_axes(figure: go.Figure, quantity: str, last: int) -> None:
    figure.update_xaxes(title="epoch", tickformat="d", nticks=min(last, 8) + 1)
    figure.update_yaxes(title="cross-entropy" if quantity == "loss" else "%", tickformat=".4~g")


def size_against_accuracy(
    steps: pd.DataFrame,
    metric: str,
    front: pd.Series[bool],
    limits: pd.DataFrame | None = None,
    *,
    theme: str | None = None,
) -> go.Figure:
    """Draw each step's figure against its parameters, with the Pareto front: the steps that no other beats in both.

    steps: the store's rows. metric: one of `METRICS`. front: as `training_numbers.pareto_front` gives it. limits: the
    figures' intervals, drawn as error bars, as `training_numbers.limits` gives them.
    """
    figure = titled_figure(f"{METRICS[metric]} against parameters: up and to the left is better", theme)
    shown = steps[steps[metric].notna()]
    if shown.empty:
        return empty_figure(figure, "No step has been tested yet.")
    colours = palette(theme)
    on_front = shown[front.loc[shown.index]].sort_values("parameters")
    figure.add_scatter(
        x=on_front["parameters"],
        y=on_front[metric],
        name="Pareto front",
        mode="lines",
        line={"color": MARK, "width": 2, "shape": "hv"},
        hoverinfo="skip",
    )
    if limits is None:
        limits = pd.DataFrame(math.nan, columns=["low", "high"], index=steps.index)
    accepted = shown["accepted"].astype("boolean").fillna(False).astype(bool)
    for name, rows, colour, symbol in (
        ("accepted", shown[accepted], 0, "circle"),
        ("missed the baseline", shown[~accepted], 1, "x"),
    ):
        if rows.empty:
            continue
        figure.add_scatter(
            x=rows["parameters"],
            y=rows[metric],
            name=name,
            mode="markers+text",
            text=rows["name"].map(plain_text),
            textposition=["top center", "bottom center"][colour],
            textfont={"size": 11},
            cliponaxis=False,
            customdata=rows[["name", "reason"]].fillna("").map(plain_text),
            marker={"color": colours[colour], "symbol": symbol, "size": 11},
            error_y={
                "type": "data",
                "array": limits.loc[rows.index, "high"] - rows[metric],
                "arrayminus": rows[metric] - limits.loc[rows.index, "low"],
                "thickness": 1.5,
                "width": 5,
            },
            hovertemplate="%{customdata[0]}: %{y:.2f} %, %{x:,} parameters<br>%{customdata[1]}<extra></extra>",
        )
    figure.update_xaxes(title="learnable parameters", type="log", **log_axis(shown["parameters"]))
    values = pd.concat([shown[metric], *(limits.loc[shown.index, end] for end in ("low", "high"))])
    low, high = float(values.min()), float(values.max())
    room = max(2.0, 0.2 * (high - low))
    figure.update_yaxes(title=f"{METRICS[metric]}, %", range=[low - room, high + room])
    return figure


def energy_curve(rows: pd.DataFrame, *, theme: str | None = None) -> go.Figure:
    """Draw what a network with dense layers of low rank is worth against the energy that they keep.

    rows: name (of an energy, or of the network itself), epochs of fine-tuning, test_accuracy in percent, low and high
    (its interval, missing where unknown), parameters, latency in milliseconds (missing where not measured); one row per
    point, from left to right. Each number of epochs has a line. Without any latency there is no panel for it.
    """
    timed = bool(rows["latency"].notna().any())
    panels = make_subplots(rows=3 if timed else 2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    drawn = "Test accuracy, parameters and latency" if timed else "Test accuracy and parameters"
    figure = titled_figure(f"{drawn} against the energy kept", theme, panels)
    figure.update_layout(showlegend=rows["epochs"].nunique() > 1, height=640 if timed else 460, scattermode="group")
    if rows.empty:
        return empty_figure(figure, "Nothing is factored yet.")
    colours, rows = palette(theme), rows.assign(name=rows["name"].map(plain_text))
    for (epochs, line), colour in zip(rows.groupby("epochs"), (colours[0], *colours[3:], *colours), strict=False):
        figure.add_scatter(
            x=line["name"],
            y=line["test_accuracy"],
            name=f"fine-tuned, epochs: {int(str(epochs))}" if epochs else "without new training",
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 9},
            error_y={
                "type": "data",
                "array": line["high"] - line["test_accuracy"],
                "arrayminus": line["test_accuracy"] - line["low"],
                "thickness": 1.5,
                "width": 5,
            },
            hovertemplate="%{x}: %{y:.2f} %<extra></extra>",
            row=1,
            col=1,
        )
    figure.update_yaxes(title="test accuracy, %", row=1, col=1)
    bars = [
        ("parameters", "learnable parameters", "%{x}: %{y:,} parameters"),
        ("latency", "latency, ms", "%{x}: %{y:.2f} ms"),
    ]
    once = rows.sort_values("epochs", kind="stable").groupby("name", sort=False).first().reset_index()
    for place, (column, title, shown) in enumerate(bars[: 2 if timed else 1], start=2):
        figure.add_bar(
            x=once["name"],
            y=once[column],
            marker={"color": colours[place - 1]},
            hovertemplate=f"{shown}<extra></extra>",
            showlegend=False,
            row=place,
            col=1,
        )
        figure.update_yaxes(title=title, rangemode="tozero", row=place, col=1)
    figure.update_xaxes(**name_axis(list(once["name"])))
    return figure


def layer_shares(sizes: pd.DataFrame, names: Sequence[str], *, theme: str | None = None) -> go.Figure:
    """Draw the share of each layer's filters or units that every step keeps, labelled with their numbers.

    sizes: as `training_numbers.layer_sizes` makes it, the unpruned network first. names: of the steps.
    """
    figure = titled_figure("Filters and units by layer and step; colour: share of the unpruned network's", theme)
    if sizes.empty:
        return empty_figure(figure, "No step has begun yet.")
    shares = 100 * sizes.div(sizes.iloc[:, 0], axis=0)
    labels = [f"{place}. {name}" for place, name in enumerate(names)]
    hover = "%{y}, %{x}: %{text}, %{z:.3~g} % of the unpruned<extra></extra>"
    figure.add_trace(_heatmap(shares.to_numpy().tolist(), sizes.to_numpy().tolist(), labels, sizes.index, hover, theme))
    figure.update_yaxes(**name_axis(list(sizes.index)), autorange="reversed", showgrid=False, automargin=True)
    figure.update_xaxes(**name_axis(labels), side="top", showgrid=False, tickangle=0 if len(names) < 3 else -35)
    figure.update_layout(height=120 + ROW_HEIGHT * len(sizes))
    return figure


def _heatmap(
    shares: list[list[float]],
    counts: Sequence[Sequence[int]],
    columns: Iterable[str],
    rows: Iterable[str],
    hover: str,
    theme: str | None,
) -> go.Heatmap:
    """Return cells coloured by shares in percent and labelled with counts."""
    low, high, text = SHADES[theme or "light"]
    return go.Heatmap(
        x=[plain_text(name) for name in columns],
        y=[plain_text(name) for name in rows],
        z=shares,
        text=[[f"{count:,}" for count in row] for row in counts],
        hovertemplate=hover,
        zmin=0,
        zmax=100,
        colorscale=[[0, low], [1, high]],
        showscale=False,
        texttemplate="%{text}",
        textfont={"color": text, "size": 12},
        xgap=2,
        ygap=2,
    )


def confusion(matrix: Sequence[Sequence[int]], name: str, *, theme: str | None = None) -> go.Figure:
    """Draw a set's confusion matrix: one row per true class, one column per predicted class; colour: share of the row.

    matrix: images, as `core.predictions.classification` counts them. Plotly does not let a reader select a cell of a
    heatmap, so an invisible point lies on each; its customdata are the true and the predicted class.
    """
    images = sum(map(sum, matrix))
    figure = titled_figure(f"{name}, {images:,} images", theme)
    if not images:
        return empty_figure(figure, "No images.")
    shares = [[100 * count / sum(row) if sum(row) else 0.0 for count in row] for row in matrix]
    labels = list(class_names(CLASSES).values())
    hover = "%{y} taken for %{x}: %{text} images, %{z:.3~g} % of the class<extra></extra>"
    figure.add_trace(_heatmap(shares, matrix, labels, labels, hover, theme))
    cells = list(itertools.product(range(len(CLASSES)), repeat=2))
    figure.add_scatter(
        x=[plain_text(labels[column]) for _, column in cells],
        y=[plain_text(labels[row]) for row, _ in cells],
        customdata=[[CLASSES[row], CLASSES[column], shares[row][column]] for row, column in cells],
        text=[f"{matrix[row][column]:,}" for row, column in cells],
        hovertemplate=hover.replace("%{z:", "%{customdata[2]:"),
        mode="markers",
        marker={"size": 24, "opacity": 0},
        showlegend=False,
    )
    figure.update_yaxes(**name_axis(labels), title="true", autorange="reversed", showgrid=False, automargin=True)
    figure.update_xaxes(**name_axis(labels), title="predicted", showgrid=False, tickangle=-40, automargin=True)
    figure.update_layout(height=330)
    return figure


def compared_curves(curves: pd.DataFrame, quantity: str, *, theme: str | None = None) -> go.Figure:
    """Draw learning curves of several groups over each other, a band of one sample deviation where seeds were averaged.

    curves: as `training_numbers.curves_over_seeds` makes it. Colour tells the group, dashes the set.
    """
    figure = titled_figure(f"{QUANTITIES[quantity]} by epoch, {_better(quantity)}", theme)
    if curves.empty:
        return empty_figure(figure, "None of these runs has ended an epoch yet.")
    colours = palette(theme)
    for place, (group, rows) in enumerate(curves.groupby("group", sort=False)):
        colour = colours[place % len(colours)]
        seeds = int(rows["n"].max())
        for split, dash in (("validation", "solid"), ("train", "dot")):
            mean, deviation = rows[f"{split}_{quantity}"], rows[f"{split}_{quantity}_std"]
            name = f"{plain_text(group)}, {SETS[split][0]}" + (f", mean of {seeds} seeds" if seeds > 1 else "")
            if split == "validation":
                names = (f"{name}, mean − deviation", f"{name}, mean + deviation")
                edges = band(rows["epoch"], mean - deviation, mean + deviation, names, colour, showlegend=False)
                figure.add_traces(list(edges) if deviation.notna().any() else [])
            figure.add_scatter(
                x=rows["epoch"],
                y=mean,
                name=name,
                mode="lines",
                line={"color": colour, "dash": dash, "width": 2},
                customdata=pd.DataFrame({"deviation": deviation, "n": rows["n"]}),
                hovertemplate=f"{name}: %{{y:.4~g}} ± %{{customdata[0]:.3~g}}, n = %{{customdata[1]}}<extra></extra>"
                if seeds > 1
                else f"{name}: %{{y:.4~g}}<extra></extra>",
            )
    _epoch_axes(figure, quantity, int(curves["epoch"].max()))
    return figure


def compared_sizes(groups: pd.DataFrame, names: Sequence[str], metric: str, *, theme: str | None = None) -> go.Figure:
    """Draw each group's mean figure against its parameters, with bars of one sample deviation over seeds.

    groups: from `training_numbers.over_seeds`. names: one per row. metric: one of its figures.
    """
    label = metric.replace("_", " ").capitalize()
    figure = titled_figure(f"{label} against parameters: up and to the left is better", theme)
    if groups.empty:
        return empty_figure(figure, "None of these runs has a finished step.")
    colours = palette(theme)
    named = groups.assign(name=list(map(plain_text, names)))
    for place, (network, rows) in enumerate(named.groupby("network", sort=False)):
        figure.add_scatter(
            x=rows["parameters"],
            y=rows[metric],
            error_y={"type": "data", "array": rows[f"{metric}_std"].fillna(0), "thickness": 1.5, "width": 5},
            name=plain_text(network),
            mode="markers",
            marker={"color": colours[place % len(colours)], "size": 10},
            customdata=rows[["name", "n"]],
            hovertemplate="%{customdata[0]}: %{y:.2f} %, %{x:,} parameters, n = %{customdata[1]}<extra></extra>",
        )
    figure.update_xaxes(title="learnable parameters", type="log", **log_axis(groups["parameters"]))
    figure.update_yaxes(title=f"{label}, %")
    return figure
