"""The record worker advances a study until nothing is left to do.

Every few seconds the record worker compares a study's plan with the runs that are there (`core.article.plan`) and
submits what has become possible. Only it submits a study's runs, and one record worker runs at a time: the next one
completes what a dead one left incomplete, and nothing is submitted twice.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime

from core.article.plan import FAILED, KIND, PRUNING, READY, ArticleSpec, Standing, progress
from core.data.datasets import Dataset
from core.errors import DatasetError, SpecError
from core.runs import Study
from core.training.specs import TrainSpec
from jobs.connection import Connection
from jobs.live_runs import SUSPENDED, LiveRun, active_runs
from jobs.queues import Queues
from jobs.studies import CANCELLED, LiveStudy, cancel_runs, find, spec_of

LOG = logging.getLogger(__name__)


def advance_all(queues: Queues) -> None:
    """Submit what has become possible in every study under way, oldest first, and end those that are through."""
    for study in reversed(queues.store.studies("running")):
        if study.kind == KIND:
            try:
                advance(queues, study)
            except SpecError as error:  # a spec that this version does not read
                queues.store.record_study_status(study.id, FAILED, str(error), datetime.now(UTC))


def advance(queues: Queues, recorded: Study) -> None:
    """Submit what has become possible in one study; end it when all is done, or when nothing goes on by itself."""
    study, spec = recorded.id, spec_of(recorded)
    with queues.connected() as connection:
        live = LiveStudy(connection, study)
        _complete_submissions(queues, connection, study)
        facts, found = live.facts(), find(queues, spec)
        if facts.suspended == CANCELLED or (facts.starts_at and not facts.is_due):
            return
        refusals: dict[str, str] = {}
        datasets: dict[str, Dataset | None] = {}  # read once a round: ten thousand records take a while
        for each in progress(spec, study, found).of(READY):
            if facts.suspended == SUSPENDED and isinstance(each.spec, TrainSpec):
                continue
            if live.facts().suspended == CANCELLED:
                return
            try:
                _submit(queues, spec, each, recorded, facts.priority, datasets)
            except (SpecError, DatasetError) as error:
                refusals[each.part.key] = str(error)
        if live.facts().suspended == CANCELLED:  # while something was being submitted
            cancel_runs(queues, study)
            return
        if json.loads(facts.refusals) != refusals:
            live.note(refusals=json.dumps(refusals))
    after = progress(spec, study, replace(found, refusals=refusals))  # what was submitted still counts as ready
    if after.status != "running":
        LOG.info("study %s %s", study, after.status)
        queues.store.record_study_status(study, after.status, after.trouble or None, datetime.now(UTC))


def _complete_submissions(queues: Queues, connection: Connection, study: str) -> None:
    """Complete what a record worker that died was submitting."""
    for run_id in active_runs(connection):
        facts = LiveRun(connection, run_id).facts()
        if facts is not None and facts.study == study and facts.submitting:
            queues.finish_submission(run_id)


def _submit(
    queues: Queues,
    spec: ArticleSpec,
    standing: Standing,
    study: Study,
    priority: str,
    datasets: dict[str, Dataset | None],
) -> None:
    """Submit one part's run. SpecError where the data set isn't what it was when the study was submitted."""
    wanted = standing.spec
    if wanted is None:
        raise SpecError(f"Expected part {standing.part.key} to have the settings of its run, got none yet.")
    if wanted.dataset not in datasets:
        datasets[wanted.dataset] = queues.store.dataset(wanted.dataset)
    dataset = datasets[wanted.dataset]
    if dataset is None:
        raise SpecError(f"Expected data set {wanted.dataset} to be registered, got none. Register it again.")
    if standing.part.stage != PRUNING and dataset.fingerprint != spec.fingerprint:
        raise SpecError(
            f"Expected data set {wanted.dataset} as it was when the study was submitted, got a changed one. "
            "Register it as it was, or submit a new study."
        )
    queues.submit(wanted, dataset, submitted_by=study.submitted_by, priority=priority, study=study.id)
