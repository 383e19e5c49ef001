"""The data of tables and claims: which trainings are chosen, that each counts once, and that means are correct."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from recorded import EASY, QUICK, record_measured, record_reconstruction, record_training

from core.article.claims import NOT_MEASURED, REPRODUCED, claims_table, judge
from core.article.evidence import (
    SAME_TRAINING,
    Choice,
    Grounds,
    basis,
    families,
    grounds,
    known,
    offers,
    rows_of,
    select,
    table_name,
    trainings,
)
from core.article.leaks import leak_sentences
from core.article.table_formats import cell, to_markdown
from core.article.tables import FURTHER, TABLES, UNPRINTED, WAYS, article_table
from core.compression.specs import ResizeSpec, SweepSpec
from core.errors import SpecError
from core.networks.architectures import CLASSES, LENET5, NETWORKS
from core.networks.pruning import prune
from core.store.measurements import Store
from core.store.trainings import STEP_COLUMNS
from core.training.specs import Rules

HALVINGS = Rules(factors=(50,))
LONGER = QUICK.replace(epochs=30)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "dermslim.duckdb")


def chosen_rows(store: Store, number: int | str, choice: Choice | None = None) -> pd.DataFrame:
    rows = article_table(number, select(trainings(store), number, choice).steps).rows
    return rows[rows["runs"] > 0].reset_index(drop=True)


def left_out(store: Store, number: int | str, choice: Choice | None = None) -> str:
    return " ".join(select(trainings(store), number, choice).left_out)


# Tables


def test_an_empty_store_has_no_training_and_gives_the_printed_tables(store: Store) -> None:
    found = trainings(store)
    assert found.empty
    assert list(STEP_COLUMNS) == list(found.columns)[: len(STEP_COLUMNS)]
    assert families(found) == []
    for number in TABLES:
        selection = select(rows_of(store, found, number), number)
        assert selection.left_out == ()
        assert not article_table(number, selection.steps).rows["runs"].any()


def test_means_and_deviations_equal_those_of_plain_pandas(store: Store) -> None:
    generator = np.random.default_rng(7)
    rows = []
    for network in ("lenet5", "custom2"):
        for dataset, source in (("ham", None), ("ham-k350", "ham")):
            for seed in (1, 2, 3):
                accuracy = round(float(generator.uniform(40, 90)), 3)
                record_training(store, network, [accuracy], dataset=dataset, source=source, seed=seed, sets=True)
                rows.append((network, "original" if source is None else "reconstructed", accuracy))
    plain = pd.DataFrame(rows, columns=["network", "version", "accuracy"]).groupby(["network", "version"])["accuracy"]
    measured = chosen_rows(store, 5).set_index(["network", "version"])
    assert len(measured) == 4
    pd.testing.assert_series_equal(
        measured["test_accuracy"].sort_index(), plain.mean(), check_names=False, check_index_type=False
    )
    pd.testing.assert_series_equal(
        measured["test_accuracy_std"].sort_index(), plain.std(ddof=1), check_names=False, check_index_type=False
    )
    assert (measured["runs"] == 3).all()
    assert (measured["seeds"] == "1 2 3").all()
    assert set(measured["images"]) == {"80 training (with repeats 120), 40 validation and 20 test images"}


def test_an_unpruned_network_counts_once_whichever_kind_of_run_trained_it(store: Store) -> None:
    record_training(store, "lenet5", [60.0], seed=1)
    record_training(store, "lenet5", [70.0], seed=2)
    again = record_training(store, "lenet5", [80.0, 79.0], seed=1, rules=HALVINGS)
    row = chosen_rows(store, 5).iloc[0]
    assert (row["runs"], row["test_accuracy"], row["seeds"]) == (2, 75.0, "1 2")
    assert row["run_ids"].split()[0] == again
    assert row["test_accuracy_std"] == pytest.approx(np.std([70, 80], ddof=1))
    assert "1 training that others repeat with the same settings and seed" in left_out(store, 5)
    assert chosen_rows(store, 6)["name"].tolist() == ["Original", "R1: 50%"]
    assert (chosen_rows(store, 6)["runs"] == 1).all()


def test_pruning_rules_separate_histories_but_not_their_unpruned_networks(store: Store) -> None:
    record_training(store, "lenet5", [60.0, 60.0], seed=1, rules=HALVINGS)
    record_training(store, "lenet5", [70.0, 70.0], seed=2, rules=Rules(factors=(50, 33.33)))
    assert chosen_rows(store, 4)["runs"].tolist() == [2]
    newest = chosen_rows(store, 6)
    assert newest["runs"].tolist() == [1, 1]
    assert newest["test_accuracy"].tolist() == [70, 70]
    assert "2 trainings of lenet5 with other settings" in left_out(store, 6)
    every = chosen_rows(store, 6, Choice(every_setting=True))
    assert every["runs"].tolist() == [1, 1, 1, 1]
    assert len(set(every["settings"])) == 2


def test_real_images_are_preferred_to_synthetic_ones_and_the_rest_is_named(store: Store) -> None:
    record_training(store, "lenet5", [50.0])
    record_training(store, "lenet5", [90.0], dataset="demo", synthetic=True)
    assert families(trainings(store)) == ["ham", "demo"]
    assert chosen_rows(store, 5)["test_accuracy"].tolist() == [50]
    assert left_out(store, 5) == "1 training on other data: demo."
    demo = chosen_rows(store, 5, Choice(dataset="demo"))
    assert demo["synthetic"].tolist() == [True]
    assert demo["test_accuracy"].tolist() == [90]


def test_choosing_a_data_set_includes_its_reconstructions(store: Store) -> None:
    record_training(store, "lenet5", [50.0])
    record_training(store, "lenet5", [60.0], dataset="smaller", source="ham")
    assert chosen_rows(store, 5, Choice(dataset="ham"))["version"].tolist() == ["original", "reconstructed"]
    assert chosen_rows(store, 5, Choice(dataset="smaller"))["test_accuracy"].tolist() == [60]
    assert chosen_rows(store, 5, Choice(versions=("original",)))["test_accuracy"].tolist() == [50]


def test_newer_settings_replace_older_ones_when_they_form_pairs(store: Store) -> None:
    longest = QUICK.replace(epochs=40)
    record_training(store, "lenet5", [50.0], training=LONGER)
    record_training(store, "lenet5", [60.0], dataset="smaller", source="ham", training=LONGER)
    record_training(store, "lenet5", [10.0], training=longest)
    assert chosen_rows(store, 5)["test_accuracy"].tolist() == [50, 60]
    assert "1 training of lenet5 with other settings: 48×64, 40 epochs" in left_out(store, 5)
    record_training(store, "lenet5", [20.0], dataset="smaller", source="ham", training=longest)
    assert chosen_rows(store, 5)["test_accuracy"].tolist() == [10, 20]


def test_a_quick_trial_does_not_replace_a_longer_training(store: Store) -> None:
    record_training(store, "lenet5", [50.0], training=LONGER)
    record_training(store, "lenet5", [10.0], training=QUICK.replace(epochs=14))
    record_training(store, "lenet5", [10.0], dataset="smaller", source="ham", training=QUICK.replace(epochs=14))
    assert chosen_rows(store, 5)["test_accuracy"].tolist() == [50]
    record_training(store, "lenet5", [40.0], training=QUICK.replace(epochs=15))
    assert chosen_rows(store, 5)["test_accuracy"].tolist() == [40]


def test_table_6_prefers_networks_from_scratch_to_newer_ones_that_inherit_weights_or_are_taught(store: Store) -> None:
    record_training(store, "lenet5", [60.0, 55.0], rules=HALVINGS)
    for accuracy, rules in ((70.0, {"initialise": "l1"}), (80.0, {"distil": True})):
        record_training(store, "lenet5", [accuracy, accuracy], rules=HALVINGS.replace(**rules))
    assert chosen_rows(store, 6)["test_accuracy"].tolist() == [60, 55]
    assert "4 trainings of lenet5 with other settings" not in left_out(store, 6)
    assert left_out(store, 6).count("2 trainings of lenet5 with other settings") == 2
    assert chosen_rows(store, 5)["test_accuracy"].tolist() == [80]  # unpruned networks are all trained alike


def test_each_network_has_its_own_newest_settings_which_the_caption_names(store: Store) -> None:
    record_training(store, "lenet5", [50.0])
    record_training(store, "custom2", [60.0], training=LONGER)
    found = article_table(5, select(trainings(store), 5).steps)
    assert found.rows.query("runs > 0")["network"].tolist() == ["lenet5", "custom2"]
    assert "lenet5: 3 epochs; custom2: 30 epochs" in found.caption
    assert "settings" not in found.keys


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Give a store with trainings of randomly drawn runs, many of which repeat the same training."""
    store = Store(tmp_path_factory.mktemp("mixed") / "dermslim.duckdb")
    generator = np.random.default_rng(3)
    for _ in range(16):
        reconstructed = generator.random() < 0.5
        record_training(
            store,
            str(generator.choice(["lenet5", "custom2"])),
            [80.0, 79.5] if (prunes := generator.random() < 0.5) else [80.0],
            dataset="smaller" if reconstructed else "ham",
            source="ham" if reconstructed else None,
            seed=int(generator.integers(1, 3)),
            rules=HALVINGS if prunes else None,
            training=QUICK if generator.random() < 0.5 else LONGER,
        )
    return store


