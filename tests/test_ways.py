"""Ways to a smaller network: total epochs with the parent's, and the article's way beside others at equal totals."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from pages import OpenPage, opener, text
from recorded import QUICK, START, conversion, record_svd_dense, record_training

from core.article.evidence import Choice, rows_of, select, trainings
from core.article.table_formats import cell, to_csv, to_latex, to_markdown
from core.article.tables import WAYS, article_table
from core.article.ways import naive_sentences, totals, way_of, ways
from core.networks.architectures import LENET5
from core.predictions.comparison import compare
from core.specs import SettingsKey
from core.store.measurements import Store
from core.training.specs import PruneTrainSpec, Rules
from dashboard.charts.tables import ways_chart
from jobs.__main__ import main

IMAGES = 20
HALVES = {"factors": (50,)}


def pruned(store: Store, accuracies: tuple[float, ...], epochs: int, seed: int = 1, **rules: object) -> str:
    training = QUICK.replace(epochs=epochs)
    return record_training(
        store, "lenet5", accuracies, rules=Rules(**HALVES, **rules), training=training, seed=seed, images=IMAGES
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the file of a store with runs from scratch, of L1 norm, and taught, two seeds each, and a factored one."""
    found = Store(tmp_path_factory.mktemp("ways") / "dermslim.duckdb")
    for seed in (1, 2):
        scratch = pruned(found, (80.0, 75.0 + 5 * seed, 80.0), 40, seed)
        pruned(found, (80.0, 90.0), 20, seed, initialise="l1")
        pruned(found, (80.0, 60.0), 20, seed, distil=True, temperature=5)
        record_svd_dense(found, scratch, {90: 70.0, 99.9: 80.0}, IMAGES)
    return found.path


@pytest.fixture
def store(recorded: Path, tmp_path: Path) -> Store:
    """Give a copy of the recorded store, which a test may change."""
    (tmp_path / "data").mkdir()
    return Store(Path(shutil.copy(recorded, tmp_path / "data")))


def rows(store: Store, choice: Choice | None = None) -> pd.DataFrame:
    steps = select(rows_of(store, trainings(store), WAYS), WAYS, choice).steps
    return article_table(WAYS, steps, with_intervals=True).rows


def row(found: pd.DataFrame, way: str, name: str = "R1: 50%") -> pd.Series:
    (one,) = [each for _, each in found.iterrows() if (each["way"], each["name"]) == (way, name)]
    return one


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("scratch", [40, 40, 40, 40, 40]),
        ("l1", [40, 80, 120, 120, 160]),
        ("random", [40, 80, 120, 120, 160]),
        ("distil", [40, 80, 80, 80, 80]),
        ("distil, l1", [40, 80, 120, 120, 160]),
    ],
)
def test_total_epochs_include_those_of_the_networks_before(way: str, expected: list[int]) -> None:
    # Steps 2 and 3 shrink step 1; step 4 shrinks step 3.
    factors = ["[]", "[50]", "[50, 50]", "[50, 33.33]", "[50, 33.33, 33.33]"]
    run = pd.DataFrame({"factors": factors, "way": ["unpruned", *[way] * 4], "epochs": 40})
    assert totals(run) == expected


def test_epochs_that_patience_saved_are_not_counted() -> None:
    run = pd.DataFrame({"factors": ["[]", "[50]"], "way": ["unpruned", "l1"], "epochs": [31, 7]})
    assert totals(run) == [31, 38]


@pytest.mark.parametrize(
    ("rules", "way"),
    [
        ({}, "scratch"),
        ({"initialise": "l1"}, "l1"),
        ({"initialise": "random"}, "random"),
        ({"distil": True}, "distil"),
        (
            {"distil": True, "initialise": "l1", "temperature": 5, "teacher_weight": 0.9},
            "distil, l1, temperature 5, weight 0.9",
        ),
        ({"temperature": 5}, "scratch"),
    ],
)
def test_the_way_follows_from_the_rules(rules: dict[str, object], way: str) -> None:
    key = PruneTrainSpec(dataset="moles", network=LENET5, rules=Rules(**rules)).settings_key()
    assert way_of(1, key) == way
    assert way_of(0, key) == "unpruned"
    assert way_of(1, SettingsKey()) == "scratch"


