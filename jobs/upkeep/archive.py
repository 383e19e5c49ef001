"""The file that a backup is: a tar with a manifest at its end, written as a stream, and read as if by a stranger."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import pyarrow as pa

from core.errors import DermSlimError
from core.files.private import private_opener
from core.store.migrations import VERSION

FORMAT = 1
MANIFEST, STORE, QUEUE = "manifest.json", "store/dermslim.duckdb", "queue.jsonl"
NETWORKS, TRAINED, RECONSTRUCTED = "networks", "trained", "reconstructed"
SUFFIXES = (".tar", ".tar.gz", ".tar.zst")
BLOCK = 1 << 20  # bytes read at a time
HEADERS = 1 << 24  # bytes that may stand between two files: names and the like, which are read into memory
MOST_FILES = 2_000_000
LONGEST_MANIFEST = 1 << 28  # bytes
LEFT_FREE = 200_000_000  # bytes that unpacking leaves free on the disk
LONGEST_NAME = 255  # bytes of a file's name
SHOWN = 5  # names in a message
# What the libraries raise on bytes that are no tar, or no gzip or zstd.
UNREADABLE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError, pa.ArrowException)


class BackupError(DermSlimError):
    """A backup cannot be made, or isn't one."""


@dataclass(frozen=True)
class Manifest:
    """What a backup holds. files: size and SHA-256 by name. rows: of the store, by table. keys: of the queue."""

    made_at: str
    host: str
    data_dir: str
    schema_version: int
    server: str | None
    code_revision: str | None
    versions: dict[str, str]
    held_seconds: float
    rows: dict[str, int]
    keys: int | None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT


def suffix_of(path: Path) -> str:
    """Return the one of SUFFIXES that a name ends in; BackupError."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return suffix
    raise BackupError(f"expected a name that ends in {', '.join(SUFFIXES)}; got {path.name}")


# -- writing -----------------------------------------------------------------------------------------------------------


def compressed(path: Path, suffix: str) -> Any:
    """Open a file to write, compressed as its name says."""
    return pa.output_stream(str(path), compression={".tar.gz": "gzip", ".tar.zst": "zstd"}.get(suffix))


class _Hashed:
    """A file that notes the SHA-256 of what is read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self.stream.read(size)
        self.digest.update(block)
        return block


def add(archive: tarfile.TarFile, name: str, path: Path) -> dict[str, Any]:
    """Add a file; return its size and SHA-256."""
    with path.open("rb") as stream:  # a file that is replaced meanwhile stays whole here
        facts = os.fstat(stream.fileno())
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = facts.st_size, int(facts.st_mtime), 0o600
        hashed = _Hashed(stream)
        archive.addfile(member, cast(BinaryIO, hashed))
    return {"bytes": facts.st_size, "sha256": hashed.digest.hexdigest()}


def add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file with this content."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(content), int(time.time()), 0o600
    with tempfile.TemporaryFile() as stream:
        stream.write(content)
        stream.seek(0)
        archive.addfile(member, stream)


# -- reading -----------------------------------------------------------------------------------------------------------


