"""What a new data set's files are called: after the images they are made of, and no two of them alike.

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