@pytest.mark.parametrize("number", TABLES)
def test_no_training_is_counted_twice_and_no_row_mixes_data_or_settings(mixed: Store, number: int | str) -> None:
    rows = rows_of(mixed, trainings(mixed), number)
    same = [*SAME_TRAINING, *(("way", "total_epochs") if number == WAYS else ())]
    assert rows.duplicated(same).any()
    selection = select(rows, number, Choice(every_setting=True))
    assert not selection.steps.duplicated(same).any()
    rows = article_table(number, selection.steps).rows
    assert rows["runs"].sum() == len(selection.steps)
    by_run = selection.steps.assign(key=selection.steps["run_id"] + selection.steps["name"]).set_index("key")
    for row in rows[rows["runs"] > 0].itertuples():
        name = getattr(row, "name", "Original")
        mixed = by_run.loc[[run + name for run in row.run_ids.split()], ["dataset", "settings", "network"]]
        assert len(mixed.drop_duplicates()) == 1


def test_chosen_runs_are_always_shown_and_unknown_ones_are_refused(store: Store) -> None:
    first = record_training(store, "lenet5", [50.0])
    other = record_training(store, "lenet5", [60.0], dataset="demo", synthetic=True, training=LONGER)
    shown = chosen_rows(store, 5, Choice(runs=(first, other)))
    assert shown["test_accuracy"].tolist() == [60, 50]
    with pytest.raises(SpecError, match=r"Expected runs with a finished training \(.*\), got no-such"):
        select(trainings(store), 5, Choice(runs=("no-such",)))
    with pytest.raises(SpecError, match=r"Expected a data set with finished trainings \(ham, demo\), got nowhere"):
        select(trainings(store), 5, Choice(dataset="nowhere"))
    with pytest.raises(SpecError, match="Expected table 4, 5, 6, further or ways, got 7"):
        select(trainings(store), 7)


