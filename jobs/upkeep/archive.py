"""Write and read a backup file: a tar with a manifest at its end, written as a stream and read with distrust."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Any, BinaryIO, Literal, cast

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from core.errors import DermSlimError
from core.files.private import private_opener
from core.store.migrations import VERSION

FORMAT: Literal[1] = 1
MANIFEST, STORE, QUEUE = "manifest.json", "store/dermslim.duckdb", "queue.jsonl"
NETWORKS, TRAINED, RECONSTRUCTED = "networks", "trained", "reconstructed"
SUFFIXES = (".tar", ".tar.gz", ".tar.zst")
BLOCK = 1 << 20  # bytes read at a time
HEADERS = 1 << 24  # bytes between two files at most; names and other headers are read into memory
MOST_FILES = 2_000_000
LONGEST_MANIFEST = 1 << 28  # bytes
LEFT_FREE = 200_000_000  # bytes that unpacking leaves free on the disk
LONGEST_NAME = 255  # bytes of a file's name
SHOWN = 5  # names in a message
# Exceptions of the libraries for bytes that are not tar, gzip or zstd.
UNREADABLE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError, pa.ArrowException)


class BackupError(DermSlimError):
    """A backup cannot be written or read."""


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("Expected a time zone, got none")
    return text


def _file_facts(facts: dict[str, Any]) -> dict[str, Any]:
    if facts.keys() != {"bytes", "sha256"}:
        raise ValueError("Expected bytes and sha256, got other keys")
    return facts


Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
Whole = Annotated[int, Field(ge=0, lt=1 << 62)]
FileFacts = Annotated[dict[str, Any], AfterValidator(_file_facts)]


class Manifest(BaseModel):
    """The content of a backup. files: size and SHA-256 by name. rows: of the store, by table. keys: of the queue."""

    model_config = ConfigDict(frozen=True, strict=True)

    made_at: Annotated[str, AfterValidator(_moment)]
    host: Text
    data_dir: Text
    schema_version: Annotated[Whole, Field(le=VERSION)]
    server: Text | None
    code_revision: Text | None
    versions: dict[str, Text]
    held_seconds: Annotated[float, Field(ge=0, lt=1e9)]
    rows: dict[str, Whole]
    keys: Whole | None
    files: dict[str, FileFacts]
    format: Literal[1] = FORMAT


def suffix_of(path: Path) -> str:
    """Return the suffix of `SUFFIXES` of a name. Raises BackupError."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return suffix
    raise BackupError(f"Expected a name that ends in {', '.join(SUFFIXES)}, got {path.name}.")


# -- writing -----------------------------------------------------------------------------------------------------------


def compressed(path: Path, suffix: str) -> Any:
    """Open a file for writing, compressed according to its suffix."""
    return pa.output_stream(str(path), compression={".tar.gz": "gzip", ".tar.zst": "zstd"}.get(suffix))


class _Hashed:
    """A file that counts the bytes read from it and computes their SHA-256."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.size, self.digest = stream, 0, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self.stream.read(size)
        self.size += len(block)
        self.digest.update(block)
        return block

    @property
    def facts(self) -> dict[str, Any]:
        """The entry of the file in the manifest."""
        return {"bytes": self.size, "sha256": self.digest.hexdigest()}


def add(archive: tarfile.TarFile, name: str, path: Path) -> dict[str, Any]:
    """Add a file; return its size and SHA-256."""
    with path.open("rb") as stream:  # an open file stays whole when it is replaced meanwhile
        facts = os.fstat(stream.fileno())
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = facts.st_size, int(facts.st_mtime), 0o600
        hashed = _Hashed(stream)
        archive.addfile(member, cast(BinaryIO, hashed))
    return hashed.facts


# -- reading -----------------------------------------------------------------------------------------------------------


class _Bounded:
    """A stream with a limit on the bytes since the beginning of the last file."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.left = stream, HEADERS

    def read(self, size: int) -> bytes:
        block: bytes = self.stream.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise BackupError(f"Expected at most {HEADERS:,} bytes between two files of a backup, got more.")
        return block


def unpack(path: Path, staging: Path, *, only_store: bool = False) -> Manifest:
    """Unpack a backup into an empty folder and compare each file with the manifest. Raises BackupError.

    only_store: write only manifest, store and queue; the other files are only checked.
    """
    suffix = suffix_of(path)
    if not path.is_file():
        raise BackupError(f"Expected a backup at {path}, got none.")
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
        raise BackupError(f"Expected a whole backup, got {path}, which cannot be read: {_line(error)}.") from error
    _check_names(path, found)
    manifest = _manifest(path, staging / MANIFEST)
    del found[MANIFEST]
    if found != manifest.files:
        wanted = manifest.files
        differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise BackupError(f"Expected the files of the manifest, got differences in {_names(differing)}.")
    if (QUEUE in found) != (manifest.keys is not None):
        raise BackupError(f"Expected {QUEUE} in {path} if its manifest has a queue, got the opposite.")
    return manifest


def _check_member(member: tarfile.TarInfo, found: dict[str, dict[str, Any]], staging: Path) -> None:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse() or not _is_ours(member.name):
        raise BackupError(f"Expected only files of a backup, got {_names([member.name])}.")
    if member.name in found or len(found) >= MOST_FILES:
        raise BackupError(f"Expected each file once and at most {MOST_FILES:,}, got also {_names([member.name])}.")
    if member.name == MANIFEST and member.size > LONGEST_MANIFEST:
        raise BackupError(f"Expected a manifest of at most {LONGEST_MANIFEST:,} bytes, got {member.size:,}.")
    if member.size > (room := shutil.disk_usage(staging).free - LEFT_FREE):
        raise BackupError(
            f"Expected {member.size:,} bytes of free space at {staging.parent} for {_names([member.name])}, got "
            f"{max(room, 0):,}."
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
        raise BackupError(f"Expected each name once in {path}, got both a file and a folder named {_names(both)}.")
    if MANIFEST not in found:
        raise BackupError(f"Expected a backup with its manifest, got {path}, which has none or ends before it.")
    if STORE not in found:
        raise BackupError(f"Expected a backup with a store, got {path}, which has none.")


def _manifest(path: Path, file: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        part = f" {first['loc'][0]}" if first["loc"] else ""
        raise BackupError(
            f"Expected a valid manifest in {path}, got{part}: {_line(ValueError(first['msg']))}."
        ) from error


def _write(content: IO[bytes], path: Path | None) -> dict[str, Any]:
    """Write a file, or only read it without a path; return its size and SHA-256."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    hashed = _Hashed(content)
    with open(path or os.devnull, "wb", opener=private_opener) as stream:
        shutil.copyfileobj(hashed, stream, BLOCK)
    return hashed.facts


def _names(names: list[str]) -> str:
    """Return the first few names in printable characters."""
    shown = ", ".join(name if name.isprintable() else ascii(name) for name in names[:SHOWN])
    return shown[:500] + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def _line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ascii(text)[1:-1] if not text.isprintable() else text