def test_the_table_has_a_row_for_each_way_and_total(store: Store) -> None:
    found = rows(store)
    assert [(each["name"], each["way"], each["total_epochs"], each["runs"]) for _, each in found.iterrows()] == [
        ("Original", "unpruned", 20, 2),
        ("Original", "unpruned", 40, 2),
        ("Original", "svd_dense 90 %", 40, 2),
        ("Original", "svd_dense 99.9 %", 40, 2),
        ("R1: 50%", "scratch", 40, 2),
        ("R1: 50%", "l1", 40, 2),
        ("R1: 50%", "distil, temperature 5", 40, 2),
        ("R2: 50%", "scratch", 40, 2),
    ]
    assert row(found, "l1")["test_accuracy"] == 90
    assert row(found, "l1")["difference"] == 10
    assert cell(row(found, "distil, temperature 5"), "difference").measured == "−20.00"


def test_the_articles_way_is_compared_by_the_paired_difference_of_the_same_seeds(store: Store) -> None:
    found = rows(store)
    by_way = row(found, "l1")
    assert by_way["naive"] == pytest.approx((80 + 85) / 2 - 90)
    specs = {run.id: run.told(PruneTrainSpec) for run in store.runs()}
    runs = {(spec.training.seed, spec.rules.initialise, spec.rules.distil): run_id for run_id, spec in specs.items()}
    limits = []
    for seed in (1, 2):
        pair = (store.predictions([runs[seed, way, False]], step=1, split="test") for way in ("scratch", "l1"))
        apart = compare(*pair).difference
        limits.append((apart.low, apart.high))
    ends = (map(float, by_way[f"naive_{end}"].split()) for end in ("low", "high"))
    assert list(zip(*ends, strict=True)) == limits
    assert row(found, "scratch")["naive_count"] == 0
    assert row(found, "distil, temperature 5")["naive"] == pytest.approx(82.5 - 60)


def test_a_network_made_without_training_is_compared_with_the_nearest_one_from_scratch(store: Store) -> None:
    found = rows(store)
    factored = row(found, "svd_dense 90 %", "Original")
    sizes = found[found["way"] == "scratch"].set_index("name")["parameters"]
    assert factored["naive_parameters"] == sizes["R1: 50%"]  # 50 % is nearer to 90 % than 25 %
    assert factored["naive"] == pytest.approx((80 + 85) / 2 - 70)


