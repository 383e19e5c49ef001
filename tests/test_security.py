"""Security: only JSON in the queue, SQL with parameters, paths inside the roots, and no visible secrets.

Real workers get real pickles, real links are exchanged, and a running stack is searched for its passwords.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import os
import pickle
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import keras
import pytest
from laboratory import ROOT, wait_for, workers, write_images
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import DefaultSerializer, JSONSerializer
from test_deploy import reserved_port
from test_structure import FORBIDDEN, imports, sources

from benchmarks.processes import Process
from core.compression.measure import measure
from core.compression.specs import SweepSpec
from core.data.datasets import load_dataset
from core.data.folders import confine
from core.data.images import read
from core.errors import DatasetError, DermSlimError, ImageError, StoreError
from core.settings import Settings
from core.store.file import StoreFile
from core.store.measurements import Store
from jobs import messages
from jobs.connection import QUEUES, SERVED, connect, queue
from jobs.own_jobs import FUNCTIONS, OwnJob
from jobs.queues import Queues

EVIL = "x'; DROP TABLE runs; --"


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mknod, (str(self.file),)


def all_sources() -> list[Path]:
    return [source for folder in FORBIDDEN for source in sources(folder)]


@cache
def calls(source: Path) -> tuple[ast.Call, ...]:
    return tuple(node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call))


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


# The queue


def test_the_test_pickle_writes_a_file_when_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "hit")))  # noqa: S301
    assert (tmp_path / "hit").exists()


def test_no_module_can_unpickle() -> None:
    able = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
    found = [f"{source}:{line}" for source in all_sources() for name, line in imports(source) if name in able]
    assert found == []
    unsafe = {"read_pickle", "to_pickle", "unsafe_load", "eval", "exec", "os.system", "yaml.load"}
    for source in all_sources():
        for call in calls(source):
            where, name = f"{source}:{call.lineno}", name_of(call)
            given = {word.arg: word.value for word in call.keywords}
            assert name not in unsafe or (name == "eval" and isinstance(call.func, ast.Attribute)), where  # Redis's
            if name == "load":
                assert ast.unparse(call.func) != "yaml.load", where
                assert ast.unparse(call.func) != "np.load" or "allow_pickle" in given, where
            for word, safe in {"allow_pickle": False, "shell": False, "safe_mode": True}.items():
                if word in given:
                    assert ast.literal_eval(given[word]) is safe, where


def test_weights_that_contain_code_are_not_loaded_by_default() -> None:
    assert inspect.signature(keras.saving.load_model).parameters["safe_mode"].default is True


def test_every_access_to_the_queue_uses_the_json_serializer() -> None:
    touched = 0
    for source in sources("jobs"):
        for call in calls(source):
            if ast.unparse(call.func) in ("Job.fetch", "Job.fetch_many", "Worker.all", "Queue", "Job.create"):
                touched += 1
                given = [ast.unparse(word.value) for word in call.keywords if word.arg == "serializer"]
                assert given == ["JSONSerializer"], f"{source}:{call.lineno}"
    assert touched >= 6


def test_workers_run_exactly_the_functions_that_are_submitted() -> None:
    named = {
        node.value
        for source in sources("jobs")
        if source.name != "own_job.py"
        for call in calls(source)
        if name_of(call) in ("enqueue", "prepare_data", "JobKind", "LaterKind")
        for argument in call.args
        for node in ast.walk(argument)
        if isinstance(node, ast.Constant) and str(node.value).startswith("jobs.")
    }
    assert named == FUNCTIONS


def test_everything_that_a_run_stores_in_redis_is_json_or_plain_text(settings: Settings, tmp_path: Path) -> None:
    dataset = load_dataset(write_images(tmp_path / "moles", 3))
    Queues(settings).register(dataset)
    Queues(settings).submit(SweepSpec(dataset="moles", ks=(2,)), dataset)
    with connect(settings) as connection:
        jobs = [key.decode() for key in connection.scan_iter("rq:job:*") if b":" not in key[7:]]
        assert len(jobs) >= 2
        for key in jobs:
            function, attribute, positional, named = json.loads(zlib_or_plain(connection.hget(key, "data")))
            assert function in FUNCTIONS
            assert attribute is None
            assert isinstance(positional, list)
            assert isinstance(named, dict)
        for text in connection.lrange(messages.MESSAGES, 0, -1):
            assert json.loads(text)["kind"] in messages.TYPES
        for key in connection.scan_iter("*"):
            raw = connection.dump(key) or b""
            assert b"\x80\x04\x95" not in raw, f"{key!r} holds a pickle"


def zlib_or_plain(data: bytes) -> bytes:
    import zlib

    try:
        return zlib.decompress(data)
    except zlib.error:
        return data


def poisoned(connection: Redis, name: str, hit: Path) -> list[Job]:
    """Return malicious jobs of an attacker with access to the queue: pickles as the call and as other fields."""
    pickling = Queue(name, connection=connection, serializer=DefaultSerializer)
    bomb = Bomb(hit)
    jobs = [
        pickling.enqueue("jobs.measure_task.measure_chunk", bomb, result_ttl=600),
        pickling.enqueue("jobs.measure_task.measure_chunk", meta={"bomb": bomb}, result_ttl=600),
    ]
    plain = Queue(name, connection=connection, serializer=JSONSerializer)
    jobs.append(plain.enqueue("jobs.measure_task.measure_chunk", result_ttl=600))
    connection.hset(jobs[-1].key, mapping={"data": pickle.dumps(bomb), "meta": pickle.dumps(bomb)})
    # No pickles, but functions that do not belong to DermSlim.
    jobs.append(plain.enqueue("os.mknod", str(hit), result_ttl=600))
    jobs.append(plain.enqueue("jobs.record_worker.reconcile", result_ttl=600))
    connection.hset(jobs[-1].key, mapping={"success_callback_name": "os.mknod", "failure_callback_name": "os.mknod"})
    return jobs


@pytest.mark.parametrize("kind", QUEUES)
def test_every_worker_refuses_a_malicious_job(settings: Settings, tmp_path: Path, kind: str) -> None:
    hit = tmp_path / "hit"
    names = SERVED["train"] if kind == "train" else (kind,)
    ends = {b"failed", b"finished", None}
    with connect(settings) as connection:
        jobs = [job for name in names for job in poisoned(connection, name, hit)]
        connection.rpush(messages.MESSAGES, pickle.dumps(Bomb(hit)))
        with workers(settings, kind):
            queues = [queue(name, connection) for name in names]
            wait_for(lambda: not any(len(each) for each in queues), 60)
            wait_for(lambda: not any(each.started_job_registry.count for each in queues), 60)
            # A job that a worker has just taken is in neither the queue nor a registry.
            wait_for(lambda: {connection.hget(job.key, "status") for job in jobs} <= ends, 60)
        assert not hit.exists()
        status = {connection.hget(job.key, "status") for job in jobs}
        assert status - ends == set(), "every job was taken and ended"


def test_a_job_can_only_call_functions_of_dermslim(settings: Settings) -> None:
    with connect(settings) as connection:
        job = Queue("svd", connection=connection, serializer=JSONSerializer).enqueue("os.getcwd")
        own = OwnJob.fetch(job.id, connection=connection, serializer=JSONSerializer)
        with pytest.raises(ValueError, match=r"got os\.getcwd"):
            own.perform()


# The store

CHECKED = {
    # Tables and columns in the code beside the query, conditions made of them, or names checked by `_check_columns`.
    "runs.py": {"where"},
    "measurements.py": {"table", "column", "where", "', '.join(chosen)", "metric", "order", "same"},
    "file.py": {"table"},
    "trainings.py": {"table", "column", "assignments"},
    "deployments.py": {"names", "of_key"},
    # The tables in the catalogue of the store.
    "check.py": {"quoted"},
    "snapshot.py": {
        *(
            "table",
            "place",
            "mark",
            "same",
            "literal(snapshot)",
            "other",
            "OPENED",
            "FOLDER",
            "wanted",
            "OF_CHOSEN",
            "made",
        ),
    },
    # The same; the tables of a snapshot are those of its files, whose names are letters (jobs/upkeep/imports.py).
    "imports.py": {
        *("table", "column", "kind", "VERSION", "fault", "source", "name", "THESE", "only", "reason(error)"),
        "', '.join(sorted(chosen))",
    },
    "upkeep.py": {"name", "table", "column", "key", "' UNION ALL '.join(each)"},
}
SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|FROM|WHERE)\b")


def test_sql_is_built_only_from_checked_names() -> None:
    seen = 0
    for source in sources("core/store"):
        file = source.name
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
                parts = {ast.unparse(part.value) for part in node.values if isinstance(part, ast.FormattedValue)}
                if SQL.search(text):
                    seen += 1
                    assert parts <= CHECKED.get(file, set()), f"{file}:{node.lineno}: {parts - CHECKED[file]}"
            if isinstance(node, ast.Call) and name_of(node) == "format":
                assert not SQL.search(ast.unparse(node.func)), f"{file}:{node.lineno}"
    assert seen >= 15


def test_unknown_column_names_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    store.migrate()
    for evil in (EVIL, "1; DROP TABLE runs", "run_id, (SELECT 1)", "*"):
        with pytest.raises(StoreError, match="Expected columns among"):
            store.measurements("any", columns=[evil])
        with pytest.raises(StoreError, match="Expected columns among"):
            store.worst_images("any", evil, "k=1")


def test_no_public_read_function_allows_sql_injection(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "moles", 2)
    store = Store(tmp_path / "store.duckdb")
    store.record_dataset(replace(load_dataset(folder), name=EVIL), datetime.now(UTC))
    before = store.read("SELECT count(*) AS n FROM information_schema.tables")["n"].iloc[0]
    tried = 0
    for name, function in inspect.getmembers(store, inspect.ismethod):
        if name.startswith(("_", "record_", "remove", "transaction", "read")) or name in (
            "migrate",
            "schema_version",
            "rows",  # takes a statement, as `read` does
        ):
            continue
        values = {}
        for parameter in inspect.signature(function).parameters.values():
            kind = str(parameter.annotation)
            if "Sequence" in kind or "Iterable" in kind:
                values[parameter.name] = [EVIL]
            elif "str" in kind:
                values[parameter.name] = EVIL
        if not values:
            continue
        tried += 1
        if {"columns", "metric"} & set(values):
            with pytest.raises(StoreError, match="Expected columns among"):
                function(**values)
        else:
            found = function(**values)
            assert name == "dataset" or not (len(found) if hasattr(found, "__len__") else found), name
    assert tried >= 10
    assert store.read("SELECT count(*) AS n FROM information_schema.tables")["n"].iloc[0] == before
    known = store.dataset(EVIL)
    assert known is not None
    assert len(known.records) == 2, "an unusual name is accepted as a name"
    store.remove_dataset(EVIL + "' OR '1'='1")
    assert store.dataset(EVIL) is not None


def test_a_query_cannot_read_other_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("word\nhidden\n")
    store = StoreFile(tmp_path / "store.duckdb")
    for _ in range(2):  # without and with a store file
        with pytest.raises((StoreError, duckdb.Error), match="disabled by configuration"):
            store.read(f"SELECT * FROM read_csv('{secret}')")  # noqa: S608
        store.migrate()


# Paths


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Give a readable image outside the roots."""
    return write_images(tmp_path / "outside", 1) / "mole000.jpg"


