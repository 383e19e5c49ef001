"""A network that the unpruned one teaches: Keras's loss on the true logits, exact resumption, its own metrics."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from benchmarks.processes import Process
from core.data.datasets import load_dataset
from core.errors import NotOnThisHost, SpecError
from core.estimates import Pace, training_estimate
from core.networks.architectures import LENET5
from core.networks.costs import network_cost
from core.networks.pruning import prune
from core.store.measurements import Store
from core.training import batches, models, steps
from core.training.algorithm2 import Step, Stop, next_step, record
from core.training.checkpoints import CHECKPOINT_NAME, read_arrays
from core.training.loop import train
from core.training.models import Teacher
from core.training.results import EpochResult, StepResult
from core.training.specs import BFLOAT16, CRITERIA, FLOAT32, PruneTrainSpec, Rules, TrainingProtocol
from tests.laboratory import write_lesions
from tests.test_lost_networks import DATA_OF_RUN
from tests.test_training import DATA, NETWORK, ROOT, SPEC, UNPRUNED, final, same

SHORT = SPEC.replace(epochs=2)


def teacher(weight: float = 0.5, temperature: float = 3.0, seed: int = 7) -> Teacher:
    """Return an unpruned network with sharp answers: untrained ones are nearly alike for all classes."""
    model = models.seeded_model(UNPRUNED, SPEC.replace(seed=seed))
    weights = models.copied(model.weights)
    return Teacher(UNPRUNED, [*weights[:-2], 5 * weights[-2], weights[-1]], temperature, weight)


def trained(folder: Path, given: Teacher | None, spec: TrainingProtocol = SHORT, data=DATA) -> list[EpochResult]:
    return list(train(NETWORK, data, spec, folder, teacher=given))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a short training without a teacher."""
    folder = tmp_path_factory.mktemp("plain")
    trained(folder, None)
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the same training with a teacher."""
    folder = tmp_path_factory.mktemp("taught")
    trained(folder, teacher())
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[EpochResult], Path]:
    """Give an uninterrupted training of all epochs with a teacher: its epochs and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return trained(folder, teacher(), SPEC), folder


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
def test_the_loss_of_probabilities_is_that_of_the_logits_before_the_softmax(temperature: float) -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 2, (2, 40, 4))
    ones, others = softmax(logits / temperature, axis=-1)
    expected = temperature**2 * rel_entr(ones, others).sum(axis=-1).mean()
    loss = models.LogitsOfProbabilities(temperature, loss=keras.losses.KLDivergence())
    found = loss.compute_loss(*(softmax(each, axis=-1).astype(np.float32) for each in logits))
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_whole_loss_weighs_labels_and_teacher() -> None:
    given = teacher(weight=0.7, temperature=4.0)
    model, teaching = models.compiled_model(NETWORK, SPEC), models.seeded_model(UNPRUNED, SPEC)
    teaching.set_weights(given.weights)
    inputs, labels = batches.training_batches(DATA, SPEC, 1)[0]
    ones, others = (np.asarray(each(inputs, training=False), dtype=np.float64) for each in (teaching, model))
    softened = [each ** (1 / 4) / (each ** (1 / 4)).sum(axis=1, keepdims=True) for each in (ones, others)]
    own, of_teacher = -np.log((others * labels).sum(axis=1)).mean(), 16 * rel_entr(*softened).sum(axis=1).mean()
    learner = models.taught(model, given, SPEC)
    found = learner.compute_loss(inputs, labels, others.astype(np.float32))
    assert of_teacher > 0.1
    assert float(found) == pytest.approx(0.3 * own + 0.7 * of_teacher, rel=1e-4)