def test_a_seed_that_was_taken_after_a_lost_one_counts_once(store: Store) -> None:
    lost = record_training(store, "alexnet", [60.0], seed=1)
    again = record_training(store, "alexnet", [60.0], seed=2)
    with store.transaction() as connection:
        connection.execute("UPDATE steps SET seed = 2, lost = 1 WHERE run_id = ?", [lost])
    row = chosen_rows(store, 5).iloc[0]
    assert (row["runs"], row["seeds"], row["run_ids"]) == (1, "2", again)


def test_sets_drawn_image_by_image_are_in_no_table_and_in_a_sentence_of_their_own(store: Store) -> None:
    for seed, by_lesion, by_image in ((1, 60.0, 70.0), (2, 62.0, 75.0)):
        record_training(store, "lenet5", [by_lesion], seed=seed)
        record_training(store, "lenet5", [by_image], seed=seed, leaky=True)
    record_training(store, "lenet5", [90.0], seed=3, leaky=True)  # without a partner
    record_training(store, "custom2", [80.0], leaky=True)
    rows = chosen_rows(store, 5).set_index("network")
    assert rows.loc["lenet5", "test_accuracy"] == 61
    assert rows.loc["custom2", "test_accuracy"] == 80  # there is nothing else
    assert "3 trainings of lenet5 with other settings" in left_out(store, 5)
    (sentence,) = leak_sentences(trainings(store), "ham")
    assert "reaches a test accuracy of 72.50 % where the sets are drawn image by image, and 61.00 %" in sentence
    assert "mean difference +11.50 ± 2.12 points, n = 2" in sentence
    assert leak_sentences(trainings(store), "another") == []


def test_a_table_can_be_limited_to_networks_seeds_studies_and_settings(store: Store) -> None:
    record_training(store, "lenet5", [50.0], seed=1, study="grid-1")
    record_training(store, "lenet5", [60.0], seed=2, study="grid-2")
    record_training(store, "custom2", [70.0], training=LONGER)
    for choice, expected in (
        (Choice(networks=("lenet5",)), [55]),
        (Choice(seeds=(2,)), [60]),
        (Choice(studies=("grid-1",)), [50]),
        (Choice(settings=tuple(trainings(store).query("network == 'custom2'")["training_settings"].map(str))), [70]),
    ):
        assert chosen_rows(store, 5, choice)["test_accuracy"].tolist() == expected


