"""Every claim with supporting values, with refuting values, and without values."""

from dataclasses import replace

import pandas as pd
import pytest
from recorded import predictions

from core.article.claims import (
    CLAIMS,
    NOT_MEASURED,
    NOT_REPRODUCED,
    REPRODUCED,
    STATUSES,
    Verdict,
    claims_table,
    judge,
    judge_all,
)
from core.article.findings import Known
from core.article.printed import claims, table
from core.compression.summary import storage, summarise
from core.networks.architectures import NETWORKS
from core.networks.costs import curve_table, network_cost
from core.networks.fits import fit_curves
from core.networks.pruning import FACTORS, prune
from core.predictions.rows import prediction_frame
from core.store.trainings import STEP_COLUMNS

KS = (100, 200, 300, 350, 400, 450)
ARTICLE = {
    "psnr": (39.0, 39.5, 39.8, 40.0, 40.1, 40.2),
    "ssim": (0.970, 0.980, 0.984, 0.986, 0.988, 0.990),
    "hist_bhattacharyya": (0.10, 0.05, 0.02, 0.01, 0.01, 0.01),
    "hu_correlation": (0.9990,) * 6,
    "haralick_distance": (40.0, 20.0, 10.0, 8.0, 7.0, 9.0),
    "spectral_correlation": (0.99,) * 6,
    "explained_variance": (0.95, 0.97, 0.98, 0.985, 0.99, 0.995),
}
SIZES = ((256, 256), (200, 100), (450, 150))


def measurements(ratio: float = 3.77, **metrics: tuple[float, ...]) -> pd.DataFrame:
    values = ARTICLE | metrics
    return pd.DataFrame(
        [
            {"image_id": image, "variant": f"k={k}", "k": k, "codec": "jpeg", "quality": 95,
             "height": 450, "width": 600, "source_bytes": 377000, "stored_bytes": round(377000 / ratio),
             "control_bytes": 100000, "factor_bytes": 1, "mse": 1.0, "reason": None}
            | {name: values[name][at] for name in values}
            for image in ("a", "b")
            for at, k in enumerate(KS)
        ]
    )  # fmt: skip


def sweep(ratio: float = 3.77, **metrics: tuple[float, ...]) -> Known:
    frame = measurements(ratio, **metrics)
    return Known(storage=storage(frame), statistics=summarise(frame), runs={"sweep": ("svd-1",)})


def chosen(**ks: int | None) -> Known:
    return Known(optimal_k=pd.DataFrame({"rule": list(ks), "k": pd.array(list(ks.values()), dtype="Int64")}))


def resized(**changed: dict[str, float]) -> Known:
    rows = []
    for height, width in SIZES:
        best = (height, width) == (200, 100)
        values = {"psnr": 44.0 if best else 40.0, "rmse": 1.0 if best else 2.0, "ssim": 0.99 if best else 0.98}
        values |= changed.get(f"s{height}x{width}", {})
        rows += [{"variant": f"{height}x{width}", "metric": name, "mean": value} for name, value in values.items()]
    return Known(resize_statistics=pd.DataFrame(rows), runs={"resize": ("resize-1",)})


FACTORS_OF = {"Original": (), "R1: 50%": (50,), "R2: 50%": (50, 50), "R3: 50%": (50,) * 3, "R4: 50%": (50,) * 4,
              "R1: 33%": (33.33,), "R2: 33%": (33.33,) * 2, "R1, R2: 50%, 33%": (50, 33.33)}  # fmt: skip


def run(network: str, *verdicts: tuple[str, bool], run_id: str = "", version: str = "reconstructed", **values: object):
    """Return the steps of a run, the unpruned network first, with the computed sizes."""
    rows = []
    for index, (name, accepted) in enumerate([("Original", True), *verdicts]):
        pruned = NETWORKS[network]
        for factor in FACTORS_OF[name]:
            pruned = prune(pruned, factor)
        cost = network_cost(pruned, 200, 100)
        rows.append(
            {"run_id": run_id or f"{network}-{version}", "network": network, "dataset": "ham", "version": version,
             "seed": 1, "step": index, "name": name, "parameters": cost.parameters, "accepted": accepted,
             "bytes_weights": cost.bytes_weights, "bytes_with_optimizer": cost.bytes_with_optimizer,
             "test_accuracy": 75.0, "epochs": 75, "seconds": 1500.0 if index == 0 else 500.0} | values
        )  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=list(STEP_COLUMNS))


