"""What the pages of sweeps and of resize comparisons share: form and results, copies of settings, tables of metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from core.compression.metrics import METRICS
from core.compression.specs import MeasuringSpec
from core.runs import Run
from core.store.file import plain_rows
from dashboard import words
from dashboard.forms.fields import Fields, draft
from dashboard.parts import components, run_progress

FIRST_COLUMN = "Mean ± standard deviation"


@dataclass(frozen=True)
class MeasuringPage:
    """The page of one kind of run. noun: what a run is called. param: the query parameter that names the run.

    form: its fields, which `draw_form` draws. results: draws a finished run. named: the query parameters by which the
    form finds what a spec is about. label: of a run in lists.
    """

    kind: str
    noun: str
    param: str
    icon: str
    form: Fields
    draw_form: Callable[[], None]
    results: Callable[[Run], None]
    named: Callable[[Any], Mapping[str, str]] = lambda spec: {"dataset": spec.dataset}
    label: Callable[[Run], str] | None = None

    def show(self) -> None:
        """Show the form, or the run that the reader chooses: its progress or its results."""
        new = f"New {self.noun}"
        view = components.view(["Results", new])
        with components.sentences():
            if view == new:
                self.draw_form()
            elif runs := components.runs(self.kind):
                default = next((run.id for run in runs if run.status == "finished"), None)
                run = components.choose_run(
                    runs, self.noun.capitalize(), param=self.param, default=default, name=self.label
                )
                run_progress.show_run(run, self.results)
            else:
                st.info(f"No {self.noun} has been measured yet.", icon=self.icon)
                st.button(new, type="primary", icon=":material/add:", on_click=self._show_form)

    def head(self, run: Run, spec: MeasuringSpec) -> None:
        """Name the data set, offer a copy of the settings, and list the images that were left out."""
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(components.dataset_text(run))
            components.copy_button(self.noun, self._copy_settings, spec)
        if run.failed:
            run_progress.left_out_images(run)
            run_progress.retry_button(run)

    def _show_form(self) -> None:
        st.query_params["tab"] = f"New {self.noun}"

    def _copy_settings(self, spec: MeasuringSpec) -> None:
        self.form.put(draft(spec))
        st.query_params.update(self.named(spec))
        self._show_form()


def statistics_columns(statistics: pd.DataFrame, variants: Mapping[str, str]) -> dict[str, list[str]]:
    """Return a table of metrics as texts: one column per variant. variants: their titles by name."""
    rows = {(row["metric"], row["variant"]): row for row in plain_rows(statistics)}
    metrics = [metric for metric in METRICS if metric.name in set(statistics["metric"])]
    columns = {FIRST_COLUMN: [words.metric_title(metric) for metric in metrics]}
    for variant, title in variants.items():
        columns[title] = [words.mean_and_std(metric, rows[metric.name, variant]) for metric in metrics]
    return columns


def statistics_table(columns: Mapping[str, list[str]], alt: str) -> None:
    """Show a table of metrics whose first column stays in view."""
    first = st.column_config.TextColumn(pinned=True, width=270)
    components.table(columns, alt=alt, column_config={FIRST_COLUMN: first})