def test_data_sets_and_networks_that_changed_are_never_averaged(store: Store) -> None:
    record_training(store, "lenet5", [50.0], seed=1, fingerprint="a" * 64)
    record_training(store, "lenet5", [60.0], seed=2, fingerprint="b" * 64)
    rows = chosen_rows(store, 5)
    assert rows["dataset"].tolist() == ["ham [aaaaaa]", "ham [bbbbbb]"]
    mine, changed = replace(LENET5, name="mine"), replace(prune(LENET5, 50), name="mine")
    record_training(store, mine, [70.0], dataset="own", seed=1)
    record_training(store, changed, [80.0], dataset="own", seed=2)
    rows = chosen_rows(store, 5, Choice(dataset="own", every_setting=True))
    assert rows["runs"].tolist() == [1, 1]
    assert rows["settings"].map(str).str.contains(", layers ").all()


def test_the_further_table_has_recall_by_class_sizes_and_times(store: Store) -> None:
    record_training(store, "lenet5", [80.0, 60.0], seed=1, rules=HALVINGS)
    record_training(store, "lenet5", [60.0, 60.0], seed=2, rules=HALVINGS)
    row = chosen_rows(store, FURTHER).iloc[0]
    for label in CLASSES:
        assert row[f"recall_{label}"] == 70
    assert row["lesion_accuracy"] == 70
    assert cell(row, "weights").measured == "1.00"
    assert cell(row, "checkpoint").measured == "3.00"
    assert cell(row, "peak_memory").measured == "1,000"
    assert not row["seconds_best"]
    written = to_markdown(article_table(FURTHER, select(trainings(store), FURTHER).steps))
    assert "Recall non-melanoma, %" in written
    assert {line.count("|") for line in written.splitlines() if line.startswith("|")} == {len(UNPRINTED) + 3 + 1}


def test_a_step_of_a_run_under_way_is_in_the_tables(store: Store) -> None:
    record_training(store, "lenet5", [80.0], rules=HALVINGS, ends=False)
    assert chosen_rows(store, 6)["name"].tolist() == ["Original"]
    assert (table_name(6), table_name(FURTHER)) == ("table6", "further")


# Claims


def judged_by(store: Store, wanted: Grounds | None = None):
    found = trainings(store)
    offered = offers(store, found)
    chosen = grounds(offered, wanted)
    return chosen, known(store, found, offered, chosen), basis(offered, chosen)


def test_an_empty_store_judges_only_counted_claims_and_names_what_is_missing(store: Store) -> None:
    chosen, facts, sentences = judged_by(store)
    assert chosen == Grounds()
    assert sentences == [
        "Compression: no sweep has finished.",
        "Input size: no resize comparison has finished.",
        "Training and pruning: no network has been trained.",
    ]
    statuses = claims_table(facts).set_index("id")["status"]
    assert (statuses.drop(["C13", "C14", "C20"]) == NOT_MEASURED).all()
    assert statuses["C13"] == REPRODUCED


def test_sweeps_of_real_images_and_of_the_articles_k_are_preferred(store: Store) -> None:
    small = record_measured(store, SweepSpec(dataset="ham", ks=(10, 20)))
    whole = record_measured(store, SweepSpec(dataset="ham"))
    partly = record_measured(store, SweepSpec(dataset="ham", ks=(350, 360)))
    demo = record_measured(store, SweepSpec(dataset="demo"), synthetic=True)
    offered = offers(store, trainings(store))
    assert [run.id for run in offered.sweeps] == [whole, partly, small, demo]
    chosen, facts, sentences = judged_by(store)
    assert chosen.sweep == whole
    assert judge("C02", facts).runs == (whole,)
    assert judge("C02", facts).status == REPRODUCED
    assert sentences[0] == f"Compression: {whole}, 2 images of ham."
    _, facts, sentences = judged_by(store, Grounds(sweep=demo))
    assert "synthetic" in judge("C02", facts).note
    assert sentences[0].endswith("demo, synthetic.")
    _, facts, _ = judged_by(store, Grounds(sweep=small))
    assert judge("C04", facts).status == NOT_MEASURED
    with pytest.raises(SpecError, match=r"Expected a finished sweep .*, got nothing-such"):
        judged_by(store, Grounds(sweep="nothing-such"))


