"""Charts of networks and their parameter curves; the numbers come from `core`. No Streamlit.

`theme`: see `dashboard.charts.style`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go

from core.networks.architectures import CHANNELS, METADATA_FEATURES, Branch, NetworkSpec, Shape, walk
from core.networks.costs import layer_row
from core.networks.fits import CurveFits, Fit
from core.networks.pruning import SCOPES
from dashboard.charts.style import MARK, empty_figure, name_axis, palette, plain_text, titled_figure, translucent

Floats = npt.NDArray[np.float64]
Trace = dict[str, Any]

QUANTITY_LABELS = {
    "parameters": "learnable parameters, millions",
    "macs": "multiply-accumulates, millions",
    "bytes_weights": "weights, MB",
    "bytes_with_optimizer": "weights and Adam's state, MB",
}
BRANCHES: dict[Branch, tuple[str, int]] = {  # name, and place in the palette
    "image": ("image branch", 0),
    "metadata": ("text branch", 2),
    "head": ("combined", 1),
}
# layer type as in the layer tables → place in the palette, None for grey
LAYER_COLOURS: dict[str, int | None] = {
    "Input": None,
    "Conv2D": 0,
    "Residual block": 5,
    "MaxPooling2D": 1,
    "ZeroPadding2D": 7,
    "BatchNormalization": 4,
    "Dropout": 6,
    "Flatten": 3,
    "GlobalAveragePooling2D": 3,
    "Dense": 2,
    "Concatenate": None,
}
OUTSIDE = {"textposition": "outside", "constraintext": "none", "cliponaxis": False}  # a bar's text at its end
THIN, GAP = 0.45, 0.3  # widths of a flat or unlearning layer's block and of the space between blocks
LABELLED = ("Conv2D", "Residual block", "Dense", "Concatenate")
MODEL_STYLES = {"linear": (4, "dot"), "exponential": (0, "solid"), "polynomial": (1, "dash")}
SCOPE_COLOURS = dict(zip(SCOPES, (0, 1, 2, 3), strict=True))
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
FINE = 10  # points a drawn iteration
COLUMNS = 2
PANEL_HEIGHT, PANEL_GAP = 250, 70  # pixels


@dataclass(frozen=True, slots=True)
class Block:
    """A layer as a rectangle, centred on (x, y); label is None where none is written."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    label: str | None
    text: str


def scope_text(scope: str) -> str:
    """Return a scope in one or two words: all, first two."""
    return scope.replace("_", " ")


def block_height(shape: Shape) -> float:
    """Return the height of a block: the mean side of a feature map, half that for flat units, both logarithmic."""
    return math.log2(1 + math.sqrt(shape[0] * shape[1])) if len(shape) == 3 else 0.5 * math.log2(1 + shape[0])


def block_width(kind: str, shape: Shape) -> float:
    """Return the width of a block: the channels of a convolution or input, logarithmic; else thin."""
    wide = kind in ("Input", "Conv2D", "Residual block") and len(shape) == 3
    return 0.3 * math.log2(1 + shape[2]) if wide else THIN


def blocks(spec: NetworkSpec, height: int, width: int) -> list[Block]:
    """Return both branches and the head as blocks: the image branch above, metadata below, both end where they join."""
    inputs: dict[Branch, Shape] = {"image": (height, width, CHANNELS), "metadata": (len(METADATA_FEATURES),)}
    rows: dict[Branch, list[tuple[str, Shape, str | None, str]]] = {"image": [], "metadata": [], "head": []}
    for branch, shape in inputs.items():
        rows[branch].append(("Input", shape, f"{branch} {'×'.join(map(str, shape))}", f"{branch} input"))
    for step in walk(spec, height, width):
        row = layer_row(step)
        size = "" if row["size"] is None else f" {row['size']}"
        label = f"{row['type']}{size}" if row["type"] in LABELLED else None
        kernel = "" if row["kernel"] is None else f", {row['kernel']}"
        text = (
            f"{plain_text(step.name)}: {row['type']}{size}{kernel}<br>output {row['output_shape']}<br>"
            f"{row['parameters']:,} parameters, {row['macs']:,} MACs"
        )
        rows[step.branch].append((str(row["type"]), step.output_shape, label, text))
    lengths = {branch: sum(block_width(row[0], row[1]) + GAP for row in found) for branch, found in rows.items()}
    join = max(lengths["image"], lengths["metadata"])
    starts = {"image": join - lengths["image"], "metadata": join - lengths["metadata"], "head": join + 3 * GAP}
    tallest = {branch: max(block_height(row[1]) for row in found) for branch, found in rows.items()}
    lane = -(tallest["image"] + tallest["metadata"]) / 2 - 3.5  # room for the labels of the lower branch
    lanes = {"image": 0.0, "metadata": lane, "head": lane / 2}
    placed = []
    for branch, found in rows.items():
        x = starts[branch]
        for kind, shape, label, text in found:
            wide = block_width(kind, shape)
            placed.append(Block(kind, x + wide / 2, lanes[branch], wide, block_height(shape), label, text))
            x += wide + GAP
    return placed


