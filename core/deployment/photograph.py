"""Whether a photograph is fit for a network: sharp enough, neither too dark nor too bright, and large enough.

The limits were set with 299 dermatoscopic photographs of HAM10000 at 600×450: none of them has a flaw. Of the same
photographs blurred with a Gaussian of 2 pixels, more than nine in ten have one; of 4 pixels, all.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from core.data.images import grey, resize

SIDE = 300  # pixels of the smaller side at which sharpness is measured; smaller photographs are not enlarged
BLURRED = 8.0  # least variance of the Laplacian, in squared levels; the sharpest blurred ones have 5 at 4 pixels
DARK, BRIGHT = 60.0, 235.0  # mean levels; the photographs above have 102 to 225

SMALL, BLUR, TOO_DARK, TOO_BRIGHT = "small", "blurred", "dark", "bright"


def sharpness(image: npt.NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian of the grey image, its smaller side at most `SIDE` pixels. ≥ 0.

    image: (H, W, 3), BGR. Source: Pech-Pacheco et al., 2000, "Diatom autofocusing in brightfield microscopy".
    """
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / min(height, width))
    shown = resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    return float(cv2.Laplacian(grey(shown), cv2.CV_64F).var())


def flaws(image: npt.NDArray[np.uint8], height: int, width: int) -> list[str]:
    """Return what is wrong with a photograph, of `SMALL`, `BLUR`, `TOO_DARK`, `TOO_BRIGHT`.

    image: (H, W, 3), BGR. height, width: of the network's input; a photograph with fewer pixels would be enlarged.
    """
    level = float(grey(image).mean())
    found = {
        SMALL: image.shape[0] < height or image.shape[1] < width,
        TOO_DARK: level < DARK,
        TOO_BRIGHT: level > BRIGHT,
        BLUR: sharpness(image) < BLURRED,
    }
    return [name for name, is_so in found.items() if is_so]
