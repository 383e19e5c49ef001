"""Parameter curves: the article's Figure 2 for any network, with its fits, its claims, and each step's layers."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from core.errors import SpecError
from core.networks.architectures import NETWORKS, NetworkSpec
from core.networks.batch_norm import PRINTED, printed_name, with_batch_norm
from core.networks.costs import QUANTITIES, Cost, compare_layers, curve_table, network_cost
from core.networks.fits import CRITERIA, FIT_MODELS, CurveFits, claim_sentences, fit_curves, fit_table
from core.networks.network_files import Networks
from core.networks.pruning import FACTORS, SCOPE_LABELS, SCOPES, iterations
from dashboard import words
from dashboard.charts import networks as network_charts
from dashboard.forms import network_choices
from dashboard.parts import components

DEFAULT_FACTORS = ("50", "33.33")
DEFAULT_ITERATIONS, MOST_ITERATIONS = 5, 30
QUANTITY_NAMES = {
    "parameters": "Parameters",
    "macs": "MACs",
    "bytes_weights": "Bytes as weights",
    "bytes_with_optimizer": "Bytes with optimizer",
}
CRITERION_NAMES = {"r2": "R²", "adjusted_r2": "adjusted R²", "aicc": "AICc"}


@dataclass(frozen=True)
class View:
    """What the reader has chosen to see; all choices are kept in the URL."""

    networks: tuple[NetworkSpec, ...]
    batch_norm: str
    factors: tuple[Decimal, ...]
    scopes: tuple[str, ...]
    size: tuple[int, int]
    iterations: int
    quantity: str
    logarithmic: bool

    @property
    def drawn_from(self) -> tuple[object, ...]:
        """What the charts depend on: the curves, what is drawn of them, the theme, and the users' files."""
        return (self.command, self.quantity, self.logarithmic, components.theme(), network_choices.stamps())

    @property
    def command(self) -> str:
        """The command that counts and fits the same."""
        names = [printed_name(spec.name) for spec in self.networks]
        added = "" if self.batch_norm == PRINTED else f"--batch-norm {self.batch_norm} "
        return (
            f"python -m jobs curves {'all' if names == list(NETWORKS) else ','.join(names)} "
            f"{added}--size {self.size[0]}x{self.size[1]} --factors {','.join(map(str, self.factors))} "
            f"--scopes {','.join(self.scopes)} --iterations {self.iterations} --export curves.csv --fits fits.csv"
        )


def choices(found: Networks) -> View:
    """Ask for networks, factors, scopes, size, iterations, and what is drawn. Raises SpecError."""
    with st.container(border=True):
        left, right = st.columns(2)
        with left:
            known, usual = list(found.networks), list(NETWORKS)
            names = st.multiselect("Networks", known, default=usual, key="networks", bind="query-params")
            typed = st.multiselect(
                "Pruning factors, %",
                [f"{factor:g}" for factor in FACTORS],
                default=list(DEFAULT_FACTORS),
                key="factors",
                bind="query-params",
                accept_new_options=True,
                help="How much of every layer in scope a step takes away; type others. Decimals are exact.",
            )
            scopes = st.pills(
                "Pruned convolutions (the first two dense layers always shrink)",
                list(SCOPES),
                selection_mode="multi",
                default=list(SCOPES),
                key="scopes",
                bind="query-params",
                format_func=SCOPE_LABELS.__getitem__,
                wrap=True,
            )
        with right:
            count = st.slider(
                "Iterations", 1, MOST_ITERATIONS, DEFAULT_ITERATIONS, key="iterations", bind="query-params",
                help="Steps after the unpruned network, which is iteration 0; a curve has one point more.",
            )  # fmt: skip
            quantity = st.segmented_control(
                "Counted quantity", QUANTITIES, default="parameters", key="quantity", bind="query-params",
                format_func=QUANTITY_NAMES.__getitem__, required=True, wrap=True,
            )  # fmt: skip
            logarithmic = st.toggle("Logarithmic axis", key="log", bind="query-params")
            size = network_choices.size_choice()
            batch_norm = network_choices.batch_norm_choice()
    for chosen, what in ((names, "network"), (typed, "pruning factor"), (scopes, "scope")):
        if not chosen:
            raise SpecError(f"Expected at least one {what}, got none.")
    specs = tuple(with_batch_norm(found.networks[name], batch_norm) for name in names)
    return View(specs, batch_norm, _factors(typed), tuple(scopes), size, count, quantity, logarithmic)


def _factors(typed: Sequence[str]) -> tuple[Decimal, ...]:
    factors = []
    for text in typed:
        try:
            factor = Decimal(text.strip().rstrip("%").strip().replace(",", "."))
        except InvalidOperation:
            factor = Decimal("nan")
        if not factor.is_finite():
            raise SpecError(f"Expected a pruning factor in percent, such as 33.33, got {text!r}.")
        factors.append(factor)
    return tuple(factors)


