"""Match photographs with metadata rows: one file per image id, never chosen by alphabetical order."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from core.data import images, layouts
from core.data.metadata import NEGATIVES, NO_FILE, NOT_LISTED, LeftOut, Row, composed
from core.data.metadata_tables import Metadata
from core.errors import DatasetError, ImageError


@dataclass(frozen=True)
class Checked:
    """A whole image file."""

    bytes: int
    sha256: str
    info: images.ImageInfo


def check_file(root: Path, path: str) -> Checked | ImageError:
    """Decode a file below root to its end; return its size and hash, or the error."""
    try:
        data = images.read(root / path, inside=(root,))
        return Checked(len(data), hashlib.sha256(data).hexdigest(), images.check(data))
    except ImageError as error:
        return error


def describe_by_metadata(
    root: Path, pictures: list[str], metadata: Metadata, left_out: list[LeftOut]
) -> dict[str, Row]:
    """Match files with rows by name; list unmatched ones in `left_out`, except images in `negatives/`.

    An unlisted image takes the class of its folder unless a table lists all images. Raises DatasetError where several
    files could be the photograph of one row.
    """
    by_folder = [path for path in pictures if in_negatives(path)]
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(set(pictures) - set(by_folder)):
        if image_id := listed_id(path, metadata.listed):
            files[image_id].append(path)
        elif not metadata.complete and layouts.nearest_class(path):
            by_folder.append(path)
        else:
            left_out.append(LeftOut(path, NOT_LISTED))
    file_of = one_file_each(root, files, metadata, left_out)
    described = {path: with_folder(metadata.rows[image_id], path) for image_id, path in file_of.items()}
    for path, short_id in layouts.unique_ids(by_folder).items():
        listed = listed_id(path, metadata.listed)
        image_id = next(
            each for each in (listed or short_id, short_id, layouts.without_ending(path), composed(path), path)
            if each not in file_of
        )  # fmt: skip
        file_of[image_id] = path
        folder = layouts.nearest_class(path) or ""
        label, dx = ("negative", None) if in_negatives(path) else layouts.label_of_folder(folder)
        row = replace(metadata.rows.get(listed or "", Row(image_id)), image_id=image_id, label=label, dx=dx)
        described[path] = with_folder_split(row, path)
    left_out += (LeftOut(image_id, NO_FILE) for image_id in metadata.rows if image_id not in file_of)
    return described


def in_negatives(path: str) -> bool:
    """Return whether a picture is inside a folder of healthy skin."""
    return any(part.lower() in NEGATIVES for part in PurePosixPath(path).parts[:-1])


def listed_id(path: str, listed: Mapping[str, str]) -> str | None:
    """Return the image id that the metadata give a file, by its path or name with or without extension."""
    return next((listed[name] for name in names_of(path) if name in listed), None)


def names_of(path: str) -> tuple[str, ...]:
    """Return the names by which a table may list a file: its path or name, with or without extension."""
    return composed(path), composed(PurePosixPath(path).name), layouts.without_ending(path), layouts.stem(path)


def with_folder(row: Row, path: str) -> Row:
    """Return a row, with the set of the picture's folder, and a doubt where the folder names a different class."""
    row = with_folder_split(row, path)
    folder = layouts.nearest_class(path)
    if folder is None or row.label is None:
        return row
    label, _ = layouts.label_of_folder(folder)
    if label in (row.label, "benign", "malignant"):
        return row
    reason = f"The folder names {label}, the table {row.dx or row.label}. The table is used."
    return replace(row, doubts=(*row.doubts, LeftOut(path, reason)))


def with_folder_split(row: Row, path: str) -> Row:
    """Return a row with the set that its picture's folder names, with a doubt where the table names another."""
    split = layouts.folder_split(path)
    if split is None or row.split in (None, split):
        return replace(row, split=split or row.split)
    reason = f"The folder names the split {split}, the table {row.split}. The table is used."
    return replace(row, doubts=(*row.doubts, LeftOut(path, reason)))


def one_file_each(
    root: Path, files: Mapping[str, list[str]], metadata: Metadata, left_out: list[LeftOut]
) -> dict[str, str]:
    """Return one file per image id; list the others with reasons in `left_out`.

    Equal files count once, damaged ones do not count. Raises DatasetError where several whole files differ.
    """
    endings = {image_id: listed for listed, image_id in metadata.listed.items() if listed != image_id}
    chosen, open_ids = {}, {}
    for image_id, paths in files.items():
        exact = [path for path in paths if composed(PurePosixPath(path).name) == endings.get(image_id)]
        if len(paths) > 1 and len(exact) == 1:
            reason = f"The metadata lists {endings[image_id]}, which has a different extension."
            left_out += (LeftOut(path, reason) for path in paths if path not in exact)
            chosen[image_id] = exact[0]
        elif len(paths) > 1:
            checked = {path: check_file(root, path) for path in paths}
            whole = [path for path in paths if isinstance(checked[path], Checked)] or paths[:1]
            contents = {each.sha256 for each in checked.values() if isinstance(each, Checked)}
            if len(contents) > 1:
                open_ids[image_id] = whole
                continue
            chosen[image_id] = whole[0]
            for path in (path for path in paths if path != whole[0]):
                same = f"The file is a copy of {whole[0]}, which has the same image id and is used."
                left_out.append(LeftOut(path, same if path in whole else str(checked[path])))
        else:
            chosen[image_id] = paths[0]
    if open_ids:
        image_id, paths = next(iter(open_ids.items()))
        more = f" ({len(open_ids):,} image ids have several)" if len(open_ids) > 1 else ""
        raise DatasetError(
            f"Expected one photograph for the image id {image_id}, got {' and '.join(paths)}, which differ{more}."
            " Keep one of them in the folder."
        )
    return chosen


def refuse_unclear_folders(pictures: list[str]) -> None:
    """Raise DatasetError where a folder beside the photographs holds unknown files with the photographs' names.

    Maps of photographs would be measured as photographs. pictures: those of a data set without a table.
    """
    folders: dict[PurePosixPath, dict[str, str]] = defaultdict(dict)
    for path in pictures:
        folders[PurePosixPath(path).parent][layouts.stem(path)] = path
    photographs = [folder for folder in folders if layouts.PHOTOGRAPHS.fullmatch(folder.name)]
    for folder, inside in folders.items():
        first = min(inside.values())
        if layouts.nearest_class(first) or layouts.telling_folder(first) != folder.as_posix():
            continue
        for other in photographs:
            if other.parent == folder.parent and inside.keys() <= folders[other].keys():
                raise DatasetError(
                    f"Expected photographs, or the images of a class, in {folder}, got files with the names of {other},"
                    f" such as {first} and {folders[other][layouts.stem(first)]}."
                    f" Register {other} alone, or rename {folder} to masks or to a class."
                )