def test_links_that_point_outside_are_left_out_and_never_read(tmp_path: Path, outside: Path) -> None:
    folder = write_images(tmp_path / "moles", 2)
    (folder / "link.jpg").symlink_to(outside)
    (folder / "chain.jpg").symlink_to(folder / "link.jpg")
    (folder / "more").symlink_to(outside.parent)
    (folder / "inside.jpg").symlink_to(folder / "mole000.jpg")
    dataset = load_dataset(folder)
    assert [record.image_id for record in dataset.records] == ["inside", "mole000", "mole001"]
    reasons = {each.name: each.reason for each in dataset.left_out}
    assert "lies outside" in reasons["link.jpg"]
    assert "lies outside" in reasons["chain.jpg"]
    assert "not followed" in reasons["more"]


@pytest.mark.parametrize("climb", ["../outside/mole000.jpg", "/etc/hostname", "link.jpg", "more/mole000.jpg", "a\0b"])
def test_a_worker_reads_nothing_outside_its_data_set(tmp_path: Path, outside: Path, climb: str) -> None:
    folder = write_images(tmp_path / "moles", 1)
    record = load_dataset(folder).records[0]
    (folder / "link.jpg").symlink_to(outside)
    (folder / "more").symlink_to(outside.parent)
    result = measure(replace(record, path=climb), folder, SweepSpec(dataset="moles", ks=(2,)))
    assert result.status == "failed"
    assert "lies outside" in str(result.reason) or "cannot be read" in str(result.reason)