def answer(view: View, curves: Sequence[CurveFits]) -> None:
    """Show whether the article's claims hold for these curves."""
    height, width = view.size
    with st.container(border=True):
        st.markdown("\n".join(f"- {words.escaped(sentence)}" for sentence in claim_sentences(curves)))
        unlike = [] if view.quantity == "parameters" else ["what is counted"]
        unlike += [] if view.size == (200, 100) else [f"images of {height} × {width}"]
        st.caption(
            "The article judges learnable parameters by R²; its text names neither the size of the images nor the "
            "number of iterations of its Figure 2." + (f" Unlike its text here: {', '.join(unlike)}." if unlike else "")
        )
        with st.expander("The same on the command line", icon=":material/terminal:"):
            st.code(view.command, language=None, wrap_lines=True)


def shown_network(view: View) -> NetworkSpec:
    """Return the network whose fits are drawn."""
    named = {spec.name: spec for spec in view.networks}
    if len(named) == 1:
        return view.networks[0]
    default = "alexnet" if "alexnet" in named else None
    chosen = components.url_choice(st.selectbox, "Fits of", list(named), param="shown", default=default, dependent=True)
    return named[chosen]


def shown_factor(view: View) -> Decimal:
    """Return the factor whose fits are drawn: all of them would be too many panels."""
    if len(view.factors) == 1:
        return view.factors[0]
    texts = [f"{factor:f}" for factor in view.factors]
    chosen = components.url_choice(
        st.segmented_control, "At a factor of, %", texts, param="factor", required=True, dependent=True
    )
    return view.factors[texts.index(chosen)]


def fits(view: View, curves: Sequence[CurveFits], kind: str) -> None:
    """Draw the fits of one network's curves, and what they leave over."""
    name = curves[0].network
    draw = partial(network_charts.fits_chart, curves, logarithmic=view.logarithmic, theme=components.theme())
    alt = "The curves with linear, exponential and polynomial fit and their 95 % bands"
    depends = (*view.drawn_from, name, curves[0].factor)
    components.chart(draw, alt=alt, key="fits", depends=depends, save_as=(f"fits-{name}", kind))
    st.caption(
        "Least squares on the counts themselves, no logarithm taken: linear a + b·x, exponential a·e^(b·x), polynomial "
        "a + b·x + c·x². The band holds the fitted curve with 95 % confidence, as if what is left over were noise; "
        "it is drawn where a point is left over to estimate that."
    )
    with st.expander("Residuals", icon=":material/bar_chart:", on_change="rerun", key="residuals") as opened:
        if opened.open:
            figure = network_charts.residuals_chart(curves, theme=components.theme())
            alt, save_as = "Residuals of each fit at each iteration", (f"residuals-{name}", kind)
            components.chart(figure, alt=alt, key="residuals_chart", save_as=save_as)


def figures(curves: Sequence[CurveFits]) -> None:
    """List R², adjusted R² and AICc of every curve and model, the best of each, and the article's claim."""
    st.header("Best model by each criterion")
    rows = []
    for curve in curves:
        row: dict[str, Any] = {
            "Network": curve.network,
            "Factor": f"{curve.factor:g} %",
            "Scope": network_charts.scope_text(curve.scope),
            "Article": curve.claim.model + (", R² > 0.9" if curve.scope == "all" else ""),
            "Holds here": {True: "yes", False: "no", None: "cannot be said"}[curve.claim.holds],
        }
        row |= {f"Best by {CRITERION_NAMES[each]}": curve.best.get(each, words.NONE) for each in CRITERIA}
        for criterion in CRITERIA:
            digits = 1 if criterion == "aicc" else 4
            for fit in curve.fits:
                value = getattr(fit, criterion)
                text = words.NONE if value is None else f"{value:.{digits}f}".replace("-", "−")
                row[f"{CRITERION_NAMES[criterion]} {fit.model.name}"] = text
        rows.append(row)
    numbers = [f"{CRITERION_NAMES[criterion]} {model.name}" for criterion in CRITERIA for model in FIT_MODELS]
    components.table(
        pd.DataFrame(rows),
        alt="R², adjusted R² and AICc of each model for each curve, and the best by each",
        height="auto",
        column_config={
            "Network": st.column_config.TextColumn(pinned=True),
            **components.right_aligned(*numbers),
        },
    )
    st.caption(
        "R² = 1 − RSS/TSS never falls when a coefficient is added, so the polynomial, which contains the line, is "
        "never behind it. Adjusted R² and AICc charge for each coefficient; AICc, the lower the better, needs three "
        "points more than a model has coefficients."
    )
    warned = [curve for curve in curves if curve.warnings]
    if warned:
        title = f"Not enough points: {words.count_of(len(warned), 'curve')}"
        with st.expander(title, icon=":material/warning:"):
            for curve in warned:
                lines = [f"**{words.escaped(curve.name)}**", *(f"- {words.sentence(each)}" for each in curve.warnings)]
                st.markdown("\n".join(lines))


