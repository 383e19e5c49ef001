"""The style that all charts share: colours, layout, bands, and names that Plotly shows as they are.

Plotly parses texts as HTML and guesses from the names on an axis whether they are numbers or dates. So names from
outside pass through `plain_text`, and an axis of names through `name_axis`.
`theme` is "light" or "dark" for a figure outside a page, None for a figure whose fonts and grid come from the page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboard.words import shortened

# Okabe and Ito's colours, which colour-blind readers can distinguish, darkened or lightened for contrast with the page;
# those of "light" have a contrast of 3 to 1 on the dark page too.
PALETTES = {
    "light": ("#0072B2", "#C24E00", "#00805F", "#B0528A", "#A67900", "#3A93CF", "#5B6B75", "#9A6B4F"),
    "dark": ("#56B4E9", "#F0883E", "#2FBF93", "#D98CBD", "#E6B93C", "#8FA8FF", "#9FB0BA", "#E5766A"),
}
TEMPLATES = {"light": "plotly_white", "dark": "plotly_dark"}
TITLE_ANCHORS = {"xanchor": "left", "yanchor": "top"}
MARK = "#82909A"  # lines that mark a position, on both pages
CLASS_NAMES = {"non_melanoma": "non-melanoma"}
LONGEST_NAME = 28  # characters of a name beside an axis
PLAIN = str.maketrans({each: f"&#{ord(each)};" for each in "{$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# Plotly looks up categories in a JavaScript object, which has properties with these names.
KNOWN_TO_OBJECTS = re.compile(
    r"__\w+__|constructor|hasOwnProperty|isPrototypeOf|propertyIsEnumerable|to(Locale)?String|valueOf"
)


def palette(theme: str | None) -> tuple[str, ...]:
    """Return the colours of a theme."""
    return PALETTES[theme or "light"]


def titled_figure(title: str, theme: str | None, figure: go.Figure | None = None) -> go.Figure:
    """Return a figure, by default an empty one, with the title, the margins and the theme that all charts share."""
    figure = go.Figure() if figure is None else figure
    figure.update_layout(
        title={"text": title, "x": 0, "y": 1, "pad": {"t": 12}, "font": {"size": 16}} | TITLE_ANCHORS,
        height=400,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 10, "r": 20, "t": 95, "b": 10},
        legend={"orientation": "h", "x": 0, "y": 1.07, "yanchor": "bottom", "traceorder": "normal"},
        hovermode="closest",
    )
    if theme is not None:
        figure.update_layout(template=TEMPLATES[theme])
    return figure


def subtitle(figure: go.Figure, text: str) -> None:
    """Set the figure's subtitle."""
    figure.update_layout(title={"subtitle": {"text": text}})


def empty_figure(figure: go.Figure, note: str) -> go.Figure:
    """Return the figure with a note instead of data."""
    figure.add_annotation(text=note, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 14})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def plain_text(name: object) -> str:
    """Return a name without markup, entities or placeholders, so that Plotly shows it as it is."""
    text = str(name)
    return f"&#{ord(text[0])};{text[1:]}" if KNOWN_TO_OBJECTS.fullmatch(text) else text.translate(PLAIN)


def name_axis(names: Sequence[str]) -> dict[str, Any]:
    """Return the options of an axis with these names in this order; long ones are shortened."""
    places = [plain_text(name) for name in names]
    axis: dict[str, Any] = {"type": "category", "categoryorder": "array", "categoryarray": places}
    if max(map(len, names), default=0) > LONGEST_NAME:
        texts = [plain_text(shortened(name, LONGEST_NAME)) for name in names]
        axis |= {"tickmode": "array", "tickvals": places, "ticktext": texts}
    return axis


def class_names(labels: Iterable[str]) -> dict[str, str]:
    """Return the displayed name of each class; two classes never have the same name."""
    own = dict.fromkeys(labels)
    return {label: name if (name := CLASS_NAMES.get(label, label)) not in own else label for label in own}


def translucent(colour: str, opacity: float) -> str:
    """Return a colour such as #0072B2 with an opacity, as CSS."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def band(
    x: pd.Series[Any],
    lower: pd.Series[Any],
    upper: pd.Series[Any],
    names: tuple[str, str],
    colour: str,
    opacity: float = 0.2,
    **options: Any,
) -> Iterator[go.Scatter]:
    """Yield the traces of a band's lower and upper edge, with these names, where both are defined.

    options: of both traces; the lower one has no entry in the legend.
    """
    defined = lower.notna() & upper.notna()
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", **options}
    yield go.Scatter(x=x[defined], y=lower[defined], name=names[0], **edge | {"showlegend": False})
    fill = translucent(colour, opacity)
    yield go.Scatter(x=x[defined], y=upper[defined], name=names[1], fill="tonexty", fillcolor=fill, **edge)


def log_axis(values: pd.Series[Any]) -> dict[str, Any]:
    """Return a range with room for the names beside the outermost points, and few whole ticks in words."""
    low, high = math.log10(values.min()), math.log10(values.max())
    room = max(0.25, 0.15 * (high - low))
    ticks = [
        digit * 10**power
        for power in range(math.floor(low - room), math.ceil(high + room) + 1)
        for digit in ((1, 2, 5) if high - low < 2 else (1,))
        if low - room <= math.log10(digit * 10**power) <= high + room
    ]
    return {"range": [low - room, high + room], "tickvals": ticks, "ticktext": [count_in_words(tick) for tick in ticks]}


def count_in_words(number: float) -> str:
    """Return a number for an axis: 200 k, 5 M."""
    for scale, unit in ((1e6, " M"), (1e3, " k")):
        if number >= scale:
            return f"{number / scale:g}{unit}"
    return f"{number:g}"
