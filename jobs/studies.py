"""The article's study in the queue: submitted, watched, suspended, resumed and cancelled as one.

The record worker advances it, see `jobs.study_rounds`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pandas as pd

from core.article.plan import (
    FAILED,
    FINISHED,
    KIND,
    UNDER_WAY,
    ArticleSpec,
    Choice,
    Found,
    Progress,
    Standing,
    does,
    plan,
    progress,
    run_spec,
)
from core.compression.specs import SweepSpec
from core.data.datasets import Dataset
from core.errors import QueueUnavailable, SpecError
from core.runs import Run, Status, Study
from jobs.cli.options import command_line
from jobs.connection import NORMAL, Connection
from jobs.live_runs import PREFIX, SCHEDULED, SUSPENDED, Facts
from jobs.messages import NewStudy, StudyStatus, StudySubmitted, send
from jobs.queues import Queues
from jobs.run_jobs import check_priority

SAME_CLICK = 60  # seconds within which an equal study counts as the same submission
CANCELLED = "cancelled"


class StudyFacts(Facts):
    """What is known of a study beside the store. refusals: why parts could not be submitted, as JSON, by part."""

    refusals: str = "{}"


class LiveStudy:
    """One study's key."""

    def __init__(self, connection: Connection, study: str) -> None:
        self.connection = connection
        self.key = f"{PREFIX}:study:{study}"

    def facts(self) -> StudyFacts:
        """Return what is known of the study."""
        return StudyFacts.model_validate(self.connection.hgetall(self.key))

    def note(self, **facts: str) -> None:
        """Change some of the facts, by the names that they have in Redis."""
        self.connection.hset(self.key, mapping=facts)


@dataclass(frozen=True, kw_only=True)
class StudyState(Study):
    """A study as store and queue together see it. starts_at: of a scheduled study, before which nothing starts."""

    spec: ArticleSpec
    progress: Progress
    priority: str = NORMAL
    starts_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is submitted by itself."""
        return self.status in (FINISHED, FAILED, CANCELLED)


# -- submitting --------------------------------------------------------------------------------------------------------


def submit_study(
    queues: Queues, spec: ArticleSpec, dataset: Dataset, *, priority: str = NORMAL, start_after: datetime | None = None
) -> str:
    """Leave a study for the record worker; return its id, or that of an equal one that is under way.

    start_after: a moment with its time zone before which none of its runs is submitted. SpecError where the data set
    cannot be studied so.
    """
    spec = spec.replace(fingerprint=dataset.fingerprint)
    spec.check(dataset)
    check_priority(priority)
    values = spec.to_dict()
    for running in queues.store.studies("running"):
        if json.loads(running.spec_json) == values:
            return running.id
    text = json.dumps(values)
    study = f"{KIND}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    same_click = f"{PREFIX}:study-spec:{hashlib.sha256(text.encode()).hexdigest()}"
    with queues.connected() as connection:
        if not connection.set(same_click, study, nx=True, ex=SAME_CLICK):
            return str(connection.get(same_click).decode())
        LiveStudy(connection, study).note(priority=priority, hold=start_after.isoformat() if start_after else "")
        by, command = queues.user, command_line(spec)
        new = NewStudy(study=study, kind=KIND, dataset=dataset.name, spec=text, submitted_by=by, command=command)
        send(connection, StudySubmitted(values=new))
    return study


# -- watching ----------------------------------------------------------------------------------------------------------


def find(queues: Queues, spec: ArticleSpec) -> Found:
    """Return a study's runs and data sets in the store."""
    store = queues.store
    registered = store.datasets()
    datasets = dict(zip(registered["name"], registered["fingerprint"], strict=True))
    about = {spec.fingerprint, *registered.loc[registered["source"] == spec.dataset, "fingerprint"]}
    found = [run for run in store.runs() if run.fingerprint in about]
    sweep = run_spec(spec, plan(spec)[0], k=1, reconstruction="")
    choices = {
        run.id: _choice(queues, run.id, spec.rule)
        for run in found
        if run.kind == SweepSpec.kind and run.status == FINISHED and does(run, sweep, spec.fingerprint)
    }
    return Found(found, datasets, choices)


def existing(queues: Queues, spec: ArticleSpec) -> tuple[Standing, ...]:
    """Return the parts of a study whose runs exist already: finished, or under way."""
    return progress(spec, "", find(queues, spec)).of(FINISHED, UNDER_WAY)


def _choice(queues: Queues, run_id: str, rule: str) -> Choice:
    for rule_name, k, reason in queues.store.optimal_k(run_id)[["rule", "k", "reason"]].itertuples(index=False):
        if rule_name == rule:
            return Choice(None if pd.isna(k) else int(k), reason)
    return Choice(None, f"{run_id} holds no choice by that rule.")


