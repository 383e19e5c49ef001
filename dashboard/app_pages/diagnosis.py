"""Effect on diagnosis: what a trained network predicts of its test images once they are compressed."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from core.article.table_formats import texts_to_latex
from core.compression.image_results import ORIGINAL
from core.compression.specs import DiagnosisSpec, ReconstructSpec, Way, ways
from core.compression.svd import MODES, largest_k
from core.data.names import derived_name
from core.errors import SpecError
from core.predictions.comparison import STILL_WRONG
from core.predictions.diagnosis import KEPT, RECALL, fewest_bytes, way_sentence, way_text
from core.predictions.intervals import interval_text
from core.runs import Run
from core.store.file import plain_rows
from core.training.evaluation import smallest_accepted
from core.training.specs import TrainSpec
from dashboard import data, diagnosis_data, training_data, words
from dashboard.charts.diagnosis import FIGURES as CHARTED
from dashboard.charts.diagnosis import diagnosis_chart
from dashboard.forms import measuring as forms
from dashboard.parts import components, prediction_images, verification
from dashboard.parts.measuring_page import MeasuringPage
from dashboard.parts.run_facts import run_facts
from dashboard.parts.training_comparison import short_label
from jobs.cli.options import command_line

VALIDATION = ":orange-badge[:material/warning: validation images: the weights were chosen by them]"
LABEL = "diagnosis"  # of the table in LaTeX


# -- the form ----------------------------------------------------------------------------------------------------------


def choose_network() -> tuple[Run, int] | None:
    """Return the training run and the step that the reader chooses; None (and what to do) where there is none."""
    known = diagnosis_data.predicting_runs()
    runs = [run for run in data.recorded_runs() if run.id in known]
    if not runs:
        st.info("No trained network has predictions of test images yet.", icon=":material/model_training:")
        components.page_link("prune_train", "Train a network", icon=":material/add:")
        return None
    here = set(data.datasets()["name"])  # imported runs may have been trained on images that are elsewhere
    default = next((run.id for run in runs if run.dataset in here), None)
    run = components.choose_run(runs, "Network", param="network", default=default, name=short_label)
    steps = training_data.steps(run.id)
    names = {
        str(row["step"]): f"{row['step']}. {row['name']}" for row in plain_rows(steps) if row["step"] in known[run.id]
    }
    smallest = str(smallest_accepted(steps[steps["status"] == "finished"])["step"])
    step = components.url_choice(
        st.selectbox, "Step", list(names), param="step", default=smallest, dependent=True, format_func=names.__getitem__
    )
    return run, int(step)


# -- the results -------------------------------------------------------------------------------------------------------


def network_of(spec: DiagnosisSpec) -> None:
    """Name the network that predicts, with a link to its run, and mark images by which its weights were chosen."""
    run = data.run(spec.run)
    steps = training_data.steps(spec.run)
    names = steps.loc[steps["step"] == spec.step, "name"]
    step = words.escaped(names.iloc[0] if len(names) else f"step {spec.step}")
    with st.container(horizontal=True, vertical_alignment="center"):
        if run is None:
            st.markdown(f"Network: {step} of `{spec.run}`, which was deleted.", width="content")
        else:
            network = words.escaped(run.told(TrainSpec).trained_network.name)
            st.markdown(f"Network: **{network}**, {step}", width="content")
            components.run_link(run.id, run.kind, "Its training", icon=":material/model_training:")
        if spec.image_split == "validation":
            st.markdown(VALIDATION, width="content")


def answer(run: Run, by_variant: Mapping[str, Way], table: pd.DataFrame) -> None:
    """Show the figures of the originals, and the way with the fewest bytes that changes almost no prediction."""
    rows = {str(row["variant"]): row for row in plain_rows(table)}
    original = rows[ORIGINAL]
    with st.container(border=True):
        if (best := fewest_bytes(table)) is None:
            st.markdown(f"**Every way changes more than {100 - KEPT:g} % of the predictions.** The nearest:")
            kept = table[table["variant"] != ORIGINAL]
            best = str(kept.sort_values("agreement", kind="stable")["variant"].iloc[-1])
        else:
            st.markdown(f"**Fewest bytes with at least {KEPT:g} % of the predictions unchanged:**")
        st.markdown(words.escaped(way_sentence(by_variant[best], rows[best])))
    st.caption(
        f"{words.count_of(int(original['images']), 'image')} as they came, {words.bytes_text(original['bytes'])} each; "
        "95 % intervals by resampling lesions:"
    )
    with st.grid(4, min_column_width=170):
        for name in ("accuracy", "balanced_accuracy", RECALL, "auc"):
            st.metric(
                CHARTED[name], words.percent_text(original[name]), border=True,
                delta=limits_text(original, name) or None, delta_color="off", delta_arrow="off",
            )  # fmt: skip
    run_facts(run)
    verification.check_section(run)


def limits_text(row: Mapping[str, Any], name: str) -> str:
    """Return the interval of a figure; empty where it is undefined."""
    limits = (row[f"{name}_low"], row[f"{name}_high"])
    return interval_text(limits) if all(map(words.known, limits)) else ""


def chart_section(run: Run, shown: tuple[Way, ...], table: pd.DataFrame) -> None:
    """Chart a figure of the reader's choice against the bytes of an image."""
    st.header("Bytes and diagnosis")
    figure = components.url_choice(
        st.segmented_control, "Figure", list(CHARTED), param="figure", format_func=CHARTED.__getitem__, required=True,
        wrap=True, label_visibility="collapsed",
    )  # fmt: skip
    components.chart(
        lambda: diagnosis_chart(table, shown, figure, theme=components.theme()),
        alt=f"{CHARTED[figure]} of each way against the bytes of an image, with 95 % intervals",
        key="diagnosis",
        depends=(run.id, str(run.finished_at), figure, components.theme()),
    )
    dotted = "" if figure == "agreement" else " Grey, shaded: the images as they came."
    st.caption(
        f"Bars: 95 % intervals by resampling lesions. Dotted lines: reconstructions, a point for each k.{dotted}"
    )