def steps(*runs: pd.DataFrame) -> Known:
    return Known(steps=pd.concat(runs, ignore_index=True))


def four(**reconstructed: float) -> Known:
    originals = [run(name, version="original") for name in NETWORKS]
    every = [*originals, *(run(name, test_accuracy=reconstructed.get(name, 75.0)) for name in NETWORKS)]
    return Known(pairs=pd.concat(every, ignore_index=True))


ALEXNET = (("R1: 50%", True), ("R2: 50%", True), ("R3: 50%", True), ("R4: 50%", False))
SHRUNK = {"lenet5": ("R2: 33%", True), "alexnet": ("R2: 50%", True), "custom1": ("R1: 50%", True),
          "custom2": ("R1: 50%", True)}  # fmt: skip

CASES: dict[str, tuple[Known, Known]] = {
    "C01": (sweep(2.8), sweep(2.7)),
    "C02": (sweep(3.83), sweep(3.0)),
    "C03": (sweep(3.83), sweep(3.0)),
    "C04": (chosen(plateau=350, knee=200), chosen(plateau=300, knee=350)),
    "C05": (sweep(), sweep(psnr=(39, 41, 39, 40, 40, 40))),
    "C06": (sweep(), sweep(ssim=(0.94, 0.96, 0.97, 0.98, 0.985, 0.99))),
    "C07": (sweep(), sweep(hist_bhattacharyya=(0.10, 0.08, 0.06, 0.04, 0.02, 0.0))),
    "C08": (sweep(), sweep(hu_correlation=(0.99, *ARTICLE["hu_correlation"][1:]))),
    "C09": (sweep(), sweep(haralick_distance=(40, 20, 10, 8, 7, 6))),
    "C10": (sweep(), sweep(spectral_correlation=(0.98, *ARTICLE["spectral_correlation"][1:]))),
    "C11": (sweep(), sweep(explained_variance=(0.9, 0.95, 0.96, 0.98, 0.99, 0.995))),
    "C12": (resized(), resized(s256x256={"ssim": 0.995})),
    "C15": (four(alexnet=73.0), four(lenet5=72.9)),
    "C16": (steps(run("alexnet", *ALEXNET)), steps(run("alexnet", ("R1: 50%", False), ("R1: 33%", False)))),
    "C17": (steps(run("alexnet", *ALEXNET[:2], parameters=1.0).assign(parameters=[100, 50, 5.2])),
            steps(run("alexnet", *ALEXNET))),
    "C18": (steps(run("alexnet", *ALEXNET).assign(bytes_with_optimizer=[440e6, 1, 1, 9e6, 1])),
            steps(run("alexnet", *ALEXNET))),
    "C19": (steps(*(run(name, verdict) for name, verdict in SHRUNK.items())),
            steps(run("lenet5", ("R1: 50%", False), ("R1: 33%", False)))),
    "C21": (steps(run("custom2", ("R1: 50%", False), ("R1: 33%", False), ("R2: 33%", True))),
            steps(run("custom2", ("R1: 50%", False), ("R1: 33%", True), ("R2: 33%", False)))),
    "C22": (steps(run("custom1", ("R1: 50%", True), ("R2: 50%", False), ("R1, R2: 50%, 33%", True))),
            steps(run("custom1", ("R1: 50%", False), ("R1: 33%", True)))),
    "C23": (steps(run("alexnet", *ALEXNET)), steps(run("alexnet", *ALEXNET, seconds=601.0))),
}  # fmt: skip


@pytest.mark.parametrize("claim_id", CASES)
def test_each_claim_is_reproduced_or_refuted_by_fitting_figures(claim_id) -> None:
    bearing_out, refuting = CASES[claim_id]
    assert judge(claim_id, bearing_out).status == REPRODUCED
    assert judge(claim_id, refuting).status == NOT_REPRODUCED


