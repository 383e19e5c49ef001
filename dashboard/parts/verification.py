"""How a run's figures compare with those of the plain reference: the result, the rows that differ, another check."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core.compression.verification import IMAGES, RECONSTRUCTION, Verification, short
from core.runs import Run
from dashboard import data, words
from dashboard.parts import components
from jobs.later_jobs import CHECK

MORE = 20  # images that a second check takes
MOST_SHOWN = 12  # of the images with figures that differ


def check_section(run: Run) -> None:
    """Show whether a finished run's figures agree with the reference's, show those that differ, and offer a check."""
    waits = data.is_under_way(CHECK, run.id)
    found = data.verification(run.id)
    count = IMAGES if found is None else MORE
    with st.container(horizontal=True, vertical_alignment="center"):
        if waits:
            components.wait_for_job(CHECK, run.id, "Images are being checked.")
        elif found is None:
            st.markdown(":material/help: Not checked against scikit-image, mahotas and NumPy.", width="content")
        elif found.differing.empty:
            icon = ":green[:material/verified:]" if found.agrees else ":orange[:material/help:]"
            st.markdown(f"{icon} {words.escaped(found.sentence)}.", width="content")
        components.action_button(
            f"Check {count} images",
            data.check_run,
            run.id,
            count,
            done="Queued",
            icon=":material/rule:",
            type="tertiary",
            key="check",
            disabled=waits,
            help=f"Measures them again, slowly and plainly. `python -m jobs verify {run.id} --images {count}` "
            "does the same.",
        )
    if found is not None and len(found.differing):
        differing = words.count_of(int((found.rows["state"] == "differs").sum()), "row")
        text = f"{words.escaped(found.sentence)}. Do not rely on this run: figures differ in {differing}."
        st.error(text, icon=":material/report:")
        _differing_images(run, found)


def _differing_images(run: Run, found: Verification) -> None:
    """Show each image with figures that differ, what was measured and what the reference gives."""
    dataset, records = data.dataset(run.dataset), data.records(run.dataset)
    grouped = found.differing.groupby(["image_id", "variant"], sort=False)
    images = [(str(image_id), str(variant), rows) for (image_id, variant), rows in grouped]
    with st.grid("auto", min_column_width=340, gap="small"):
        for image_id, variant, rows in images[:MOST_SHOWN]:
            with st.container(border=True, height="stretch"):
                picture, figures = st.columns([1, 2])
                record = records.get(image_id)
                with picture:
                    if dataset is not None and record is not None:
                        components.thumbnail(dataset.root / record.path, record.sha256, image_id)
                with figures:
                    k = int(variant.removeprefix("k=")) if variant.startswith("k=") else None
                    label = f"{words.shortened(image_id, 20)}, {variant.replace('=', ' = ')}"
                    components.inspector_link(run.dataset, image_id, label, k)
                    for each in rows.to_dict("records"):
                        st.markdown(f":red[{words.escaped(_figure(each))}]")
    if len(images) > MOST_SHOWN:
        st.caption(f"{len(images) - MOST_SHOWN:,} more differ; `python -m jobs verify {run.id}` lists them.")


def _figure(figure: dict[Any, Any]) -> str:
    if figure["metric"] == RECONSTRUCTION:
        return f"Reconstruction: {100 * figure['difference']:.2g} % of the pixels differ from those of NumPy's SVD"
    values = (figure["measured"], figure["reference"])
    measured, reference = ("undefined" if each != each else f"{each:.9g}" for each in values)
    apart = "" if figure["difference"] == float("inf") else f", relative difference {short(figure['difference'])}"
    return f"{words.metric_label(figure['metric'])}: {measured} measured, {reference} by the reference{apart}"
