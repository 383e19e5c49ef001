"""The command line: submit, watch, stop and export the same runs as the dashboard, or measure here with --local.

  python -m jobs svd-sweep FOLDER --k 100,350 --codec jpeg --quality 95 --local --export rows.csv
  python -m jobs svd-sweep FOLDER            submit to the workers of `make up`, print the run's id
  python -m jobs status                      one line per run
  python -m jobs article FOLDER              the article's whole study: sweep, reconstruction, every training
  python -m jobs curves alexnet              the parameters that pruning leaves, counted here
  python -m jobs tables --number 5           Table 5 of the article as measured here, beside the printed figures
  python -m jobs claims                      each claim of the article: reproduced, not reproduced, not measured yet

FOLDER is a folder of images or the name of a registered data set.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from core.errors import Cancelled, DermSlimError
from core.settings import Settings
from jobs import logs

CURVES = "cli.curves"
MODULES = (
    *("cli.measuring", CURVES, "cli.training", "cli.study", "cli.tables", "cli.datasets", "cli.runs", "cli.export"),
    *("cli.predictions", "cli.diagnosis", "cli.verify", "cli.deploy", "cli.svd_dense"),
    *("upkeep.backup", "upkeep.snapshot", "upkeep.imports", "upkeep.retention", "upkeep.prometheus", "upkeep.doctor"),
)


def build_parser(modules: Sequence[str] = MODULES) -> argparse.ArgumentParser:
    """Return the parser of every command of these modules; each subcommand sets `act`."""
    parser = argparse.ArgumentParser(
        prog="dermslim" if Path(sys.argv[0]).name == "dermslim" else "python -m jobs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in modules:
        import_module(f"jobs.{module}").add_commands(commands, _command)
    return parser


def _command(commands: Any, name: str, text: str, act: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(act=act)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 only when everything asked for was done, 1 with a sentence otherwise."""
    given = sys.argv[1:] if arguments is None else arguments
    # `curves` starts in 0.1 s; importing the modules of the other commands takes 1.5 s.
    options = build_parser([CURVES] if given[:1] == ["curves"] else MODULES).parse_args(given)
    log = logging.getLogger(__name__)
    try:
        if arguments is None:  # a process of its own
            logs.set_up("command", Settings.from_environment(), level=logging.WARNING, new_folder=False)
        log.info("%s began", options.command)
        code: int = options.act(options)
    except Cancelled:
        return 130
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (DermSlimError, OSError) as error:
        log.info("%s could not be done: %s", options.command, error)
        print(error, file=sys.stderr)
        return 1
    log.info("%s ended with exit code %d", options.command, code)
    return code


if __name__ == "__main__":
    sys.exit(main())
