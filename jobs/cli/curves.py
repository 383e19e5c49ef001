"""The command `curves`: what pruning leaves of networks, step by step, and the fits of those curves, without a queue.

  python -m jobs curves alexnet --size 200x100 --factors 50,33.33 --scopes all,first --iterations 6 --export curves.csv

Counting starts in a fraction of the time of the other commands: it imports neither NumPy nor anything of the queue, and
`--fits` alone pays for pandas and SciPy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from core.errors import SpecError
from core.files.exports import check_writable, write_rows
from core.networks.architectures import DEFAULT_HEIGHT, DEFAULT_WIDTH, NETWORKS, NetworkSpec
from core.networks.batch_norm import BATCH_NORM, PRINTED, with_batch_norm
from core.networks.costs import CURVE_COLUMNS, CurvePoint, curve_points
from core.networks.network_files import all_networks
from core.networks.plain_yaml import MOST_DIGITS
from core.networks.pruning import SCOPES
from core.settings import Settings

DEFAULT_FACTORS = "50,33.33"
DEFAULT_ITERATIONS = 5
MOST_ITERATIONS = 50


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `curves`; command: adds one."""
    text = "count what pruning leaves of networks, iteration by iteration"
    parser = command(commands, "curves", text, act_curves)
    # The values stay text here, so that every bad one ends in one sentence.
    parser.add_argument(
        "networks", metavar="NETWORKS", help=f"{', '.join(NETWORKS)}, own ones by name; with commas; all for the four"
    )
    parser.add_argument(
        "--batch-norm", choices=tuple(BATCH_NORM), default=PRINTED, help="what is added to them (default %(default)s)"
    )
    size = f"{DEFAULT_HEIGHT}x{DEFAULT_WIDTH}"
    parser.add_argument("--size", default=size, help=f"rows x columns of the images (default {size})")
    parser.add_argument("--factors", default=DEFAULT_FACTORS, help="pruning factors in percent (default %(default)s)")
    parser.add_argument("--scopes", default="all", help=f"convolutions that shrink: {', '.join(SCOPES)} (default all)")
    steps = "steps after the unpruned network, which is iteration 0 (default %(default)s)"
    parser.add_argument("--iterations", default=str(DEFAULT_ITERATIONS), help=steps)
    exported = "one row per iteration, to a .csv or .parquet file (default: print)"
    parser.add_argument("--export", type=Path, metavar="FILE", help=exported)
    parser.add_argument("--fits", type=Path, metavar="FILE", help="one row per curve and fitted model, likewise")


def parts(text: str, name: str) -> list[str]:
    """Return the values between commas; raises SpecError where there are none."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise SpecError(f"Expected at least one value of {name}, got none.")
    return found


def is_number(text: str) -> bool:
    """Say whether a text is a whole number that can be looked at: Python refuses some of thousands of digits."""
    return text.isdecimal() and len(text) <= MOST_DIGITS


def parse_size(text: str) -> tuple[int, int]:
    """Return rows and columns of `200x100`."""
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) != 2 or not all(is_number(side.strip()) for side in sides):
        raise SpecError(f"Expected a size in rows x columns such as 200x100, got {text}.")
    return int(sides[0]), int(sides[1])


def parse_factors(text: str) -> list[Decimal]:
    """Return the factors exactly as written; `core.networks.pruning` says which are possible."""
    try:
        factors = [Decimal(part) for part in parts(text, "factors")]
    except InvalidOperation:
        factors = []
    # 1e-999999999 is a number too, but one whose exact share of a layer would fill the memory.
    if not factors or not all(factor.is_finite() and -12 <= factor.adjusted() <= 2 for factor in factors if factor):
        raise SpecError(f"Expected factors in percent such as 50,33.33, got {text}.")
    return factors


def parse_iterations(text: str) -> int:
    """Return how many steps follow the unpruned network."""
    if not is_number(text.strip()) or int(text) > MOST_ITERATIONS:
        raise SpecError(f"Expected 0 to {MOST_ITERATIONS} iterations, got {text}.")
    return int(text)


def choose_networks(text: str, settings: Settings) -> list[NetworkSpec]:
    """Return the networks named, each once; an own one whose file is broken is refused with that file's reason."""
    found = all_networks(settings.data_dir)
    names = [name for part in parts(text, "networks") for name in (NETWORKS if part == "all" else (part,))]
    for name in names:
        if name not in found.networks:
            known = ", ".join(found.networks)
            raise SpecError(found.why_not(name) or f"Expected networks among {known}, or all, got {name}.")
    return [found.networks[name] for name in dict.fromkeys(names)]


def act_curves(options: argparse.Namespace) -> int:
    """Count, then print or write; raises SpecError for whatever cannot be counted."""
    check_writable(options.export)
    check_writable(options.fits)
    chosen = choose_networks(options.networks, Settings.from_environment())
    networks = [with_batch_norm(network, options.batch_norm) for network in chosen]
    factors, scopes = parse_factors(options.factors), parts(options.scopes, "scopes")
    height, width = parse_size(options.size)
    points = list(curve_points(networks, factors, scopes, parse_iterations(options.iterations), height, width))
    if options.export:
        write(options.export, CURVE_COLUMNS, points)
    else:
        print(table_text(points))
    if options.fits:
        write_fits(options.fits, points)
    return 0


def number(value: object) -> object:
    """Return 50 for 50.0: a factor as it was typed."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write rows as CSV or Parquet and say so."""
    write_rows(path, columns, [[number(value) for value in row] for row in rows])
    print(f"{len(rows):,} rows written to {path}")


def write_fits(path: Path, points: Sequence[CurvePoint]) -> None:
    """Fit the curves, write one row per model, and print the status of the article's claims."""
    import pandas as pd

    from core.networks.fits import FIT_COLUMNS, claim_sentences, fit_curves, fit_table

    curves = tuple(fit_curves(pd.DataFrame(points, columns=list(CURVE_COLUMNS))))
    table = fit_table(curves)
    known = table.astype(object).where(table.notna(), None)
    write(path, FIT_COLUMNS, known.to_numpy().tolist())
    for sentence in claim_sentences(curves):
        print(sentence)


def table_text(points: Sequence[CurvePoint]) -> str:
    """Return the points as a table with aligned columns, numbers to the right, with thousands separators."""
    rows = [list(CURVE_COLUMNS)]
    for network, factor, scope, *numbers in points:
        rows.append([network, f"{factor:g} %", scope, *(f"{value:,}" for value in numbers)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(CURVE_COLUMNS))]
    align: list[Callable[[str, int], str]] = [str.ljust, str.rjust, str.ljust, *[str.rjust] * (len(widths) - 3)]
    return "\n".join(
        "  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)).rstrip()
        for row in rows
    )
