"""Tables 4 to 6: means over seeds beside the article's values, in three formats."""

import io
import itertools
import re

import pandas as pd
import pytest

from core.article.printed import TABLE_METRICS
from core.article.printed import table as printed_table
from core.article.table_formats import WRITERS, cell, latex_escape, markdown_escape, to_csv, to_latex, to_markdown
from core.article.tables import NEEDED, article_table, without_intervals
from core.errors import SpecError
from core.specs import SettingsKey
from core.store.trainings import STEP_COLUMNS

EVERY = tuple(dict.fromkeys(itertools.chain(*TABLE_METRICS.values())))


def settings_key(size: str) -> SettingsKey:
    return SettingsKey((("size", size),), (size,))


def step(network: str = "alexnet", version: str = "reconstructed", **values: object) -> dict[str, object]:
    common = {"run_id": "run-1", "network": network, "dataset": f"ham_{version}", "version": version, "seed": 1}
    return (
        common
        | {"settings": settings_key("200×100"), "step": 0, "name": "Original"}
        | dict.fromkeys(EVERY, 70.0)
        | values
    )


def steps(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=[*NEEDED, "settings", *EVERY])


def row(table, **keys):
    rows = table.rows
    for key, value in keys.items():
        rows = rows[rows[key] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_means_over_seeds_are_shown_with_the_printed_value() -> None:
    table = article_table(5, steps(step(test_accuracy=76.0), step(run_id="run-2", seed=2, test_accuracy=79.0)))
    alexnet = row(table, network="alexnet", version="reconstructed")
    assert alexnet["runs"] == 2
    assert alexnet["test_accuracy"] == 77.5
    assert alexnet["test_accuracy_std"] == pytest.approx(2.1213, abs=1e-4)
    assert alexnet["test_accuracy_printed"] == 77.5
    assert alexnet["test_accuracy_difference"] == 0
    assert alexnet["test_precision_difference"] == pytest.approx(70 - 77.77)


def test_one_run_has_no_deviation_and_unmeasured_rows_have_only_printed_values() -> None:
    table = article_table(4, steps(step()))
    assert pd.isna(row(table, network="alexnet", version="reconstructed")["train_accuracy_std"])
    lenet5 = row(table, network="lenet5", version="original")
    assert lenet5["runs"] == 0
    assert pd.isna(lenet5["train_accuracy"])
    assert lenet5["train_accuracy_printed"] == 99.84
    assert len(table.rows) == 8


def test_rows_follow_the_articles_order_with_other_rows_at_the_end() -> None:
    table = article_table(
        6,
        steps(
            step("mine", step=1, name="R1: 50%"),
            step("mine"),
            step("alexnet", step=4, name="R3, R4: 50%, 33%"),
            step("alexnet"),
        ),
    )
    printed = list(printed_table(6)[["network", "name"]].itertuples(index=False, name=None))
    expected = [
        *printed[:10],
        ("alexnet", "R3, R4: 50%, 33%"),
        *printed[10:],
        ("mine", "Original"),
        ("mine", "R1: 50%"),
    ]
    assert list(table.rows[["network", "name"]].itertuples(index=False, name=None)) == expected


def test_tables_4_and_5_use_only_the_unpruned_networks() -> None:
    table = article_table(5, steps(step(), step(step=1, name="R1: 50%", test_accuracy=10.0)))
    assert row(table, network="alexnet", version="reconstructed")["test_accuracy"] == 70


def test_the_best_row_of_a_network_is_marked_when_there_are_several() -> None:
    table = article_table(
        5, steps(step(version="original", test_accuracy=71.0), step(test_accuracy=71.001), step("lenet5"))
    )
    best = table.rows.set_index(["network", "version"])["test_accuracy_best"]
    assert best["alexnet", "original"]
    assert best["alexnet", "reconstructed"], "equal after rounding"
    assert best.sum() == 2, "a single measured value is not marked as the best"
    table = article_table(5, steps(step(version="original", test_accuracy=71.0), step(test_accuracy=72.0)))
    assert table.rows.set_index(["network", "version"])["test_accuracy_best"]["alexnet"].tolist() == [False, True]


def test_runs_on_other_data_or_with_other_settings_are_never_averaged() -> None:
    table = article_table(5, steps(step(), step(run_id="run-2", dataset="ham_k100", test_accuracy=50.0)))
    assert table.keys == ("network", "version", "dataset")
    both = table.rows.query("network == 'alexnet' and version == 'reconstructed'")
    assert both.set_index("dataset")["test_accuracy"].to_dict() == {"ham_k100": 50, "ham_reconstructed": 70}
    assert (both["test_accuracy_printed"] == 77.5).all()
    table = article_table(
        6, steps(step(), step(run_id="run-2", settings=settings_key("75×100")), step(version="original"))
    )
    assert table.keys == ("network", "name", "version", "dataset", "settings")
    assert (table.rows.query("network == 'alexnet' and name == 'Original'")["runs"] == 1).all()


def test_a_step_without_metrics_is_left_out() -> None:
    table = article_table(5, steps(step(**dict.fromkeys(EVERY, None))))
    assert (table.rows["runs"] == 0).all()
    assert table.caption.endswith("Nothing measured yet; printed figures only.")


def test_an_empty_frame_gives_the_printed_table() -> None:
    for number, rows in ((4, 8), (5, 8), (6, 18)):
        table = article_table(number, pd.DataFrame(columns=list(STEP_COLUMNS)))
        assert len(table.rows) == rows
        assert not table.rows["runs"].any()
        for write in WRITERS.values():
            assert "alexnet" in write(table)


def test_the_caption_gives_data_n_seeds_and_settings() -> None:
    two = steps(step(), step(run_id="run-2", seed=7)).assign(images="360 test images", synthetic=True)
    table = article_table(5, two)
    for text in ("ham_reconstructed (reconstructed, synthetic)", "n: 360 test images", "2 runs, 2 seeds (1, 7)",
                 "settings: 200×100", "measured minus printed", "sample deviation"):  # fmt: skip
        assert text in table.caption


def test_the_csv_can_be_read_back_in_full_precision() -> None:
    table = article_table(5, steps(step(test_accuracy=200 / 3), step(version="original")))
    back = pd.read_csv(io.StringIO(to_csv(table)))
    assert list(back.columns) == list(table.rows.columns)
    both = (row(table, network="alexnet", version="reconstructed"), back.iloc[3])
    assert both[0]["test_accuracy"] == both[1]["test_accuracy"] == 200 / 3


def test_markdown_has_equal_numbers_of_cells_and_the_best_in_bold() -> None:
    table = article_table(5, steps(step(version="original", test_accuracy=80.125), step(run_id="run|2")))
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {1 + 3 + 3 * 3}
    assert "| alexnet | original | 1 | **70.00** | 74.73 | −4.73 | **80.12** | 73.88 | +6.25 |" in lines[4]
    assert "–" in lines[2]


def test_latex_has_balanced_braces_escaped_text_and_equal_numbers_of_cells() -> None:
    hostile = step("mine", dataset="100% of a_b & {c}^2\\d#~$", version="original")
    table = article_table(6, steps(step(), step(run_id="r2", seed=2, test_accuracy=73), step(step=1, name="R1: 50%"),
                                   hostile))  # fmt: skip
    text = to_latex(table)
    assert r"100\% of a\_b \& \{c\}\textasciicircum{}2\textbackslash{}d\#\textasciitilde{}\$" in text
    assert r"R1, R2: 50\%, 33\%" in text
    assert r"\textbf{71.50 $\pm$ 2.12}" in text
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert columns is not None
    for line in body[1:]:
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
    assert text.count(r"\midrule") == 1 + 4
    for rule in (r"\toprule", r"\bottomrule", r"\cmidrule(lr){4-6}"):
        assert rule in text


def test_escapes_replace_each_character_once() -> None:
    assert latex_escape("\\{") == r"\textbackslash{}\{"
    assert markdown_escape("a|b_c\n*d*") == r"a\|b\_c \*d\*"


def test_unknown_tables_and_invalid_steps_are_refused() -> None:
    with pytest.raises(SpecError, match="Expected table 4, 5, 6, further or ways, got 7"):
        article_table(7, steps(step()))
    with pytest.raises(SpecError, match=r"got none of \['test_recall'\]"):
        article_table(5, steps(step()).drop(columns="test_recall"))
    with pytest.raises(SpecError, match=r"Expected versions original or reconstructed, got \['k=350'\]"):
        article_table(5, steps(step(version="k=350")))


LIMITS = {"test_accuracy": (65.04, 75.06), "test_precision": (64.0, 76.0)}


def with_intervals(*rows: dict[str, object]) -> pd.DataFrame:
    return steps(*rows).assign(intervals=[row.get("intervals", LIMITS) for row in rows])


def test_intervals_are_added_only_where_asked() -> None:
    measured = with_intervals(step())
    with_them, without = article_table(5, measured, with_intervals=True), article_table(5, measured)
    pd.testing.assert_frame_equal(with_them.rows[list(without.rows)], without.rows)
    assert set(with_them.rows) - set(without.rows) == {
        f"{metric}_{end}" for metric in TABLE_METRICS[5] for end in ("low", "high")
    }
    assert without.caption in with_them.caption
    assert "not averaged over runs" in with_them.caption
    again = without_intervals(with_them)
    pd.testing.assert_frame_equal(again.rows, without.rows)
    assert again.caption == without.caption


def test_each_run_has_its_own_interval_beside_the_mean() -> None:
    two = with_intervals(
        step(test_accuracy=76.0, seed=2, run_id="run-2", intervals={"test_accuracy": (71.0, 81.0)}),
        step(test_accuracy=79.0),
    )
    alexnet = row(article_table(5, two, with_intervals=True), network="alexnet", version="reconstructed")
    assert alexnet["run_ids"] == "run-1 run-2"
    assert (alexnet["test_accuracy_low"], alexnet["test_accuracy_high"]) == ("65.04 71.0", "75.06 81.0")
    assert cell(alexnet, "test_accuracy").whole == "77.50 ± 2.12 [65.0, 75.1] [71.0, 81.0]"
    assert cell(alexnet, "test_precision").whole == "70.00 ± 0.00 [64.0, 76.0] [–]", "the second run has none"
    assert cell(alexnet, "test_recall").whole == "70.00 ± 0.00", "no run has one"


def test_intervals_are_in_every_format() -> None:
    table = article_table(5, with_intervals(step(version="original")), with_intervals=True)
    assert "| 70.00 [65.0, 75.1] | 73.88 | −3.88 |" in to_markdown(table)
    assert "70.00 [65.0, 75.1] & 73.88 & $-$3.88" in to_latex(table)
    back = pd.read_csv(io.StringIO(to_csv(table))).query("runs > 0")
    assert (back["test_accuracy_low"].item(), back["test_accuracy_high"].item()) == LIMITS["test_accuracy"]
