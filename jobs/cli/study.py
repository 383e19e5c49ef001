"""The commands of the article's study: `article` submits it; `studies` shows, and others suspend, resume, cancel it.

python -m jobs article ham10000 --preset laptop --seeds 1,2,3 --start-after 22:30
python -m jobs article ham10000 --dry-run
python -m jobs resume-study STUDY
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from core.article.plan import (
    FINISHED,
    KIND,
    STAGES,
    UNDER_WAY,
    ArticleSpec,
    Part,
    common_rank,
    fit_sentence,
    fitted_ks,
    named_part,
    plan,
    preset_values,
    spec_ahead,
)
from core.compression.specs import DEFAULT_KS, MeasuringSpec
from core.data.datasets import Dataset
from core.errors import DermSlimError, QueueUnavailable, SpecError
from core.estimates import Pace
from core.networks.architectures import NetworkSpec
from core.runs import RunSpec
from core.settings import Settings
from core.training.backend import require_backend
from core.training.specs import TrainSpec
from jobs import studies
from jobs.cli.curves import choose_networks
from jobs.cli.datasets import Command, bar_of, resolve_and_register
from jobs.cli.options import add_options, build, given
from jobs.cli.training import DATASET_HELP, add_preset, add_queue_options, next_time, seeds
from jobs.connection import PRIORITIES
from jobs.probe_task import measuring_pace, training_pace
from jobs.probes import probe_id, worker_kind
from jobs.provenance import quiet_tensorflow
from jobs.queues import Queues
from jobs.study_estimates import StudyEstimate, estimate_study

TEXT = "submit the article's whole study"
PAUSE = 1.0  # seconds between two looks at a study or a probe that is waited for
LONGEST_PROBES = 120  # seconds that `--dry-run` waits for workers

READ_HERE = ("networks", "seeds", "training.seed")


def add_commands(commands: Any, command: Command) -> None:
    """Add every command about studies; command: adds one."""
    _add_options(command(commands, KIND, TEXT, act_article))
    shown = command(commands, "studies", "print one line per study, or the progress of one study", act_studies)
    shown.add_argument("study", metavar="STUDY", nargs="?", help="a study's id")
    changing: tuple[tuple[str, str, Callable[..., None]], ...] = (
        ("suspend-study", "suspend a study's trainings, those under way after their epoch", studies.suspend_study),
        ("pause-study", "the same as suspend-study", studies.suspend_study),
        ("cancel-study", "stop a study: its runs end after the current image or epoch", studies.cancel_study),
        ("resume-study", "resume a study that was suspended, scheduled or cancelled, or failed", studies.resume_study),
        ("prioritise-study", "change the priority of a study's runs", studies.prioritise_study),
    )
    for name, text, change in changing:
        parser = command(commands, name, text, act_change)
        parser.set_defaults(change=change)
        parser.add_argument("study", metavar="STUDY", help="the study's id, from `studies`")
        if change is studies.resume_study:
            parser.add_argument("--fixed-k", dest="k", type=int, metavar="K", help="resume with this k, not the rule's")
        if change is studies.prioritise_study:
            parser.add_argument("priority", choices=PRIORITIES)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DATASET", help=DATASET_HELP)
    parser.add_argument(
        "--networks", "--network", default="all", help="names separated by commas (default: the article's four)"
    )
    parser.add_argument("--seeds", "--seed", type=seeds, default=(1,), help="1,2,3: every training three times")
    add_preset(parser)
    add_options(parser, ArticleSpec, READ_HERE)
    add_queue_options(parser)
    parser.add_argument("--wait", action="store_true", help="show progress until the study has ended")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the runs and how long they take; submit nothing. Where no such run has finished, workers measure "
        "their speed for two seconds",
    )
    parser.add_argument("--local", action="store_true", help="with --dry-run: measure such speeds here, not on workers")


def spec_of(options: argparse.Namespace, dataset: Dataset, networks: list[NetworkSpec]) -> ArticleSpec:
    """Return the study that the options describe, and say so where ks are scaled to the images."""
    asked = given(options, ArticleSpec, READ_HERE)
    preset = preset_values(options.preset, networks)
    if "training.height" in asked:  # a size that was asked for is every network's
        preset["overrides"] = ()
    if (sample := preset["sample_size"]) is not None and sample > len(dataset.records):
        preset["sample_size"] = None
    if "ks" not in asked:
        rank = common_rank(dataset, asked.get("mode", ArticleSpec.model_fields["mode"].default))
        asked["ks"] = fitted_ks(DEFAULT_KS, rank)
        if text := fit_sentence(DEFAULT_KS, asked["ks"], rank):
            print(text, file=sys.stderr)
    return build(ArticleSpec, preset | {"dataset": dataset.name, "seeds": options.seeds}, asked)


def act_article(options: argparse.Namespace) -> int:
    """Submit the study, or say what it would consist of."""
    settings = Settings.from_environment()
    queues = Queues(settings)
    networks = choose_networks(options.networks, settings)
    start = next_time(options.start_after) if options.start_after else None
    if options.dry_run:
        dataset = queues.resolve(options.folder)
        return _show_plan(queues, spec_of(options, dataset, networks), dataset, local=options.local)
    if options.local:
        raise SpecError("Expected --local with --dry-run, got it alone: a study's runs need workers.")
    dataset = resolve_and_register(queues, options.folder)
    spec = spec_of(options, dataset, networks)
    study = studies.submit_study(queues, spec, dataset, priority=options.priority, start_after=start)
    print(study)
    return _watch(queues, study) if options.wait else 0


def _show_plan(queues: Queues, spec: ArticleSpec, dataset: Dataset, *, local: bool) -> int:
    spec = spec.replace(fingerprint=dataset.fingerprint)
    spec.check(dataset)
    there = {each.part.key: each.run.id for each in studies.existing(queues, spec) if each.run is not None}
    for part in plan(spec):
        ahead = spec_ahead(spec, part)
        told = ahead.settings if isinstance(ahead, TrainSpec) else ""
        waits = f"after: {', '.join(part.needs)}" if part.needs else ""
        known = f"already there: {there[part.key]}" if part.key in there else ""
        print("\t".join(filter(None, (named_part(part), told, waits, known))))
    print("Parameter curves\tcounted from the layers, without a run")
    left = [part for part in plan(spec) if part.key not in there]
    try:
        estimate = _estimated_here(queues, spec, dataset, left) if local else _estimated(queues, spec, dataset, left)
    except QueueUnavailable as error:
        print(f"No estimate: {error}", file=sys.stderr)
        return 0
    for line in estimate_lines(estimate):
        print(line)
    return 0


def _estimated(queues: Queues, spec: ArticleSpec, dataset: Dataset, left: list[Part]) -> StudyEstimate:
    """Estimate a study; speeds that are not known are measured by the workers that are free."""
    known = estimate_study(queues, spec, dataset, left)
    kinds = {worker.kind for worker in queues.workers()}
    asked = list({probe_id(each, dataset): each for each in known.to_probe if worker_kind(each) in kinds}.values())
    if any(worker_kind(each) not in kinds for each in known.to_probe):
        print(
            "Some speeds are not known, and no worker runs that could measure them. --local measures here.",
            file=sys.stderr,
        )
    if not asked:
        return known
    print(f"Workers measure {len(asked)} speeds that no finished run tells …", file=sys.stderr)
    for each in asked:
        queues.ask_probe(each, dataset)
    ends = time.monotonic() + LONGEST_PROBES
    while any((probe := queues.probe(each, dataset)) and probe.under_way for each in asked):
        if time.monotonic() > ends:
            print("The workers are busy. --local measures here.", file=sys.stderr)
            break
        time.sleep(PAUSE)
    for each in asked:
        if (probe := queues.probe(each, dataset)) and probe.failure:
            print(probe.failure, file=sys.stderr)
    return estimate_study(queues, spec, dataset, left)


def _estimated_here(queues: Queues, spec: ArticleSpec, dataset: Dataset, left: list[Part]) -> StudyEstimate:
    """Estimate a study; speeds that are not known are measured in this process."""
    paces: dict[str, Pace | None] = {}

    def probe(asked: RunSpec, images: Dataset) -> Pace | None:
        name = probe_id(asked, images)
        if name not in paces:
            print("Measuring a speed that no finished run tells …", file=sys.stderr)
            paces[name] = _pace_here(asked, images)
        return paces[name]

    try:
        workers = queues.workers()
    except QueueUnavailable:
        workers = []  # as if there were one of each kind
    return estimate_study(queues, spec, dataset, left, workers=workers, probe=probe)


def _pace_here(spec: RunSpec, dataset: Dataset) -> Pace | None:
    try:
        if isinstance(spec, TrainSpec):
            require_backend()
            quiet_tensorflow()
            return training_pace(spec, "here")
        if isinstance(spec, MeasuringSpec):
            return measuring_pace(spec, dataset.root, list(dataset.sample(None, spec.seed)), "here")
    except DermSlimError as error:
        print(error, file=sys.stderr)
    return None


def estimate_lines(estimate: StudyEstimate) -> list[str]:
    """Return how long a study takes, one line per stage and one for the whole."""
    lines = []
    for stage in estimate.stages:
        length = f"about {length_text(stage.seconds)}" if stage.seconds else "unknown"
        lines.append(f"{STAGES[stage.stage]}: {stage.runs} run{'s' if stage.runs > 1 else ''}, {length}: {stage.basis}")
    total = estimate.seconds
    whole = f"In all about {length_text(total)}" if total else "How long it takes is not known yet"
    missing = f", without {'; '.join(estimate.unknown)}" if total and estimate.unknown else ""
    return [*lines, f"{whole}{missing}."]


def length_text(seconds: float) -> str:
    """Return a length in hours and minutes, or in minutes, or in seconds."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes >= 2 else f"{seconds:.0f} s"


