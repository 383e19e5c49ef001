"""The settings of a run, copied into a form, give the same run with the same value of every field."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from pages import opener, ran, text
from recorded import record_measured, record_training
from streamlit.testing.v1 import AppTest
from test_specs import whole

from core.article.plan import ArticleSpec, Override
from core.compression.specs import DiagnosisSpec, MetricParameters, ResizeSpec, SweepSpec
from core.data.datasets import Dataset, DatasetImage
from core.data.splits import Targets
from core.errors import SpecError
from core.networks.architectures import ALEXNET, CLASSES, CUSTOM2, LENET5
from core.settings import Settings
from core.specs import Spec
from core.store.measurements import Store
from core.training.specs import Baseline, PruneTrainSpec, Rules, TrainingProtocol, TrainSpec
from dashboard.forms.fields import parsed

NOW = datetime(2026, 11, 26, 8, tzinfo=UTC)
TRAINING = TrainingProtocol(
    epochs=7, learning_rate=0.00000123, batch_size=5, seed=11, height=80, width=64, augmentation=False,
    rotation=12.3456789, zoom=0.123456789, brightness=0.987654321, precision="bfloat16", jit_compile=True,
    warm_up_epochs=3, schedule="cosine", patience=4, batch_norm="all", retry_lost=2,
)  # fmt: skip
RULES = Rules(
    factors=(12.3456789, 33.3333333), scope="first_two", max_failures=4, max_iterations=6, on_reject="continue",
    accept="noninferior", validation_tolerance=1.2345678, initialise="l1",
    distil=True, temperature=4.3210987, teacher_weight=0.6543219,
)  # fmt: skip
SETS: dict[str, Any] = {
    "targets": Targets(train=41, validation=12, test=8),
    "split_seed": 8,
    "device": "cpu",
    "baseline": Baseline(
        train_accuracy=91.2345678,
        train_precision=92.3456789,
        validation_accuracy=70.4567891,
        validation_precision=71.5678912,
        test_tolerance=3.6789123,
    ),
}
METRICS = MetricParameters(changed_threshold=17, radial_cutoff=0.123456789)
SPECS = [
    SweepSpec(
        dataset="d", ks=(3, 7), mode="unfolded", codec="webp", quality=55, sample_size=2, seed=9, metrics=METRICS
    ),
    ResizeSpec(
        dataset="d",
        sizes=((20, 28), (7, 9)),
        k=4,
        mode="unfolded",
        codec="avif",
        quality=61,
        sample_size=2,
        seed=9,
        metrics=METRICS,
    ),
    DiagnosisSpec(
        dataset="d",
        run="train-1",
        step=2,
        image_split="validation",
        ks=(3, 7),
        modes=("unfolded", "per_channel"),
        codecs=("webp", "png"),
        qualities=(55, 40),
        rivals=(("avif", 61), ("png", None)),
        sample_size=2,
        seed=9,
        metrics=METRICS,
    ),
    TrainSpec(
        dataset="d",
        network=ALEXNET,
        training=TRAINING,
        leaky_split=True,
        split="given",
        training_predictions=True,
        **SETS,
    ),
    PruneTrainSpec(
        dataset="d",
        network=ALEXNET,
        training=TRAINING,
        leaky_split=True,
        split="given",
        training_predictions=True,
        rules=RULES,
        **SETS,
    ),
    ArticleSpec(
        dataset="d",
        fingerprint="",
        networks=(CUSTOM2, LENET5),
        seeds=(4, 2),
        training=TRAINING.replace(seed=1),
        overrides=(
            Override(network="lenet5", height=50, width=70, epochs=3),
            Override(network="custom2", height=90, width=91),
        ),
        rules=RULES,
        ks=(5, 70),
        mode="unfolded",
        codec="webp",
        quality=55,
        sample_size=3,
        rule="knee",
        k=33,
        sizes=((20, 28), (7, 9)),
        reconstruction="made",
        split="given",
        **SETS,
    ),
]
LOSSLESS = [
    SPECS[0].replace(codec="png", quality=None),
    SPECS[1].replace(codec="png", quality=None, sample_size=None),
    SPECS[5].replace(codec="png", quality=None, sample_size=48, baseline=None, k=None, reconstruction=""),
    SPECS[4].replace(baseline=None, rules=Rules(max_iterations=None)),
    SPECS[0].replace(metrics=MetricParameters(changed_threshold=255, radial_cutoff=math.nextafter(math.sqrt(0.5), 0))),
    SPECS[0].replace(metrics=MetricParameters(changed_threshold=0, radial_cutoff=1e-7)),
]
NOT_IN_A_FORM = {"fingerprint"}  # depends on the images of the data set
OF_THE_STUDY = {"seed"}  # a study has `seeds` instead of its protocol's seed


def sweep_app() -> None:
    import streamlit as st

    from dashboard import data
    from dashboard.forms import measuring as forms
    from dashboard.forms.fields import draft

    spec = st.session_state["spec"]
    if "made" not in st.session_state:
        forms_by_kind = {"svd-sweep": forms.SWEEP, "resize-study": forms.RESIZE, "diagnosis": forms.DIAGNOSIS}
        forms_by_kind[spec.kind].put(draft(spec))
    if spec.kind == "diagnosis":
        st.session_state["made"] = forms.diagnosis_fields(data.dataset("d"), spec.run, spec.step)
    else:
        draw = forms.sweep_fields if spec.kind == "svd-sweep" else forms.resize_fields
        st.session_state["made"] = draw(data.dataset("d"))


def training_app() -> None:
    import streamlit as st

    from dashboard import data
    from dashboard.forms import network_choices
    from dashboard.forms import training as training_forms

    training_forms.FORM.begin(training_forms.defaults())
    if "made" not in st.session_state:
        training_forms.FORM.put(training_forms.draft_of(st.session_state["spec"]))
    asked = training_forms.fields(network_choices.networks(), data.datasets())
    (st.session_state["made"],) = (spec for spec, _ in asked.runs())


def study_app() -> None:
    import streamlit as st

    from dashboard import data
    from dashboard.forms import network_choices
    from dashboard.forms import study as study_form

    study_form.FORM.begin(study_form.defaults())
    if "made" not in st.session_state:
        study_form.FORM.put(study_form.draft_of(st.session_state["spec"]))
    st.session_state["made"], _, _ = study_form.fields(network_choices.networks(), data.dataset("d"))


def app_of(spec: Any) -> Callable[[], None]:
    if isinstance(spec, ArticleSpec):
        return study_app
    return training_app if isinstance(spec, TrainSpec) else sweep_app


def labelled(name: str) -> Dataset:
    """Four classes of twelve images, two of each lesion."""
    records = tuple(
        DatasetImage(
            f"{label}{n:02}", f"{n}.jpg", 1000, 450, 600, f"{name}{label}{n}", label, lesion_id=f"{label}{n % 6}"
        )
        for label in sorted(CLASSES)
        for n in range(12)
    )  # fmt: skip
    return Dataset(name, Path("/nowhere") / name, "ham10000", records)


@pytest.fixture
def store(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", str(settings.redis_url))
    found = Store(settings.database)
    found.record_dataset(labelled("d"), NOW)
    return found


def as_default(spec: Spec) -> set[str]:
    """Return the paths of the settings that have their default, including nested ones."""
    found = set()
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, Spec):
            found |= {f"{name}.{path}" for path in as_default(value)}
        elif value == spec.default(name):
            found.add(name)
    return found


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_the_test_specs_have_no_field_at_its_default(spec: Any) -> None:
    allowed = {"fingerprint", "training.seed"} if isinstance(spec, ArticleSpec) else set()
    assert as_default(spec) == allowed


def through_form(spec: Any) -> tuple[AppTest, Any]:
    """Return a form with the settings of a spec in its fields, and the spec that it creates from them."""
    test = AppTest.from_function(app_of(spec), default_timeout=60)
    test.session_state["spec"] = spec
    ran(test)
    made = test.session_state["made"]
    return test, made.replace(fingerprint="") if isinstance(spec, ArticleSpec) else made


@pytest.mark.parametrize("spec", [*SPECS, *LOSSLESS], ids=lambda spec: type(spec).__name__)
def test_copying_a_runs_settings_into_the_form_gives_the_same_run(store: Store, spec: Any) -> None:
    test, made = through_form(spec)
    assert made == spec
    assert made.to_dict() == spec.to_dict()
    assert ran(test).session_state["made"] == test.session_state["made"]  # and again, from the unchanged fields


@pytest.mark.parametrize("model", [type(spec) for spec in SPECS], ids=lambda model: model.__name__)
@given(data=st.data())
@hypothesis.settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_spec_can_be_filled_into_its_form_and_read_back(
    model: type[Spec], store: Store, data: st.DataObject
) -> None:
    spec = data.draw(whole(model)).replace(dataset="d")
    if isinstance(spec, ArticleSpec):
        sample = spec.sample_size if spec.sample_size is None else min(spec.sample_size, 48)
        training = spec.training.replace(seed=1)
        spec = spec.replace(
            fingerprint="", training=training, sample_size=sample, reconstruction=spec.reconstruction.strip()
        )
    assert through_form(spec)[1] == spec


def copied(page: AppTest) -> AppTest:
    return ran(next(each for each in page.button if each.label.startswith("Use these settings")).click())


def test_the_copy_button_of_a_training_copies_every_setting(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = record_training(store, "alexnet", dataset="d", training=TRAINING.replace(height=75, width=100), seed=3)
    (run,) = store.runs()
    assert run.told(TrainSpec).training.zoom == TRAINING.zoom
    page = copied(opener(monkeypatch, settings.data_dir, str(settings.redis_url))("prune_train", run=run_id))
    assert page.number_input(key="training_zoom").value == TRAINING.zoom
    assert page.toggle(key="training_jit_compile").value
    assert not page.error


def test_copying_a_run_names_a_network_that_has_changed(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = record_training(store, replace(LENET5, image=LENET5.image[1:]), dataset="d")
    page = copied(opener(monkeypatch, settings.data_dir, str(settings.redis_url))("prune_train", run=run_id))
    assert "lenet5 changed since" in text(page)


def test_the_copy_button_of_a_resize_comparison_copies_its_settings(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = record_measured(store, SPECS[1].replace(sample_size=None))
    page = copied(opener(monkeypatch, settings.data_dir, str(settings.redis_url))("resize", study=run_id))
    assert page.query_params["tab"] == "New comparison"
    assert page.text_input(key="resize_sizes").value == "20×28, 7×9"
    assert page.number_input(key="resize_quality").value == 61


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (tuple[int, ...], " 1, 2;3 3", (1, 2, 3, 3)),
        (tuple[float, ...], "50 %, 33.33; 8.25", (50.0, 33.33, 8.25)),
        (tuple[tuple[int, int], ...], "200×100, 20 x 28;7X9", ((200, 100), (20, 28), (7, 9))),
    ],
)
def test_typed_values_are_parsed(kind: Any, text: str, expected: tuple[Any, ...]) -> None:
    assert parsed(kind, text, "values", "1,2,3") == expected


@pytest.mark.parametrize("text", ["", "1,x", "1.5", "1x2x3"])
def test_text_that_is_not_a_list_of_whole_numbers_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"^Expected seeds such as 1,2,3, got "):
        parsed(tuple[int, ...], text, "seeds", "1,2,3")
