"""Every benchmark of this folder, one after the other, each in a separate process: `python -m benchmarks`.

  python -m benchmarks                     all, some minutes on an idle machine
  python -m benchmarks curves sweep_speed  only these

Each prints its own figures; one line per benchmark follows at the end. The exit status is 1 if one missed a target.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import run_command

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Return the names of the modules that can be run, which are those with a `main`."""
    found = (path for path in sorted(FOLDER.glob("*.py")) if not path.stem.startswith("__"))
    return tuple(path.stem for path in found if '__name__ == "__main__"' in path.read_text())


def run(name: str) -> tuple[int, float]:
    """Run one benchmark; return its exit status and its seconds."""
    started = time.perf_counter()
    done = run_command([sys.executable, "-m", f"benchmarks.{name}"], cwd=FOLDER.parent, check=False)
    return done.returncode, time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named benchmarks, or all; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())} (default: all)")
    wanted = parser.parse_args(arguments).names or names()
    if unknown := set(wanted) - set(names()):
        parser.error(f"expected names of {', '.join(names())}, got {', '.join(sorted(unknown))}")
    lines, met = [], True
    for name in dict.fromkeys(wanted):
        print(f"== {name}", flush=True)
        status, seconds = run(name)
        verdict = "met" if status == 0 else "MISSED" if status == 1 else f"failed with exit status {status}"
        lines.append(f"{name:16} {verdict} ({seconds:.0f} s)")
        met &= status == 0
    print("\n".join(["", *lines]))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
