"""The images behind the predictions of a run: a confusion matrix's cell, images that changed sides, hard images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from core.data.datasets import DatasetImage
from core.data.images import decode
from core.errors import DermSlimError
from core.networks.architectures import CLASSES
from core.predictions.comparison import GAINED, LOST
from core.runs import Run
from core.store.file import plain_rows
from core.training.evaluation import smallest_accepted
from dashboard import data, deployment_data, training_data, words
from dashboard.charts import training as training_charts
from dashboard.charts.predictions import shown_class
from dashboard.deployment_data import Network
from dashboard.forms.fields import SET_NAMES
from dashboard.parts import components, explanation, pictures

AT_ONCE = 24  # images that are shown before the reader asks for more
EVERY = "every"  # class, or side
SIDES = {EVERY: "Lost and gained", LOST: "Lost", GAINED: "Gained"}
ORDERS = {"melanoma": "Melanomas first, then by change", "change": "Largest change first"}


def image_cards(
    run: Run,
    rows: pd.DataFrame,
    about: Callable[[dict[str, Any]], list[str]],
    key: str,
    inspected: Callable[[DatasetImage], dict[str, str]] = lambda record: {},
    below: Callable[[Path, DatasetImage], None] = lambda path, record: None,
) -> None:
    """Show images as thumbnails that open in the inspector, `AT_ONCE` of them until the reader asks for more.

    rows: one row per image, with image_id. about: lines of plain text for a row. key: other rows have another.
    inspected: the inspector's parameters for an image. below: draws below a thumbnail, of the image's file and record.
    """
    dataset, records = data.dataset(run.dataset), data.records(run.dataset)
    if dataset is None:
        st.caption("The data set of this run is not registered any more, so that its images cannot be shown.")
    count_key = f"shown_{run.id}_{key}"
    count = st.session_state.get(count_key, AT_ONCE)
    with st.grid("auto", min_column_width=150, gap="small"):
        for row in plain_rows(rows.head(count)):
            with st.container(border=True, height="stretch", gap="xsmall"):
                image_id = str(row["image_id"])
                record = records.get(image_id)
                if dataset is not None and record is not None:
                    components.thumbnail(dataset.root / record.path, record.sha256, image_id)
                    components.inspector_link(
                        run.dataset, image_id, words.shortened(image_id, 20), further=inspected(record)
                    )
                    below(dataset.root / record.path, record)
                else:
                    st.markdown(words.escaped(words.shortened(image_id, 20)))
                for line in about(row):
                    st.caption(words.escaped(line))

    def more() -> None:
        st.session_state[count_key] = count + AT_ONCE

    if len(rows) > count:
        label = f"Show {min(AT_ONCE, len(rows) - count)} more of {len(rows):,}"
        st.button(label, icon=":material/expand_more:", on_click=more, key=f"more_{key}")


def choose_set(steps: pd.DataFrame) -> str:
    """Return the set whose images the reader chooses. steps: `training_data.predicted_steps` of a run, not empty."""
    sets = [split for split in reversed(SET_NAMES) if split in set(steps["split"])]
    return components.url_choice(
        st.segmented_control, "Set", sets, param="set", format_func=SET_NAMES.__getitem__, dependent=True, required=True
    )


# -- two steps ---------------------------------------------------------------------------------------------------------


@st.fragment
def lost_and_gained(run: Run, trained: pd.DataFrame, names: Mapping[int, str]) -> None:
    """Compare two steps on the same images, and show the images that only one of them has right.

    trained: the store's rows of the steps. names: of the steps with predictions, by number.
    """
    if len(names) < 2:
        st.info("Two steps are compared; this run has predictions of one.", icon=":material/compare_arrows:")
        return
    with st.container(horizontal=True):
        split = choose_set(training_data.predicted_steps(run.id))
        numbers = [str(step) for step in names]
        smallest = str(smallest_accepted(trained)["step"])
        seconds = (smallest if smallest != numbers[0] else numbers[1], numbers[1])
        first, second = (
            int(
                components.url_choice(
                    st.selectbox, label, numbers, param=label.lower(), default=default, dependent=True,
                    format_func=lambda number: names[int(number)],
                )
            )
            for label, default in (
                ("First", numbers[0]),
                ("Second", next(number for number in seconds if number in numbers)),
            )
        )  # fmt: skip
    if first == second:
        st.info("Choose two different steps.", icon=":material/compare_arrows:")
        return
    found, changed = training_data.compared(run.id, split, first, second)
    with st.container(border=True):
        st.markdown(words.escaped(found.sentence))
    with st.grid(4, min_column_width=150):
        difference = found.difference
        st.metric("Lost", f"{found.only_first:,}", border=True, help="Only the first is right.")
        st.metric("Gained", f"{found.only_second:,}", border=True, help="Only the second is right.")
        st.metric(
            "Difference, points", f"{difference.value:+.2f}".replace("-", "−"), border=True,
            help=f"Accuracy of the first minus that of the second, paired; 95 % interval {difference.low:+.2f} to "
            f"{difference.high:+.2f} points by resampling lesions.",
        )  # fmt: skip
        st.metric("McNemar p", f"{found.p:.2g}", border=True, help="Exact, two-sided, over the images that changed.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        label = components.url_choice(
            st.selectbox, "Images of", [EVERY, *CLASSES], param="of",
            format_func=lambda each: "every class" if each == EVERY else shown_class(each),
        )  # fmt: skip
        order = components.url_choice(
            st.selectbox, "Sorted by", list(ORDERS), param="sort", format_func=ORDERS.__getitem__
        )
        side = components.url_choice(
            st.segmented_control, "Side", list(SIDES), param="side", format_func=SIDES.__getitem__, required=True
        )
    changed = sides_shown(changed, label, side, order)
    st.caption(sides_text(changed))
    key = f"changed_{split}_{first}_{second}_{label}_{side}_{order}"
    image_cards(run, changed, changed_text, key, below=maps_by_choice(run.id, (first, second)))


def maps_by_choice(run_id: str, steps: tuple[int, int]) -> Callable[[Path, DatasetImage], None]:
    """Ask whether to show where the networks of two steps look; return what draws it for an image."""
    here = {network.step: network for network in deployment_data.networks_here().get(run_id, [])}
    if not set(steps) <= set(here):
        st.caption(
            "Where the two look can be shown for the unpruned and the smallest accepted network, once the page Deploy "
            "has converted both on this host."
        )
        return lambda path, record: None
    wanted = st.toggle("Show where they look", key="changed_maps", help=explanation.DEFINITION)
    return partial(maps, [here[step] for step in steps]) if wanted else lambda path, record: None


def maps(networks: Sequence[Network], path: Path, record: DatasetImage) -> None:
    """Show the occlusion maps of an image by two networks, on one scale."""
    try:
        pixels = decode(pictures.read_file(path))
        found = [deployment_data.occlusion(network, pixels, record) for network in networks]
    except DermSlimError as error:  # the thumbnail says why a file cannot be read
        st.caption(words.escaped(words.sentence(error)))
        return
    scale = max(explanation.FAINT, *(float(each.max()) for each in found))
    for network, each in zip(networks, found, strict=True):
        name = words.escaped(network.name)
        st.image(explanation.overlay(pixels, each, scale), caption=f"{name}: at most {100 * each.max():.1f} points")


def sides_shown(changed: pd.DataFrame, label: str, side: str, order: str) -> pd.DataFrame:
    """Return the images of one class and side, or of every one, in one of `ORDERS`."""
    wanted = changed["label"].isin(CLASSES if label == EVERY else [label])
    wanted &= changed["side"].isin((LOST, GAINED) if side == EVERY else (side,))
    shown = changed[wanted]
    if order == "change":
        shown = shown.sort_values("change", key=lambda values: -values.abs(), kind="stable")
    return shown


def sides_text(changed: pd.DataFrame, order: str = "first → second") -> str:
    """Return how many images, and how many melanomas among them, were lost and gained. order: of the probabilities."""
    parts = []
    for side in (LOST, GAINED):
        own = changed[changed["side"] == side]
        melanomas = words.count_of(int((own["label"] == "melanoma").sum()), "melanoma")
        parts.append(f"{words.count_of(len(own), 'image')} {side}, {melanomas} among them")
    return f"{'; '.join(parts)}. Each probability is that of the image's own class, {order}."


def changed_text(row: Mapping[str, Any]) -> list[str]:
    """Describe an image that changed sides."""
    before, after = 100 * row["probability"], 100 * row["probability_second"]
    return [
        f"{shown_class(row['label'])}, {row['side']}",
        f"{before:.1f} % → {after:.1f} %",
        f"{shown_class(row['predicted'])} → {shown_class(row['predicted_second'])}",
    ]


# -- many predictions of one image -------------------------------------------------------------------------------------


@st.fragment
def hard_images(run: Run) -> None:
    """Show the images that most steps of this run, and of the others on the same images, have wrong."""
    split = choose_set(training_data.predicted_steps(run.id))
    others = [each.id for each in data.runs() if each.trains and each.fingerprint == run.fingerprint]
    found = training_data.hard_images(tuple(sorted({run.id, *others})), split)
    own = training_data.predictions(run.id, split)["image_id"]
    found = found[found["image_id"].isin(own)]
    verb = "is" if len(found) == 1 else "are"
    st.caption(
        f"{words.count_of(len(found), 'image')} of this run's {own.nunique():,} {verb} wrong in more than half of all "
        "predictions by the steps of this run and of the other runs on the same data set. Their labels are worth a "
        "second look."
    )
    image_cards(run, found, hard_text, key=f"hard_{split}")


def hard_text(row: Mapping[str, Any]) -> list[str]:
    """Describe a hard image."""
    return [
        f"{shown_class(row['label'])}, most often taken for {shown_class(row['most_predicted'])}",
        f"wrong in {row['wrong']:,} of {words.count_of(row['predictions'], 'prediction')}",
    ]


# -- confusion matrices ------------------------------------------------------------------------------------------------


def confusion_matrices(matrices: Mapping[str, list[list[int]]], predicted: pd.DataFrame) -> None:
    """Chart the confusion matrix of each set; a click on a cell of a set with predictions chooses its images.

    matrices: by set. predicted: `training_data.predicted_steps` of the step.
    """
    for column, (split, matrix) in zip(st.columns(len(matrices)), matrices.items(), strict=True):
        clickable = split in set(predicted["split"])
        key = f"confusion_{split}"

        def chosen(split: str = split, key: str = key) -> None:
            for point in st.session_state[key]["selection"]["points"]:
                label, guess, _ = point["customdata"]
                st.query_params.update({"set": split, "true": label, "predicted": guess})

        with column:
            components.chart(
                training_charts.confusion(matrix, SET_NAMES[split], theme=components.theme()),
                alt=f"Confusion matrix of the {SET_NAMES[split].lower()} set",
                key=key,
                on_select=chosen if clickable else "ignore",
                selection_mode="points",
            )


def cell_images(run: Run, step: int) -> None:
    """Show the images of one class that a step takes for one class."""
    predicted = training_data.predicted_steps(run.id)
    with st.container(horizontal=True):
        split = choose_set(predicted[predicted["step"] == step])
        label, guess = (
            components.url_choice(st.selectbox, name, CLASSES, param=param, default=default, format_func=shown_class)
            for name, param, default in (("True class", "true", "melanoma"), ("Predicted class", "predicted", "nevus"))
        )
    rows = training_data.predictions_by_step(run.id, split)[step]
    rows = rows[(rows["label"] == label) & (rows["predicted"] == guess)]
    rows = rows.sort_values(f"p_{guess}", ascending=False, kind="stable")
    st.caption(f"{words.count_of(len(rows), 'image')}, the highest probability of {shown_class(guess)} first.")

    def about(row: Mapping[str, Any]) -> list[str]:
        return [
            f"{shown_class(each)} {100 * row[f'p_{each}']:.1f}\N{NO-BREAK SPACE}%"
            for each in dict.fromkeys((guess, label))
        ]

    image_cards(run, rows, about, key=f"cell_{step}_{split}_{label}_{guess}")
