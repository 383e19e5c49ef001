"""Names of data sets and of the files of a new data set.

The name of a data set is a folder's name, a heading and a word on the command line. The files of a new data set are
named after the images they are made of, each with its own name:
`lesion.jpg` and `lesion.png` would both become `lesion.jpg`, and file systems of macOS and Windows take `A.jpg` and
`a.jpg`, or a composed and a decomposed ü, for one name.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from core.errors import SpecError

LONGEST_NAME = 255  # bytes of a file's name


def output_names(paths: Iterable[str], extension: str) -> dict[str, str]:
    """Name a new file for each of a data set's files, all below their roots: {path: new path}.

    It keeps folder and name, its extension changed. Where that is no name of its own, the former extension stays
    (`lesion.png.jpg`), then a number follows. The same for the same paths, in whatever order they come.
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
    """Yield what a file's new one may be called, the plainest first."""
    yield file.with_name(shortened(file.stem, extension))
    yield file.with_name(shortened(file.name, extension))
    number = 2
    while True:
        yield file.with_name(shortened(file.name, f"-{number}{extension}"))
        number += 1


def merged(path: PurePosixPath) -> str:
    """What all names have in common that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path.as_posix()).casefold())


def shortened(name: str, ending: str) -> str:
    """A name and its ending, within what file systems take; a part of the name's hash stands for what is cut off."""
    if len(f"{name}{ending}".encode()) <= LONGEST_NAME:
        return f"{name}{ending}"
    mark = f"-{hashlib.sha256(name.encode()).hexdigest()[:12]}{ending}"
    return name.encode()[: LONGEST_NAME - len(mark.encode())].decode(errors="ignore") + mark


def refuse_inside(output: Path, root: Path) -> None:
    """Raise SpecError for a folder in which the new files would become a part of the data set they are made of."""
    output, root = output.expanduser().resolve(), root.resolve()
    if output.is_relative_to(root) and not any(part.startswith(".") for part in output.relative_to(root).parts):
        raise SpecError(f"output: expected a folder outside of {root}, whose images are read; got {output}")


LONGEST = 100  # characters
LONGEST_BYTES = 240  # of UTF-8: file systems take 255, and something may be put in front or behind
UNNAMED = "images"
SHOWN = 40  # characters of a refused name that a message repeats


def name_fault(name: str) -> str | None:
    """Return the sentence that says why a data set cannot be called so; None when it can."""
    plain = name.isprintable() and name == name.strip() and not name.startswith(".") and not set(name) & set("/\\")
    if name and plain and len(name) <= LONGEST and len(name.encode(errors="replace")) <= LONGEST_BYTES:
        return None
    got = repr(name) if len(name) <= SHOWN else f"{name[:SHOWN]!r}… ({len(name)} characters)"
    return (
        f"name: expected a plain folder name of 1 to {LONGEST} printable characters, without / and \\, a dot in front "
        f"or a space at either end; got {got}"
    )


def default_name(folder: Path) -> str:
    """Return what a data set is called when nobody names it: its folder's name, made a valid one where it is none."""
    return derived_name(folder.name, "")


def derived_name(name: str, end: str) -> str:
    """Return a valid name made of another and an end, which is kept whole where the other has to be cut."""
    plain = "".join(each if each.isprintable() and each not in "/\\" else "_" for each in name).lstrip(" .")
    room = LONGEST_BYTES - len(end.encode())
    cut = plain[: LONGEST - len(end)].encode(errors="replace")[:room].decode(errors="ignore")
    return (cut.strip() or UNNAMED) + end
