"""The first estimate, by probes on real workers and in this process."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from laboratory import wait_for, workers, write_images, write_lesions
from pages import opener, ran, text

from core.compression.probe import seconds_per_pixel
from core.compression.specs import ReconstructSpec, SweepSpec
from core.data.datasets import Dataset, load_dataset
from core.data.splits import Targets
from core.errors import SpecError
from core.networks.architectures import LENET5
from core.networks.costs import network_cost
from core.networks.pruning import prune
from core.runs import RunSpec
from core.settings import Settings
from core.training.specs import PruneTrainSpec, Rules, TrainingProtocol, TrainSpec
from jobs.__main__ import main
from jobs.probes import Probe, probe_id
from jobs.queues import Queues

TRAINING = TrainingProtocol(epochs=4, height=32, width=32, batch_size=8)
SETS = Targets(train=32, validation=12, test=12)


@pytest.fixture(scope="module")
def lab(valkey_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queues]:
    """Give queues with a store, one `svd` and one `train` worker, and no run."""
    folder = tmp_path_factory.mktemp("probes")
    settings = Settings(folder / "data", (folder,), given_redis_url=valkey_server.replace("?db=0", "?db=5"))
    settings.data_dir.mkdir()
    queues = Queues(settings)
    queues.store.migrate()
    with queues.connected() as connection:
        connection.flushdb()
    with workers(settings, "svd", "train", keras=True):
        yield queues


def probed(queues: Queues, spec: RunSpec, dataset: Dataset) -> Probe:
    """Ask for a probe and return it once it has ended."""
    queues.ask_probe(spec, dataset)
    queues.ask_probe(spec, dataset)  # the second one finds it under way, or begins it again
    wait_for(lambda: (probe := queues.probe(spec, dataset)) is not None and not probe.under_way, 120)
    found = queues.probe(spec, dataset)
    assert found is not None
    return found


def test_a_probe_gives_the_first_estimate_of_a_sweep(lab: Queues) -> None:
    dataset = load_dataset(write_images(lab.settings.data_roots[0] / "four", 4), name="moles")
    spec = SweepSpec(dataset="moles", ks=(3, 5))
    assert lab.estimate(spec, dataset).seconds is None
    pace = probed(lab, spec, dataset).pace
    assert pace is not None
    estimate = lab.estimate(spec, dataset)
    assert estimate.seconds == pytest.approx(pace.cost * 4 * 40 * 56 * 2)
    assert "from a probe on svd-" in estimate.basis
    assert lab.probe(spec.replace(ks=(3,)), dataset) is None


def test_a_probe_gives_the_first_estimate_of_a_training_and_of_its_pruned_networks(lab: Queues) -> None:
    dataset = load_dataset(write_lesions(lab.settings.data_roots[0] / "lesions"), name="moles")
    spec = TrainSpec(dataset="moles", network=LENET5, training=TRAINING, targets=SETS)
    assert lab.estimate(spec, dataset).seconds is None
    pace = probed(lab, spec, dataset).pace
    assert pace is not None
    once = lab.estimate(spec, dataset)
    twice = lab.estimate(spec.replace(training=TRAINING.replace(epochs=8, seed=7)), dataset)
    assert once.seconds is not None
    assert twice.seconds == pytest.approx(2 * once.seconds - pace.start)
    assert "from a probe on train-" in once.basis
    pruned = PruneTrainSpec(**dict(spec), rules=Rules(factors=(50,), max_iterations=1))
    unpruned, half = (network_cost(network, 32, 32).macs for network in (LENET5, prune(LENET5, 50)))
    of_epochs = (once.seconds - pace.start) * (1 + half / unpruned)
    assert lab.estimate(pruned, dataset).seconds == pytest.approx(of_epochs + 2 * pace.start)


def test_a_probe_that_cannot_measure_says_why_and_can_be_asked_for_again(lab: Queues) -> None:
    folder = write_images(lab.settings.data_roots[0] / "moved", 2)
    dataset, spec = load_dataset(folder, name="moles"), SweepSpec(dataset="moles", ks=(3,))
    moved = folder.rename(folder.with_name("elsewhere"))
    assert "the folder does not exist" in probed(lab, spec, dataset).failure
    moved.rename(folder)
    assert probed(lab, spec, dataset).pace is not None


def test_the_form_asks_a_worker_for_its_speed_and_then_shows_how_long_the_run_takes(
    lab: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir, url = lab.settings.data_dir, str(lab.settings.redis_url)
    dataset = load_dataset(write_lesions(data_dir.parent / "offered", height=64, width=64), name="offered")
    lab.store.record_dataset(dataset, datetime.now(UTC))
    open_page = opener(monkeypatch, data_dir, url, "prune_train")
    page = open_page(tab="New run")
    assert "there is no speed to go by" in text(page)
    ran(page.button(key="measure_speed").click())
    spec = TrainSpec(dataset="offered", network=LENET5)
    wait_for(lambda: (probe := lab.probe(spec, dataset)) is not None and not probe.under_way, 120)
    shown = open_page(tab="New run")
    assert "from a probe on train-" in text(shown)
    assert "measure_speed" not in {each.key for each in shown.button}


def test_the_dry_run_of_a_study_has_workers_measure_the_speeds_that_it_needs(
    lab: Queues, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opener(monkeypatch, lab.settings.data_dir, str(lab.settings.redis_url))
    dataset = load_dataset(write_lesions(lab.settings.data_roots[0] / "planned", height=64, width=64), name="planned")
    lab.store.record_dataset(dataset, datetime.now(UTC))
    asked = ["article", "planned", "--networks", "lenet5", "--size", "32x32", "--targets", "32,12,12", "--dry-run"]
    assert main(asked) == 0
    printed = capsys.readouterr()
    assert "Workers measure 4 speeds that no finished run tells" in printed.err
    assert "1 run, about" in printed.out
    assert "unknown" not in printed.out
    assert main([*asked[:-1], "--local"]) == 1
    assert "Expected --local with --dry-run" in capsys.readouterr().err


def test_trainings_that_take_equally_long_share_a_probe(tmp_path: Path) -> None:
    dataset = load_dataset(write_images(tmp_path / "moles", 1), name="moles")
    spec = TrainSpec(dataset="moles", network=LENET5, training=TRAINING, targets=SETS)
    other = spec.replace(training=TRAINING.replace(seed=2, epochs=9, learning_rate=0.1))
    assert probe_id(spec, dataset) == probe_id(PruneTrainSpec(**dict(other)), dataset)
    larger = spec.replace(training=TRAINING.replace(height=64))
    assert probe_id(spec, dataset) != probe_id(larger, dataset)


def test_a_probe_of_a_reconstruction_writes_nothing_into_the_data_set(tmp_path: Path) -> None:
    dataset = load_dataset(write_images(tmp_path / "moles", 2), name="moles")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    spec = ReconstructSpec(dataset="moles", name="new", k=3)
    assert seconds_per_pixel(spec, dataset.root, dataset.records, 0.0) > 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    (dataset.root / dataset.records[0].path).write_bytes(b"no image")
    with pytest.raises(SpecError, match="Expected an image that can be measured, got none"):
        seconds_per_pixel(spec, dataset.root, dataset.records[:1])