def test_without_measurements_only_the_counted_claim_is_judged() -> None:
    verdicts = {verdict.claim_id: verdict for verdict in judge_all(Known())}
    assert list(verdicts) == list(claims()["id"]) == list(CLAIMS)
    assert verdicts.pop("C20").status == REPRODUCED
    assert {verdict.status for verdict in verdicts.values()} == {NOT_MEASURED}
    assert all(verdict.measured.startswith("Needs ") for verdict in verdicts.values())
    empty = Known(pd.DataFrame(storage(measurements()).iloc[:0]), summarise(measurements()).iloc[:0],
                  pd.DataFrame(columns=["rule", "k"]), pd.DataFrame(columns=["variant", "metric", "mean"]), (),
                  pd.DataFrame(columns=list(STEP_COLUMNS)), pd.DataFrame(columns=list(STEP_COLUMNS)))  # fmt: skip
    assert {verdict.status for verdict in judge_all(empty) if verdict.claim_id != "C20"} == {NOT_MEASURED}


def test_the_compression_ratio_is_split_into_codec_and_svd() -> None:
    verdict = judge("C02", sweep(3.83))
    assert verdict.measured == "Ratio 3.830."
    assert verdict.runs == ("svd-1",)
    assert "without SVD already compresses by 3.770; SVD multiplies that by 1.016" in verdict.note


def test_a_histogram_that_settles_before_the_articles_k_is_noted() -> None:
    verdict = judge("C07", sweep(hist_bhattacharyya=(0.10, 0.01, 0.01, 0.01, 0.01, 0.01)))
    assert verdict.status == REPRODUCED
    assert "arrived before k = 350, at k = 200" in verdict.note


def test_a_sweep_without_the_articles_k_decides_no_claim() -> None:
    frame = measurements().query("k == 100")
    known = Known(storage=storage(frame), statistics=summarise(frame))
    for number in (1, 2, 3, *range(5, 12)):
        assert judge(f"C{number:02}", known).status == NOT_MEASURED


def test_a_claim_about_curves_is_judged_by_all_curves() -> None:
    curves = tuple(fit_curves(curve_table(NETWORKS.values(), FACTORS, ("all", "first_two"), 8, 200, 100)))
    for claim_id, every in (("C13", True), ("C14", False)):
        group = [curve for curve in curves if (curve.scope == "all") == every]
        holding = tuple(curve for curve in group if curve.claim.holds)
        verdict = judge(claim_id, Known(curves=curves))
        assert f"{len(holding)} of {len(group)} curves" in verdict.measured
        assert verdict.status == (REPRODUCED if len(holding) == len(group) else NOT_REPRODUCED)
        if holding:
            assert judge(claim_id, Known(curves=holding)).status == REPRODUCED
    assert any(curve.claim.holds for curve in curves)


def test_the_articles_own_table_5_refutes_its_claim() -> None:
    printed = table(5).assign(run_id="printed", seed=1, step=0, name="Original", parameters=1, accepted=True)
    verdict = judge("C15", Known(pairs=printed))
    assert verdict.status == NOT_REPRODUCED
    assert "lenet5 69.72 reconstructed, 72.22 original" in verdict.measured


def test_a_claim_about_all_networks_needs_results_of_all_networks() -> None:
    known = four()
    assert known.pairs is not None
    three = Known(pairs=known.pairs[known.pairs["network"] != "custom2"])
    assert judge("C15", three).status == NOT_MEASURED
    assert "alexnet 75.00 reconstructed" in judge("C15", three).measured
    assert judge("C19", steps(run("alexnet", *ALEXNET[:2]))).status == NOT_MEASURED


def test_a_pruning_run_that_ended_too_early_decides_no_claim() -> None:
    for claim_id, one in (
        ("C16", run("alexnet", *ALEXNET[:2])),
        ("C16", run("alexnet", *ALEXNET[:3])),
        ("C21", run("custom2", ("R1: 50%", False), ("R1: 33%", False))),
        ("C22", run("custom1", ("R1: 50%", True), ("R2: 50%", True))),
    ):
        verdict = judge(claim_id, steps(one))
        assert verdict.status == NOT_MEASURED
        assert verdict.runs == (one["run_id"].iloc[0],)


def test_one_refuting_seed_is_enough() -> None:
    known = steps(run("alexnet", *ALEXNET), run("alexnet", ("R1: 50%", False), run_id="seed-2"))
    verdict = judge("C16", known)
    assert verdict.status == NOT_REPRODUCED
    assert verdict.runs == ("alexnet-reconstructed", "seed-2")
    assert "seed-2: accepted none, rejected R1: 50%" in verdict.measured


def test_network_sizes_are_given_with_and_without_the_optimiser_state() -> None:
    verdict = judge("C18", steps(run("alexnet", *ALEXNET)))
    assert verdict.measured == "R3: 50%: 76.7 to 1.5 MB (weights), 230.2 to 4.4 MB (with optimiser state)."


