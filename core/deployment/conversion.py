"""Convert a trained network by Keras's own exporters. Only this module of the package imports Keras.

Each conversion has a process of its own: four of alexnet in one process take 8 GB. Keras converts to LiteRT with
TensorFlow, whatever backend trained the network.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.deployment.formats import FLOAT16, INT8, ONNX_FLOAT32, OPSET
from core.errors import DermSlimError
from core.networks.architectures import CHANNELS, METADATA_FEATURES, NetworkSpec
from core.processes import die_with_parent

Arrays = tuple[npt.NDArray[Any], npt.NDArray[np.float32]]  # images and metadata


class ConversionError(DermSlimError):
    """A network cannot be converted; the message gives the reason."""


def converted(weights: Path, network: NetworkSpec, calibration: Arrays, name: str, path: Path) -> None:
    """Convert a network in a process of its own.

    weights: a `.keras` file. calibration: images (n, H, W, 3) and metadata (n, 3), on which int8 is scaled; their size
    is the network's. name: of the format. Raises ConversionError.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, die_with_parent, (os.getpid(),)) as pool:
        try:
            pool.submit(convert, weights, network, calibration, name, path).result()
        except BrokenProcessPool as error:
            raise ConversionError("The process that converted the network died. Is there too little memory?") from error
        except Exception as error:  # each exporter has its own
            lines = str(error).strip().splitlines()
            told = f"{type(error).__name__}: {lines[0] if lines else ''}"
            raise ConversionError(f"The network could not be converted to {name}; {told}") from error


def convert(weights: Path, network: NetworkSpec, calibration: Arrays, name: str, path: Path) -> None:
    """Convert a network here; see `converted`."""
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
    import keras
    import tensorflow

    from core.networks.keras_models import build_model

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    height, width = calibration[0].shape[1:3]
    model = build_model(network, height, width)  # all of float32, also where it was trained at 16 bits
    model.set_weights(keras.saving.load_model(weights, compile=False).get_weights())
    equalise(model)
    count = None if name == ONNX_FLOAT32 else 1  # images at a time
    inputs = {
        "image": tensorflow.TensorSpec((count, height, width, CHANNELS), tensorflow.float32, name="image"),
        "metadata": tensorflow.TensorSpec((count, len(METADATA_FEATURES)), tensorflow.float32, name="metadata"),
    }
    if name == ONNX_FLOAT32:
        model.export(path, format="onnx", opset_version=OPSET, input_signature=[inputs], verbose=False)
        return
    options: dict[str, Any] = {}
    if name in (FLOAT16, INT8):
        options["optimizations"] = [tensorflow.lite.Optimize.DEFAULT]
    if name == FLOAT16:
        options["target_spec"] = {"supported_types": [tensorflow.float16]}
    if name == INT8:
        options["representative_dataset"] = lambda: one_by_one(calibration)
    model.export(path, format="litert", input_signature=[inputs], verbose=False, **options)


def equalise(model: Any) -> None:
    """Move the deviations of each batch normalisation after a ReLU into the layer before; the outputs stay the same.

    relu(x)/s = relu(x/s) for s > 0, also through a max pooling. A converter folds a batch normalisation into the next
    layer instead. There the factors of one row of weights may differ by 10⁸, between a unit that is always 0 and one of
    the order of 10⁵, and 8 bits with one scale lose the useful ones (Nagel et al., 2019, cross-layer equalization).
    """
    import keras

    between = (keras.layers.MaxPooling2D, keras.layers.ZeroPadding2D, keras.layers.Dropout)
    for norm in model.layers:
        if not isinstance(norm, keras.layers.BatchNormalization):
            continue
        before = norm.input._keras_history.operation
        while isinstance(before, between):
            before = before.input._keras_history.operation
        if (
            not isinstance(before, keras.layers.Conv2D | keras.layers.Dense)
            or before.activation is not keras.activations.relu
        ):
            continue
        gamma, beta, mean, variance = norm.get_weights()
        kernel, bias = before.get_weights()
        deviation = np.sqrt(variance + norm.epsilon)
        before.set_weights([kernel / deviation, bias / deviation])
        norm.set_weights([gamma, beta, mean / deviation, np.full_like(variance, 1 - norm.epsilon)])


def one_by_one(arrays: Arrays) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Yield the inputs of each image."""
    images, metadata = arrays
    for row in range(len(images)):
        yield {"image": images[row : row + 1].astype(np.float32), "metadata": metadata[row : row + 1]}