def test_a_link_that_replaces_a_registered_image_is_not_followed(tmp_path: Path, outside: Path) -> None:
    folder = write_images(tmp_path / "moles", 1)
    record = load_dataset(folder).records[0]
    (folder / record.path).unlink()
    (folder / record.path).symlink_to(outside)
    assert measure(record, folder, SweepSpec(dataset="moles", ks=(2,))).status == "failed"
    with pytest.raises(ImageError, match="lies outside"):
        read(folder / record.path, inside=(folder,))
    assert read(folder / record.path, inside=(folder, outside.parent)) == outside.read_bytes()


def test_a_link_that_changes_between_check_and_read_exposes_no_file(tmp_path: Path, outside: Path) -> None:
    """Another process exchanges a link as fast as it can; a read gives a file inside or an error."""
    folder = write_images(tmp_path / "moles", 1)
    inside = (folder / "mole000.jpg").read_bytes()
    code = (
        "import os, sys\n"
        "link, targets = sys.argv[1], sys.argv[2:]\n"
        "while True:\n"
        "    for target in targets:\n"
        "        os.symlink(target, link + '.new'); os.replace(link + '.new', link)\n"
    )
    link = folder / "swapped.jpg"
    link.symlink_to(folder / "mole000.jpg")
    swapper = Process([sys.executable, "-c", code, str(link), str(folder / "mole000.jpg"), str(outside)])
    try:
        seen = {"right": 0, "refused": 0}
        while min(seen.values()) < 20:
            with contextlib.suppress(ImageError):  # it points outside now
                assert read(link, inside=(folder,)) == inside
                seen["right"] += 1
                continue
            seen["refused"] += 1
    finally:
        swapper.kill()
        swapper.wait()


