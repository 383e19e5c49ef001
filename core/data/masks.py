"""Pictures that lie beside photographs and are none: segmentations, lesion masks, superpixels, maps of attributes.

They are told by the names that the field's downloads give them (ISIC 2016 to 2018, HAM10000, PH², class folders with
`masks/`), and where names say nothing by their content.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from core.data import images
from core.data.layouts import nearest_class, stem
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
# Ends that photographs have too; they count beside a picture that is named as what stands before them
PAIRED_END = re.compile(
    r"(.+)[ _.-](seg|lesion|roi|binary|contours?|overlay|heatmap|annotations?|labels?)", re.IGNORECASE
)

BY_NAME = "By its name or its folder's it is a mask or another map of a photograph, not a photograph."
BY_CONTENT = "It has a few colours only and lies beside photographs: a mask, not a photograph."

FEW_COLOURS = 8  # of a mask or a map of areas; of a photograph of 12×16 pixels there are a hundred
FEWEST_PIXELS = 64  # of a picture of which colours tell something
DENSE = 2.0  # bits a pixel in the file: masks that are compressed stay below
CASE = 8  # pictures, up to which a folder may be of one case
SMALL = 20_000  # pixels, below which a file's own header spoils that measure
LOOKED_AT = 2_000  # pixels, evenly spread, in which a larger picture's colours are counted


def mask_by_name(path: str, stems: frozenset[str] = frozenset()) -> bool:
    """Return whether a path is that of a mask. stems: names of the data set's pictures, without their ends."""
    file = PurePosixPath(path)
    for folder in file.parts[:-1]:
        if FOLDER_NAME.fullmatch(folder) or any(map(FOLDER_WORD.fullmatch, words_of(folder))):
            return True
    if FILE_END.fullmatch(file.stem):
        return True
    paired = PAIRED_END.fullmatch(stem(path))
    return paired is not None and paired[1] in stems


def words_of(name: str) -> list[str]:
    """Return the words of a file's or folder's name in lower case; GroundTruth and ground_truth are one."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    words = [part.lower() for part in parts]
    return words + [f"{one}{other}" for one, other in pairwise(words)]


def masks_by_content(root: Path, pictures: Iterable[str]) -> set[str]:
    """Return the pictures that are masks by their pixels, among those where the names leave a doubt.

    In doubt are pictures that share a name with another (`a/1.jpg`, `b/1.png`; `1.jpg`, `1_x.png`); of them, one of few
    colours is a mask where another is a photograph. So is a black and white picture in a folder of such alone, or of a
    few pictures, as of one case.
    """
    paths = list(pictures)
    named = defaultdict(list)
    for path in paths:
        named[stem(path)].append(path)
    groups = [group for group in named.values() if len(group) > 1]
    groups += [[path, *named[other]] for path in paths for other in beginnings(stem(path)) if other in named]
    doubtful = sorted({path for group in groups for path in group})
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        found = dict(zip(doubtful, threads.map(lambda path: colours_of(root, path), doubtful), strict=True))
    masks = {
        path
        for group in groups
        for path in group
        if found[path] in (FEW, BLACK_AND_WHITE) and any(found[each] == MANY for each in group)
        if found[path] == BLACK_AND_WHITE or nearest_class(path) is None
    }
    return masks | masks_in_folders(root, paths)


def beginnings(name: str) -> list[str]:
    """Return what stands before each separator of a name: `ISIC_1` and `ISIC` of `ISIC_1_x`."""
    return [name[: found.start()] for found in re.finditer(r"[ _.-]", name) if found.start()]


def masks_in_folders(root: Path, paths: list[str]) -> set[str]:
    """Return the black and white pictures in folders of such alone or of a few pictures, where others are not so.

    Asked of folders that name no class, below the root.
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
    """Return how many colours a picture has: BLACK_AND_WHITE (also as JPEG blurs them), FEW, MANY.

    UNKNOWN for a file that cannot be read, whose damage is found and named later, and for one of a single colour.
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
