"""What a trained network is worth with dense layers of low rank: its size, and its answers on the test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from core.networks.costs import network_cost
from core.networks.factoring import factored
from core.networks.plain_data import network_from_dict, network_to_dict
from core.predictions.rows import described, prediction_frame
from core.training.data import TrainingData
from core.training.evaluation import difference, predicted, right_answers
from core.training.results import FactoredResult, StepResult
from core.training.specs import FLOAT32, TrainSpec

TEST = ("test",)


def factored_results(
    spec: TrainSpec,
    step: StepResult,
    data: TrainingData,
    weights: Path,
    energies: Sequence[float],
    unpruned: Mapping[str, bool],
) -> Iterator[FactoredResult]:
    """Yield the result of each energy, in percent. weights: the step's `.keras` file.

    unpruned: for each test image whether the unpruned network was right; empty where unknown. For the unpruned network
    itself its own answers count. The factored network computes with the precision that the step was trained with.
    """
    from core.training import loop as training  # Keras: 4 s, and only in the process that needs it

    protocol = spec.training.replace(precision=step.precision or FLOAT32)
    size = protocol.height, protocol.width
    with training.on_device(spec.device):
        own = predicted(data, training.predict(training.load_model(weights), data, protocol, TEST))
        reference = right_answers(own) if step.step == 0 else unpruned
        kept = training.weights_of(weights)
        for energy, network, arrays in factored(network_from_dict(step.network), *size, kept, energies):
            model = training.model_with(network, protocol, arrays)
            rows = predicted(data, training.predict(model, data, protocol, TEST))
            cost, found = network_cost(network, *size), described(prediction_frame(rows))
            same = [one == other for one, other in zip(rows["predicted"], own["predicted"], strict=True)]
            yield FactoredResult(
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
            )
