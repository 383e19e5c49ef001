"""Where a network looks: how much its answer depends on each part of an image, found by covering part after part.

No gradients are needed, so that it works with converted networks too (Zeiler and Fergus, 2014, section 4.2).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.deployment.runtimes import Classifier

SHARE = 5  # the patch's side is this part of the image's smaller side; patches overlap by half

Floats = npt.NDArray[np.float64]


def occlusion_map(predict: Classifier, image: npt.NDArray[np.uint8], metadata: npt.NDArray[np.float32]) -> Floats:
    """Return for each pixel by how much the probability of the predicted class falls where it is covered, (H, W).

    The mean over the square patches that cover the pixel; each patch has the image's mean colour. −1 to 1, above 0
    where the network relies on what is there. image: (H, W, 3) at the network's size. metadata: (3,).
    """
    height, width = image.shape[:2]
    side = max(1, min(height, width) // SHARE)
    step = max(1, side // 2)
    places = [(top, left) for top in range(step - side, height, step) for left in range(step - side, width, step)]
    covers = np.zeros((len(places), height, width), dtype=bool)
    for cover, (top, left) in zip(covers, places, strict=True):
        cover[max(top, 0) : top + side, max(left, 0) : left + side] = True
    colour = np.rint(image.mean(axis=(0, 1))).astype(np.uint8)
    covered = np.where(covers[..., None], colour, image)
    chances = predict(np.concatenate([image[None], covered]), np.repeat(metadata[None], len(places) + 1, axis=0))
    label = int(chances[0].argmax())
    drops = chances[0, label].astype(np.float64) - chances[1:, label]
    found: Floats = np.tensordot(drops, covers.astype(np.float64), 1) / covers.sum(axis=0)
    return found
