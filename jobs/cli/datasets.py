"""The data set of a command: a folder that is read, or a registered name; and the command `register`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from core.data.datasets import Dataset, is_lost_image, load_dataset
from core.data.folders import confine, refuse_no_text
from core.data.splits import SET_NAMES
from core.errors import StoreUnavailable
from core.settings import Settings
from core.store.measurements import Store
from jobs.queues import Queues

Command = Callable[[Any, str, str, Callable[[argparse.Namespace], int]], argparse.ArgumentParser]
MOST_NAMED = 20  # left-out files named one by one; the rest are counted by reason


def add_commands(commands: Any, command: Command) -> None:
    """Add `register`; command: adds one."""
    register = command(commands, "register", "register a folder as a data set", act_register)
    register.add_argument("folder", help="folder of images")
    register.add_argument("--name", help="the data set's name (default: the folder's)")


def resolve(queues: Queues, folder_or_name: str, name: str | None = None) -> Dataset:
    """Return the data set of a folder or name, and print what was left out of it. name: of a folder's data set."""
    queues.ping()
    with bar_of("reading images") as bar:
        dataset = queues.resolve(folder_or_name, name=name, progress=advancing(bar))
    name_left_out(dataset)
    return dataset


def resolve_and_register(queues: Queues, folder_or_name: str) -> Dataset:
    """Return the data set of a folder or name, registered where it is not yet; print what was left out of it."""
    dataset = resolve(queues, folder_or_name)
    if queues.store.dataset(dataset.name) != dataset:
        queues.register(dataset)
    return dataset


def local_dataset(folder_or_name: str, settings: Settings) -> Dataset:
    """Return the data set of a folder or name; print what was left out of it."""
    refuse_no_text(folder_or_name)
    known = None if "/" in folder_or_name and _is_folder(folder_or_name) else _known(folder_or_name, settings)
    if known is not None:
        return replace(known, root=settings.here(known.root))
    # Whoever has the command line may read what the account may read, unless DATA_ROOTS says otherwise.
    root = confine(Path(folder_or_name), settings.data_roots if settings.data_roots_given else [Path("/")])
    with bar_of("reading images") as bar:
        dataset = load_dataset(root, progress=advancing(bar))
    name_left_out(dataset)
    return dataset


def _is_folder(text: str) -> bool:
    try:
        return Path(text).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # a name that no folder has, or an account that is none
        return False


def _known(name: str, settings: Settings) -> Dataset | None:
    """Return the registered data set of a name. Where nobody can be asked, a folder of that name is meant."""
    try:
        return Store(settings.database, strangers=1.0).dataset(name)
    except StoreUnavailable as error:
        if not _is_folder(name):
            raise
        print(f"{name} is read, whether or not a data set is registered as {name}: {error}", file=sys.stderr)
        return None


def has_unreadable(dataset: Dataset) -> bool:
    """Return whether an image of the data set could not be used, as opposed to a mask, a table or a row of one."""
    return any(is_lost_image(dataset.root, each) for each in dataset.left_out)


def name_left_out(dataset: Dataset) -> None:
    """Print what was left out of a data set and why; files of a common reason are counted."""
    by_reason = Counter(each.reason for each in dataset.left_out)
    for each in dataset.left_out:
        if by_reason[each.reason] <= MOST_NAMED:
            print(f"left out: {each.name}: {each.reason}", file=sys.stderr)
    for reason, count in by_reason.items():
        if count > MOST_NAMED:
            first = next(each.name for each in dataset.left_out if each.reason == reason)
            print(f"left out: {count:,} such as {first}: {reason}", file=sys.stderr)


def act_register(options: argparse.Namespace) -> int:
    """Register a folder."""
    queues = Queues(Settings.from_environment())
    dataset = resolve(queues, options.folder, options.name)
    queues.register(dataset)
    print(f"{dataset.name}: {len(dataset.records):,} images, {len(dataset.left_out):,} left out")
    if counts := dataset.split_counts():
        sizes = ", ".join(f"{SET_NAMES[name]} {count:,}" for name, count in counts.items())
        print(f"given sets: {sizes}; train with --split given to use them")
    return 0


def bar_of(text: str, total: int | None = None, unit: str = " images") -> tqdm[Any]:
    """Return a progress bar on standard error; it is shown only on a terminal."""
    return tqdm(desc=text, total=total, unit=unit, file=sys.stderr, disable=None, leave=False)


def advancing(bar: tqdm[Any]) -> Callable[[int, int], None]:
    """Return what moves a bar to the number done, of a total."""

    def advance(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return advance
