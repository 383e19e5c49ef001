"""What keeps DermSlim's files from the host's other accounts: folders of mode 700, files and locks of mode 600.

A lock that another account can open to read it can also hold, and so stop whoever waits for it.
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
# What DermSlim makes in DATA_DIR: under these names nothing else lies anywhere, under those others may have their own.
OWN: tuple[str, ...] = (
    "dashboard-key",
    "dermslim.duckdb",
    "dermslim.duckdb.tmp",
    "dermslim.duckdb.wal",
    "dermslim.lock",
)
OWN += ("dermslim.lock.gate", "last-backup.json", "launcher.lock", "record-worker.lock", "valkey")
OWN_HERE = ("arrays", "backups", "demo", "logs", "networks", "reconstructed", "trained")
NOTE = "dermslim-shared.txt"
NOTE_TEXT = """\
DermSlim found this folder with files of others in it, so it leaves the folder's mode as it is.
Remove this file, and the next start of DermSlim makes the folder private (mode 700).
"""


def keep_new_files_private() -> None:
    """Have all that this process and its children make be their owner's alone; for the stack's own processes."""
    os.umask(OTHERS)


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Have all that is made inside the block be its owner's alone; for a command that writes in DATA_DIR."""
    before = os.umask(OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def private_folder(folder: Path) -> Path:
    """Make a folder, and what is missing above it, that its owner alone may enter; one that is there stays as it is."""
    if not folder.is_dir():
        private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def private_opener(path: str, flags: int) -> int:
    """Open a file for `open`; a new one is its owner's alone, whatever the umask."""
    return os.open(path, flags, 0o600)


def open_lock(path: Path) -> int:
    """Open a lock file, made where there is none, of mode 600: whoever may not write it cannot hold it either."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    facts = os.fstat(handle)
    if facts.st_mode & OTHERS and facts.st_uid == os.geteuid():
        with contextlib.suppress(OSError):  # a file system without modes
            os.fchmod(handle, stat.S_IMODE(facts.st_mode) & ~OTHERS)
    return handle


def close_to_others(path: Path) -> None:
    """Take a file that is ours from other accounts, where it is open to them."""
    for ours, mode in _top(path):
        _chmod(ours, mode)


def tighten(settings: Settings) -> list[str]:
    """Take from other accounts what an older version, or a plain `mkdir`, left open to them in DATA_DIR.

    Return a sentence about what was done, and about what had to stay; none where all is private already. A folder that
    is another account's stays as it is, and so does one that holds files of others, or where others have their own.
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
    """Return what of DermSlim's other accounts of this host reach, each with its mode; a few examples."""
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
    """Return why a folder's mode is not DermSlim's to change, or None."""
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
    """Yield a file, or a folder and all below it, that is ours and open to others; folders before what they hold."""
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
    """Take the others' bits off; whether that came about."""
    try:
        path.chmod(mode & ~OTHERS)
        return not path.stat().st_mode & OTHERS
    except FileNotFoundError:  # it went meanwhile
        return False
    except PermissionError:  # a file system without modes
        return False
