"""Folders of images on this host: which of them may be read, where a recorded folder lies, and the files below one."""

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

# Files that accompany images and are not worth a line, tables apart; hidden files are passed over too
COMPANIONS = (".txt", ".md", ".json", ".pdf", ".html", ".xml", ".ini", ".db", ".lnk", ".url")


def refuse_no_text(path: str | Path) -> None:
    """Raise DatasetError for a path that is no UTF-8, as a Latin-1 name on Linux: no record can hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DatasetError(f"Expected a path in valid UTF-8. Received: {str(path)!r}.") from None


def confine(path: Path, roots: Iterable[Path]) -> Path:
    """Resolve a path, following symbolic links; DatasetError unless it lies in one of the allowed folders."""
    allowed = [root.resolve() for root in roots]
    try:
        resolved = Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL character
        raise DatasetError(f"Expected a path. Received: {str(path)!r}, which cannot be followed: {error}.") from error
    refuse_no_text(resolved)
    if not any(resolved.is_relative_to(root) for root in allowed):
        raise DatasetError(
            f"Expected a path inside the allowed data roots ({', '.join(map(str, allowed))}). Received: {resolved}."
            " DATA_ROOTS sets the allowed roots."
        )
    return resolved


def folder_here(folder: Path, settings: Settings) -> Path:
    """Return where this host has a folder that a record names, whether or not it is there.

    NotOnThisHost where that is outside the data roots, after `DATA_ROOTS` has mapped it and links are followed.
    """
    try:
        return confine(settings.here(folder), settings.data_roots)
    except DatasetError as error:
        raise NotOnThisHost(f"on {socket.gethostname()}, for {folder}: {error}") from error


def images_here(folder: Path, settings: Settings) -> Path:
    """Return where this host has a data set's folder; NotOnThisHost, with what to set, where it is not or is empty."""
    here = folder_here(folder, settings)
    try:
        if next(os.scandir(here), None) is not None:
            return here
        reason = "the folder is empty"
    except OSError as error:
        gone = "there is no such file or folder"
        reason = gone if isinstance(error, FileNotFoundError) else error.strerror or str(error)
    place = f"the images of {folder} on host {socket.gethostname()}"
    if settings.here(folder) == folder:
        advice = f"If they lie elsewhere there, set DATA_ROOTS={folder}=FOLDER for its workers"
    else:
        place += f", at {here} by its DATA_ROOTS"
        advice = "Mount them there, or correct its workers' DATA_ROOTS"
    raise NotOnThisHost(f"expected {place}; none can be read: {reason}. {advice}")


def readable_folder(folder: Path) -> Path:
    """The folder, resolved; DatasetError when it is none or cannot be listed."""
    try:
        root = Path(folder).expanduser().resolve()
        if not root.exists():
            raise DatasetError(f"Expected a folder of images at {folder}; there is nothing.")
        if not root.is_dir():
            raise DatasetError(f"Expected a folder of images at {folder}; found a file.")
        next(os.scandir(root), None)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"Expected a readable folder of images at {folder}; it cannot be read: {reason}.") from error
    return root


def walk(root: Path, left_out: list[LeftOut]) -> Iterator[str]:
    """Yield the regular files below root as POSIX paths; hidden ones are passed over, odd ones go to `left_out`."""

    def unreadable(error: OSError) -> None:
        left_out.append(LeftOut(relative(error.filename, root), f"The folder cannot be read: {error.strerror}."))

    for parent, folders, names in os.walk(root, onerror=unreadable):
        for folder in list(folders):
            if (Path(parent) / folder).is_symlink():
                path = relative(Path(parent, folder), root)
                left_out.append(LeftOut(path, "Folders are not followed through symbolic links."))
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
    """Why a directory entry is no file of this data set; None when it is one."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "The file's name is not valid UTF-8."
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return "The symbolic link leads nowhere."
        if not target.is_relative_to(root):
            return "The symbolic link leads out of the data set's folder."
    return None if path.is_file() else "A device, socket or pipe, not a regular file."


def relative(path: str | Path, root: Path) -> str:
    """The POSIX path below root, in characters that can be stored."""
    return Path(path).relative_to(root).as_posix().encode(errors="replace").decode() or "."


def is_picture(path: str) -> bool:
    """Whether a file is an image by its name."""
    return PurePosixPath(path).suffix.lower() in images.EXTENSIONS


def is_companion(path: str) -> bool:
    """Whether a file is one of those that come with images: lists, licences, read-me files."""
    file = PurePosixPath(path)
    return (
        is_table(path)
        or file.suffix.lower() in COMPANIONS
        or file.stem.lower() in ("license", "licence", "readme", "attribution")
    )


def is_there(path: Path) -> bool:
    """Whether a path leads to a file or folder; False for what none can be called, as an id of 300 characters."""
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False
