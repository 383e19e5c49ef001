"""Image ids and classes from the paths of a data set's pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from core.data.metadata import SET_OF_WORDS, LeftOut, Row, composed, known_class, normal_words, says_unknown

# Names of folders that hold splits, parts of a download or any files; they name no class
SPLIT = re.compile(r"(train|test|valid|eval).*|val|dev|holdout", re.IGNORECASE)
SPLIT_AND_CLASS = re.compile(
    r"(?:train|training|test|testing|val|valid|validation)[ _-]+(.+)|(.+?)[ _-]+(?:train|test|val|validation)",
    re.IGNORECASE,
)
PHOTOGRAPHS = re.compile(
    r"(raw|original|dermoscopic|all)?[ _-]?(images?|imgs?|photos?|photographs?|pictures?|pics?|data|dataset|files"
    r"|inputs?|jpe?gs?|pngs?)",
    re.IGNORECASE,
)
SAYS_NOTHING = re.compile(
    PHOTOGRAPHS.pattern + r"|(part|batch|fold|set|split|chunk|group)[ _-]?(\d+|[a-z])?|ham10000.*|isic.*|isbi.*|ph2.*",
    re.IGNORECASE,
)
NUMBER = re.compile(r"[\d ._-]+")

UNKNOWN_CLASS = "The folder {} names no diagnosis. The image is kept unlabelled."


def stem(path: str) -> str:
    """Return a file's name without its ending, composed."""
    return composed(PurePosixPath(path).stem)


def describe_by_folders(pictures: list[str]) -> tuple[str, dict[str, Row]]:
    """Return the layout, and for each image path its id, the label of its folder and the set that a folder names."""
    classes = class_folders(pictures)
    names = {normal_words(name) for name in classes.values()}
    by_class = any(folder_class(name) for name in names) or len(names) > 1
    described = {}
    for path, image_id in unique_ids(pictures).items():
        folder = classes.get(path) if by_class else None
        split = folder_split(path)
        if folder is None:
            described[path] = Row(image_id, split=split)
        elif says_unknown(folder):
            doubt = LeftOut(f"{image_id}, class", UNKNOWN_CLASS.format(repr(folder)))
            described[path] = Row(image_id, split=split, doubts=(doubt,))
        else:
            label, dx = label_of_folder(folder)
            described[path] = Row(image_id, label=label, dx=dx, split=split)
    return "class_folders" if by_class else "plain", described


def class_folders(pictures: Iterable[str]) -> dict[str, str]:
    """Return the class folder's name of each picture inside one.

    A known class comes first, then the deepest folder with a telling name, unless it contains other class folders.
    Names that differ only in case, spaces, - or _ are the same class.
    """
    paths = list(pictures)
    chosen = {path: folder for path in paths if (folder := nearest_class(path) or telling_folder(path)) is not None}
    holding = {parent.as_posix() for folder in set(chosen.values()) for parent in PurePosixPath(folder).parents}
    spelled: dict[str, str] = {}
    named = {}
    for path, folder in sorted(chosen.items(), key=lambda item: item[1]):
        name = composed(PurePosixPath(folder).name)
        if folder not in holding or folder_class(name):
            named[path] = spelled.setdefault(normal_words(name), name)
    return named


def nearest_class(path: str) -> str | None:
    """Return the path of the nearest folder above a picture that names a known class, or None."""
    return next((each.as_posix() for each in folders_above(path) if folder_class(each.name)), None)


def folder_class(name: str) -> tuple[str, str | None] | None:
    """Return the label and dx of a folder with the name of a known class, with or without a split: `train_nv`."""
    named = SPLIT_AND_CLASS.fullmatch(name)
    return known_class(name) or (known_class(named[1] or named[2]) if named else None)


def folder_split(path: str) -> str | None:
    """Return the set that the nearest such folder above a picture names: `train/nv/a.jpg` is in train."""
    names = (normal_words(folder.name) for folder in folders_above(path))
    return next((SET_OF_WORDS[name] for name in names if name in SET_OF_WORDS), None)


def label_of_folder(folder: str) -> tuple[str, str | None]:
    """Return the label and dx of the images in a class's folder, given by its name or path."""
    name = PurePosixPath(folder).name
    return folder_class(name) or (name, None)


def telling_folder(path: str) -> str | None:
    """Return the path of the deepest folder above a picture whose name could be a class, or None.

    Names of splits, of parts of downloads and of the picture itself cannot. A folder above a split counts only where
    none below it does, a number only where no other name does.
    """
    above = folders_above(path)
    split = next((place for place, each in enumerate(above) if SPLIT.fullmatch(each.name)), len(above))
    for part in (above[:split], above[split + 1 :]):
        telling = [
            each
            for each in part
            if not SAYS_NOTHING.fullmatch(each.name)
            and not SPLIT.fullmatch(each.name)
            and not is_named_as(each.name, path)
        ]
        for each in [*(each for each in telling if not NUMBER.fullmatch(each.name)), *telling]:
            return each.as_posix()
    return None


def is_named_as(folder: str, path: str) -> bool:
    """Return whether a folder has its picture's name, such as PH²'s IMD002_Dermoscopic_Image for IMD002.bmp."""
    own = stem(path)
    numbered = re.search(r"\d", own) and re.search(r"[^\W\d]", own)
    return bool(numbered) and re.fullmatch(re.escape(own) + r"([ _.-].*)?", composed(folder)) is not None


def folders_above(path: str) -> list[PurePosixPath]:
    """Return the folders between the data set's root and a picture, the deepest first."""
    return list(PurePosixPath(path).parents)[:-1]


def unique_ids(pictures: Iterable[str]) -> dict[str, str]:
    """Return each picture's id: its file name without extension; with folders or extension where not unique."""
    ids = {path: stem(path) for path in pictures}
    longer = iter((without_ending, composed))
    while len(set(ids.values())) < len(ids):  # ends, because whole paths differ
        counts, name = Counter(ids.values()), next(longer, str)
        ids = {path: image_id if counts[image_id] == 1 else name(path) for path, image_id in ids.items()}
    return ids


def without_ending(path: str) -> str:
    """Return a file's path without its ending, composed."""
    return composed(PurePosixPath(path).with_suffix("").as_posix())