class _Bounded:
    """A stream that gives no more bytes than were allowed since the last file began."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.left = stream, HEADERS

    def read(self, size: int) -> bytes:
        block: bytes = self.stream.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise BackupError(f"expected at most {HEADERS:,} bytes between two files of a backup; got more")
        return block


def unpack(path: Path, staging: Path, *, only_store: bool = False) -> Manifest:
    """Unpack a backup into an empty folder and check that each file is what the manifest says. BackupError.

    only_store: leave what is neither manifest, store nor queue unwritten; it is checked all the same.
    """
    suffix = suffix_of(path)
    if not path.is_file():
        raise BackupError(f"expected a backup; there is no file at {path}")
    found: dict[str, dict[str, Any]] = {}
    compression = {".tar.gz": "gzip", ".tar.zst": "zstd"}.get(suffix)
    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            bounded = _Bounded(stream)
            with tarfile.open(fileobj=cast(BinaryIO, bounded), mode="r|") as archive:
                for member in archive:
                    _check_member(member, found, staging)
                    bounded.left = member.size + HEADERS
                    kept = not only_store or member.name in (MANIFEST, STORE, QUEUE)
                    content = cast(IO[bytes], archive.extractfile(member))
                    found[member.name] = _write(content, staging / member.name if kept else None)
    except UNREADABLE as error:
        raise BackupError(f"expected a whole backup; {path} cannot be read: {_line(error)}") from error
    _check_names(path, found)
    manifest = _manifest(path, staging / MANIFEST)
    del found[MANIFEST]
    if found != manifest.files:
        wanted = manifest.files
        differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise BackupError(f"expected every file as it was backed up; not so: {_names(differing)}")
    if (QUEUE in found) != (manifest.keys is not None):
        raise BackupError(f"expected {QUEUE} where the manifest names keys, and only there; {path} has it otherwise")
    return manifest


def _check_member(member: tarfile.TarInfo, found: dict[str, dict[str, Any]], staging: Path) -> None:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse() or not _is_ours(member.name):
        raise BackupError(f"expected files of a backup; got {_names([member.name])}")
    if member.name in found or len(found) >= MOST_FILES:
        raise BackupError(f"expected each file once, and at most {MOST_FILES:,}; got {_names([member.name])} besides")
    if member.name == MANIFEST and member.size > LONGEST_MANIFEST:
        raise BackupError(f"expected a manifest of at most {LONGEST_MANIFEST:,} bytes; got {member.size:,}")
    if member.size > (room := shutil.disk_usage(staging).free - LEFT_FREE):
        raise BackupError(
            f"expected room for {_names([member.name])}, {member.size:,} bytes; {max(room, 0):,} may be used at "
            f"{staging.parent}"
        )


def _is_ours(name: str) -> bool:
    parts = name.split("/")
    if name in (MANIFEST, STORE, QUEUE):
        return True
    if (
        "\0" in name
        or not {"", ".", ".."}.isdisjoint(parts)
        or len(max(map(os.fsencode, parts), key=len)) > LONGEST_NAME
    ):
        return False
    if parts[0] == TRAINED:
        return len(parts) == 3 and (parts[2] == "about.json" or parts[2].endswith(".keras"))
    return (parts[0] == NETWORKS and len(parts) == 2) or (parts[0] == RECONSTRUCTED and len(parts) > 1)


def _check_names(path: Path, found: dict[str, dict[str, Any]]) -> None:
    folders = {str(parent) for name in found for parent in Path(name).parents}
    if both := sorted(folders & found.keys()):
        raise BackupError(f"expected a file or a folder of a name; {path} has both of {_names(both)}")
    if MANIFEST not in found:
        raise BackupError(f"expected a backup with its manifest; {path} has none, or ends before it")
    if STORE not in found:
        raise BackupError(f"expected a backup with a store; {path} has none")


def _manifest(path: Path, file: Path) -> Manifest:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BackupError(f"expected a manifest in JSON; that of {path} cannot be read: {_line(error)}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        form = values.get("format") if isinstance(values, dict) else "none"
        raise BackupError(f"expected a backup of format {FORMAT}; got {str(form)[:20]!a}")
    for name, fits in FITS.items():
        if name not in values or not fits(values[name]):
            raise BackupError(f"expected the manifest's {name} as `backup` writes it; {path} has none, or another")
    if values["schema_version"] > VERSION:
        raise BackupError(
            f"expected a store of version {VERSION} or older; the backup has version {values['schema_version']}"
        )
    return Manifest(**{each.name: values[each.name] for each in fields(Manifest)})


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _moment(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _file_facts(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"bytes", "sha256"}


FITS: dict[str, Callable[[Any], bool]] = {
    "made_at": _moment,
    "host": _text,
    "data_dir": _text,
    "schema_version": _whole,
    "server": lambda value: value is None or _text(value),
    "code_revision": lambda value: value is None or _text(value),
    "versions": lambda value: isinstance(value, dict) and all(map(_text, value.values())),
    "held_seconds": lambda value: type(value) in (int, float) and 0 <= value < 1e9,
    "rows": lambda value: isinstance(value, dict) and "runs" in value and all(map(_whole, value.values())),
    "keys": lambda value: value is None or _whole(value),
    "files": lambda value: isinstance(value, dict) and all(map(_file_facts, value.values())),
}


def _write(content: IO[bytes], path: Path | None) -> dict[str, Any]:
    """Write a file, or only read it where there is no path; return its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    opened: Any = contextlib.nullcontext() if path is None else open(path, "wb", opener=private_opener)  # noqa: SIM115
    with opened as stream:
        while block := content.read(BLOCK):
            if stream is not None:
                stream.write(block)
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _names(names: list[str]) -> str:
    """Return names as they can be printed, the first few."""
    shown = ", ".join(name if name.isprintable() else ascii(name) for name in names[:SHOWN])
    return shown[:500] + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def _line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ascii(text)[1:-1] if not text.isprintable() else text
