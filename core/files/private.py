"""Keep DermSlim's files private from the host's other accounts: folders of mode 700, files and locks of mode 600.

An account that can open a lock file for reading can also hold the lock and so block the processes that wait for it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from core.settings import DEFAULT_ROOTS, Settings

OTHERS = 0o077  # the mode bits of group and others
# What DermSlim creates in DATA_DIR. OWN: names that no other program uses; OWN_HERE: names that others may use too.
OWN = (
    *("dashboard-key", "dermslim.duckdb", "dermslim.duckdb.tmp", "dermslim.duckdb.wal", "dermslim.lock"),
    *("dermslim.lock.gate", "last-backup.json", "launcher.lock", "record-worker.lock", "valkey"),
)
OWN_HERE = ("arrays", "backups", "demo", "logs", "networks", "reconstructed", "trained")
NOTE = "dermslim-shared.txt"
NOTE_TEXT = """\
DermSlim found files of others in this folder, so it does not change the folder's mode.
If you remove this file, the next start of DermSlim makes the folder private (mode 700).
"""


def keep_new_files_private() -> None:
    """Make all files that this process and its children create private; for the stack's own processes."""
    os.umask(OTHERS)


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Make all files that are created inside the block private; for a command that writes in DATA_DIR."""
    before = os.umask(OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def private_folder(folder: Path) -> Path:
    """Create a private folder, and the missing folders above it; an existing folder is not changed."""
    if not folder.is_dir():
        private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def private_opener(path: str, flags: int) -> int:
    """Open a file for `open`; a new one is private with any umask."""
    return os.open(path, flags, 0o600)


def write_private(path: Path, text: str) -> None:
    """Replace a file by a private one; a reader finds the old text or the new, never a part. Raises OSError."""
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(handle)
        Path(draft).replace(path)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise


def open_lock(path: Path) -> int:
    """Open a lock file of mode 600, created where it is missing; an account that cannot write it cannot hold it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    facts = os.fstat(handle)
    if facts.st_mode & OTHERS and facts.st_uid == os.geteuid():
        with contextlib.suppress(OSError):  # a file system without modes
            os.fchmod(handle, stat.S_IMODE(facts.st_mode) & ~OTHERS)
    return handle


def close_to_others(path: Path) -> None:
    """Make a file private that belongs to this account and is open to others."""
    for ours, mode in _top(path):
        _chmod(ours, mode)


def tighten(settings: Settings) -> list[str]:
    """Make private what an older version, or a plain `mkdir`, left open to other accounts in DATA_DIR.

    Return sentences about what was changed and what could not be changed; none where everything is private already.
    A folder that belongs to another account, holds files of others or is a shared place is not changed.
    """
    folder = settings.data_dir
    if not folder.is_dir():
        return []
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not mode & OTHERS:
        return []
    said = []
    if reason := _not_ours(folder):
        said.append(f"{folder} (mode {mode:o}) stays open to other accounts: {reason}")
    elif not _chmod(folder, mode):
        return [f"{folder} (mode {mode:o}) stays open to other accounts: its file system keeps no modes"]
    else:
        said.append(f"{folder} was open to other accounts (mode {mode:o}); it is private now (mode {mode & ~OTHERS:o})")
    changed: dict[str, int] = {}
    for name in OWN if reason else (*OWN, *OWN_HERE):
        for path, found in _open_below(folder / name):
            changed[name] = changed.get(name, 0) + _chmod(path, found)
    if parts := ", ".join(f"{name} ({count})" if count > 1 else name for name, count in changed.items() if count):
        said.append(f"in {folder}, these were open to other accounts and are private now: {parts}")
    return said


def open_to_others(settings: Settings) -> list[str]:
    """Return DermSlim's files and folders that other accounts of this host can reach, with their modes."""
    try:
        mode = stat.S_IMODE(settings.data_dir.stat().st_mode)
    except FileNotFoundError:
        return []
    if not mode & OTHERS:
        return []
    below = (each for name in (*OWN, *OWN_HERE) for each in _top(settings.data_dir / name))
    paths = ((settings.data_dir, mode), *below)
    return [f"{path} ({found:o})" for path, found in paths]


def _not_ours(folder: Path) -> str | None:
    """Return why DermSlim must not change a folder's mode, or None."""
    if folder.stat().st_uid != os.geteuid():
        return f"it belongs to another account ({folder.stat().st_uid}). Give it to this one, or make it private there"
    project = Path(__file__).resolve().parents[2]
    shared = [project, *(Path(root) for root in (*DEFAULT_ROOTS, "/tmp", "/var/tmp"))]  # noqa: S108
    with contextlib.suppress(RuntimeError):  # an account without a home, as in containers
        shared.append(Path.home())
    if folder == Path(tempfile.gettempdir()) or any(place.resolve().is_relative_to(folder) for place in shared):
        return "it is no folder of DermSlim's own. Set DATA_DIR to a new folder"
    names = {path.name for path in folder.iterdir()}
    if names.isdisjoint(OWN) and names - set(OWN_HERE):
        (folder / NOTE).write_text(NOTE_TEXT, encoding="utf-8")
        names.add(NOTE)
    if NOTE in names:
        return f"it holds files that are not DermSlim's, see {NOTE} there"
    return None


def _open_below(path: Path) -> Iterator[tuple[Path, int]]:
    """Yield what belongs to this account and is open to others: a file, or a folder and then all below it."""
    yield from _top(path)
    if path.is_symlink() or not path.is_dir():
        return
    with contextlib.suppress(PermissionError):  # another account's folder
        for each in sorted(path.iterdir()):
            yield from _open_below(each)


def _top(path: Path) -> Iterator[tuple[Path, int]]:
    with contextlib.suppress(FileNotFoundError):
        facts = path.lstat()
        mode = stat.S_IMODE(facts.st_mode)
        if mode & OTHERS and facts.st_uid == os.geteuid() and not stat.S_ISLNK(facts.st_mode):
            yield path, mode


def _chmod(path: Path, mode: int) -> bool:
    """Remove the mode bits of group and others; return whether they are removed."""
    try:
        path.chmod(mode & ~OTHERS)
        return not path.stat().st_mode & OTHERS
    except FileNotFoundError:  # deleted by another process
        return False
    except PermissionError:  # a file system without modes
        return False
