"""Folders of images on this host: the data roots, the place of a recorded folder, and the files below a folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from core.data import images
from core.data.metadata import LeftOut
from core.data.metadata_tables import is_table
from core.errors import DatasetError, NotOnThisHost
from core.settings import Settings

# Files that accompany images and are skipped without a line, apart from tables; hidden files are skipped too
COMPANIONS = (".txt", ".md", ".json", ".pdf", ".html", ".xml", ".ini", ".db", ".lnk", ".url")


def refuse_no_text(path: str | Path) -> None:
    """Raise DatasetError for a path that is not UTF-8, such as a Latin-1 name on Linux; a record cannot store it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DatasetError(f"Expected a path in valid UTF-8, got {str(path)!r}.") from None


def confine(path: Path, roots: Iterable[Path]) -> Path:
    """Resolve a path and its symbolic links. Raises DatasetError unless it is inside one of the roots."""
    allowed = [root.resolve() for root in roots]
    try:
        resolved = Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL character
        raise DatasetError(f"Expected a path, got {str(path)!r}, which cannot be resolved: {error}.") from error
    refuse_no_text(resolved)
    if not any(resolved.is_relative_to(root) for root in allowed):
        raise DatasetError(
            f"Expected a path inside the data roots ({', '.join(map(str, allowed))}), got {resolved}."
            " DATA_ROOTS sets the data roots."
        )
    return resolved


def folder_here(folder: Path, settings: Settings) -> Path:
    """Return the path of a recorded folder on this host; the folder need not exist.

    Raises NotOnThisHost where the path, mapped by `DATA_ROOTS` and resolved, is outside the data roots.
    """
    try:
        return confine(settings.here(folder), settings.data_roots)
    except DatasetError as error:
        raise NotOnThisHost(f"on {socket.gethostname()}, for {folder}: {error}") from error


def images_here(folder: Path, settings: Settings) -> Path:
    """Return a data set's folder on this host. Raises NotOnThisHost with advice where it is missing or empty."""
    here = folder_here(folder, settings)
    try:
        if next(os.scandir(here), None) is not None:
            return here
        reason = "the folder is empty"
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "the folder does not exist" if missing else error.strerror or str(error)
    place = f"the images of {folder} on host {socket.gethostname()}"
    if settings.here(folder) == folder:
        advice = f"If this host stores them elsewhere, set DATA_ROOTS={folder}=FOLDER for its workers."
    else:
        place += f", at {here} by its DATA_ROOTS"
        advice = "Mount them there, or correct DATA_ROOTS of its workers."
    raise NotOnThisHost(f"Expected {place}, got none: {reason}. {advice}")


def readable_folder(folder: Path) -> Path:
    """Return the resolved folder. Raises DatasetError where it is not a folder or cannot be listed."""
    try:
        root = Path(folder).expanduser().resolve()
        if not root.exists():
            raise DatasetError(f"Expected a folder of images at {folder}, which does not exist.")
        if not root.is_dir():
            raise DatasetError(f"Expected a folder of images at {folder}, got a file.")
        next(os.scandir(root), None)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"The folder of images {folder} cannot be read: {reason}.") from error
    return root


def walk(root: Path, left_out: list[LeftOut]) -> Iterator[str]:
    """Yield the regular files below root as POSIX paths; skip hidden ones, list unusable ones in `left_out`."""

    def unreadable(error: OSError) -> None:
        left_out.append(LeftOut(relative(error.filename, root), f"The folder cannot be read: {error.strerror}."))

    for parent, folders, names in os.walk(root, onerror=unreadable):
        for folder in list(folders):
            if (Path(parent) / folder).is_symlink():
                path = relative(Path(parent, folder), root)
                left_out.append(LeftOut(path, "Symbolic links to folders are not followed."))
        folders[:] = sorted(folder for folder in folders if not folder.startswith((".", "__MACOSX")))
        for name in names:
            if name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini"):
                continue
            path = relative(Path(parent, name), root)
            if reason := odd(Path(parent, name), root):
                left_out.append(LeftOut(path, reason))
            else:
                yield path


def odd(path: Path, root: Path) -> str | None:
    """Return why a directory entry cannot be a file of this data set; None where it can."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "The file's name is not valid UTF-8."
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return "The target of the symbolic link does not exist."
        if not target.is_relative_to(root):
            return "The target of the symbolic link lies outside the data set's folder."
    return None if path.is_file() else "The entry is a device, socket or pipe, not a regular file."


def relative(path: str | Path, root: Path) -> str:
    """Return the POSIX path below root as valid UTF-8."""
    return Path(path).relative_to(root).as_posix().encode(errors="replace").decode() or "."


def is_picture(path: str) -> bool:
    """Return whether a file has an image extension."""
    return PurePosixPath(path).suffix.lower() in images.EXTENSIONS


def is_companion(path: str) -> bool:
    """Return whether a file usually accompanies images: lists, licences, README files."""
    file = PurePosixPath(path)
    return (
        is_table(path)
        or file.suffix.lower() in COMPANIONS
        or file.stem.lower() in ("license", "licence", "readme", "attribution")
    )


def is_there(path: Path) -> bool:
    """Return whether a path exists; False for an impossible path, such as a name of 300 characters."""
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False