def test_an_impossible_class_gives_a_finite_loss() -> None:
    loss = models.LogitsOfProbabilities(2.0, loss=keras.losses.KLDivergence())
    sure = np.eye(4, dtype=np.float32)
    assert np.isfinite(float(loss.compute_loss(sure, sure[::-1])))


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16])
def test_a_teacher_without_weight_changes_nothing(precision: str, tmp_path: Path) -> None:
    spec = SHORT.replace(precision=precision)
    plain, with_teacher = (trained(tmp_path / name, given, spec) for name, given in (("a", None), ("b", teacher(0.0))))
    for one, other in zip(plain, with_teacher, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
        assert replace(one, train_loss=0) == replace(other, train_loss=0)
    assert same(final(tmp_path / "a"), final(tmp_path / "b"))


def test_labels_count_by_one_minus_the_weight_and_the_teacher_by_the_weight(tmp_path: Path, taught: Path) -> None:
    other_labels = replace(DATA, labels=(DATA.labels + 1) % 4)
    names = ("only taught", "other labels", "other teacher", "both, other labels")
    places = {"both": taught} | {name: tmp_path / name for name in names}
    trained(places["only taught"], teacher(1.0))
    trained(places["other labels"], teacher(1.0), data=other_labels)
    trained(places["other teacher"], teacher(1.0, seed=8))
    trained(places["both, other labels"], teacher(0.5), data=other_labels)
    states = {name: read_arrays(place / CHECKPOINT_NAME) for name, place in places.items()}
    assert same(states["only taught"], states["other labels"])
    assert not same(states["only taught"], states["other teacher"])
    assert not same(states["only taught"], states["both"])
    assert not same(states["both"], states["both, other labels"])


def test_the_recorded_loss_is_the_networks_own(tmp_path: Path) -> None:
    still = SPEC.replace(epochs=1, learning_rate=1e-12)  # so small that no weight moves
    (plain,), (with_teacher,) = trained(tmp_path / "a", None, still), trained(tmp_path / "b", teacher(0.9), still)
    assert with_teacher.train_loss == pytest.approx(plain.train_loss, rel=1e-5)
    assert with_teacher.train_accuracy == plain.train_accuracy


def test_the_checkpoint_and_the_kept_weights_are_those_of_the_taught_network_alone(plain: Path, taught: Path) -> None:
    without, with_teacher = final(plain), final(taught)
    assert [each.shape for each in without] == [each.shape for each in with_teacher]
    assert not same(without, with_teacher)


def test_a_stopped_training_with_a_teacher_resumes_with_the_result_of_an_uninterrupted_one(
    whole: tuple[list[EpochResult], Path], tmp_path: Path
) -> None:
    stopped = train(NETWORK, DATA, SPEC, tmp_path / "stopped", teacher=teacher())
    next(stopped), next(stopped)
    stopped.close()
    keras.utils.set_random_seed(99)
    assert trained(tmp_path / "stopped", teacher(), SPEC) == whole[0]
    assert same(final(tmp_path / "stopped"), final(whole[1]))


@pytest.mark.slow
def test_a_killed_training_with_a_teacher_ends_with_the_result_of_an_uninterrupted_one(
    whole: tuple[list[EpochResult], Path], tmp_path: Path
) -> None:
    code = (
        "import sys, pathlib; sys.path.insert(0, 'tests'); import test_distillation as t\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "for result in t.train(t.NETWORK, t.DATA, t.SPEC, place, teacher=t.teacher()): print(result.epoch, flush=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "killed")]
    with Process(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGKILL)
    assert trained(tmp_path / "killed", teacher(), SPEC) == whole[0]
    assert same(final(tmp_path / "killed"), final(whole[1]))


@pytest.mark.parametrize("other", [None, teacher(0.4), teacher(temperature=2.0), teacher(seed=8)])
def test_a_checkpoint_of_another_teacher_is_refused(other: Teacher | None, taught: Path, tmp_path: Path) -> None:
    shutil.copytree(taught, tmp_path, dirs_exist_ok=True)
    with pytest.raises(SpecError, match="another training's checkpoint"):
        trained(tmp_path, other)


def run_of(folder: Path, rules: Rules) -> tuple[list[StepResult], np.ndarray]:
    spec = PruneTrainSpec(dataset="moles", network=NETWORK, training=SHORT, rules=rules)
    events = [event for event in steps.run_here(spec, DATA_OF_RUN, folder) if not isinstance(event, Stop)]
    results = [result for _, result in events if isinstance(result, StepResult)]
    return results, models.load_model(folder / "1.keras").get_layer("head_dense2").get_weights()[0]


@pytest.mark.slow
def test_the_unpruned_network_of_a_run_teaches_its_pruned_ones(tmp_path: Path) -> None:
    limit = {"factors": (50,), "max_iterations": 1}
    plain, kernel = run_of(tmp_path / "plain", Rules(**limit))
    taught, other_kernel = run_of(tmp_path / "taught", Rules(**limit, distil=True))
    assert [each.name for each in taught] == ["Original", "R1: 50%"]
    assert taught[0].figures == plain[0].figures
    assert not np.array_equal(kernel, other_kernel)
    _, unweighted = run_of(tmp_path / "unweighted", Rules(**limit, distil=True, teacher_weight=0))
    assert np.array_equal(kernel, unweighted)


def test_a_step_whose_teacher_this_host_does_not_have_is_left_to_another_host(tmp_path: Path) -> None:
    spec = PruneTrainSpec(dataset="moles", network=LENET5, rules=Rules(distil=True))
    first = Step(0, (), LENET5)
    step = next_step(record(steps.first_state(spec), first, dict.fromkeys(CRITERIA, 99.0)))
    assert isinstance(step, Step)
    assert steps.teacher_of(spec, first, tmp_path) is None
    assert steps.teacher_of(spec.replace(rules=Rules()), step, tmp_path) is None
    with pytest.raises(NotOnThisHost, match=r"Expected the weights of Original at .*0\.keras .*it teaches R1: 50%"):
        steps.teacher_of(spec, step, tmp_path)


def test_an_estimate_includes_the_answers_of_the_teacher(tmp_path: Path) -> None:
    dataset = load_dataset(write_lesions(tmp_path / "images", 8))
    plain = PruneTrainSpec(dataset="moles", network=LENET5, training=SHORT, rules=Rules(max_iterations=1))
    pace, store = Pace(1.0, 0.0, "by hand"), Store(tmp_path / "none.duckdb")
    seconds = [
        training_estimate(store, spec, dataset, pace).seconds
        for spec in (plain, plain.replace(rules=Rules(max_iterations=1, distil=True)))
    ]
    macs = [network_cost(each, SPEC.height, SPEC.width).macs for each in (LENET5, prune(LENET5, 50))]
    assert seconds[1] / seconds[0] == pytest.approx((sum(macs) + macs[0] / 3) / sum(macs))


def test_settings_of_a_teacher_tell_runs_apart_only_where_there_is_one() -> None:
    spec = PruneTrainSpec(dataset="moles", network=LENET5)
    assert not {"distil", "temperature", "teacher_weight"} & spec.to_dict()["rules"].keys()
    assert spec.replace(rules=Rules(temperature=5)).settings == spec.settings
    asked = spec.replace(rules=Rules(distil=True, temperature=5, teacher_weight=0.9))
    assert "taught by the unpruned network, temperature 5, weight of the teacher's loss 0.9" in asked.settings
    assert PruneTrainSpec.from_dict({name: value for name, value in asked.to_dict().items() if name != "kind"}) == asked
