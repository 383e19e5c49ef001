"""The commands that bring networks to devices: `convert`, `latency`, `devices` and `bundle`.

python -m jobs convert prune-train-20260101-120000-abc123
python -m jobs latency prune-train-20260101-120000-abc123
python -m jobs bundle prune-train-20260101-120000-abc123 --step 2 --output network.zip
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from core.deployment.formats import FORMATS
from core.deployment.latency import ROUNDS
from core.errors import DermSlimError, SpecError
from core.files.plain_files import whole_file
from core.settings import Settings
from core.store.measurements import Store
from core.training.specs import TrainSpec
from jobs import deployment
from jobs.cli.datasets import Command
from jobs.later_jobs import CONVERT, LATENCY, wait
from jobs.queues import Queues


def add_commands(commands: Any, command: Command) -> None:
    """Add `convert`, `latency`, `devices` and `bundle`; command: adds one."""
    text = "convert trained networks for devices, to LiteRT and ONNX, and verify each on the test images"
    parser = command(commands, "convert", text, act_convert)
    parser.add_argument("run", metavar="RUN", help="the id of a training run that has ended, from `status`")
    parser.add_argument(
        "--step", type=int, action="append", default=[], metavar="N",
        help="a step; may be repeated (default: the unpruned network and the smallest accepted one)",
    )  # fmt: skip
    parser.add_argument(
        "--format", action="append", choices=list(FORMATS), help="a format; may be repeated (default: all)"
    )
    text = "measure the latency and memory of the converted networks of runs, beside each other"
    parser = command(commands, "latency", text, act_latency)
    parser.add_argument("run", nargs="+", metavar="RUN", help="the id of a training run with converted networks")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"timed predictions of each (default {ROUNDS})")
    text = "print the converted networks of runs with size, agreement, accuracy and latency, as Markdown"
    parser = command(commands, "devices", text, act_devices)
    parser.add_argument("run", nargs="+", metavar="RUN", help="the id of a training run with converted networks")
    text = "write a ZIP file with a step's converted networks, a model card and a program that predicts with them"
    parser = command(commands, "bundle", text, act_bundle)
    parser.add_argument("run", metavar="RUN", help="the id of a training run with converted networks")
    parser.add_argument("--step", type=int, metavar="N", help="(default: the smallest accepted one)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.zip")


def act_convert(options: argparse.Namespace) -> int:
    """Convert, wait, and print what came out; return 1 where a file is flawed."""
    queues = Queues(Settings.from_environment())
    formats = options.format or list(FORMATS)
    steps = [step.step for step in deployment.steps_to_convert(queues, options.run, options.step)[1]]
    deployment.submit_conversion(queues, options.run, steps, formats)
    with queues.connected() as connection:
        wait(connection, CONVERT, options.run)
    found = [each for each in queues.store.converted(options.run) if each.step in steps and each.format in formats]
    if len(found) < len(steps) * len(formats):
        raise DermSlimError("Expected a worker to convert the networks; none could. The run's log says why.")
    for each in found:
        told = each.failure or (
            f"{each.bytes:,} bytes, the class of Keras for {each.agreement_text}, accuracy {each.accuracy_text}"
        )
        flaw = f". Flawed: {each.flaw}" if each.flaw and not each.failure else ""
        print(f"step {each.step}, {FORMATS[each.format].title}: {told}{flaw}")
    return 1 if any(each.flaw for each in found) else 0


def act_latency(options: argparse.Namespace) -> int:
    """Measure run after run, and print the figures."""
    queues = Queues(Settings.from_environment())
    for run_id in options.run:
        deployment.submit_latency(queues, run_id, options.rounds)
        with queues.connected() as connection:
            wait(connection, LATENCY, run_id)
        found = queues.store.measured_latencies(run_id)
        if not found:
            raise DermSlimError("Expected a worker to measure the networks; none could. The run's log says why.")
        print(run_id)
        for each in found:
            print(
                f"  step {each.step}, {FORMATS[each.format].title}, {each.threads} thread{'s' * (each.threads > 1)}:"
                f" median {each.wall_median:.2f} ms, 95th percentile {each.wall_p95:.2f} ms;"
                f" CPU {each.cpu_median:.2f} ms; memory {each.peak_memory / 1e6:.0f} MB"
            )
        print(f"  {each.rounds} rounds on {each.cores} cores of {each.processor}, load {each.load:.1f}")
    return 0


def act_devices(options: argparse.Namespace) -> int:
    """Print a table of the converted networks."""
    from core.article.table_formats import texts_to_markdown
    from core.deployment.comparison import beside_each_other, of_newest_host, texts_of

    store, tables = Store(Settings.from_environment().database), []
    for run_id in options.run:
        run = store.run(run_id)
        if run is None or not run.trains:
            raise SpecError(f"Expected a training run that is in the store, got {run_id}.")
        steps = store.steps([run_id])
        networks = beside_each_other(store.conversions([run_id]), of_newest_host(store.latencies([run_id])), steps)
        table = texts_of(networks).rename(columns={"Step": "Network"})
        table["Network"] = f"{run.told(TrainSpec).network.name}, " + table["Network"]
        table.insert(1, "Seed", [str(seed) for seed in networks["step"].map(steps.set_index("step")["seed"])])
        table.insert(2, "Run", run_id[-4:])  # tells apart runs of one network and seed
        tables.append(table)
    found = pd.concat(tables)
    if found.empty:
        raise SpecError("Expected runs with converted networks, got none. `python -m jobs convert RUN` makes them.")
    print(texts_to_markdown(found))
    return 0


def act_bundle(options: argparse.Namespace) -> int:
    """Write a bundle, and print what it holds."""
    bundle = deployment.bundle_of(Queues(Settings.from_environment()), options.run, options.step)
    output: Path = options.output
    with whole_file(output, output.with_name(f"half-{output.name}")) as draft, draft.open("wb") as file:
        names = bundle.write(file)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes, step {bundle.step.step} ({bundle.step.name})")
    print(*(f"  {name}" for name in names), sep="\n")
    return 0
