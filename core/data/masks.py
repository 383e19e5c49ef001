"""Pictures beside the photographs: segmentations, lesion masks, superpixels, attribute maps.

They are recognised by their names in published data sets (ISIC 2016 to 2018, HAM10000, PH², class folders with
`masks/`), and otherwise by their content.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from core.data import images
from core.data.layouts import nearest_class, stem
from core.data.threads import on_all_cores
from core.errors import ImageError

# Words of a folder's name: ISIC2018_Task1_Training_GroundTruth, train-masks, HAM10000_segmentations_lesion_tschandl
FOLDER_WORD = re.compile(
    r"masks?|groundtruth|gt|segmentations?|superpixels?|annotations?|rois?|contours?|heatmaps?|overlays?"
)
FOLDER_NAME = re.compile(
    r"((train|test|val|valid)\w*[ _-])?labels?|imd\d+_lesion", re.IGNORECASE
)  # PH²'s IMD002_lesion
# Ends of a file's name: ISIC_0000000_segmentation, _superpixels, _attribute_pigment_network; PH²'s IMD002_R1_Label4
FILE_END = re.compile(
    r".*[ _.-](segmentations?|masks?|superpixels?|ground[ _-]?truth|gt"
    r"|attribute[ _-](globules|milia[ _-]like[ _-]cysts?|negative[ _-]network|pigment[ _-]network|streaks))"
    r"[ _.-]?\(?\d*\)?"
    r"|imd\d+_(lesion|r\d+_label\d+)|(mask|segmentation)([ _-].*)?|gt|ground[ _-]?truth",
    re.IGNORECASE,
)
# Ends that photographs have too; they count where a picture with the name before the end exists
PAIRED_END = re.compile(
    r"(.+)[ _.-](seg|lesion|roi|binary|contours?|overlay|heatmap|annotations?|labels?)", re.IGNORECASE
)

BY_NAME = "The name of the file or its folder is that of a mask or another map of a photograph."
BY_CONTENT = "The picture is a mask: it has few colours and lies beside photographs."

FEW_COLOURS = 8  # at most, in a mask; a photograph of 12×16 pixels has about a hundred
FEWEST_PIXELS = 64  # below it the number of colours is no evidence
DENSE = 2.0  # bits per pixel in the file; compressed masks have fewer
CASE = 8  # pictures at most in a folder of one case
SMALL = 20_000  # pixels; below it a file's header dominates its bits per pixel
LOOKED_AT = 2_000  # pixels, evenly spaced, in which the colours of a larger picture are counted


def mask_by_name(path: str, stems: frozenset[str] = frozenset()) -> bool:
    """Return whether a path is that of a mask. stems: names of the data set's pictures, without extension."""
    file = PurePosixPath(path)
    for folder in file.parts[:-1]:
        if FOLDER_NAME.fullmatch(folder) or any(map(FOLDER_WORD.fullmatch, words_of(folder))):
            return True
    if FILE_END.fullmatch(file.stem):
        return True
    paired = PAIRED_END.fullmatch(stem(path))
    return paired is not None and paired[1] in stems


def words_of(name: str) -> list[str]:
    """Return the words of a name in lower case; GroundTruth and ground_truth both give ground, truth, groundtruth."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    words = [part.lower() for part in parts]
    return words + [f"{one}{other}" for one, other in pairwise(words)]


def masks_by_content(root: Path, pictures: Iterable[str]) -> set[str]:
    """Return the pictures whose pixels show that they are masks.

    Examined are pictures that share a name with another (`a/1.jpg`, `b/1.png`; `1.jpg`, `1_x.png`): one with few
    colours is a mask where another is a photograph. A black and white picture is a mask where its folder holds only
    such pictures, or only the few pictures of one case.
    """
    paths = list(pictures)
    named = defaultdict(list)
    for path in paths:
        named[stem(path)].append(path)
    groups = [group for group in named.values() if len(group) > 1]
    groups += [[path, *named[other]] for path in paths for other in beginnings(stem(path)) if other in named]
    doubtful = sorted({path for group in groups for path in group})
    found = dict(on_all_cores(partial(colours_of, root), doubtful))
    masks = {
        path
        for group in groups
        for path in group
        if found[path] in (FEW, BLACK_AND_WHITE) and any(found[each] == MANY for each in group)
        if found[path] == BLACK_AND_WHITE or nearest_class(path) is None
    }
    return masks | masks_in_folders(root, paths)


def beginnings(name: str) -> list[str]:
    """Return the beginnings of a name up to each separator: `ISIC` and `ISIC_1` of `ISIC_1_x`."""
    return [name[: found.start()] for found in re.finditer(r"[ _.-]", name) if found.start()]


def masks_in_folders(root: Path, paths: list[str]) -> set[str]:
    """Return the black and white pictures in folders of only such, or few, pictures; none where all are such.

    Examined are the folders below the root that name no class.
    """
    folders = defaultdict(list)
    for path in paths:
        folders[PurePosixPath(path).parent].append(path)
    asked = [inside for folder, inside in folders.items() if folder.name and nearest_class(inside[0]) is None]
    masks: set[str] = set()
    for inside in asked:
        if len(inside) <= CASE:
            masks |= {path for path in inside if colours_of(root, path) == BLACK_AND_WHITE}
        elif all(colours_of(root, path) == BLACK_AND_WHITE for path in inside):
            masks.update(inside)
    return masks if len(masks) < len(paths) else set()


BLACK_AND_WHITE, FEW, MANY, UNKNOWN = "black and white", "few", "many", "unknown"


def colours_of(root: Path, path: str) -> str:
    """Return how many colours a picture has: BLACK_AND_WHITE (also blurred by JPEG), FEW, MANY.

    UNKNOWN for a file that cannot be read, which is reported later, and for a picture of one colour.
    """
    try:
        data = images.read(root / path, inside=(root,))
        seen = images.probe(data)
        size = seen.height * seen.width
        dense = seen.channels >= 3 and size > SMALL and 8 * len(data) / size > DENSE
        if size < FEWEST_PIXELS or (dense and seen.format not in ("BMP", "TIFF")):
            return MANY
        step = math.ceil(math.sqrt(size / LOOKED_AT))
        pixels = images.decode(data)[::step, ::step].astype(np.int32)
    except ImageError:
        return UNKNOWN
    blue, green, red = np.moveaxis(pixels, 2, 0)
    uneven = int((pixels.max(axis=2) - pixels.min(axis=2)).max())  # 0 for grey
    low, high = int(green.min()), int(green.max())
    count = len(np.unique(blue | green << 8 | red << 16))
    if count == 1:
        return BLACK_AND_WHITE if uneven == 0 and low in (0, 255) else UNKNOWN
    between = float(((green > low + 32) & (green < high - 32)).mean())
    if (count == 2 and uneven == 0) or (uneven <= 8 and high - low > 128 and between < 0.05):
        return BLACK_AND_WHITE
    return FEW if count <= FEW_COLOURS else MANY
