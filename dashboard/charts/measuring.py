"""Data frames drawn as Plotly figures; every number comes from the frame, none from here, and no Streamlit.

Plotly reads its texts as a kind of HTML, and guesses from the names on an axis whether they are numbers or dates: names
that come from outside reach it through `plain_text`, and an axis of names through `name_axis`.
All functions take `theme`: "light" or "dark" for a figure that stands alone, None for one whose fonts and grid the
page's theme sets. An empty frame gives an empty figure that says why.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.compression.metrics import METRICS_BY_NAME, Metric
from dashboard.words import shortened

# Okabe and Ito's colours, which colour-blind readers tell apart, darkened or lightened to stand out from the page;
# those of "light" keep a contrast of 3 to 1 on the dark page too.
PALETTES = {
    "light": ("#0072B2", "#C24E00", "#00805F", "#B0528A", "#A67900", "#3A93CF", "#5B6B75", "#9A6B4F"),
    "dark": ("#56B4E9", "#F0883E", "#2FBF93", "#D98CBD", "#E6B93C", "#8FA8FF", "#9FB0BA", "#E5766A"),
}
TEMPLATES = {"light": "plotly_white", "dark": "plotly_dark"}
MARK = "#82909A"  # lines that mark a place, on either page
CODECS = {
    "jpeg": ("JPEG", 0, "circle"),
    "webp": ("WebP", 2, "square"),
    "avif": ("AVIF", 3, "triangle-up"),
    "png": ("PNG", 6, "x"),
}
CLASSES = ("melanoma", "nevus", "non_melanoma", "negative")
CHANNELS = (("blue", 0), ("green", 2), ("red", 1))  # BGR
SIZES = (
    ("source_bytes", "source files", 6, "circle", "dot"),
    ("control_bytes", "re-encoded without SVD", 1, "diamond-open", "dash"),
    ("stored_bytes", "stored reconstructions", 0, "square", "solid"),
    ("factor_bytes", "SVD factors (float16)", 2, "triangle-up", "dashdot"),
)
CLASS_NAMES = {"non_melanoma": "non-melanoma"}
LONGEST_NAME = 28  # characters of a name beside an axis
PLAIN = str.maketrans({each: f"&#{ord(each)};" for each in "{$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# Plotly looks up categories in a JavaScript object, which knows these names of itself.
KNOWN_TO_OBJECTS = re.compile(
    r"__\w+__|constructor|hasOwnProperty|isPrototypeOf|propertyIsEnumerable|to(Locale)?String|valueOf"
)
RULE_LABELS = {"plateau": "Plateau", "knee": "Knee", "threshold": "Threshold", "budget": "Budget"}


def metric_against_k(
    statistics: pd.DataFrame,
    metric: str,
    chosen_ks: Sequence[int] = (),
    *,
    percentiles: bool = False,
    theme: str | None = None,
) -> go.Figure:
    """Draw a metric's mean over the images against k with a band of one standard deviation.

    statistics: a sweep's, as `core.compression.summary.summarise` makes them. percentiles: add the median and the 5th
    to 95th percentile.
    """
    described = METRICS_BY_NAME[metric]
    rows = _against_k(statistics, metric)
    figure = titled_figure(f"{described.label} against k, {_direction(described)}", theme)
    if rows["mean"].isna().all():
        return empty_figure(figure, f"{described.label}: no value at any k.")
    palette = _palette(theme)
    for trace in _band(rows, "mean − deviation", "mean + deviation", "mean ± standard deviation", palette[0]):
        figure.add_trace(trace)
    if percentiles:
        for trace in _band(rows, "p05", "p95", "5th to 95th percentile", palette[1], opacity=0.12):
            figure.add_trace(trace)
        figure.add_trace(
            go.Scatter(
                x=rows["k"],
                y=rows["median"],
                name="median",
                mode="lines+markers",
                line={"color": palette[1], "dash": "dash"},
                marker={"symbol": "diamond"},
                hovertemplate="median %{y:.6g}<extra>k = %{x}</extra>",
            )
        )
    figure.add_trace(_mean_line(rows, palette[0]))
    figure.update_xaxes(title="k, singular values kept", tickvals=rows["k"])
    figure.update_yaxes(title=_axis_title(described), **_ticks(metric))
    _mark_ks(figure, chosen_ks)
    return figure


def small_multiples(
    statistics: pd.DataFrame,
    metrics: Sequence[str],
    chosen_ks: Sequence[int] = (),
    *,
    columns: int = 3,
    theme: str | None = None,
) -> go.Figure:
    """Draw many metrics against k in a grid, each with its own scale; mean and one standard deviation."""
    found = [(name, rows) for name in metrics if (rows := _against_k(statistics, name))["mean"].notna().any()]
    title = "Every metric against k: mean and standard deviation over the images"
    if not found:
        return empty_figure(titled_figure(title, theme), "No metric has a value at any k.")
    rows_count = -(-len(found) // columns)
    figure = make_subplots(
        rows=rows_count,
        cols=columns,
        subplot_titles=[_short_title(METRICS_BY_NAME[name]) for name, _ in found],
        vertical_spacing=0.32 / rows_count,
        horizontal_spacing=0.08,
    )
    _dress(figure, title, theme)
    palette = _palette(theme)
    for position, (name, rows) in enumerate(found):
        place = {"row": position // columns + 1, "col": position % columns + 1}
        for trace in _band(rows, "mean − deviation", "mean + deviation", "mean ± standard deviation", palette[0]):
            figure.add_trace(trace.update(showlegend=False), **place)
        figure.add_trace(_mean_line(rows, palette[0]).update(showlegend=False), **place)
        figure.update_xaxes(tickvals=_thinned(rows["k"]), **place)
        figure.update_yaxes(**_ticks(name), nticks=5, **place)
        for k in sorted(set(chosen_ks)):
            figure.add_vline(x=k, line={"color": MARK, "dash": "dash", "width": 1}, **place)
    figure.update_annotations(font={"size": 13})
    figure.update_layout(height=110 + 230 * rows_count)
    if chosen_ks:
        listed = ", ".join(str(k) for k in sorted(set(chosen_ks)))
        _subtitle(figure, f"Dashed: k that a rule chooses ({listed}). ↓ lower is better, ↑ higher is better.")
    return figure


def storage_against_k(
    storage: pd.DataFrame,
    break_even: float | None = None,
    chosen_ks: Sequence[int] = (),
    *,
    theme: str | None = None,
) -> go.Figure:
    """Draw the four sizes of a data set against k.

    storage: a sweep's, as `core.compression.summary.storage` makes it. break_even: the k where the factors hold as many
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
        figure.add_trace(
            go.Scatter(
                x=rows["k"].astype("int64"),
                y=sizes[column] / scale,
                customdata=sizes[column],
                name=name,
                mode="lines+markers",
                line={"color": _palette(theme)[colour], "dash": dash},
                marker={"symbol": symbol, "size": 12 if "open" in symbol else 8},
                hovertemplate=f"{name}: %{{y:.4g}} {unit} (%{{customdata:,.0f}} bytes)<extra>k = %{{x}}</extra>",
            )
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
    sweep: pd.DataFrame,
    rivals: pd.DataFrame,
    metric: str,
    chosen_k: int | None = None,
    *,
    theme: str | None = None,
) -> go.Figure:
    """Draw a metric against bytes a pixel: the codecs without SVD as lines, the sweep's k as points on their own.

    sweep, rivals: points as `core.compression.rivals.rate_points` makes them; either may be empty.
    """
    described = METRICS_BY_NAME[metric]
    figure = titled_figure(
        f"{described.label} ({_direction(described)}) against bytes a pixel (lower is better)", theme
    )
    palette = _palette(theme)
    drawn = [points[points["bytes_per_pixel"].notna()] for points in (rivals, sweep) if metric in points]
    everything = pd.concat(drawn) if drawn else pd.DataFrame(columns=[metric, "label", "bytes_per_pixel"])
    missing = everything.loc[everything[metric].isna(), "label"]
    if len(missing) == len(everything):
        return empty_figure(figure, f"No measured point has a {described.label}.")
    if len(drawn) and len(rivals):
        for position, (codec, rows) in enumerate(_defined(rivals, metric).groupby("codec", sort=False)):
            name, colour, symbol = CODECS.get(str(codec), (plain_text(str(codec).upper()), 4 + position % 4, "x"))
            figure.add_trace(_rate_line(rows.sort_values("quality"), metric, name, palette[colour], symbol))
    if len(sweep) and metric in sweep:
        rows = _defined(sweep, metric).sort_values("k")
        trace = _rate_line(rows, metric, f"SVD, stored as {_stored_as(rows)}", palette[1], "diamond")
        sizes = [15 if k == chosen_k else 10 for k in rows["k"]]
        figure.add_trace(trace.update(marker={"size": sizes}, line={"dash": "dot"}))
    figure.update_xaxes(title="bytes a pixel, logarithmic", type="log", tickformat="~g", dtick="D2")
    figure.update_yaxes(title=_axis_title(described), **_ticks(metric))
    if len(missing):
        _subtitle(figure, f"Not drawn, because {described.label} is undefined there: {', '.join(missing)}.")
    return figure


