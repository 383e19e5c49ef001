"""The commands `tables` and `claims`: what has been measured beside what the article prints, read from the store alone.

python -m jobs tables --number 5 --format latex
python -m jobs tables --dataset ham10000 --format csv --output tables/
python -m jobs claims --output claims.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.article import claims, table_formats, tables
from core.article import evidence as results
from core.article.evidence import Choice, Grounds
from core.article.leaks import leak_sentences
from core.article.tables import TABLES, WAYS
from core.article.ways import naive_sentences
from core.errors import SpecError
from core.files.exports import check_writable
from core.settings import Settings
from core.store.measurements import Store

ALL = "all"
CLAIMS_ENDINGS = {".md": "markdown", ".csv": "csv"}
TABLES_HELP = """Mean ± sample deviation over seeds, the printed figure and the difference, from the store alone.

By default each table takes the real data set that was trained on last, with the reconstructions made from it, and of
each network its newest settings: those that prune as the article does before other ways, those trained on original and
reconstructed images before others, and no quick trial of less than half the epochs where there are longer trainings.
What is left out is said. Several trainings of the same network, data set, settings and seed count once, the newest.
`further` is a table of what the article does not print: macro-averages, lesion accuracy, recall by class, sizes, times
and memory. `ways` compares other ways to a smaller network with the article's, at equal total epochs: initial weights,
a teacher, dense layers of low rank. It always has intervals, and sentences about the comparison go to stderr."""
CLAIMS_HELP = """One row per claim: its status (reproduced, not reproduced or not measured yet), the figure, the runs it
rests on, and where the article contradicts itself. Only the store is read. By default real images come before synthetic
ones, then settings close to the article's, then the newest run; the choice is printed."""


def names(text: str) -> tuple[str, ...]:
    """Parse `train-1,train-2`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `tables` and `claims`; command: adds one."""
    text = "print Tables 4, 5 and 6 of the article as measured here, beside its own figures"
    parser = command(commands, "tables", text, act_tables)
    _describe(parser, TABLES_HELP)
    numbers = [*map(str, TABLES), ALL]
    parser.add_argument("--number", choices=numbers, default=ALL, help=f"which table (default {ALL})")
    parser.add_argument("--runs", type=names, default=(), metavar="ID,ID", help="these runs alone, whatever they are")
    parser.add_argument("--dataset", metavar="NAME", help="an original with its reconstructions, or one reconstruction")
    parser.add_argument("--every-setting", action="store_true", help="rows for older settings too")
    parser.add_argument(
        "--intervals", action="store_true", help="add each run's 95 %% interval to the figures that have one"
    )
    parser.add_argument("--format", choices=tuple(table_formats.WRITERS), default="markdown", help="(default markdown)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write table4.md, … there (default: print them)")
    text = "say of each claim of the article whether it was reproduced"
    parser = command(commands, "claims", text, act_claims)
    _describe(parser, CLAIMS_HELP)
    parser.add_argument("--sweep", metavar="RUN", help="the SVD sweep to judge by")
    parser.add_argument("--resize-study", metavar="RUN", help="the resize comparison to judge by")
    parser.add_argument("--dataset", metavar="NAME", help="the original data set whose trainings to judge by")
    parser.add_argument("--reconstruction", metavar="NAME", help="the reconstruction of it to judge by")
    parser.add_argument("--format", choices=tuple(claims.WRITERS), help="(default: as FILE ends, else markdown)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write them there, .md or .csv (default: print)")


def _describe(parser: argparse.ArgumentParser, text: str) -> None:
    parser.description = f"{parser.description} {text}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def act_tables(options: argparse.Namespace) -> int:
    """Print the tables, or write one file per table; what is left out goes to stderr."""
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
    store = Store(Settings.from_environment().database)
    trained, lost = results.trainings(store), store.lost_trainings()
    choice = Choice(dataset=options.dataset, runs=options.runs, every_setting=options.every_setting)
    numbers = {str(number): number for number in TABLES}
    written = []
    for number in numbers.values() if options.number == ALL else [numbers[options.number]]:
        selection = results.select(results.rows_of(store, trained, number), number, choice, lost)
        made = tables.article_table(number, selection.steps, with_intervals=options.intervals or number == WAYS)
        text = table_formats.WRITERS[options.format](made)
        for sentence in naive_sentences(made) if number == WAYS else ():
            print(f"{results.table_name(number)}: {sentence}", file=sys.stderr)
        for sentence in selection.left_out:
            print(f"{results.table_name(number)}: left out: {sentence}", file=sys.stderr)
        if options.output is None:
            written.append(text)
            continue
        path = options.output / f"{results.table_name(number)}.{table_formats.ENDINGS[options.format]}"
        path.write_text(text, encoding="utf-8", newline="")
        print(f"written to {path}")
    if written:
        print("\n".join(written), end="")
    return 0


def _claims_format(asked: str | None, path: Path | None) -> str:
    """Return the format asked for, else the one of the file's ending. SpecError where the two disagree."""
    if path is None:
        return asked or "markdown"
    check_writable(path, tuple(CLAIMS_ENDINGS))
    found = CLAIMS_ENDINGS[path.suffix.lower()]
    if asked not in (None, found):
        raise SpecError(f"Expected a file name with the ending of --format {asked}, got {path.name}.")
    return found


def act_claims(options: argparse.Namespace) -> int:
    """Print the claims with their verdicts, or write them."""
    chosen_format = _claims_format(options.format, options.output)
    store = Store(Settings.from_environment().database)
    trained = results.trainings(store)
    offered = results.offers(store, trained)
    wanted = Grounds(
        sweep=options.sweep, resize=options.resize_study, dataset=options.dataset, reconstruction=options.reconstruction
    )
    chosen = results.grounds(offered, wanted)
    table = claims.claims_table(results.known(store, trained, offered, chosen))
    text = claims.WRITERS[chosen_format](
        table, [*results.basis(offered, chosen), *leak_sentences(trained, chosen.dataset)]
    )
    if options.output is None:
        print(text, end="")
    else:
        options.output.write_text(text, encoding="utf-8", newline="")
        print(f"{len(table)} claims written to {options.output}")
    return 0
