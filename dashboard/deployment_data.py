"""Data of converted networks for the pages: cached reads, and the jobs that make them."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import streamlit as st

from core.data.datasets import DatasetImage
from core.data.images import resize
from core.data.training_arrays import MetadataEncoding
from core.deployment.formats import FLOAT32, file_name
from core.deployment.occlusion import occlusion_map
from core.deployment.runtimes import Classifier, classifier
from core.errors import SpecError
from core.runs import Run
from core.training.specs import TrainSpec
from dashboard.data import Stamp, current, queues, runs, settings, store
from jobs import deployment


@current(20)
def conversions(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return the conversions of a run's networks, see `core.deployment.formats.Conversion`."""
    return store().conversions([run_id])


@current(20)
def latencies(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return the latencies of a run's networks, see `core.deployment.latency.Latency`."""
    return store().latencies([run_id])


def convert(run_id: str, steps: tuple[int, ...], formats: tuple[str, ...]) -> None:
    """Queue the job that converts networks of a run. SpecError where they cannot be converted."""
    if not steps or not formats:
        raise SpecError("Expected at least one step and one format, got none.")
    deployment.submit_conversion(queues(), run_id, steps, formats)


def measure(run_id: str) -> None:
    """Queue the job that measures the latency of a run's converted networks. SpecError without any."""
    deployment.submit_latency(queues(), run_id)


def bundle(run_id: str, step: int) -> bytes:
    """Return the bundle of a step. SpecError where no converted network is on this host."""
    file = io.BytesIO()
    deployment.bundle_of(queues(), run_id, step).write(file)
    return file.getvalue()


def why_no_bundle(run_id: str, step: int) -> str:
    """Return why there is no bundle of a step, a sentence; empty where there is one."""
    try:
        deployment.bundle_of(queues(), run_id, step).networks()
    except SpecError as error:
        return str(error)
    return ""


# -- networks that predict in this process -----------------------------------------------------------------------------

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """A network as a LiteRT file on this host. name: of its step."""

    run: Run
    step: int
    name: str
    parameters: int
    path: Path
    sha256: str


def networks_here() -> dict[str, list[Network]]:
    """Return the networks at float32 on this host that pages can predict with, by the id of their run, newest first.

    Of a run, its unpruned network and its smallest accepted one, as far as they were converted.
    """
    found: dict[str, list[Network]] = {}
    every = _converted()
    for run in runs():
        own = every[every["run_id"] == run.id]
        networks = [
            Network(run, int(row["step"]), str(row["name"]), int(row["parameters"]), path, str(row["sha256"]))
            for row in own.to_dict("records")
            if (path := settings().trained / run.id / file_name(int(row["step"]), FLOAT32)).is_file()
        ]
        if networks:
            smallest = min(networks[1:], key=lambda each: each.parameters, default=networks[0])
            found[run.id] = networks[:1] if smallest is networks[0] else [networks[0], smallest]
    return found


@current(1)
def _converted(at: Stamp) -> pd.DataFrame:
    conversions = store().conversions()
    steps = store().steps(conversions["run_id"].unique())[["run_id", "step", "name", "parameters", "accepted"]]
    kept = conversions[(conversions["format"] == FLOAT32) & (conversions["failure"] == "")]
    found = kept.merge(steps, on=["run_id", "step"]).sort_values(["run_id", "step"])
    return found[found["accepted"].astype("boolean").fillna(False) | (found["step"] == 0)]


@current(20)
def encoding(at: Stamp, run_id: str) -> MetadataEncoding | None:
    """Return how a run's metadata became numbers; None where that is not recorded."""
    known = store().metadata_encoding(run_id)
    return None if known is None else MetadataEncoding.from_dict(known)


@st.cache_resource(max_entries=16, show_spinner=False)
def _loaded(path: str, sha256: str) -> Classifier:
    """Return what predicts with a file; LiteRT's interpreters serve one thread at a time."""
    predict, lock = classifier(Path(path), FLOAT32, threads=1), threading.Lock()

    def alone(images: npt.NDArray[Any], metadata: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with lock:
            return predict(images, metadata)

    return alone


def loaded(network: Network) -> Classifier:
    """Return what predicts with a network, which stays in memory. Raises RuntimeMissing."""
    return _loaded(str(network.path), network.sha256)


def inputs_of(network: Network, pixels: Pixels, record: DatasetImage | None) -> tuple[Pixels, npt.NDArray[np.float32]]:
    """Return an image and its metadata as a network gets them: (H, W, 3) and (3,). record: None for unknown metadata.

    SpecError where the encoding of the metadata is not recorded.
    """
    known = encoding(network.run.id)
    if known is None:
        raise SpecError(f"Expected the encoding of the metadata of {network.run.id}, got none.")
    training = network.run.told(TrainSpec).training
    unknown = DatasetImage("", "", 0, pixels.shape[0], pixels.shape[1], "")
    return resize(pixels, training.height, training.width), known.encode([record or unknown])[0]


def probabilities(network: Network, pixels: Pixels, record: DatasetImage | None) -> npt.NDArray[np.float32]:
    """Return a network's probabilities of an image, (classes,). Raises SpecError, RuntimeMissing."""
    image, numbers = inputs_of(network, pixels, record)
    found: npt.NDArray[np.float32] = loaded(network)(image[None], numbers[None])[0]
    return found


@st.cache_data(max_entries=100, show_spinner=False)
def _occlusion(path: str, sha256: str, image: Pixels, numbers: npt.NDArray[np.float32]) -> Floats:
    return occlusion_map(_loaded(path, sha256), image, numbers)


def occlusion(network: Network, pixels: Pixels, record: DatasetImage | None) -> Floats:
    """Return the occlusion map of an image at the network's size, see `core.deployment.occlusion`."""
    return _occlusion(str(network.path), network.sha256, *inputs_of(network, pixels, record))