def test_a_fine_tuned_network_of_low_rank_is_a_way_of_its_own_with_more_epochs(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    run_id = record_training(store, "lenet5", (80.0, 70.0), rules=Rules(factors=(50,)), images=IMAGES)
    record_svd_dense(store, run_id, {90: 60.0}, IMAGES)
    record_svd_dense(store, run_id, {90: 80.0}, IMAGES, fine_tune_epochs=5)
    found = ways(store, trainings(store)).set_index("way")
    before, after = found.loc["svd_dense 90 %"], found.loc["svd_dense 90 %, 5 epochs"]
    assert after["total_epochs"] == before["total_epochs"] + 5
    assert (before["test_accuracy"], after["test_accuracy"]) == (60, 80)
    assert math.isnan(after["naive"])  # nothing from scratch has as many epochs


def test_networks_of_8_bits_are_shown_with_the_bytes_of_their_file_and_not_paired(store: Store) -> None:
    trained = trainings(store)
    run_id = str(trained.loc[(trained["epochs"] == 40) & (trained["step"] == 1), "run_id"].iloc[0])
    values = {"accuracy": 71.0, "accuracy_low": 60.0, "accuracy_high": 80.0}
    for name, failure in (("litert-int8", ""), ("litert-float16", "")):
        made = conversion(step=1, format=name, failure=failure, bytes=123_000, **values)
        store.record_conversion(run_id, 1, made, "a worker", START)
    store.record_conversion(run_id, 1, conversion(step=2, format="litert-int8", failure="too large"), "w", START)
    (quantised,) = [each for _, each in rows(store).iterrows() if each["way"] == "int8"]
    assert (quantised["name"], quantised["total_epochs"], quantised["runs"]) == ("R1: 50%", 40, 1)
    assert (quantised["test_accuracy"], quantised["size"]) == (71, 0.123)
    assert (quantised["test_accuracy_low"], quantised["test_accuracy_high"]) == ("60.0", "80.0")
    assert cell(quantised, "difference").whole == cell(quantised, "naive").whole == "–"


def test_a_network_made_of_one_that_inherits_is_in_no_row_of_one_made_of_another(store: Store) -> None:
    steps = trainings(store)
    inheriting = [run for run, key in zip(steps["run_id"], steps["settings"], strict=True) if way_of(1, key) == "l1"]
    for run_id in steps["run_id"].unique():
        made = conversion(step=1, format="litert-int8", bytes=1, accuracy=70, accuracy_low=60, accuracy_high=80)
        store.record_conversion(run_id, 1, made, "w", START)
    record_svd_dense(store, inheriting[0], {90: 70.0}, IMAGES, step=1)
    found = rows(store)
    made = found[found["name"] == "R1: 50%"].set_index("way")["runs"].to_dict()
    expected = {"int8": 2, "int8 of l1": 2, "int8 of distil, temperature 5": 2, "svd_dense 90 % of l1": 1}
    assert {way: count for way, count in made.items() if " of " in way or way == "int8"} == expected
    eights = found[found["way"].str.startswith("int8")]
    assert set(eights["naive_count"]) == {0}
    assert ways_chart(article_table(WAYS, select(rows_of(store, steps, WAYS), WAYS).steps), "lenet5").data


def test_only_equal_totals_are_compared(tmp_path: Path) -> None:
    store = Store(tmp_path / "dermslim.duckdb")
    pruned(store, (80.0, 80.0), 40)
    pruned(store, (80.0, 90.0), 40, initialise="l1")  # 80 in total
    pruned(store, (80.0, 90.0), 20, 3, initialise="l1")  # 40 in total, another seed
    found = rows(store)
    assert set(found["total_epochs"]) == {20, 40, 80}
    assert not found["naive_count"].any()
    steps = select(rows_of(store, trainings(store), WAYS), WAYS).steps
    (sentence,) = naive_sentences(article_table(WAYS, steps, with_intervals=True))
    assert sentence.startswith("No two ways have equal total epochs")


def test_runs_without_predictions_are_shown_and_not_compared(tmp_path: Path) -> None:
    store = Store(tmp_path / "dermslim.duckdb")
    for epochs, rules in ((40, Rules(**HALVES)), (20, Rules(**HALVES, initialise="l1"))):
        record_training(store, "lenet5", (80.0, 70.0), rules=rules, training=QUICK.replace(epochs=epochs))
    found = rows(store)
    assert row(found, "l1")["total_epochs"] == row(found, "scratch")["total_epochs"] == 40
    assert not found["naive_count"].any()


def test_sentences_say_by_how_much_the_articles_way_is_worse_or_better(store: Store) -> None:
    steps = select(rows_of(store, trainings(store), WAYS), WAYS).steps
    said = naive_sentences(article_table(WAYS, steps, with_intervals=True))
    (l1,) = [each for each in said if " l1 " in each]
    assert l1.startswith("lenet5, R1: 50%, 40 total epochs, ")
    assert "training from scratch, the article's way, is 7.50 points worse than l1 in the mean of 2 seeds [" in l1
    (taught,) = [each for each in said if "distil" in each]
    assert "22.50 points better than distil, temperature 5 in the mean of 2 seeds [+" in taught
    assert taught.endswith("; 2 of 2 intervals exclude 0.")
    assert len([each for each in said if "against" in each]) == 2  # the factored networks have other sizes


def test_every_format_has_the_table(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(store.path.parent))
    steps = select(rows_of(store, trainings(store), WAYS), WAYS).steps
    made = article_table(WAYS, steps, with_intervals=True)
    for kind, write in (("csv", to_csv), ("markdown", to_markdown), ("latex", to_latex)):
        assert main(["tables", "--number", "ways", "--format", kind]) == 0
        printed = capsys.readouterr()
        assert printed.out == write(made)
        assert f"ways: {naive_sentences(made)[0]}" in printed.err
    assert "svd\\_dense 90 \\%" in to_latex(made)


def test_the_page_shows_chart_sentences_and_table(
    store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_page: OpenPage = opener(monkeypatch, store.path.parent, valkey_url)
    shown = open_page("tables", table=WAYS)
    said = text(shown).replace("\\", "")
    assert "Accuracy against parameters" in said
    assert "7.50 points worse than l1" in said
    frame = shown.table[0].value
    assert frame.index.str.replace("\\", "").tolist()[5] == "lenet5 · R1: 50% · l1 · 40"
    assert frame["Minus unpruned, points"].iloc[5].replace("\u00a0", " ").startswith("10.00 \\[")


def test_the_page_says_that_nothing_is_measured(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = opener(monkeypatch, tmp_path / "data", valkey_url)("tables", table=WAYS)
    assert "Nothing measured yet." in text(shown)
    assert not shown.table


def test_the_chart_has_a_point_for_each_row_and_a_bar_for_each_run(store: Store) -> None:
    steps = select(rows_of(store, trainings(store), WAYS), WAYS).steps
    made = article_table(WAYS, steps, with_intervals=True)
    figure = ways_chart(made, "lenet5")
    points = {trace.name: list(trace.y) for trace in figure.data if trace.mode == "markers"}
    assert points == {"unpruned": [80, 80], "scratch": [82.5, 80], "l1": [90], "distil": [60], "svd_dense": [70, 80]}
    assert sum(trace.mode == "lines" for trace in figure.data) == made.rows["runs"].sum()
    assert not ways_chart(made, "alexnet").data