@st.fragment
def way_section(run: Run, by_variant: Mapping[str, Way], table: pd.DataFrame) -> None:
    """Show what one way changes, and the images whose class it changes; each opens in the inspector at that way."""
    st.header("One way")
    texts = {variant: way_text(way) for variant, way in by_variant.items()}
    worst = str(table[table["variant"] != ORIGINAL].sort_values("agreement", kind="stable")["variant"].iloc[0])
    variant = components.url_choice(
        st.selectbox, "Way", list(texts), param="way", default=worst, dependent=True, format_func=texts.__getitem__
    )
    way, row = by_variant[variant], next(each for each in plain_rows(table) if each["variant"] == variant)
    with st.container(border=True):
        st.markdown(words.escaped(way_sentence(way, row)))
    changed = diagnosis_data.changed(run, variant)
    if changed.empty:
        st.caption("No image is given another class than its original.")
        return
    order = components.url_choice(
        st.selectbox, "Sorted by", list(prediction_images.ORDERS), param="sort",
        format_func=prediction_images.ORDERS.__getitem__,
    )  # fmt: skip
    changed = prediction_images.sides_shown(changed, prediction_images.EVERY, prediction_images.EVERY, order)
    neither = int((changed["side"] == STILL_WRONG).sum())
    further = f" {words.count_of(neither, 'image')} wrong before and after, as another class." if neither else ""
    st.caption(f"{prediction_images.sides_text(changed, 'as it came → as it is stored')}{further}")
    prediction_images.image_cards(
        run, changed, prediction_images.changed_text, key=f"changed_{variant}_{order}",
        inspected=lambda record: components.way_in_inspector(way, record),
    )  # fmt: skip


# -- the table ---------------------------------------------------------------------------------------------------------


def texts_of(table: pd.DataFrame, by_variant: Mapping[str, Way]) -> pd.DataFrame:
    """Return the table of all ways as texts, with intervals."""
    rows = plain_rows(table)

    def column(name: str, digits: int, scale: float = 1) -> list[str]:
        return [
            words.NONE
            if row[name] is None
            else f"{row[name] / scale:.{digits}f} [{row[f'{name}_low'] / scale:.{digits}f}, "
            f"{row[f'{name}_high'] / scale:.{digits}f}]"
            for row in rows
        ]

    return pd.DataFrame(
        {
            "Way": [way_text(by_variant[name]) if name in by_variant else "Original" for name in table["variant"]],
            "kB an image": column("bytes", 2, 1000),
            "PSNR, dB": column("psnr", 2),
            "SSIM": column("ssim", 4),
            **{f"{title}, %": column(name, 1) for name, title in CHARTED.items()},
            "Lost": [row["lost"] for row in rows],
            "Gained": [row["gained"] for row in rows],
            "McNemar p": [f"{row['p']:.2g}" for row in rows],
            "Images": [row["images"] for row in rows],
        }
    )


def table_section(run: Run, spec: DiagnosisSpec, by_variant: Mapping[str, Way], table: pd.DataFrame) -> None:
    """Show every figure of every way with its interval, and offer figures and rows as files."""
    st.header("Table")
    texts = texts_of(table, by_variant)
    components.table(
        texts,
        alt="Figures of each way with 95 % intervals",
        height="content" if len(texts) < 25 else 800,
        column_config={"Way": st.column_config.TextColumn(pinned=True, width="medium")},
    )
    st.caption(
        "In brackets: 95 % intervals by resampling lesions. Lost and gained: images whose class is right only as they "
        "came, or only as they are stored; p: McNemar's exact test."
    )
    caption = (
        f"Predictions of {spec.image_split} images stored in several ways, {words.spec_text(spec)}; 95 % intervals."
    )
    frames = {"Figures": lambda: table, "Every image and way": lambda: data.store().diagnoses(run.id)}
    components.downloads(run.id, frames, key="table")
    components.download(
        "Figures, LaTeX",
        data=lambda: texts_to_latex(texts, caption, LABEL).encode(),
        file_name=f"{run.id}-figures.tex",
        mime="text/x-tex",
        key="table_latex",
    )


