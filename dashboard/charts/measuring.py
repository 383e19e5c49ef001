"""Charts of sweeps, resize comparisons and single images. No Streamlit; every number comes from the frame.

An empty frame gives an empty figure that says why. `theme`: see `dashboard.charts.style`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.compression.metrics import METRICS_BY_NAME, Metric
from dashboard.charts.style import MARK, band, empty_figure, name_axis, palette, plain_text, subtitle, titled_figure
from dashboard.words import codec_text, direction_text

CODECS = {"jpeg": (0, "circle"), "webp": (2, "square"), "avif": (3, "triangle-up"), "png": (6, "x")}
CHANNELS = (("blue", 0), ("green", 2), ("red", 1))  # BGR
MULTIPLES = 3  # small charts in a row
SIZES = (
    ("source_bytes", "source files", 6, "circle", "dot"),
    ("control_bytes", "re-encoded without SVD", 1, "diamond-open", "dash"),
    ("stored_bytes", "stored reconstructions", 0, "square", "solid"),
    ("factor_bytes", "SVD factors (float16)", 2, "triangle-up", "dashdot"),
)


def metric_against_k(
    statistics: pd.DataFrame, metric: str, chosen_ks: Sequence[int] = (), *, theme: str | None = None
) -> go.Figure:
    """Draw a metric's mean over the images against k with a band of one standard deviation.

    statistics: a sweep's, as `core.compression.summary.summarise` makes them.
    """
    described = METRICS_BY_NAME[metric]
    rows = _against_k(statistics, metric)
    figure = titled_figure(f"{described.label} against k, {direction_text(described)}", theme)
    if rows["mean"].isna().all():
        return empty_figure(figure, f"{described.label}: no value at any k.")
    figure.add_traces(_mean_and_band(rows, palette(theme)[0]))
    figure.update_xaxes(title="k, singular values kept", tickvals=rows["k"])
    figure.update_yaxes(**_axis(described))
    _mark_ks(figure, chosen_ks)
    return figure


def small_multiples(
    statistics: pd.DataFrame, metrics: Sequence[str], chosen_ks: Sequence[int] = (), *, theme: str | None = None
) -> go.Figure:
    """Draw many metrics against k in a grid, each with its own scale; mean and one standard deviation."""
    found = [(name, rows) for name in metrics if (rows := _against_k(statistics, name))["mean"].notna().any()]
    title = "Every metric against k: mean and standard deviation over the images"
    if not found:
        return empty_figure(titled_figure(title, theme), "No metric has a value at any k.")
    rows_count = -(-len(found) // MULTIPLES)
    panels = make_subplots(
        rows=rows_count,
        cols=MULTIPLES,
        subplot_titles=[_short_title(METRICS_BY_NAME[name]) for name, _ in found],
        vertical_spacing=0.32 / rows_count,
        horizontal_spacing=0.08,
    )
    figure = titled_figure(title, theme, panels)
    for position, (name, rows) in enumerate(found):
        place = {"row": position // MULTIPLES + 1, "col": position % MULTIPLES + 1}
        for trace in _mean_and_band(rows, palette(theme)[0]):
            figure.add_trace(trace.update(showlegend=False), **place)
        figure.update_xaxes(tickvals=_thinned(rows["k"]), **place)
        figure.update_yaxes(**_ticks(name), nticks=5, **place)
        for k in sorted(set(chosen_ks)):
            figure.add_vline(x=k, line={"color": MARK, "dash": "dash", "width": 1}, **place)
    figure.update_annotations(font={"size": 13})
    figure.update_layout(height=110 + 230 * rows_count)
    if chosen_ks:
        listed = ", ".join(str(k) for k in sorted(set(chosen_ks)))
        subtitle(figure, f"Dashed: the chosen k of the rules ({listed}). ↓ lower is better, ↑ higher is better.")
    return figure


def storage_against_k(
    storage: pd.DataFrame, break_even: float | None = None, chosen_ks: Sequence[int] = (), *, theme: str | None = None
) -> go.Figure:
    """Draw the four sizes of a data set against k.

    storage: of a sweep, from `core.compression.summary.storage`. break_even: the k at which the factors have as many
    numbers as the image.
    """
    rows = storage[storage["k"].notna()].sort_values("k")
    sizes = rows[[column for column, *_ in SIZES]].astype("float64")
    figure = titled_figure("Size of the data set against k, lower is better", theme)
    if sizes.isna().all(axis=None):
        return empty_figure(figure, "No sizes were measured at any k.")
    unit, scale = _byte_unit(float(np.nanmax(sizes.to_numpy())))
    for column, name, colour, symbol, dash in SIZES:
        if sizes[column].isna().all():
            continue
        figure.add_scatter(
            x=rows["k"].astype("int64"),
            y=sizes[column] / scale,
            customdata=sizes[column],
            name=name,
            mode="lines+markers",
            line={"color": palette(theme)[colour], "dash": dash},
            marker={"symbol": symbol, "size": 12 if "open" in symbol else 8},
            hovertemplate=f"{name}: %{{y:.4g}} {unit} (%{{customdata:,.0f}} bytes)<extra>k = %{{x}}</extra>",
        )
    figure.update_xaxes(title="k, singular values kept", tickvals=rows["k"].astype("int64"))
    figure.update_yaxes(title=f"{unit}, all measured images", rangemode="tozero")
    if break_even is not None:
        figure.add_vline(
            x=break_even,
            line={"color": MARK, "dash": "dot", "width": 1.5},
            annotation={"text": f"factors break even, k = {break_even:.1f} "},
            annotation_position="top left",
        )
    _mark_ks(figure, chosen_ks)
    return figure


def rate_distortion(
    sweep: pd.DataFrame, rivals: pd.DataFrame, metric: str, chosen_k: int | None = None, *, theme: str | None = None
) -> go.Figure:
    """Draw a metric against bytes per pixel: a line for each codec without SVD and one for the sweep's k.

    sweep, rivals: points from `core.compression.rivals.rate_points`; either may be empty.
    """
    described = METRICS_BY_NAME[metric]
    figure = titled_figure(
        f"{described.label} ({direction_text(described)}) against bytes per pixel (lower is better)", theme
    )
    colours = palette(theme)
    drawn = [points[points["bytes_per_pixel"].notna()] for points in (rivals, sweep) if metric in points]
    everything = pd.concat(drawn) if drawn else pd.DataFrame(columns=[metric, "label", "bytes_per_pixel"])
    missing = everything.loc[everything[metric].isna(), "label"]
    if len(missing) == len(everything):
        return empty_figure(figure, f"No measured point has a {described.label}.")
    if len(drawn) and len(rivals):
        for position, (codec, rows) in enumerate(_defined(rivals, metric).groupby("codec", sort=False)):
            name = codec_text(codec) if codec in CODECS else plain_text(str(codec).upper())
            colour, symbol = CODECS.get(str(codec), (4 + position % 4, "x"))
            figure.add_trace(_rate_line(rows.sort_values("quality"), metric, name, colours[colour], symbol))
    if len(sweep) and metric in sweep:
        rows = _defined(sweep, metric).sort_values("k")
        trace = _rate_line(rows, metric, f"SVD, stored as {_stored_as(rows)}", colours[1], "diamond")
        sizes = [15 if k == chosen_k else 10 for k in rows["k"]]
        figure.add_trace(trace.update(marker={"size": sizes}, line={"dash": "dot"}))
    figure.update_xaxes(title="bytes per pixel, logarithmic", type="log", tickformat="~g", dtick="D2")
    figure.update_yaxes(**_axis(described))
    if len(missing):
        subtitle(figure, f"Not drawn, because {described.label} is undefined there: {', '.join(missing)}.")
    return figure


def spectrum(singular_values: npt.NDArray[np.float64], mode: str, *, theme: str | None = None) -> go.Figure:
    """Draw singular values (matrices, rank) on a logarithmic axis and their cumulated energy.

    mode: of the decomposition, one of `core.compression.svd.MODES`.
    """
    panels = make_subplots(specs=[[{"secondary_y": True}]])
    figure = titled_figure("Singular values and the energy they hold", theme, panels)
    if not singular_values.size or not singular_values.any():
        return empty_figure(figure, "All singular values are zero: the image is black.")
    order = np.arange(1, singular_values.shape[1] + 1)
    colours = palette(theme)
    names = ["all channels"] if mode == "unfolded" else [name for name, _ in CHANNELS]
    channels = [colours[colour] for _, colour in CHANNELS]
    for name, colour, values in zip(names, channels, singular_values, strict=False):
        figure.add_scatter(
            x=order,
            y=np.where(values > 0, values, np.nan),  # a logarithmic axis has no zero
            name=f"singular value, {name}",
            mode="lines",
            line={"color": colour, "width": 1.5},
            hovertemplate=f"{name}: singular value %{{x}} is %{{y:.5g}}<extra></extra>",
        )
    figure.add_scatter(
        x=order,
        y=100 * cumulated_energy(singular_values),
        name="energy held, mean",
        mode="lines",
        line={"color": colours[6], "dash": "dash", "width": 2},
        hovertemplate="the first %{x} hold %{y:.4f} % of the energy<extra></extra>",
        secondary_y=True,
    )
    figure.update_xaxes(title="number of the singular value")
    figure.update_yaxes(
        title="singular value, logarithmic", type="log", dtick=1, exponentformat="power", secondary_y=False
    )
    figure.update_yaxes(title="energy held, %", tickmode="auto", tickformat=".5~g", showgrid=False, secondary_y=True)
    return figure


def cumulated_energy(singular_values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the share of Σs² of the first 1, 2, … singular values (rank,), mean of the matrices, 0–1.

    A matrix of zeros is not part of the mean.
    """
    energies = np.asarray(singular_values, dtype=np.float64) ** 2
    energies = energies[energies.sum(axis=1) > 0]
    return np.asarray((energies.cumsum(axis=1) / energies.sum(axis=1, keepdims=True)).mean(axis=0))


