"""Compare the tables of docs/results.md with docs/results, and name numbers of its text that nothing there gives.

  python -m benchmarks.results_page            change nothing
  python -m benchmarks.results_page --write    write the tables anew

A table stands between `<!-- COMMAND -->` and `<!-- end -->`, and is what COMMAND prints for a store with the runs of
docs/results and no others. Every number with a decimal point in the text must occur in what one of the page's commands
prints. The exit status is 1 if a table or a number is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from unittest import mock

from core.settings import Settings
from dashboard.demo import RESULTS
from jobs.__main__ import main as run_command
from jobs.upkeep.imports import import_here_or_there

PAGE = RESULTS.with_suffix(".md")
BLOCK = re.compile(r"(?<=<!-- )(python -m jobs [^\n]+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)
SOURCES = ("tables", "tables --every-setting", "claims")  # what the text may quote, besides the tables of the page
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
NUMBER = re.compile(r"\d[\d,]*\.\d+")


@contextlib.contextmanager
def store_of_results() -> Iterator[Callable[[str], str]]:
    """Import docs/results into a new store; give what runs a command of `python -m jobs` on it, each once."""
    with tempfile.TemporaryDirectory() as name, mock.patch.dict(os.environ, {"DATA_DIR": name}):
        import_here_or_there(Settings.from_environment(), RESULTS)
        yield cache(printed)


def printed(command: str) -> str:
    """Return what a command prints to standard output. RuntimeError where it fails."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = run_command(shlex.split(command))
    if code:
        raise RuntimeError(f"Expected `python -m jobs {command}` to succeed, got {errors.getvalue().strip()}.")
    return text.getvalue()


def filled(page: str, answer: Callable[[str], str]) -> str:
    """Return the page with the answer to each command in its place."""

    def table(found: re.Match[str]) -> str:
        command = found[1].removeprefix("python -m jobs ")
        return f"{found[1]}{found[2]}\n{answer(command).strip()}\n\n"

    return BLOCK.sub(table, page)


def unknown_numbers(page: str, answer: Callable[[str], str]) -> list[str]:
    """Return the numbers with a decimal point in the page's text that no command of the page gives."""
    commands = [*SOURCES, *(found[1].removeprefix("python -m jobs ") for found in BLOCK.finditer(page))]
    known = {number for command in dict.fromkeys(commands) for number in NUMBER.findall(answer(command))}
    text = CODE.sub("", BLOCK.sub("", page))
    return [number for number in dict.fromkeys(NUMBER.findall(text)) if number not in known]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the page, or write its tables; return 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results_page", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--write", action="store_true", help="write the tables anew")
    options = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    with store_of_results() as answer:
        new = filled(page, answer)
        unknown = unknown_numbers(new, answer)
    differs = new != page
    if options.write:
        PAGE.write_text(new, encoding="utf-8")
    elif differs:
        print("the tables differ from what the commands print")
    for number in unknown:
        print(f"{number} occurs in no command's answer")
    return int(bool(unknown) or (differs and not options.write))


if __name__ == "__main__":
    sys.exit(main())