@st.fragment
def steps(spec: NetworkSpec, view: View) -> None:
    """Show the layers that one step of one curve leaves."""
    st.header(f"Step by step: {words.escaped(spec.name)}")
    pairs = itertools.product(view.factors, view.scopes)
    by_label = {f"{factor:g} %, {SCOPE_LABELS[scope]}": (factor, scope) for factor, scope in pairs}
    left, right = st.columns(2)
    with left:
        chosen = components.url_choice(st.selectbox, "Curve", list(by_label), param="curve", dependent=True)
    with right:
        if st.session_state.get("iteration", 0) > view.iterations:
            st.session_state["iteration"] = view.iterations
        at = st.slider("Iteration", 0, view.iterations, min(1, view.iterations), key="iteration", bind="query-params")
    factor, scope = by_label[chosen]
    pruned = next(itertools.islice(iterations(spec, factor, scope, view.iterations), at, None))
    height, width = view.size
    left_over(network_cost(spec, height, width), network_cost(pruned, height, width))
    st.page_link(
        "app_pages/prune_train.py",
        label="Take this point on to a prune-train run",
        icon=":material/model_training:",
        help="Opens the form with this network, factor, scope and size, and as many pruned networks at most.",
        query_params={
            "tab": "New run",
            "point_network": printed_name(spec.name),
            "point_batch_norm": view.batch_norm,
            "point_size": f"{height}x{width}",
            "point_factor": f"{factor:f}",
            "point_scope": scope,
            "point_iteration": str(max(1, at)),
        },
    )
    table = compare_layers(spec, pruned, height, width)
    components.table(
        {
            "Layer": table["name"],
            "Type": table["type"],
            "Filters or units": [
                "" if pd.isna(now) else f"{was} → {now}" if was != now else f"{now}"
                for was, now in zip(table["size_before"], table["size"], strict=True)
            ],
            "Kernel": table["kernel"].fillna(""),
            "Output shape": table["output_shape"],
            "Parameters before": table["parameters_before"].map(words.count_text),
            "Parameters": table["parameters"].map(words.count_text),
            "MACs": table["macs"].map(words.count_text),
            "Note": table["detail"],
        },
        alt=f"Layers of {spec.name} after {at} steps beside their sizes before",
        height="auto",
        column_config={
            "Layer": st.column_config.TextColumn(pinned=True, width="medium"),
            **components.right_aligned("Filters or units", "Parameters before", "Parameters", "MACs"),
        },
    )
    components.downloads(f"{spec.name}-{at}", {"Layers of this step": lambda: table}, key="step")


def left_over(before: Cost, after: Cost) -> None:
    """Show what a step leaves, in numbers and as a share of the unpruned network."""
    with st.grid(4, min_column_width=160):
        for label, now, was, text in (
            ("Parameters left", after.parameters, before.parameters, words.count_text),
            ("MACs left", after.macs, before.macs, words.count_text),
            ("As weights", after.bytes_weights, before.bytes_weights, words.bytes_text),
            ("With Adam's state", after.bytes_with_optimizer, before.bytes_with_optimizer, words.bytes_text),
        ):
            with st.container(border=True):
                st.metric(label, f"{words.number_text(100 * now / was, 3)} %" if was else words.NONE)
                st.caption(f"{text(now)} of {text(was)}")
    st.caption(
        "The article: about 5 % of the parameters left in the best case, 5 to 35 % over all networks, and a model of "
        "444 MB brought under 10 MB; it does not say at which size of image, nor whether the optimizer's state counts."
    )


def results(found: Networks) -> None:
    """Show the curves of the view that is chosen."""
    view = choices(found)
    table = curve_table(view.networks, view.factors, view.scopes, view.iterations, *view.size)
    curves = tuple(fit_curves(table, view.quantity))
    answer(view, curves)
    st.header("Curves")
    kind = network_choices.image_format()
    draw = partial(network_charts.curves_chart, curves, logarithmic=view.logarithmic, theme=components.theme())
    alt = f"{QUANTITY_NAMES[view.quantity]} of each network against the iteration"
    components.chart(draw, alt=alt, key="curves", depends=view.drawn_from, save_as=("curves", kind))
    spec = shown_network(view)
    factor = shown_factor(view)
    fits(view, [curve for curve in curves if (curve.network, curve.factor) == (spec.name, float(factor))], kind)
    figures(curves)
    components.downloads("pruning", {"Curves": lambda: table, "Fits": lambda: fit_table(curves)}, key="files")
    steps(spec, view)


found = network_choices.networks()
network_choices.broken_files(found)
with components.sentences():
    results(found)
