"""Predict the class of a photograph: `python predict.py image.jpg --age 50 --sex male --site back`.

For research: no medical device, no diagnosis. Needs about.json, NumPy, Pillow, ai-edge-litert or onnxruntime."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def pixels(path: Path, height: int, width: int) -> Any:
    """Return a photograph, upright and on white, averaged over areas: (1, height, width, 3), 0 to 255, BGR."""
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    if photo.height < height or photo.width < width:
        raise SystemExit(f"Expected at least {height}x{width} pixels, got {photo.height}x{photo.width}.")
    down, across = shares(photo.height, height), shares(photo.width, width)
    up = 1e-9 if (photo.height, photo.width) == (2 * height, 2 * width) else 0  # OpenCV rounds halves up here
    return np.rint(up + np.einsum("yh,hwc,xw->yxc", down, np.asarray(photo), across, optimize=True))[None, ..., 2::-1]


def shares(old: int, new: int) -> Any:
    """Return how much of each new pixel each old one covers along an axis: (new, old), each row adds up to 1."""
    edges, own = np.arange(new + 1)[:, None] * old / new, np.arange(old)
    return np.clip(np.minimum(edges[1:], own + 1) - np.maximum(edges[:-1], own), 0, None) * new / old


def probabilities(network: Path, inputs: dict[str, Any]) -> Any:
    """Return the probability of each class."""
    if network.suffix == ".onnx":
        from onnxruntime import InferenceSession

        return InferenceSession(network, providers=["CPUExecutionProvider"]).run(None, inputs)[0][0]
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        return next(iter(Interpreter(str(network)).get_signature_runner()(**inputs).values()))[0]
    except RuntimeError:  # LiteRT's fast path refuses some int8 networks
        plain = {"experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
        return next(iter(Interpreter(str(network), **plain).get_signature_runner()(**inputs).values()))[0]


if __name__ == "__main__":
    about = json.loads(Path(__file__).with_name("about.json").read_text(encoding="utf-8"))
    sexes, sites = ["", *about["sexes"]], ["", *about["localizations"]]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--age", type=float, default=about["median_age"], help="in years (default: %(default)s)")
    parser.add_argument("--sex", default="", choices=sexes, help="(default: unknown)")
    parser.add_argument("--site", default="", choices=sites, help="(default: unknown)")
    parser.add_argument("--network", default=about["networks"][0], choices=about["networks"])
    given = parser.parse_args()
    years = (given.age - about["mean_age"]) / about["age_deviation"] if about["median_age"] is not None else 0
    numbers = np.array([[years, sexes.index(given.sex), sites.index(given.site)]], dtype=np.float32)
    inputs = {"image": pixels(given.image, about["height"], about["width"]).astype(np.float32), "metadata": numbers}
    chances = probabilities(Path(__file__).with_name(given.network), inputs)
    print(*(f"{label:15} {chance:.6f}" for label, chance in zip(about["classes"], chances, strict=True)), sep="\n")