def histograms(
    original: npt.NDArray[np.int64], reconstruction: npt.NDArray[np.int64], *, theme: str | None = None
) -> go.Figure:
    """Draw the histogram of each channel of an image and, dashed, its reconstruction's.

    original, reconstruction: pixels at each of the 256 levels (3, 256), blue first.
    """
    figure = titled_figure("Colour histograms", theme)
    pictures = ((original, "original", "solid"), (reconstruction, "reconstruction", "dash"))
    for position, (channel, colour) in enumerate(CHANNELS):
        for counts, name, dash in pictures:
            figure.add_scatter(
                x=np.arange(256),
                y=counts[position],
                name=f"{channel}, {name}",
                mode="lines",
                line={"color": palette(theme)[colour], "dash": dash, "width": 1.5},
                hovertemplate=f"{channel}, {name}: %{{y:,}} pixels of level %{{x}}<extra></extra>",
            )
    figure.update_xaxes(title="level, 0 to 255", range=[0, 255])
    figure.update_yaxes(title="pixels", rangemode="tozero")
    return figure


def metric_by_size(statistics: pd.DataFrame, metric: str, *, theme: str | None = None) -> go.Figure:
    """Draw a metric at each size of a resize comparison: mean and one standard deviation, smallest image first.

    statistics: of a resize comparison, variants named '200x100' (rows x columns).
    """
    described = METRICS_BY_NAME[metric]
    figure = titled_figure(f"{described.label} after resizing, {direction_text(described)}", theme)
    rows = statistics[(statistics["metric"] == metric) & statistics["mean"].notna()].copy()
    if rows.empty:
        return empty_figure(figure, f"{described.label}: no value at any size.")
    order = _by_pixels(rows["variant"])
    rows = rows.set_index("variant").loc[list(order)].reset_index()
    rows["size"] = rows["variant"].map(order)
    figure.add_scatter(
        x=rows["size"],
        error_y={"type": "data", "array": rows["std"].fillna(0), "thickness": 1.5, "width": 6},
        mode="markers",
        marker={"color": palette(theme)[0], "size": 11},
        **_means(rows, "rows × columns %{x}"),
    )
    figure.update_xaxes(title="size, rows × columns", **name_axis(list(order.values())))
    figure.update_yaxes(**_axis(described))
    figure.update_layout(showlegend=False)
    return figure