def test_trainings_too_short_to_save_ten_minutes_do_not_decide_the_claim() -> None:
    verdict = judge("C23", steps(run("alexnet", *ALEXNET, epochs=30, seconds=120.0)))
    assert verdict.status == NOT_MEASURED
    assert "they take 5.0 minutes at most" in verdict.measured
    assert "16.7 to 16.7 minutes less than unpruned" in judge("C23", steps(run("alexnet", *ALEXNET))).measured


def test_the_articles_table_6_supports_its_alexnet_claim_only_by_its_words() -> None:
    names = table(6).query("network == 'alexnet'")["name"].tolist()[1:]
    by_words = [(name, int(name[1]) <= 3) for name in names[:4]]
    assert judge("C16", steps(run("alexnet", *by_words))).status == REPRODUCED
    assert "held against 77.50, none of R1 to R5 would be accepted" in judge("C16", Known()).note


def test_verdicts_on_synthetic_images_say_so() -> None:
    frame = measurements()
    known = Known(storage=storage(frame), synthetic=frozenset({"sweep"}))
    assert judge("C02", known).note.startswith("Measured on synthetic images")
    assert "synthetic" not in judge("C20", known).note


def test_the_table_has_one_row_per_claim_with_the_printed_value_and_the_verdict() -> None:
    table = claims_table(sweep())
    assert list(table["id"]) == list(claims()["id"])
    assert set(table["status"]) <= set(STATUSES)
    row = table.set_index("id").loc["C02"]
    assert (row["printed_value"], row["status"], row["runs"]) == ("3.77", REPRODUCED, "svd-1")
    assert (table["measured"] != "").all()


def test_every_contradiction_of_the_article_is_in_a_note() -> None:
    notes = {verdict.claim_id: verdict.note for verdict in judge_all(Known())}
    for claim_id, text in {"C15": "69.72", "C16": "77.50", "C17": "three halvings", "C19": "41 %", "C20": "3.34",
                           "C21": "71.88", "C22": "2.22"}.items():  # fmt: skip
        assert text.lower() in notes[claim_id].lower()


def test_an_unknown_claim_raises_a_key_error() -> None:
    with pytest.raises(KeyError):
        judge("C99", Known())


def test_verdicts_are_compared_by_value() -> None:
    assert judge("C20", Known()) == judge("C20", Known())
    assert isinstance(judge("C20", Known()), Verdict)


def predicted(accuracy: float, images: int = 40) -> pd.DataFrame:
    rows = prediction_frame(predictions(accuracy, images))
    return rows[rows["split"] == "test"]


def test_reconstructed_and_original_are_told_apart_by_their_predictions_else_by_intervals_else_not() -> None:
    known = four()
    accuracy = {"original": 80.0, "reconstructed": 70.0}
    paired = replace(known, predictions=lambda run, step: predicted(accuracy[run.rsplit("-", 1)[1]]))
    assert "alexnet, seed 1: can be told apart, −10.00 points [−" in judge("C15", paired).chance
    alike = replace(known, predictions=lambda run, step: predicted(80.0))
    assert "cannot be told from chance, +0.00 points [+0.0, +0.0], McNemar p = 1, 160 images" in (
        judge("C15", alike).chance
    )
    assert known.pairs is not None
    limits = [{"test_accuracy": (70.0, 79.5)}] * len(known.pairs)
    separate = replace(known, pairs=known.pairs.assign(intervals=limits))
    assert "alexnet, seed 1: not paired: 75.00 [70.0, 79.5] and 75.00 [70.0, 79.5]" in judge("C15", separate).chance
    assert "alexnet, seed 1: unknown, without predictions of both" in judge("C15", known).chance


def test_a_step_is_told_apart_from_the_unpruned_network_of_its_run() -> None:
    known = steps(run("alexnet", *ALEXNET))
    known = replace(known, predictions=lambda run, step: predicted({0: 80.0, 3: 50.0}[step]))
    assert judge("C16", known).chance.startswith(
        "alexnet-reconstructed, R3: 50% against Original: can be told apart, −30.00 points"
    )
    assert judge("C21", steps(run("custom2", ("R1: 50%", False)))).chance == "Unknown: no run reached R2: 33%."
    assert judge("C17", known).chance == ""
