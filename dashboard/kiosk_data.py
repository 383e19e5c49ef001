"""What the kiosk shows of one photograph: the answers of two networks, calibrated; and what it keeps, if told to."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from core.data.datasets import DatasetImage
from core.data.training_arrays import MetadataEncoding
from core.deployment.occlusion import occlusion_map
from core.errors import SpecError
from core.files.private import private_folder, private_opener
from core.networks.architectures import CLASSES
from core.predictions.calibration import calibrated, temperature_of
from core.training.specs import TrainSpec
from dashboard import deployment_data
from dashboard.data import Stamp, current, settings, store
from dashboard.deployment_data import Floats, Network, Pixels

FOLDER = "kiosk"  # below DATA_DIR; only where KIOSK_KEEP is set


@dataclass(frozen=True)
class Kiosk:
    """The networks that answer, the unpruned one first, and what their form asks for.

    height, width: of their input.
    """

    networks: tuple[Network, ...]
    encoding: MetadataEncoding
    height: int
    width: int


@dataclass(frozen=True)
class Answer:
    """What one network says. probabilities: calibrated, (classes,). seconds: from the pixels to the answer."""

    network: Network
    probabilities: tuple[float, ...]
    bytes: int
    seconds: float

    @property
    def label(self) -> str:
        """The class with the largest probability."""
        return CLASSES[max(range(len(CLASSES)), key=self.probabilities.__getitem__)]


def kiosk(run_id: str | None) -> Kiosk | None:
    """Return the networks of a run, or of the newest one with a smaller accepted network; None where there is none."""
    found = deployment_data.networks_here()
    pairs = [networks for networks in found.values() if len(networks) > 1]
    networks = found.get(run_id or "") or next(iter(pairs or found.values()), None)
    if networks is None:
        return None
    run = networks[0].run
    known, training = deployment_data.encoding(run.id), run.told(TrainSpec).training
    return None if known is None else Kiosk(tuple(networks), known, training.height, training.width)


@current(20)
def calibration(at: Stamp, run_id: str, step: int) -> tuple[float, int]:
    """Return the temperature of a step's network and the number of validation images behind it; 1 and 0 without any."""
    rows = store().predictions([run_id], step=step, split="validation")
    return temperature_of(rows), len(rows)


def prepare(shown: Kiosk) -> None:
    """Load what the first answer of a process needs, while the visitor takes the photograph. Raises RuntimeMissing."""
    for network in shown.networks:
        calibration(network.run.id, network.step)
        deployment_data.loaded(network)


def answers(shown: Kiosk, pixels: Pixels, record: DatasetImage) -> list[Answer]:
    """Return what each network says of a photograph. record: its metadata. Raises RuntimeMissing."""
    found = []
    for network in shown.networks:
        temperature, _ = calibration(network.run.id, network.step)
        deployment_data.loaded(network)
        start = time.perf_counter()
        chances = deployment_data.probabilities(network, pixels, record)
        seconds = time.perf_counter() - start
        size = network.path.stat().st_size
        found.append(Answer(network, tuple(map(float, calibrated(chances, temperature))), size, seconds))
    return found


def occlusion(network: Network, pixels: Pixels, record: DatasetImage) -> Floats:
    """Return the occlusion map of a photograph; nothing of it stays in a cache."""
    return occlusion_map(deployment_data.loaded(network), *deployment_data.inputs_of(network, pixels, record))


def described(pixels: Pixels, age: float | None, sex: str | None, site: str | None) -> DatasetImage:
    """Return the metadata of a photograph as a record."""
    height, width = pixels.shape[:2]
    return DatasetImage("", "", 0, height, width, "", age=age, sex=sex, localization=site)


def keeps() -> bool:
    """Return whether the operator has switched on that photographs and answers are kept."""
    return settings().kiosk_keep


def keep(photograph: bytes, record: DatasetImage, found: Sequence[Answer]) -> None:
    """Write a photograph and its answers to two private files in DATA_DIR/kiosk. SpecError where that fails."""
    now = datetime.now(UTC)
    stem = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    about = {
        "at": now.isoformat(),
        "age": record.age,
        "sex": record.sex,
        "site": record.localization,
        "answers": [
            {
                "run": each.network.run.id,
                "step": each.network.step,
                "probabilities": dict(zip(CLASSES, each.probabilities, strict=True)),
            }
            for each in found
        ],
    }
    folder = settings().data_dir / FOLDER
    try:
        private_folder(folder)
        for name, data in ((f"{stem}.image", photograph), (f"{stem}.json", json.dumps(about, indent=1).encode())):
            with open(folder / name, "xb", opener=private_opener) as file:
                file.write(data)
    except OSError as error:
        raise SpecError(f"Expected to keep the photograph in {folder}, got: {error}.") from error
