"""What a data set may be called: its name is a folder's name, a heading, and a word of a command line."""

from __future__ import annotations

from pathlib import Path

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