def _watch(queues: Queues, study: str) -> int:
    with bar_of(study, unit=" runs") as bar:
        while (state := studies.study_state(queues, study)) is None or not state.ended:
            if state is not None:
                bar.total = len(state.progress.parts)
                bar.set_postfix_str("; ".join(named_part(each.part) for each in state.progress.of(UNDER_WAY))[:60])
                bar.update(len(state.progress.of(FINISHED)) - bar.n)
            time.sleep(PAUSE)
    print(f"{study} {state.status}{f': {state.error}' if state.error else ''}", file=sys.stderr)
    return 0 if state.status == FINISHED else 1


def act_studies(options: argparse.Namespace) -> int:
    """Print id, data set, status and runs finished of every study, newest first, or one line per run of one study."""
    queues = Queues(Settings.from_environment())
    if options.study:
        state = studies.study_state(queues, options.study)
        if state is None:
            raise SpecError(f"Expected a study that is in the store, got {options.study}.")
        for each in state.progress.parts:
            run = each.run.id if each.run else ""
            print("\t".join((named_part(each.part), each.state, run, each.reason)).rstrip())
        return 0
    for study in queues.store.studies():
        found = studies.study_state(queues, study.id)
        if found is not None:
            parts = found.progress
            count = f"{len(parts.of(FINISHED))}/{len(parts.parts)}"
            print("\t".join((found.id, found.spec.dataset, found.status, count)))
    return 0


def act_change(options: argparse.Namespace) -> int:
    """Change a study."""
    further = {name: getattr(options, name) for name in ("k", "priority") if hasattr(options, name)}
    options.change(Queues(Settings.from_environment()), options.study, **further)
    return 0