def network_drawing(spec: NetworkSpec, height: int, width: int, *, theme: str | None = None) -> go.Figure:
    """Draw a network for images of height × width along its depth; raises SpecError where the size is too small."""
    figure = titled_figure(f"{plain_text(spec.title)} for images of {height} × {width}", theme)
    colours = palette(theme)
    placed = blocks(spec, height, width)
    lanes = sorted({block.y for block in placed})
    joint = next(block for block in placed if block.kind == "Concatenate")
    links = [(joint.x, joint.y, placed[-1].x, joint.y)]
    for lane in (lanes[0], lanes[2]):
        of_lane = [block for block in placed if block.y == lane]
        end = of_lane[-1].x + THIN
        links += [(of_lane[0].x, lane, end, lane), (end, lane, joint.x, joint.y)]
    figure.update_layout(
        shapes=[
            {"type": "line", "x0": x0, "y0": y0, "x1": x1, "y1": y1, "line": {"color": MARK, "width": 1},
             "layer": "below"}
            for x0, y0, x1, y1 in links
        ]
    )  # fmt: skip
    for kind, colour in LAYER_COLOURS.items():
        of_kind = [block for block in placed if block.kind == kind]
        if not of_kind:
            continue
        figure.add_bar(
            x=[block.x for block in of_kind],
            y=[block.height for block in of_kind],
            base=[block.y - block.height / 2 for block in of_kind],
            width=[block.width for block in of_kind],
            name=kind,
            text=[block.label or "" for block in of_kind],
            textangle=-90,
            textfont={"size": 11},
            **OUTSIDE,
            hovertext=[block.text for block in of_kind],
            hovertemplate="%{hovertext}<extra></extra>",
            marker={"color": MARK if colour is None else colours[colour], "line": {"width": 0}},
        )
    top = max(block.y + block.height / 2 for block in placed)
    bottom = min(block.y - block.height / 2 for block in placed)
    figure.update_layout(barmode="overlay", height=480, bargap=0)
    figure.update_xaxes(visible=False, range=[-GAP, max(block.x for block in placed) + 2 * GAP])
    figure.update_yaxes(visible=False, range=[bottom - 0.3, top + 4.5])
    return figure


def parameters_by_layer(table: pd.DataFrame, *, theme: str | None = None) -> go.Figure:
    """Draw the learnable parameters of each layer that has any, in the order of the network; lower is better.

    table: as `core.networks.costs.layer_table` makes it.
    """
    figure = titled_figure("Learnable parameters by layer, lower is better", theme)
    rows = table[table["parameters"] > 0]
    if rows.empty:
        return empty_figure(figure, "No layer has anything to learn.")
    total = int(rows["parameters"].sum())
    for branch, (name, colour) in BRANCHES.items():
        each = rows[rows["branch"] == branch]
        if each.empty:
            continue
        figure.add_bar(
            y=[plain_text(name) for name in each["name"]],
            x=each["parameters"],
            orientation="h",
            name=name,
            text=[f"{count:,} ({_share_text(count / total)})" for count in each["parameters"]],
            textangle=0,
            **OUTSIDE,
            customdata=each[["type", "output_shape"]],
            marker={"color": palette(theme)[colour]},
            hovertemplate="%{y}, %{customdata[0]}, output %{customdata[1]}: %{x:,} parameters<extra></extra>",
        )
    figure.update_xaxes(title="learnable parameters", range=[0, 1.6 * rows["parameters"].max()], nticks=5)
    order = list(rows["name"])[::-1]
    figure.update_yaxes(**name_axis(order), range=[-0.6, len(order) - 0.4], automargin=True)
    figure.update_layout(height=150 + 24 * len(rows), bargap=0.25)
    return figure


