"""Names of data sets and of the files of a new data set.

The name of a data set is a folder's name, a heading and a word on the command line. The files of a new data set have
unique names derived from the original files: `lesion.jpg` and `lesion.png` would both become `lesion.jpg`, and file
systems of macOS and Windows do not distinguish `A.jpg` from `a.jpg`, or a composed from a decomposed ü.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path, PurePosixPath

from core.errors import SpecError

LONGEST_NAME = 255  # bytes of a file's name


def output_names(paths: Iterable[str], extension: str) -> dict[str, str]:
    """Return the new path of each of a data set's files, both below their roots: {path: new path}.

    A new path keeps folder and name and changes the extension. Where it is not unique, it keeps the former extension
    (`lesion.png.jpg`), then adds a number. The order of the paths does not matter.
    """
    files = sorted(map(PurePosixPath, paths))
    plain = {file: next(candidates(file, extension)) for file in files}
    counts = Counter(merged(name) for name in plain.values())
    taken = {merged(folder) for file in files for folder in file.parents}
    names = {file: name for file, name in plain.items() if counts[merged(name)] == 1 and merged(name) not in taken}
    taken.update(merged(name) for name in names.values())
    for file in files:
        if file not in names:
            others = (name for name in candidates(file, extension) if name != plain[file])
            names[file] = next(name for name in others if merged(name) not in taken)
            taken.add(merged(names[file]))
    return {file.as_posix(): names[file].as_posix() for file in files}


def candidates(file: PurePosixPath, extension: str) -> Iterator[PurePosixPath]:
    """Yield possible new paths of a file, the shortest first."""
    yield file.with_name(shortened(file.stem, extension))
    yield file.with_name(shortened(file.name, extension))
    for number in count(2):
        yield file.with_name(shortened(file.name, f"-{number}{extension}"))


def merged(path: PurePosixPath) -> str:
    """Return a key that is equal for paths which some file system does not distinguish."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path.as_posix()).casefold())


def shortened(name: str, ending: str) -> str:
    """Return name and ending within the limit of file systems; a hash replaces the part cut off."""
    if len(f"{name}{ending}".encode()) <= LONGEST_NAME:
        return f"{name}{ending}"
    mark = f"-{hashlib.sha256(name.encode()).hexdigest()[:12]}{ending}"
    return name.encode()[: LONGEST_NAME - len(mark.encode())].decode(errors="ignore") + mark


def refuse_inside(output: Path, root: Path) -> None:
    """Raise SpecError for an output folder inside the data set's folder, which would include the new files."""
    output, root = output.expanduser().resolve(), root.resolve()
    if output.is_relative_to(root) and not any(part.startswith(".") for part in output.relative_to(root).parts):
        raise SpecError(f"Expected an output folder outside of {root}, whose images are read, got {output}.")


LONGEST = 100  # characters
LONGEST_BYTES = 240  # of UTF-8: file systems allow 255, and a prefix or suffix may be added
UNNAMED = "images"
SHOWN = 40  # characters of an invalid name in a message


def name_fault(name: str) -> str | None:
    """Return why a name is not a valid data set name, as a sentence; None where it is valid."""
    plain = name.isprintable() and name == name.strip() and not name.startswith(".") and not set(name) & set("/\\")
    if name and plain and len(name) <= LONGEST and len(name.encode(errors="replace")) <= LONGEST_BYTES:
        return None
    got = repr(name) if len(name) <= SHOWN else f"{name[:SHOWN]!r}… ({len(name)} characters)"
    return (
        f"Expected a name of 1 to {LONGEST} printable characters, without / and \\, a dot in front or a space at "
        f"either end, got {got}."
    )


def default_name(folder: Path) -> str:
    """Return the default name of a data set: its folder's name, made valid."""
    return derived_name(folder.name, "")


def derived_name(name: str, end: str) -> str:
    """Return a valid name that consists of a name and an end; only the name is shortened."""
    plain = "".join(each if each.isprintable() and each not in "/\\" else "_" for each in name).lstrip(" .")
    room = LONGEST_BYTES - len(end.encode())
    cut = plain[: LONGEST - len(end)].encode(errors="replace")[:room].decode(errors="ignore")
    return (cut.strip() or UNNAMED) + end