def parameters_by_size(counts: pd.DataFrame, *, theme: str | None = None) -> go.Figure:
    """Draw the learnable parameters of each network against the size of its images, lower is better.

    counts: columns network, variant ('200x100', rows x columns), parameters (NULL where it cannot be built).
    """
    figure = titled_figure("Learnable parameters by image size, lower is better", theme)
    rows = counts[counts["parameters"].notna()] if len(counts) else counts
    if rows.empty:
        return empty_figure(figure, "No network can be built at these sizes.")
    order = _by_pixels(counts["variant"].drop_duplicates())
    for position, (network, each) in enumerate(rows.groupby("network", sort=False)):
        figure.add_scatter(
            x=each["variant"].map(order),
            y=each["parameters"].astype("int64"),
            name=plain_text(network),
            mode="markers",
            marker={"color": palette(theme)[position % 8], "symbol": position, "size": 12},
            hovertemplate=f"{plain_text(network)} at %{{x}}: %{{y:,}} parameters<extra></extra>",
        )
    figure.update_xaxes(title="size, rows × columns", **name_axis(list(order.values())))
    figure.update_yaxes(title="learnable parameters, logarithmic", type="log", dtick="D2", tickformat="~s")
    return figure


def _against_k(statistics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the metric's rows of a sweep, k ascending."""
    rows = statistics[(statistics["metric"] == metric) & statistics["variant"].str.startswith("k=")].copy()
    rows["k"] = rows["variant"].str.removeprefix("k=").astype("int64")
    return rows.sort_values("k")


def _mean_and_band(rows: pd.DataFrame, colour: str) -> list[go.Scatter]:
    """Return the traces of a metric against k: its band of one standard deviation, and its mean."""
    name = "mean ± standard deviation"
    lower, upper = rows["mean"] - rows["std"], rows["mean"] + rows["std"]
    line = {"mode": "lines+markers", "line": {"color": colour, "width": 2}}
    return [
        *band(rows["k"], lower, upper, (f"{name}, lower edge", name), colour, legendgroup=name),
        go.Scatter(x=rows["k"], name="mean", **line, **_means(rows, "k = %{x}")),
    ]


def _means(rows: pd.DataFrame, where: str) -> dict[str, Any]:
    """Return the options of a trace that has the means as y and the other statistics in the text at the pointer."""
    hover = (
        "mean %{y:.6g}, standard deviation %{customdata[0]:.4g}<br>median %{customdata[1]:.6g}, 5th to 95th percentile "
        "%{customdata[2]:.6g} to %{customdata[3]:.6g}<br>%{customdata[4]:,} images, undefined for %{customdata[5]:,}"
        f"<extra>{where}</extra>"
    )
    others = rows[["std", "median", "p05", "p95", "count", "undefined"]]
    return {"y": rows["mean"], "customdata": others, "hovertemplate": hover}


def _rate_line(rows: pd.DataFrame, metric: str, name: str, colour: str, symbol: str) -> go.Scatter:
    return go.Scatter(
        x=rows["bytes_per_pixel"],
        y=rows[metric],
        customdata=rows[["label", "images"]],
        name=name,
        mode="lines+markers",
        line={"color": colour},
        marker={"symbol": symbol, "size": 8, "color": colour},
        hovertemplate="%{customdata[0]}: %{y:.6g} at %{x:.4g} bytes per pixel, "
        "%{customdata[1]:,} images<extra></extra>",
    )


def _defined(points: pd.DataFrame, metric: str) -> pd.DataFrame:
    return points[points[metric].notna() & points["bytes_per_pixel"].notna()]


def _stored_as(points: pd.DataFrame) -> str:
    codecs = points[["codec", "quality"]].drop_duplicates()
    if len(codecs) != 1:
        return "several codecs"
    codec, quality = codecs.iloc[0]
    return codec_text(codec, quality)


def _mark_ks(figure: go.Figure, ks: Sequence[int]) -> None:
    """Draw a dashed line at each k; several lines are labelled with the number alone."""
    distinct = sorted(set(ks))
    for k in distinct:
        figure.add_vline(
            x=k,
            line={"color": MARK, "dash": "dash", "width": 1.5},
            annotation={"text": f"k = {k}" if len(distinct) == 1 else str(k), "yanchor": "bottom"},
            annotation_position="top",
        )


def _axis(metric: Metric) -> dict[str, str]:
    """Return the options of a metric's axis."""
    return {"title": f"{metric.label}, {metric.unit}" if metric.unit else metric.label, **_ticks(metric.name)}


def _short_title(metric: Metric) -> str:
    text = f"{metric.label} ({metric.unit})" if metric.unit else metric.label
    return "<br>".join(textwrap.wrap(text, 32)) + (" ↑" if metric.better == "high" else " ↓")


def _ticks(metric: str) -> dict[str, str]:
    return {"tickformat": ".5~%" if metric == "explained_variance" else ".5~g"}


def _by_pixels(variants: pd.Series[str]) -> dict[str, str]:
    """Return the displayed name of each size ('200 × 100' for '200x100'), smallest image first."""
    sides = {variant: [int(side) for side in variant.split("x")] for variant in variants}
    return {variant: " × ".join(map(str, sides[variant])) for variant in sorted(sides, key=lambda v: np.prod(sides[v]))}


def _thinned(ks: pd.Series[int]) -> list[int]:
    """Return at most three of the k for the axis of a small chart, with the first and the last."""
    chosen = np.unique(np.linspace(0, len(ks) - 1, min(len(ks), 3)).round().astype(int))
    return [int(k) for k in ks.iloc[chosen]]


def _byte_unit(size: float) -> tuple[str, float]:
    return next(((unit, scale) for unit, scale in (("GB", 1e9), ("MB", 1e6)) if size >= scale), ("kB", 1e3))
