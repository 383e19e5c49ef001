"""The command `svd-dense`: a trained network whose dense layers are each replaced by two smaller ones.

python -m jobs svd-dense prune-train-20260101-120000-abc123 --step 0 --energy 90,95,99,99.9
python -m jobs svd-dense prune-train-20260101-120000-abc123 --fine-tune-epochs 5 --latency
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from core.errors import DermSlimError
from core.networks.factoring import ENERGIES, factored_name
from core.predictions.intervals import interval_text, intervals_of_step
from core.settings import Settings
from jobs import svd_dense
from jobs.cli.datasets import Command
from jobs.cli.options import read
from jobs.later_jobs import SVD_DENSE, wait
from jobs.queues import Queues


def energies(text: str) -> tuple[float, ...]:
    """Parse `90,95,99.9`, each once."""
    try:
        return tuple(dict.fromkeys(read(tuple[float, ...], text)))
    except ValueError:
        raise argparse.ArgumentTypeError(f"Expected percentages such as 90,99.9, got {text}.") from None


def add_commands(commands: Any, command: Command) -> None:
    """Add `svd-dense`; command: adds one."""
    text = "replace each dense layer of a trained network by two of low rank, and test it; fine-tune it by choice"
    parser = command(commands, "svd-dense", text, act)
    parser.add_argument("run", metavar="RUN", help="the id of an ended training run, from `status`")
    parser.add_argument("--step", type=int, default=0, metavar="N", help="(default 0, the unpruned network)")
    parser.add_argument(
        "--energy", type=energies, default=ENERGIES, metavar="PERCENT,PERCENT",
        help="of the squared singular values that a layer keeps "
        f"(default {','.join(f'{energy:g}' for energy in ENERGIES)})",
    )  # fmt: skip
    parser.add_argument(
        "--fine-tune-epochs", type=int, default=0, metavar="N",
        help="train each of these networks for N more epochs, and test it again (default 0)",
    )  # fmt: skip
    parser.add_argument("--latency", action="store_true", help="measure the time for one image of each network too")


def latency_text(row: dict[str, Any]) -> str:
    """Return the latency of a row beside that of the network itself; empty where not measured."""
    if math.isnan(row["latency"]):
        return ""
    return f", {row['latency']:.2f} ms an image, the network itself {row['latency_itself']:.2f} ms"


def act(options: argparse.Namespace) -> int:
    """Queue the job, wait until its results are recorded, and print them."""
    queues = Queues(Settings.from_environment())
    epochs = options.fine_tune_epochs
    svd_dense.submit(queues, options.run, options.step, options.energy, epochs, options.latency)
    with queues.connected() as connection:
        wait(connection, SVD_DENSE, options.run)
    rows = queues.store.svd_dense([options.run])
    rows = rows[(rows["step"] == options.step) & rows["energy"].isin(list(options.energy))]
    rows = rows[rows["fine_tune_epochs"].isin([0, epochs])]
    if len(rows) < len(options.energy) * (2 if epochs else 1) or (options.latency and rows["latency"].isna().any()):
        raise DermSlimError("Expected a worker to factor the dense layers; none could. The run's log says why.")
    for row in rows.to_dict("records"):
        limits = intervals_of_step(row["classification"]).get("test_accuracy")
        name = factored_name(row["energy"], row["fine_tune_epochs"])
        print(
            f"{name}: {row['parameters']:,} parameters, {row['bytes_weights']:,} bytes, {row['macs']:,} MACs, "
            f"test accuracy {row['test_accuracy']:.2f} % {interval_text(limits)}, agreement {row['agreement']:.2f} %"
            f"{latency_text(row)}"
        )
    return 0