# -- trained and tested on compressed images ---------------------------------------------------------------------------


def second_protocol(run: Run, spec: DiagnosisSpec, by_variant: Mapping[str, Way]) -> None:
    """Compare with the same network trained on compressed images, or show the commands that train it."""
    st.header("Trained on compressed images")
    st.markdown(
        "Above, a network that was trained on the originals predicts compressed images. A network that is also trained "
        "on the compressed images may lose less."
    )
    found = diagnosis_data.trained_on_compressed(spec.run, spec.step)
    if len(found):
        trained_elsewhere(found)
    training = data.run(spec.run)
    if training is None:
        return
    with st.expander("How to train on the images of a way", icon=":material/terminal:", expanded=found.empty):
        variant = st.selectbox("Images of", list(by_variant), format_func=lambda name: way_text(by_variant[name]))
        st.code("\n".join(commands(training, by_variant[variant])), language=None, wrap_lines=True)


def trained_elsewhere(found: pd.DataFrame) -> None:
    """List the trainings on reconstructions, each beside the network that was trained on the originals."""
    settings = dict(zip(data.datasets()["name"], data.datasets()["settings"], strict=True))
    rows = plain_rows(found)
    figures = (("test_accuracy", "Accuracy"), ("balanced_accuracy", "Balanced accuracy"), (RECALL, "Melanoma recall"))

    def figure(row: Mapping[str, Any], name: str) -> str:
        return words.figure_text(row[name], row["intervals"].get(f"test_{name.removeprefix('test_')}"), 1)

    def difference(row: Mapping[str, Any]) -> str:
        limits = interval_text((row["difference_low"], row["difference_high"]), "+")
        return f"{row['difference']:+.1f} {limits}".replace("-", "−")

    components.table(
        {
            "Page": [components.run_address(row["run_id"]) for row in rows],
            "Trained and tested on": [row["dataset"] for row in rows],
            "Stored as": [settings.get(row["dataset"]) or words.NONE for row in rows],
            **{title: [figure(row, name) for row in rows] for name, title in figures},
            "Accuracy, minus trained on originals": list(map(difference, rows)),
            "McNemar p": [f"{row['p']:.2g}" for row in rows],
            "Images": [row["compared"] for row in rows],
        },
        alt="Networks of the same settings and seed that were trained on reconstructions",
        column_config={"Page": st.column_config.LinkColumn(display_text="run", width="small")},
    )
    st.caption("Same network, settings, seed and test images; the difference in points with its 95 % paired interval.")


def commands(training: Run, way: Way) -> list[str]:
    """Return the commands that store a training's data set in one way and train the same network on it."""
    dataset = data.dataset(training.dataset)
    sizes = [largest_k(each.height, each.width, way.mode or MODES[0]) for each in dataset.records] if dataset else [1]
    k = min(sizes) if way.k is None else way.k
    name = derived_name(training.dataset, f"-{way.variant.replace('=', '').replace(' ', '-').replace('_', '-')}")
    stored = ReconstructSpec(
        dataset=training.dataset, name=name, k=k, mode=way.mode or MODES[0], codec=way.codec, quality=way.quality
    )
    return [f"{command_line(stored)} --wait", command_line(training.told(TrainSpec).replace(dataset=name))]


def results(run: Run) -> None:
    """Show a finished run."""
    spec = run.told(DiagnosisSpec)
    PAGE.head(run, spec)
    network_of(spec)
    table = diagnosis_data.figures(run)
    found = set(table["variant"]) if len(table) else set()
    by_variant = {way.variant: way for way in ways(spec) if way.variant in found}
    if not by_variant:
        raise SpecError(f"Expected predictions of stored images, got none of {run.id}. Retry the run.")
    answer(run, by_variant, table)
    chart_section(run, tuple(by_variant.values()), table)
    way_section(run, by_variant, table)
    table_section(run, spec, by_variant, table)
    second_protocol(run, spec, by_variant)


def label(run: Run) -> str:
    """Return a diagnosis's label in lists: time, network, data set, ways."""
    spec, training = run.told(DiagnosisSpec), data.run(run.told(DiagnosisSpec).run)
    network = spec.run if training is None else short_label(training)
    parts = [components.moment(run.submitted_at), network, words.count_of(len(ways(spec)), "way")]
    if run.dataset != (training.dataset if training else ""):
        parts.append(words.shortened(run.dataset, 32))
    return " · ".join([*parts, f"{spec.image_split} images"])


def named(spec: DiagnosisSpec) -> dict[str, str]:
    """Return the query parameters of the form for a spec."""
    return {"dataset": spec.dataset, "network": spec.run, "step": str(spec.step)}


PAGE = MeasuringPage(
    "diagnosis", "diagnosis", "run", ":material/stethoscope:", forms.DIAGNOSIS,
    lambda: forms.diagnosis_form(choose_network), results, named, label,
)  # fmt: skip
st.caption(
    "Each test image of a trained network is stored in every way, decoded, resized to the network's input and "
    "predicted: which predictions change, and at how many bytes an image?"
)
PAGE.show()