def _share_text(share: float) -> str:
    return "below 0.01 %" if share < 0.0001 else f"{100 * share:.3g} %"


def curves_chart(curves: Sequence[CurveFits], *, logarithmic: bool = False, theme: str | None = None) -> go.Figure:
    """Draw the curves of several networks, one panel each; colour: scope, dashes: factor; lower is better."""
    networks = list(dict.fromkeys(curve.network for curve in curves))
    factors = list(dict.fromkeys(curve.factor for curve in curves))

    def traces(network: str) -> Iterator[Trace]:
        for curve in (curve for curve in curves if curve.network == network):
            name = _panel_title(curve)
            dash = DASHES[factors.index(curve.factor) % len(DASHES)]
            yield {
                "x": curve.iterations,
                "y": curve.values,
                "name": name,
                "mode": "lines+markers",
                "line": {"color": palette(theme)[SCOPE_COLOURS[curve.scope]], "dash": dash},
                "hovertemplate": f"{plain_text(network)}, {name}: %{{y:.4~g}} at iteration %{{x}}<extra></extra>",
            }

    title = "Curves of each network, lower is better"
    return _panels(title, networks, traces, curves, logarithmic=logarithmic, theme=theme)


def fits_chart(curves: Sequence[CurveFits], *, logarithmic: bool = False, theme: str | None = None) -> go.Figure:
    """Draw each curve in its panel with the three fits and their 95 % bands; lower is better."""
    by_title = {_panel_title(curve): curve for curve in curves}

    def traces(title: str) -> Iterator[Trace]:
        curve = by_title[title]
        x = np.linspace(curve.iterations[0], curve.iterations[-1], FINE * (len(curve.iterations) - 1) + 1)
        floor = min(curve.values) / 10 if logarithmic else -np.inf  # a logarithmic axis has nothing below zero
        for fit in curve.fits:
            yield from _fit_traces(fit, x, floor, theme)
        yield {
            "x": curve.iterations,
            "y": curve.values,
            "name": "counted",
            "mode": "markers",
            "marker": {"color": palette(theme)[6], "size": 9},
            "hovertemplate": "counted: %{y:.5~g} at iteration %{x}<extra></extra>",
        }

    title = "Counted points, three fits with their 95 % bands, lower is better"
    figure = _panels(title, list(by_title), traces, curves, logarithmic=logarithmic, theme=theme)
    for number, curve in enumerate(by_title.values(), start=1):
        low, high = min(curve.values), max(curve.values)
        limits = [math.log10(low / 3), math.log10(high * 2)] if logarithmic else [-0.2 * high, 1.3 * high]
        figure.layout[f"yaxis{number if number > 1 else ''}"].range = limits  # a wide band does not squeeze the points
    return figure


def residuals_chart(curves: Sequence[CurveFits], *, theme: str | None = None) -> go.Figure:
    """Draw the residuals of each fit, measured minus fitted, one panel per curve; nearer to zero is better."""
    by_title = {_panel_title(curve): curve for curve in curves}

    def traces(title: str) -> Iterator[Trace]:
        for fit in by_title[title].fits:
            if fit.residuals:
                yield _model_line(fit, theme) | {
                    "x": by_title[title].iterations,
                    "y": fit.residuals,
                    "mode": "lines+markers",
                    "hovertemplate": f"{fit.model.name}: %{{y:.3g}} left over at iteration %{{x}}<extra></extra>",
                }

    title = "Residuals: counted minus fitted, nearer to zero is better"
    return _panels(title, list(by_title), traces, curves, theme=theme)