def test_a_data_set_outside_the_roots_is_neither_registered_nor_measured(settings: Settings, tmp_path: Path) -> None:
    narrow = replace(settings, data_roots=(tmp_path / "allowed",))
    (tmp_path / "allowed").mkdir()
    folder = write_images(tmp_path / "moles", 2)
    (tmp_path / "allowed" / "link").symlink_to(folder)
    queues = Queues(narrow)
    for path in (folder, tmp_path / "allowed" / "link", tmp_path / "allowed" / ".." / "moles"):
        with pytest.raises(DatasetError, match="inside the data roots"):
            queues.resolve(str(path))
    with pytest.raises(DatasetError, match="inside the data roots"):
        queues.register(load_dataset(folder))
    for path in ("\0", "~nobody-of-that-name/x", str(tmp_path / "allowed" / "..")):
        with pytest.raises(DatasetError):
            confine(Path(path), narrow.data_roots)


# Secrets


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.mark.slow
def test_a_running_stack_shows_no_secret(tmp_path: Path, port: int) -> None:
    """Search for the passwords of queue and dashboard wherever another user could read them."""
    password = "a password of this test 4711"
    data_dir = tmp_path / "data"
    output = tmp_path / "output"
    folder = write_images(tmp_path / "moles", 3)
    (folder / "broken.jpg").write_bytes(b"no image")
    environment = {
        **os.environ,
        "DATA_DIR": str(data_dir),
        "DATA_ROOTS": str(tmp_path),
        "DASHBOARD_PASSWORD": password,
    }
    with output.open("w") as stream:
        stack = Process(
            [sys.executable, "-m", "dashboard", "--port", str(port), "--svd-workers", "1", "--train-workers", "0"],
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=stream,
        )
    try:
        wait_for(lambda: "ready" in output.read_text() or stack.poll() is not None, 180)
        assert "ready" in output.read_text()
        settings = Settings.from_environment({"DATA_DIR": str(data_dir), "DATA_ROOTS": str(tmp_path)})
        queue_password = (data_dir / "valkey" / "password").read_text().strip()
        secrets = (
            password,
            queue_password,
            (data_dir / "dashboard-key").read_text().strip()
            if (data_dir / "dashboard-key").exists()
            else queue_password,
        )
        dataset = load_dataset(folder)
        queues = Queues(settings)
        queues.register(dataset)
        run = queues.submit(SweepSpec(dataset="moles", ks=(2,)), dataset).run_id
        wait_for(lambda: (state := queues.run(run)) is not None and state.ended, 90)
        with pytest.raises(DermSlimError) as wrong:
            Queues(replace(settings, given_redis_url=str(settings.redis_url).replace(queue_password, "wrong"))).ping()
        seen = {"an error": str(wrong.value), "the launcher": output.read_text()}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                seen[f"the command of {process.name}"] = (process / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # the process has ended
        for log in (data_dir / "logs").iterdir():
            seen[str(log)] = log.read_text(errors="replace")
        for table in settings_tables(settings):
            seen[f"table {table}"] = StoreFile(settings.database).read(f"SELECT * FROM {table}").to_csv()  # noqa: S608
        assert len(seen) > 20
        assert "moles" in seen["table datasets"]
        for secret in secrets:
            assert [place for place, text in seen.items() if secret in text] == []
        private = [file for file in data_dir.rglob("*") if file.is_file() and holds(file, secrets)]
        assert private, "the queue's password is in private files"
        assert [file for file in private if file.stat().st_mode & 0o077] == []
    finally:
        stack.terminate()
        stack.wait(60)


def settings_tables(settings: Settings) -> list[str]:
    names = StoreFile(settings.database).read("SELECT table_name FROM information_schema.tables ORDER BY table_name")
    return [str(name) for name in names["table_name"]]


def holds(file: Path, secrets: tuple[str, ...]) -> bool:
    try:
        content = file.read_bytes()
    except FileNotFoundError:  # a temporary file, or the store's write-ahead log between two transactions
        return False
    return any(secret.encode() in content for secret in secrets)


def test_messages_contain_no_secret_of_the_process(settings: Settings, tmp_path: Path) -> None:
    dataset = load_dataset(write_images(tmp_path / "moles", 1))
    Queues(settings).submit(SweepSpec(dataset="moles", ks=(2,)), dataset)
    with connect(settings) as connection:
        texts = b"".join(connection.lrange(messages.MESSAGES, 0, -1))
    password = str(settings.redis_url).split("@")[0].rpartition(":")[2]
    assert password.encode() not in texts
    assert b"svd-sweep" in texts