def test_resize_comparisons_of_the_articles_k_and_sizes_are_preferred(store: Store) -> None:
    whole = record_measured(store, ResizeSpec(dataset="ham"))
    record_measured(store, ResizeSpec(dataset="ham", sizes=((200, 100), (256, 256))))
    record_measured(store, ResizeSpec(dataset="ham", k=20))
    assert judged_by(store)[0].resize == whole


def test_originals_are_paired_with_the_reconstruction_made_from_them(store: Store) -> None:
    record_reconstruction(store, "k100", "ham", "k=100 per_channel jpeg 95")
    record_reconstruction(store, "k350", "ham", "k=350 per_channel jpeg 95")
    for seed, accuracy in ((1, 80.0), (2, 70.0), (3, 0.0)):
        record_training(store, "lenet5", [accuracy], seed=seed)
    for seed in (1, 2):
        record_training(store, "lenet5", [79.0 - seed], dataset="k350", source="ham", seed=seed)
        record_training(store, "lenet5", [10.0], dataset="k100", source="ham", seed=seed)
        record_training(store, "lenet5", [10.0], dataset="other", source="elsewhere", seed=seed, synthetic=True)
    chosen, facts, sentences = judged_by(store)
    assert (chosen.dataset, chosen.reconstruction) == ("ham", "k350")
    verdict = judge("C15", facts)
    assert verdict.measured == "lenet5 77.50 reconstructed, 75.00 original (means of 2 seeds)."
    assert len(verdict.runs) == 4
    assert sentences[2] == "Training and pruning: ham and its reconstruction k350."
    _, facts, _ = judged_by(store, Grounds(reconstruction="k100"))
    assert judge("C15", facts).measured.startswith("lenet5 10.00 reconstructed, 75.00 original")
    with pytest.raises(SpecError, match=r"Expected a reconstruction that was trained on .*, got other"):
        judged_by(store, Grounds(reconstruction="other"))


def test_trainings_with_different_settings_do_not_form_a_pair(store: Store) -> None:
    record_training(store, "lenet5", [80.0])
    record_training(store, "lenet5", [80.0], dataset="k350", source="ham", training=LONGER)
    _, facts, _ = judged_by(store)
    assert judge("C15", facts).status == NOT_MEASURED
    assert judge("C15", facts).measured.startswith("Needs the same network")


def test_pruning_is_judged_by_finished_histories_of_the_newest_settings(store: Store) -> None:
    old = record_training(store, "alexnet", [70.0, 10.0], rules=HALVINGS)
    new = record_training(store, "alexnet", [70.0, 70.0, 70.0, 70.0], rules=Rules(factors=(50, 33.33)))
    record_training(store, "alexnet", [70.0, 10.0], rules=Rules(factors=(50, 33.33)), seed=2, ends=False)
    _, facts, _ = judged_by(store)
    verdict = judge("C16", facts)
    assert verdict.runs == (new,)
    assert old not in verdict.measured
    assert "accepted R1: 50%; R2: 50%; R3: 50%" in verdict.measured
    on_reconstruction = record_training(store, "alexnet", [70.0, 70.0], dataset="k350", source="ham", rules=HALVINGS)
    _, facts, _ = judged_by(store)
    assert judge("C16", facts).runs == (on_reconstruction,)


def test_the_note_on_polynomials_names_the_curves_where_aicc_disagrees(store: Store) -> None:
    _, facts, _ = judged_by(store)
    assert facts.curves is not None
    note = judge("C14", facts).note
    partial = [curve for curve in facts.curves if curve.scope != "all"]
    for network in ("custom1", "custom2"):
        curves = [each for each in partial if each.network == network]
        assert all((each.best["r2"], each.best["aicc"]) == ("polynomial", "exponential") for each in curves)
        lowest = min(fit.aicc for each in curves for fit in each.fits if fit.model.name == "exponential")
        assert f"{network}, {len(curves)} curves: the exponential, AICc {lowest:.1f}".replace("-", "−") in note
    assert judge("C13", facts).status == REPRODUCED


def test_claims_use_only_the_networks_of_the_article(store: Store) -> None:
    record_training(store, replace(LENET5, name="mine"), [70.0, 70.0], rules=HALVINGS)
    _, facts, _ = judged_by(store)
    assert facts.steps is not None
    assert set(facts.steps["network"]) <= set(NETWORKS)
    assert judge("C19", facts).status == NOT_MEASURED


def test_the_recorded_baseline_is_part_of_the_settings(store: Store) -> None:
    record_training(store, "lenet5", [70.0])
    assert f"baseline 0/0/0/0/−{EASY.test_tolerance:g}" in str(trainings(store)["settings"].iloc[0])
