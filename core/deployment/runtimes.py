"""Run a converted network: LiteRT or ONNX Runtime, without Keras and TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.deployment.formats import FORMATS, LITERT
from core.errors import DermSlimError
from core.networks.architectures import CLASSES

Floats = npt.NDArray[np.float32]
Classifier = Callable[[npt.NDArray[Any], Floats], Floats]
PACKAGES = {LITERT: "ai-edge-litert"}  # by runtime; the other's is onnxruntime


class RuntimeMissing(DermSlimError):
    """The program that runs a network file is not installed, or refuses the file."""


def package(runtime: str) -> str:
    """Return the package of a runtime, as it is installed."""
    return PACKAGES.get(runtime, "onnxruntime")


def classifier(path: Path, name: str, threads: int | None = None) -> Classifier:
    """Load a network file; return what gives the softmax, (n, classes), of images and their metadata.

    The images are (n, H, W, 3) pixels of 0–255, BGR; the metadata (n, 3), as `core.data.training_arrays` encodes them.
    name: of the format. threads: of the runtime; None for all cores. Raises RuntimeMissing.
    """
    runtime = FORMATS[name].runtime
    load = litert if runtime == LITERT else onnx
    try:
        return load(path, threads)
    except ImportError as error:
        wanted = package(runtime)
        raise RuntimeMissing(f"Expected {runtime} to run {path.name}, got none: install {wanted}.") from error
    except Exception as error:  # each runtime has its own
        raise RuntimeMissing(f"Expected {path} to be a network for {runtime}, got: {error}") from error


def litert(path: Path, threads: int | None) -> Classifier:
    """Load a LiteRT file, which predicts image by image."""
    module = import_module("ai_edge_litert.interpreter")
    try:
        interpreter = module.Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except RuntimeError:  # XNNPACK, LiteRT's fast path, refuses some int8 networks; its own loops run them
        plain = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = module.Interpreter(str(path), num_threads=threads, experimental_op_resolver_type=plain)
        interpreter.allocate_tensors()
    run = interpreter.get_signature_runner()

    def predict(images: npt.NDArray[Any], metadata: Floats) -> Floats:
        found = np.empty((len(images), len(CLASSES)), dtype=np.float32)
        for row in range(len(images)):
            image, numbers = images[row : row + 1].astype(np.float32), metadata[row : row + 1]
            (found[row : row + 1],) = run(image=image, metadata=numbers).values()
        return found

    return predict


def onnx(path: Path, threads: int | None) -> Classifier:
    """Load an ONNX file."""
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(images: npt.NDArray[Any], metadata: Floats) -> Floats:
        (found,) = session.run(None, {"image": images.astype(np.float32), "metadata": metadata})
        return np.asarray(found, dtype=np.float32)

    return predict