def study_state(queues: Queues, study: str) -> StudyState | None:
    """Return a study's state, or None while it is not recorded; without the queue's facts if it does not answer."""
    recorded = queues.store.study(study)
    if recorded is None or recorded.kind != KIND:
        return None
    spec = spec_of(recorded)
    try:
        with queues.connected() as connection:
            facts = LiveStudy(connection, study).facts()
    except QueueUnavailable:
        facts = StudyFacts()
    found = replace(find(queues, spec), refusals=json.loads(facts.refusals))
    status = recorded.status
    if status == "running" and facts.waiting_status and not facts.is_due:
        status = Status(facts.waiting_status)
    starts_at = facts.starts_at if status == SCHEDULED else None
    told = {"status": status, "spec": spec, "priority": facts.priority, "starts_at": starts_at}
    return StudyState(**vars(recorded) | told, progress=progress(spec, study, found))


def spec_of(study: Study) -> ArticleSpec:
    """Return what a study was told."""
    return ArticleSpec.from_dict(json.loads(study.spec_json))


# -- changing ----------------------------------------------------------------------------------------------------------


def _recorded(queues: Queues, study: str) -> Study:
    recorded = queues.store.study(study)
    if recorded is None or recorded.kind != KIND:
        raise SpecError(f"Expected a study that is in the store, got {study}.")
    return recorded


def _own_runs(queues: Queues, study: str) -> Iterator[Run]:
    """Yield the study's runs that have not ended, oldest first: so they are queued again as they were."""
    yield from (state for state in reversed(queues.runs()) if state.study == study and not state.ended)


def cancel_runs(queues: Queues, study: str) -> None:
    """Cancel the study's runs that have not ended."""
    for state in _own_runs(queues, study):
        queues.cancel(state.id)


def cancel_study(queues: Queues, study: str) -> None:
    """Cancel a study: submit nothing more, and stop its runs after their current image or epoch."""
    _note_under_way(queues, study, CANCELLED)
    with queues.connected() as connection:
        send(connection, StudyStatus(study=study, status=CANCELLED, at=datetime.now(UTC)))
    cancel_runs(queues, study)


def suspend_study(queues: Queues, study: str) -> None:
    """Suspend a study's trainings, running ones after their epoch; measuring continues. See `resume_study`."""
    _note_under_way(queues, study, SUSPENDED)
    for state in _own_runs(queues, study):
        if state.trains:
            queues.suspend(state.id)


def _note_under_way(queues: Queues, study: str, suspended: str) -> None:
    """Note why a study submits nothing more. SpecError for one that is not under way."""
    status = _recorded(queues, study).status
    if status != "running":
        raise SpecError(f"Expected a study that is running, got {study}, which is {status}.")
    with queues.connected() as connection:
        LiveStudy(connection, study).note(hold=suspended)


def resume_study(queues: Queues, study: str, *, k: int | None = None) -> None:
    """Resume a study now, whatever stopped it: a suspension, a later start, a failure, or a cancellation.

    Runs that failed or were cancelled are retried from where they stopped. k: replaces the rule's. An error that
    prevents a retry is raised at the end.
    """
    recorded = _recorded(queues, study)
    if recorded.status == FINISHED:
        raise SpecError(f"Expected a study with something left to do, got {study}, which has finished.")
    spec = spec_of(recorded)
    if k is not None:
        spec = spec.replace(k=k)
        dataset = queues.store.dataset(spec.dataset)
        if dataset is not None:
            spec.check(dataset)
    with queues.connected() as connection:
        was = LiveStudy(connection, study).facts().suspended
        LiveStudy(connection, study).note(hold="", refusals="{}")
    errors = list(_retry_failed(queues, study, spec))
    for state in _own_runs(queues, study) if was == SUSPENDED else ():
        if state.status == SUSPENDED:
            queues.resume(state.id)
    with queues.connected() as connection:
        text = None if k is None else json.dumps(spec.to_dict())
        send(connection, StudyStatus(study=study, status="running", spec=text))
    if errors:
        raise SpecError(f"Expected every run of {study} to resume, got: {' '.join(errors)}")


def _retry_failed(queues: Queues, study: str, spec: ArticleSpec) -> Iterator[str]:
    """Retry a study's runs that ended without what they were for; yield why some could not be."""
    for each in progress(spec, study, find(queues, spec)).of(FAILED):
        if each.run is not None:
            try:
                queues.retry(each.run.id)
            except SpecError as error:
                yield str(error)


def prioritise_study(queues: Queues, study: str, priority: str) -> None:
    """Change the priority of a study's runs, those to come included."""
    _recorded(queues, study)
    check_priority(priority)
    with queues.connected() as connection:
        LiveStudy(connection, study).note(priority=priority)
    for state in _own_runs(queues, study):
        queues.prioritise(state.id, priority)