def spectrum(
    singular_values: npt.NDArray[np.float64], mode: str, k: int | None = None, *, theme: str | None = None
) -> go.Figure:
    """Draw singular values (matrices, rank) on a logarithmic axis and the energy that the first of them hold.

    mode: of the decomposition, one of `core.compression.svd.MODES`.
    """
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    _dress(figure, "Singular values and the energy they hold", theme)
    if not singular_values.size or not singular_values.any():
        return empty_figure(figure, "All singular values are zero: the image is black.")
    order = np.arange(1, singular_values.shape[1] + 1)
    palette = _palette(theme)
    names = ["all channels"] if mode == "unfolded" else [name for name, _ in CHANNELS]
    colours = [palette[colour] for _, colour in CHANNELS]
    for name, colour, values in zip(names, colours, singular_values, strict=False):
        figure.add_trace(
            go.Scatter(
                x=order,
                y=np.where(values > 0, values, np.nan),  # a logarithmic axis has no zero
                name=f"singular value, {name}",
                mode="lines",
                line={"color": colour, "width": 1.5},
                hovertemplate=f"{name}: singular value %{{x}} is %{{y:.5g}}<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=order,
            y=100 * cumulated_energy(singular_values),
            name="energy held, mean",
            mode="lines",
            line={"color": palette[6], "dash": "dash", "width": 2},
            hovertemplate="the first %{x} hold %{y:.4f} % of the energy<extra></extra>",
        ),
        secondary_y=True,
    )
    figure.update_xaxes(title="number of the singular value")
    figure.update_yaxes(
        title="singular value, logarithmic", type="log", dtick=1, exponentformat="power", secondary_y=False
    )
    figure.update_yaxes(title="energy held, %", tickmode="auto", tickformat=".5~g", showgrid=False, secondary_y=True)
    _mark_ks(figure, [] if k is None else [k])
    return figure