def _panel_title(curve: CurveFits) -> str:
    return f"{curve.factor:g} %, {scope_text(curve.scope)}"


def _model_line(fit: Fit, theme: str | None) -> Trace:
    colour, dash = MODEL_STYLES[fit.model.name]
    return {"name": fit.model.name, "line": {"color": palette(theme)[colour], "dash": dash, "width": 2}}


def _fit_traces(fit: Fit, x: Floats, floor: float, theme: str | None) -> Iterator[Trace]:
    fitted, band = fit.predict(x), fit.band(x)
    if fitted is None:
        return
    line = _model_line(fit, theme)
    if band is not None:
        edges = np.concatenate([band[0], band[1][::-1]])
        yield {
            "x": np.concatenate([x, x[::-1]]),
            "y": np.maximum(edges, floor),
            "name": f"{fit.model.name}, 95 % band",
            "legendgroup": fit.model.name,
            "showlegend": False,
            "mode": "lines",
            "line": {"width": 0},
            "fill": "toself",
            "fillcolor": translucent(line["line"]["color"], 0.15),
            "hoverinfo": "skip",
        }
    yield line | {
        "x": x,
        "y": np.where(fitted > max(floor, 0) if floor > -np.inf else True, fitted, np.nan),
        "mode": "lines",
        "hovertemplate": f"{fit.model.name}: %{{y:.4~g}} at %{{x:.1f}}<extra></extra>",
    }


def _panels(
    title: str,
    names: Sequence[str],
    traces: Callable[[str], Iterator[Trace]],
    curves: Sequence[CurveFits],
    *,
    logarithmic: bool = False,
    theme: str | None = None,
) -> go.Figure:
    """Return a grid of panels, one per name, from plain dictionaries, which are many times faster than subplots.

    traces: of a panel. Those with the same name share one entry in the legend.
    """
    figure = titled_figure(title, theme)
    if not names:
        return empty_figure(figure, "No curve is chosen.")
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    height = rows * (PANEL_HEIGHT + PANEL_GAP)
    last = max((curve.iterations[-1] for curve in curves), default=0)
    wide, tall = (1 - 0.1 * (columns - 1)) / columns, PANEL_HEIGHT / height
    data: list[Trace] = []
    in_legend: set[str] = set()
    # Fixed margins save the browser a sixth of the time, because it need not draw the axes to compute them.
    layout: dict[str, Any] = {"height": height + 150, "annotations": [], "margin": {"l": 50, "r": 10}}
    x_ticks = {"dtick": max(1, -(-last // 6)), "automargin": False}
    y_ticks = {"type": "log" if logarithmic else "linear", "nticks": 6, "tickformat": "~g", "automargin": False}
    for position, name in enumerate(names):
        number = "" if position == 0 else str(position + 1)
        left, top = position % columns * (wide + 0.1), 1 - position // columns * (PANEL_HEIGHT + PANEL_GAP) / height
        for trace in traces(name):
            legend = {"legendgroup": trace["name"], "showlegend": trace["name"] not in in_legend}
            data.append({"type": "scatter", "xaxis": f"x{number}", "yaxis": f"y{number}"} | legend | trace)
            in_legend.add(trace["name"])
        layout[f"xaxis{number}"] = {"domain": [left, left + wide], "anchor": f"y{number}"} | x_ticks
        layout[f"yaxis{number}"] = {"domain": [max(0, top - tall), top], "anchor": f"x{number}"} | y_ticks
        layout["annotations"].append(
            {"text": plain_text(name), "x": left, "y": top, "xref": "paper", "yref": "paper", "xanchor": "left",
             "yanchor": "bottom", "showarrow": False, "font": {"size": 13}}
        )  # fmt: skip
    label = QUANTITY_LABELS[curves[0].quantity] + (", logarithmic" if logarithmic else "")
    layout["title"] = {"subtitle": {"text": f"{label[0].upper()}{label[1:]}, against the iteration"}}
    figure.add_traces(data)
    figure.update_layout(layout)
    return figure
