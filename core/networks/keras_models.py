"""Keras models built from the layer records.

Nothing here calls TensorFlow, so `KERAS_BACKEND` may be tensorflow (the default), jax or torch.
"""

from __future__ import annotations

import keras

from core.networks.architectures import (
    CHANNELS,
    METADATA_FEATURES,
    BatchNorm,
    Concatenate,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    NetworkSpec,
    PlacedLayer,
    Residual,
    ZeroPad,
    factor_name,
    walk,
)

# Set for every layer, so that a user's Keras configuration cannot change the layout.
LAYOUT = "channels_last"


def convolution(filters: int, kernel: int, name: str, **options: object) -> keras.layers.Conv2D:
    """Return a convolution with bias."""
    return keras.layers.Conv2D(filters, kernel, data_format=LAYOUT, name=name, **options)


def residual_block(x: keras.KerasTensor, layer: Residual, name: str) -> keras.KerasTensor:
    """Apply relu(BN(conv(relu(BN(conv(x))))) + x), with x projected where its channels are not the block's filters."""
    y = convolution(layer.filters, layer.kernel, f"{name}_conv1", padding="same")(x)
    y = keras.layers.BatchNormalization(name=f"{name}_batch_norm1")(y)
    y = keras.layers.ReLU(name=f"{name}_relu1")(y)
    y = convolution(layer.filters, layer.kernel, f"{name}_conv2", padding="same")(y)
    y = keras.layers.BatchNormalization(name=f"{name}_batch_norm2")(y)
    if x.shape[-1] != layer.filters:
        x = convolution(layer.filters, 1, f"{name}_projection")(x)
    return keras.layers.ReLU(name=f"{name}_relu2")(keras.layers.Add(name=f"{name}_add")([y, x]))


def apply(placed: PlacedLayer, x: keras.KerasTensor, activation: str) -> keras.KerasTensor:
    """Apply one layer; `activation` is for Dense, a Conv2D always has ReLU."""
    name = placed.name
    match placed.layer:
        case Conv(filters, kernel, stride, padding):
            return convolution(filters, kernel, name, strides=stride, padding=padding, activation="relu")(x)
        case MaxPool(size) as pool:
            return keras.layers.MaxPooling2D(size, pool.step, data_format=LAYOUT, name=name)(x)
        case ZeroPad(pad):
            return keras.layers.ZeroPadding2D(pad, data_format=LAYOUT, name=name)(x)
        case BatchNorm():
            return keras.layers.BatchNormalization(name=name)(x)
        case Dropout(rate):
            return keras.layers.Dropout(rate, name=name)(x)
        case Flatten():
            return keras.layers.Flatten(data_format=LAYOUT, name=name)(x)
        case GlobalAveragePool():
            return keras.layers.GlobalAveragePooling2D(data_format=LAYOUT, name=name)(x)
        case Dense(units, rank):
            if rank is not None:
                x = keras.layers.Dense(rank, use_bias=False, name=factor_name(name))(x)
            return keras.layers.Dense(units, activation=activation, name=name)(x)
        case Residual() as block:
            return residual_block(x, block, name)
        case Concatenate():
            return keras.layers.Concatenate(name=name)(x)


def build_model(spec: NetworkSpec, height: int, width: int) -> keras.Model:
    """Build a network for images of height × width, with fresh weights; seed with `keras.utils.set_random_seed`.

    Inputs, by name: "image", (height, width, 3) pixels of 0–255 in any number type, BGR; "metadata", the 3 numbers of
    `METADATA_FEATURES`. Output: the softmax over `core.networks.architectures.CLASSES`. Raises SpecError where the size
    is too small for the network.
    """
    layers = list(walk(spec, height, width))
    inputs = {
        "image": keras.Input((height, width, CHANNELS), name="image"),
        "metadata": keras.Input((len(METADATA_FEATURES),), name="metadata"),
    }
    scaled = keras.layers.Rescaling(1 / 255, name="image_scaling")(inputs["image"])
    ends = {"image": scaled, "metadata": inputs["metadata"]}
    for placed in layers:
        x = [ends["image"], ends["metadata"]] if isinstance(placed.layer, Concatenate) else ends[placed.branch]
        ends[placed.branch] = apply(placed, x, "softmax" if placed is layers[-1] else "relu")
    return keras.Model(inputs, ends["head"], name=spec.name.replace("+", "-"))  # TensorFlow permits no plus
