"""What a trained network is worth with dense layers of low rank: size, answers on the test images, and latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from core.networks.architectures import NetworkSpec
from core.networks.costs import network_cost
from core.networks.factoring import factored, factored_name
from core.networks.plain_data import network_from_dict, network_to_dict
from core.predictions.rows import described, prediction_frame
from core.training.data import TrainingData
from core.training.evaluation import difference, predicted, right_answers
from core.training.results import FactoredResult, StepResult
from core.training.specs import FLOAT32, TrainingProtocol, TrainSpec

TEST = ("test",)


@dataclass(frozen=True)
class Wanted:
    """What is measured of a step's network. energies: percent, see `core.networks.factoring`.

    fine_tune_epochs: each factored network is also trained for so many epochs; 0: none is. latency: whether the time
    for one image is measured.
    """

    energies: Sequence[float]
    fine_tune_epochs: int = 0
    latency: bool = False


def factored_results(
    spec: TrainSpec,
    step: StepResult,
    data: TrainingData,
    weights: Path,
    wanted: Wanted,
    unpruned: Mapping[str, bool],
    check: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[FactoredResult]:
    """Yield the result of each energy, then of the same network after fine-tuning, then each again with its latency.

    weights: the step's `.keras` file. unpruned: for each test image whether the unpruned network was right; empty where
    unknown. For the unpruned network itself its own answers count. Everything is computed with the precision that the
    step was trained with. check: called after each epoch of a fine-tuning; what it raises ends it. tell: gets a line
    for each epoch. Raises TrainingError where fine-tuning fails, DermSlimError where no latency can be measured.
    """
    from core.training import devices, loop, models  # Keras: 4 s, and only in the process that needs it

    protocol = spec.training.replace(precision=step.precision or FLOAT32)
    size = protocol.height, protocol.width
    made: list[tuple[FactoredResult, NetworkSpec, Path]] = []
    with TemporaryDirectory(prefix="dermslim-") as name, devices.on_device(spec.device):
        folder = Path(name)
        own = predicted(data, loop.predict(models.load_model(weights), data, protocol, TEST))
        reference = right_answers(own) if step.step == 0 else unpruned

        def tested(network: NetworkSpec, model: Any, energy: float, epochs: int) -> FactoredResult:
            rows = predicted(data, loop.predict(model, data, protocol, TEST))
            cost, found = network_cost(network, *size), described(prediction_frame(rows))
            same = [one == other for one, other in zip(rows["predicted"], own["predicted"], strict=True)]
            result = FactoredResult(
                step=step.step,
                energy=float(energy),
                network=network_to_dict(network),
                parameters=cost.parameters,
                macs=cost.macs,
                bytes_weights=cost.bytes_weights,
                test_accuracy=found["accuracy"],
                agreement=100 * sum(same) / len(same),
                classification={"test": found},
                predicted=dict(zip(rows["image_id"], rows["predicted"], strict=True)),
                **difference(reference, rows),
                fine_tune_epochs=epochs,
            )
            if wanted.latency:
                made.append((result, network, folder / f"{len(made)}.keras"))
                models.save_model(model, made[-1][2])
            return result

        kept = models.weights_of(weights)
        for energy, network, arrays in factored(network_from_dict(step.network), *size, kept, wanted.energies):
            yield tested(network, models.model_with(network, protocol, arrays), energy, 0)
            if wanted.fine_tune_epochs:
                shorter, place = fine_tuning(protocol, wanted.fine_tune_epochs), folder / f"{energy:g}"
                for epoch in loop.train(network, data, shorter, place, spec.thresholds, check, arrays):
                    accuracy = "–" if epoch.validation_accuracy is None else f"{epoch.validation_accuracy:.2f} %"
                    tell(f"{factored_name(energy, epoch.epoch)}: validation accuracy {accuracy}")
                model = loop.kept_model(network, shorter, place)
                yield tested(network, model, energy, wanted.fine_tune_epochs)
        if made:
            itself = (network_from_dict(step.network), weights)
            yield from timed([each for each, _, _ in made], [itself, *(each[1:] for each in made)], data, folder)


def fine_tuning(protocol: TrainingProtocol, epochs: int) -> TrainingProtocol:
    """Return the protocol of a training with exactly so many epochs after the layers were replaced: no warm-up."""
    return protocol.replace(epochs=epochs, warm_up_epochs=0, patience=None)


def timed(
    results: Sequence[FactoredResult], networks: Sequence[tuple[NetworkSpec, Path]], data: TrainingData, folder: Path
) -> Iterator[FactoredResult]:
    """Yield the results with their latencies. networks: the step's own and that of each result, with their weights."""
    from core.deployment.conversion import converted
    from core.deployment.formats import FLOAT32 as LITERT_FLOAT32
    from core.deployment.latency import NetworkFile, latencies

    height, width = data.images.shape[1:3]
    files = []
    for number, (network, weights) in enumerate(networks):
        path = folder / f"{number}.tflite"
        converted(weights, network, (data.images[:1], data.metadata[:1]), LITERT_FLOAT32, path)
        files.append(NetworkFile(number, LITERT_FLOAT32, path, height, width))
    itself, *others = [each.wall_median for each in latencies(files) if each.threads == 1]
    for result, latency in zip(results, others, strict=True):
        yield replace(result, latency=latency, latency_itself=itself)