def cumulated_energy(singular_values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the share of Σs² that the first 1, 2, … singular values hold (rank,), mean of the matrices, 0–1.

    A matrix of zeros has none to share and is left out.
    """
    energies = np.asarray(singular_values, dtype=np.float64) ** 2
    energies = energies[energies.sum(axis=1) > 0]
    return np.asarray((energies.cumsum(axis=1) / energies.sum(axis=1, keepdims=True)).mean(axis=0))


def histograms(
    original: npt.NDArray[np.int64], reconstruction: npt.NDArray[np.int64] | None = None, *, theme: str | None = None
) -> go.Figure:
    """Draw the histogram of each channel of an image and, dashed, of its reconstruction.

    original, reconstruction: pixels at each of the 256 levels (3, 256), blue first.
    """
    figure = titled_figure("Colour histograms", theme)
    pictures = [(original, "original", "solid")]
    if reconstruction is not None:
        pictures.append((reconstruction, "reconstruction", "dash"))
    for position, (channel, colour) in enumerate(CHANNELS):
        for counts, name, dash in pictures:
            figure.add_trace(
                go.Scatter(
                    x=np.arange(256),
                    y=counts[position],
                    name=f"{channel}, {name}",
                    mode="lines",
                    line={"color": _palette(theme)[colour], "dash": dash, "width": 1.5},
                    hovertemplate=f"{channel}, {name}: %{{y:,}} pixels of level %{{x}}<extra></extra>",
                )
            )
    figure.update_xaxes(title="level, 0 to 255", range=[0, 255])
    figure.update_yaxes(title="pixels", rangemode="tozero")
    return figure


def class_counts(classes: pd.DataFrame, *, theme: str | None = None) -> go.Figure:
    """Draw the number of images a class, divided by diagnosis where it is known.

    classes: columns label, dx ('' where unknown), images, lesions.
    """
    figure = titled_figure("Images a class", theme)
    if classes.empty:
        return empty_figure(figure, "The data set has no images.")
    names = class_names(classes["label"])
    totals = classes.groupby("label")["images"].sum()
    for position, (diagnosis, rows) in enumerate(classes.groupby("dx", sort=False)):
        figure.add_trace(
            go.Bar(
                y=[plain_text(names[label]) for label in rows["label"]],
                x=rows["images"],
                orientation="h",
                name=plain_text(diagnosis) or "no diagnosis",
                text=[f"{plain_text(diagnosis)} {count:,}".strip() for count in rows["images"]],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                customdata=["unknown" if pd.isna(count) else f"{int(count):,}" for count in rows["lesions"]],
                marker={"color": _palette(theme)[position % 8]},
                hovertemplate="%{y}, %{fullData.name}: %{x:,} images of %{customdata} lesions<extra></extra>",
            )
        )
    for place, label in enumerate(names, start=1):
        figure.add_annotation(
            x=totals[label],
            y=len(names) - place,  # not its name: Plotly would take "1" for the second place
            text=f"{totals[label]:,}",
            xanchor="left",
            xshift=4,
            showarrow=False,
        )
    figure.update_yaxes(**name_axis(list(reversed(names.values()))))
    figure.update_xaxes(title="images", range=[0, 1.12 * totals.max()])
    figure.update_layout(barmode="stack", height=150 + 50 * len(names), showlegend=False)
    figure.update_layout(uniformtext={"minsize": 11, "mode": "hide"})
    return figure


def distribution(counts: pd.DataFrame, variable: str, *, theme: str | None = None) -> go.Figure:
    """Draw how the images are distributed over one metadata variable, stacked by class.

    counts: columns value, label, images, in the order to be drawn. variable: its name as shown, such as 'Age'.
    Many long names lie on their side.
    """
    figure = titled_figure(f"Images by {variable.lower()}", theme)
    if counts.empty:
        return empty_figure(figure, f"{variable} is not known for any image.")
    values = list(dict.fromkeys(counts["value"]))
    sideways = len(values) > 4 and max(map(len, values)) > 4 and not _numeric(values)
    names = class_names([*CLASSES, *sorted(set(counts["label"]) - set(CLASSES))])
    for position, (label, name) in enumerate(names.items()):
        rows = counts[counts["label"] == label]
        if rows.empty:
            continue
        places, images = [plain_text(value) for value in rows["value"]], rows["images"]
        figure.add_trace(
            go.Bar(
                **({"y": places, "x": images, "orientation": "h"} if sideways else {"x": places, "y": images}),
                name=plain_text(name),
                marker={"color": _palette(theme)[position % 8]},
                hovertemplate=(
                    f"{plain_text(name)}, {variable.lower()} %{{{'y' if sideways else 'x'}}}: "
                    f"%{{{'x' if sideways else 'y'}:,}} images<extra></extra>"
                ),
            )
        )
    names_axis, lengths_axis = (
        (figure.update_yaxes, figure.update_xaxes) if sideways else (figure.update_xaxes, figure.update_yaxes)
    )
    names_axis(**name_axis(values[::-1] if sideways else values))
    lengths_axis(title="images")
    if not sideways:
        figure.update_xaxes(title=f"{variable}, years" if _numeric(values) else None)
    figure.update_layout(barmode="stack", height=max(340, 24 * len(values) + 140) if sideways else 340)
    return figure


def metric_by_size(statistics: pd.DataFrame, metric: str, *, theme: str | None = None) -> go.Figure:
    """Draw a metric at each size of a resize study: mean and one standard deviation, smallest image first.

    statistics: of a resize study, variants named '200x100' (rows x columns).
    """
    described = METRICS_BY_NAME[metric]
    figure = titled_figure(f"{described.label} after resizing, {_direction(described)}", theme)
    rows = statistics[(statistics["metric"] == metric) & statistics["mean"].notna()].copy()
    if rows.empty:
        return empty_figure(figure, f"{described.label}: no value at any size.")
    order = _by_pixels(rows["variant"])
    rows = rows.set_index("variant").loc[list(order)].reset_index()
    rows["size"] = rows["variant"].map(order)
    figure.add_trace(
        go.Scatter(
            x=rows["size"],
            y=rows["mean"],
            error_y={"type": "data", "array": rows["std"].fillna(0), "thickness": 1.5, "width": 6},
            customdata=rows[["std", "median", "p05", "p95", "count", "undefined"]],
            mode="markers",
            marker={"color": _palette(theme)[0], "size": 11},
            hovertemplate=_statistics_hover("rows × columns %{x}"),
        )
    )
    figure.update_xaxes(title="size, rows × columns", **name_axis(list(order.values())))
    figure.update_yaxes(title=_axis_title(described), **_ticks(metric))
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
        figure.add_trace(
            go.Scatter(
                x=each["variant"].map(order),
                y=each["parameters"].astype("int64"),
                name=plain_text(network),
                mode="markers",
                marker={"color": _palette(theme)[position % 8], "symbol": position, "size": 12},
                hovertemplate=f"{plain_text(network)} at %{{x}}: %{{y:,}} parameters<extra></extra>",
            )
        )
    figure.update_xaxes(title="size, rows × columns", **name_axis(list(order.values())))
    figure.update_yaxes(title="learnable parameters, logarithmic", type="log", dtick="D2", tickformat="~s")
    return figure


def plain_text(name: object) -> str:
    """Return a name that Plotly shows as it is: no markup of it, no entity, no place for a value in a hover text."""
    text = str(name)
    return f"&#{ord(text[0])};{text[1:]}" if KNOWN_TO_OBJECTS.fullmatch(text) else text.translate(PLAIN)


def name_axis(names: Sequence[str]) -> dict[str, Any]:
    """Return what an axis says that has these names, as they come from outside, in this order; long ones shortened."""
    places = [plain_text(name) for name in names]
    axis: dict[str, Any] = {"type": "category", "categoryorder": "array", "categoryarray": places}
    if max(map(len, names), default=0) > LONGEST_NAME:
        texts = [plain_text(shortened(name, LONGEST_NAME)) for name in names]
        axis |= {"tickmode": "array", "tickvals": places, "ticktext": texts}
    return axis


def class_names(labels: Iterable[str]) -> dict[str, str]:
    """Return how each class is shown, in the order in which they come; two classes never under one name."""
    own = dict.fromkeys(labels)
    return {label: name if (name := CLASS_NAMES.get(label, label)) not in own else label for label in own}


def _palette(theme: str | None) -> tuple[str, ...]:
    return PALETTES[theme or "light"]


def titled_figure(title: str, theme: str | None) -> go.Figure:
    """Return an empty figure with the title, the margins and the theme that all charts share."""
    figure = go.Figure()
    _dress(figure, title, theme)
    return figure


def _dress(figure: go.Figure, title: str, theme: str | None) -> None:
    figure.update_layout(
        title={
            "text": title,
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 12},
            "font": {"size": 16},
        },
        height=400,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 10, "r": 20, "t": 95, "b": 10},
        legend={"orientation": "h", "x": 0, "y": 1.07, "yanchor": "bottom", "traceorder": "normal"},
        hovermode="closest",
    )
    if theme is not None:
        figure.update_layout(template=TEMPLATES[theme])


def _subtitle(figure: go.Figure, text: str) -> None:
    figure.update_layout(title={"subtitle": {"text": text}})


def empty_figure(figure: go.Figure, note: str) -> go.Figure:
    """Turn the figure into its layout with a note instead of data."""
    figure.add_annotation(text=note, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 14})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def _against_k(statistics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the metric's rows of a sweep, k ascending, with the band's edges."""
    rows = statistics[(statistics["metric"] == metric) & statistics["variant"].str.startswith("k=")].copy()
    rows["k"] = rows["variant"].str.removeprefix("k=").astype("int64")
    rows["mean − deviation"] = rows["mean"] - rows["std"]
    rows["mean + deviation"] = rows["mean"] + rows["std"]
    return rows.sort_values("k")


def _band(
    rows: pd.DataFrame, lower: str, upper: str, name: str, colour: str, *, opacity: float = 0.22
) -> Iterable[go.Scatter]:
    """Return the two traces of a band between two columns, where both are defined."""
    rows = rows[rows[[lower, upper]].notna().all(axis=1)]
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": name}
    yield go.Scatter(x=rows["k"], y=rows[lower], name=f"{name}, lower edge", showlegend=False, **edge)
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    fill = f"rgba({red},{green},{blue},{opacity})"
    yield go.Scatter(x=rows["k"], y=rows[upper], name=name, fill="tonexty", fillcolor=fill, **edge)


def _mean_line(rows: pd.DataFrame, colour: str) -> go.Scatter:
    return go.Scatter(
        x=rows["k"],
        y=rows["mean"],
        customdata=rows[["std", "median", "p05", "p95", "count", "undefined"]],
        name="mean",
        mode="lines+markers",
        line={"color": colour, "width": 2},
        hovertemplate=_statistics_hover("k = %{x}"),
    )


def _statistics_hover(where: str) -> str:
    return (
        "mean %{y:.6g}, standard deviation %{customdata[0]:.4g}<br>median %{customdata[1]:.6g}, 5th to 95th percentile "
        "%{customdata[2]:.6g} to %{customdata[3]:.6g}<br>%{customdata[4]:,} images, undefined for %{customdata[5]:,}"
        f"<extra>{where}</extra>"
    )


def _rate_line(rows: pd.DataFrame, metric: str, name: str, colour: str, symbol: str) -> go.Scatter:
    return go.Scatter(
        x=rows["bytes_per_pixel"],
        y=rows[metric],
        customdata=rows[["label", "images"]],
        name=name,
        mode="lines+markers",
        line={"color": colour},
        marker={"symbol": symbol, "size": 8, "color": colour},
        hovertemplate="%{customdata[0]}: %{y:.6g} at %{x:.4g} bytes a pixel, %{customdata[1]:,} images<extra></extra>",
    )


def _defined(points: pd.DataFrame, metric: str) -> pd.DataFrame:
    return points[points[metric].notna() & points["bytes_per_pixel"].notna()]


def _stored_as(points: pd.DataFrame) -> str:
    codecs = points[["codec", "quality"]].drop_duplicates()
    if len(codecs) != 1:
        return "several codecs"
    codec, quality = codecs.iloc[0]
    name = CODECS[codec][0] if codec in CODECS else str(codec).upper()
    return name if pd.isna(quality) else f"{name} {int(quality)}"


def _mark_ks(figure: go.Figure, ks: Sequence[int]) -> None:
    """Draw a dashed line at each k; several are labelled by the number alone, which leaves them room."""
    distinct = sorted(set(ks))
    for k in distinct:
        figure.add_vline(
            x=k,
            line={"color": MARK, "dash": "dash", "width": 1.5},
            annotation={"text": f"k = {k}" if len(distinct) == 1 else str(k), "yanchor": "bottom"},
            annotation_position="top",
        )


def _direction(metric: Metric) -> str:
    return "higher is better" if metric.better == "high" else "lower is better"


def _axis_title(metric: Metric) -> str:
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label


def _short_title(metric: Metric) -> str:
    unit = f" ({metric.unit})" if metric.unit else ""
    arrow = "↑" if metric.better == "high" else "↓"
    text = f"{metric.label}{unit}"
    return "<br>".join(textwrap.wrap(text, 32)) + f" {arrow}"


def _ticks(metric: str) -> dict[str, Any]:
    return {"tickformat": ".5~%"} if metric == "explained_variance" else {"tickformat": ".5~g"}


def _by_pixels(variants: pd.Series[str]) -> dict[str, str]:
    """Return how each size is shown ('200x100' as '200 × 100'), smallest image first."""
    sides = {variant: [int(side) for side in variant.split("x")] for variant in variants}
    return {variant: " × ".join(map(str, sides[variant])) for variant in sorted(sides, key=lambda v: np.prod(sides[v]))}


def _thinned(ks: pd.Series[int]) -> list[int]:
    """Return few enough of the k to be read below a small chart, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(ks) - 1, min(len(ks), 3)).round().astype(int))
    return [int(k) for k in ks.iloc[chosen]]


def _padded(ks: pd.Series[float]) -> dict[str, Any]:
    """Return a range that leaves room for the text beside the outermost points."""
    if ks.empty:
        return {"showticklabels": False, "range": [0, 1]}
    room = max(0.35 * (ks.max() - ks.min()), 50)
    return {"range": [ks.min() - room, ks.max() + room]}


def _stability_text(k: float, share: float) -> str:
    return f"k = {int(k)}" if pd.isna(share) else f"k = {int(k)}, {100 * share:.3g} % agree"


def _byte_unit(size: float) -> tuple[str, float]:
    return next(((unit, scale) for unit, scale in (("GB", 1e9), ("MB", 1e6)) if size >= scale), ("kB", 1e3))


def _numeric(values: Iterable[str]) -> bool:
    return all(value.replace(".", "", 1).isdigit() for value in values if value != "unknown")


def _wrapped(text: str) -> str:
    return "<br>".join(textwrap.wrap(text, 70))
