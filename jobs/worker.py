"""A worker: `python -m jobs.worker svd|train|record`.

`svd` measures images, `train` trains networks (one at a time, on the accelerator where there is one), `record`
writes the store; exactly one `record` worker runs, beside the store's file.

  python -m jobs.worker train --gpu 1 --at-most 2    trains on the second GPU, as one of at most two workers there
  python -m jobs.worker train --redis rediss://dermslim@server:6380/0 --redis-password-file ~/.dermslim-password
                                                     the same on another host; DATA_ROOTS gives the folder of its images
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

import redis
from redis.client import Pipeline
from rq import Queue, SimpleWorker, Worker, worker_registration
from rq.exceptions import DuplicateJobError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker
from rq.worker.base import StopRequested

from core.errors import DermSlimError, QueueUnavailable
from core.files.private import keep_new_files_private, open_lock, private_folder, tighten
from core.processes import die_with_parent
from core.settings import Settings
from core.training.backend import require_backend
from core.training.steps import forget_old_checkpoints
from jobs import logs
from jobs.connection import QUEUES, RECORD, SERVED, TRAIN, connect, queue
from jobs.gpu_slots import gpu_environment, take_slot
from jobs.live_runs import LiveRun, active_runs
from jobs.lost_jobs import LOST, enqueue_started
from jobs.messages import LONGEST
from jobs.own_jobs import OwnJob
from jobs.provenance import code_stamp, quiet_tensorflow
from jobs.run_jobs import DIAGNOSING, MEASURING

WORKER_TTL = 30  # seconds: an idle worker looks for jobs of dead workers every half of it
HEARTBEAT = 5  # seconds between two heartbeats while a job runs
GRACE = 10.0  # seconds that the current image may take after its run was cancelled
CHECKPOINT_DAYS = 30  # that the checkpoint of a run which has ended waits for a retry
SETTLED = 2.0  # seconds without a change after which replaced code is complete
RECONCILE = 5.0  # seconds between two looks at runs that cannot end by themselves


class KnownWorker(BaseWorker):
    """A worker that registers again if the server has forgotten it, and ends if the server rejects it.

    The server forgets workers without a heartbeat. After a jump of its clock, or after a lost connection, that may be a
    living worker.
    """

    outdated = False  # whether it has stopped because the code was replaced

    def serve(self, *, burst: bool, logging_level: str) -> None:
        """Work until asked to stop; DermSlimError if RQ gave up by itself, which it only logs."""
        self.work(burst=burst, logging_level=logging_level)
        if not burst and self._shutdown_requested_date is None and not self.outdated:
            raise DermSlimError("Expected to serve the queue until asked to stop, got an error, which is in the log.")

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Send a heartbeat between jobs."""
        super().heartbeat(timeout, pipeline)
        if pipeline is None:
            self.make_known()

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Send a heartbeat during a job."""
        super().maintain_heartbeats(job, execution)
        self.make_known()

    def make_known(self) -> None:
        """Register again if the registration is lost."""
        known = self.connection.pipeline().hexists(self.key, "birth").sismember(self.redis_workers_keys, self.key)
        if self.birth_date is None or all(known.execute()):
            return
        pipeline = self.connection.pipeline().hset(self.key, mapping={**self.serialize(), "state": self.get_state()})
        worker_registration.register(self, pipeline)
        pipeline.execute()


class ForkingWorker(KnownWorker, Worker):
    """RQ's forking worker; a job's process ends with it."""

    seen_cancelled: tuple[str, float] = ("", 0.0)  # a job, and since when its run is known here to be cancelled
    code: object = None  # the `code_stamp` of the modules that it has imported; None: do not look

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a job in a forked process. If the code was replaced, give the job back and stop.

        The job's process would have old modules from this one, and import new ones beside them.
        """
        if self.code is not None and code_stamp() != self.code:
            self.log.warning("the code was replaced; this worker starts again, and job %s waits for that", job.id)
            pipeline = self.connection.pipeline()
            queue.push_job_id(job.id, pipeline=pipeline, at_front=True)
            pipeline.lrem(queue.intermediate_queue_key, 1, job.id).execute()
            self.outdated = True
            raise StopRequested
        super().execute_job(job, queue)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return seconds without a heartbeat after which a job counts as abandoned and is enqueued again."""
        return LOST

    def subscribe(self) -> None:
        """Start the thread that listens for commands; from then on only the main thread gets SIGALRM."""
        super().subscribe()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})

    def end_cancelled(self, job: Job) -> None:
        """Kill the process of a measuring job some seconds after its run was cancelled.

        The process stops by itself after the current image, but one image may take minutes within a single call.
        """
        if job.func_name not in (MEASURING.function, DIAGNOSING.function):
            return
        live, now = LiveRun(self.connection, job.kwargs["run_id"]), time.monotonic()
        if not live.stopped(job.kwargs["attempt"]):
            return
        if self.seen_cancelled[0] != job.id:
            self.seen_cancelled = (job.id, now)
        elif now - self.seen_cancelled[1] >= GRACE:
            live.log(f"{self.name}: the current image was not measured: the run was cancelled {GRACE:.0f} s ago")
            self._stopped_job_id = job.id  # so that RQ does not begin it again
            self.kill_horse()

    def taken_over(self, job: Job, execution: Execution | None) -> bool:
        """Return whether a job that this worker is at has been begun again, or has ended, without it.

        This happens after a pause longer than `LOST`. The job then belongs to another worker: marking it as finished or
        failed, or retrying it, would end that worker's job or run it twice.
        """
        if execution is None:
            return False
        asked = self.connection.pipeline().zscore(job.started_job_registry.key, execution.composite_key)
        known, state = asked.hmget(job.key, "status", "worker_name").execute()
        ours = [JobStatus.STARTED.value.encode(), self.name.encode()]  # also where the server has forgotten the rest
        return known is None and state != ours

    def forget(self, execution: Execution) -> None:
        """Remove the server's entries of an execution that was taken over, or those of a late heartbeat."""
        self.connection.pipeline().delete(execution.key).srem(self.executions_key, execution.composite_key).execute()

    def is_waiting(self, job: Job) -> bool:
        """Return whether no worker has begun a job."""
        return bool(self.connection.hget(job.key, "status") == JobStatus.QUEUED.value.encode())

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """Mark a job as started; end its process if another worker has started it since this one took it."""
        if self.taken_over(job, self.execution):
            if not self.is_waiting(job):
                self.forget(self.execution)
                os._exit(0)
            job.started_job_registry.add_execution(self.execution, self.connection, LOST)  # nobody has it
        super().prepare_job_execution(job, remove_from_intermediate_queue)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Send a heartbeat during a job; end its process if the job was taken over or its run cancelled."""
        if self.taken_over(job, execution) and not self.is_waiting(job):
            self.log.warning("job %s was taken over by another worker; its process here is ended", job.id)
            self.kill_horse()
            self.forget(execution)
            return
        super().maintain_heartbeats(job, execution)
        self.end_cancelled(job)

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        """End the job's process before it marks the job as finished or failed, if the job was taken over."""
        if self.taken_over(job, self.execution):
            self.forget(self.execution)
            os._exit(0)
        super().handle_execution_ended(job, queue, heartbeat_ttl)

    def handle_job_failure(self, job: Job, queue: Queue, *given: Any, **named: Any) -> None:
        """Retry a job whose process died, or mark it as failed, unless it was taken over."""
        if self.taken_over(job, named.get("execution")):
            self._stopped_job_id = None
            self.forget(named["execution"])
            return
        super().handle_job_failure(job, queue, *given, **named)

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Run the job in the forked process."""
        die_with_parent(int(self.pid or 0))
        logs.note_job(job.id)
        super().main_work_horse(job, queue)


class RecordWorker(KnownWorker, SimpleWorker):
    """The one writer: runs its jobs in its own process, one after the other."""

    def requeue_interrupted(self) -> None:
        """Requeue the job that a former record worker was at when it died; no other worker would run it."""
        for each in self.queues:
            for job_id in enqueue_started(each):
                self.log.warning("job %s was interrupted; begun again", job_id)


def give_way(niceness: int) -> None:
    """Lower this process's priority so that pages stay responsive while every core measures or trains.

    Trainings, one process each, get a higher priority than sweeps, which use every core.
    """
    os.nice(niceness)
    # Linux may weigh sessions, and a process's own value within its session only.
    if niceness and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(min(niceness, 19)))


def prepare_measuring() -> None:
    """Import and compile once, before jobs are forked, what every job needs."""
    import cv2
    import scipy.linalg  # noqa: F401

    import core.compression.comparison

    cv2.setNumThreads(1)
    core.compression.comparison.warm_up()
    __import__("jobs.measure_task")
    gc.collect()
    gc.freeze()  # a collection in a forked job would touch, and so copy, every object that it shares with the worker


def prepare_training() -> None:
    """Import what every training needs but Keras, which must not be there before a job is forked."""
    quiet_tensorflow()
    __import__("jobs.train_task")
    __import__("jobs.diagnose_task")
    gc.collect()
    gc.freeze()


def _reconcile_regularly(settings: Settings) -> None:
    """Enqueue `reconcile` behind the waiting jobs, whenever none waits already."""
    connection = connect(settings, patient=True)
    while True:
        time.sleep(RECONCILE)
        try:
            queue(RECORD, connection).enqueue(
                "jobs.record_worker.reconcile",
                job_id="reconcile",
                unique=True,
                job_timeout=LONGEST,
                result_ttl=0,
                failure_ttl=60,
            )
        except DuplicateJobError:
            continue  # the last one still waits behind other jobs
        except redis.RedisError as error:
            logging.getLogger(__name__).warning("reconcile not enqueued: %s", error)


def _only_record_worker(settings: Settings) -> int:
    """Lock the file of the record worker; DermSlimError if another process has locked it."""
    private_folder(settings.data_dir)
    handle = open_lock(settings.data_dir / "record-worker.lock")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DermSlimError(f"Expected no other record worker on {settings.data_dir}, got one.") from None
    return handle


def work(kind: str, settings: Settings, *, burst: bool = False) -> bool:
    """Serve one queue until asked to stop; burst: until it is empty. Return whether the code was replaced meanwhile."""
    code = code_stamp()
    connection = connect(settings, patient=True)
    name = f"{kind}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    logs.note(worker=name)
    options = {
        "name": name,
        "connection": connection,
        "serializer": JSONSerializer,
        "job_class": OwnJob,
        "worker_ttl": WORKER_TTL,
        "maintenance_interval": WORKER_TTL // 2,
        "job_monitoring_interval": HEARTBEAT,
        "log_job_description": False,
    }
    if kind == RECORD:
        lock = _only_record_worker(settings)
        from core.store.measurements import Store
        from jobs.upkeep import webhooks

        Store(settings.database, timeout=60.0).migrate()
        __import__("jobs.record_worker")
        worker = RecordWorker([queue(RECORD, connection)], **options)
        worker.requeue_interrupted()
        threading.Thread(target=_reconcile_regularly, args=(settings,), daemon=True).start()
        webhooks.start_delivering(settings)
        worker.serve(burst=burst, logging_level="WARNING")
        os.close(lock)
        return False
    # By this signal the main thread wakes to send heartbeats. After a pause of the whole process any thread that does
    # not block it may get it instead, and the main thread would send no heartbeat until its job ends.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    give_way(settings.worker_niceness if kind == TRAIN else settings.worker_niceness * 3 // 2)
    if kind == TRAIN:
        prepare_training()
        forget_old_checkpoints(settings.trained, days=CHECKPOINT_DAYS, kept=active_runs(connection))
    else:
        prepare_measuring()
    served = [queue(each, connection) for each in SERVED[kind]]
    forking = ForkingWorker(served, **options)
    forking.code = code
    forking.serve(burst=burst, logging_level="INFO")
    gc.unfreeze()
    return forking.outdated


def start_again(arguments: list[str]) -> NoReturn:
    """Replace this process by the same worker with the code on disk, once that no longer changes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # it holds no job, so it can end at once
    before = code_stamp()
    time.sleep(SETTLED)
    while (now := code_stamp()) != before:
        before = now
        time.sleep(SETTLED)
    os.environ["WORKER_NICENESS"] = "0"  # because this process has given way
    os.execv(sys.executable, [sys.executable, "-m", "jobs.worker", *arguments])  # noqa: S606 - its own command


def without_password(url: str) -> str:
    """Return an address from the command line; ArgumentTypeError if it contains a password, which others could read."""
    try:
        parts = urlsplit(url)
        told = parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError:  # the reason would repeat the address
        raise argparse.ArgumentTypeError("Expected an address such as rediss://user@host:6379, got another.") from None
    if told:
        raise argparse.ArgumentTypeError(
            "Expected an address without a password, got one with it, which every user of this machine could read in"
            " the list of processes. Put the password into a file for --redis-password-file, or the address with it"
            " into the variable REDIS_URL."
        )
    return url


MOST_GPUS = 1024  # of a machine, and workers on one of them


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve; 1 with one sentence when that cannot begin."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.worker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=QUEUES, help="the queue to serve")
    parser.add_argument("--burst", action="store_true", help="end when the queue is empty")
    parser.add_argument("--gpu", type=int, metavar="NUMBER", help="train: on this GPU, counted from 0 (default: any)")
    parser.add_argument(
        "--at-most", type=int, default=1, metavar="N", help="train: workers that may share that GPU (default 1)"
    )
    parser.add_argument(
        "--redis",
        type=without_password,
        metavar="URL",
        help="the server instead of REDIS_URL: redis://user@host:6379/0, or rediss://… for TLS; without its password",
    )
    parser.add_argument(
        "--redis-password-file", metavar="FILE", help="a file with the server's password (default: REDIS_PASSWORD_FILE)"
    )
    options = parser.parse_args(arguments)
    # By the environment, which the processes of the jobs read too.
    given = {"REDIS_URL": options.redis, "REDIS_PASSWORD_FILE": options.redis_password_file}
    os.environ.update({name: value for name, value in given.items() if value})
    within = 0 <= (options.gpu or 0) < MOST_GPUS and 1 <= options.at_most <= MOST_GPUS
    if options.gpu is not None and not (options.kind == TRAIN and within):
        parser.error(
            f"Expected --gpu 0 to {MOST_GPUS - 1:,} and --at-most 1 to {MOST_GPUS:,} of a `train` worker, "
            f"got --gpu {options.gpu} --at-most {options.at_most} of a `{options.kind}` worker."
        )
    try:
        if options.kind == TRAIN:
            require_backend()
        settings = Settings.from_environment()
        keep_new_files_private()
        opened = tighten(settings)
        logs.set_up(f"worker-{options.kind}", settings)
        for sentence in opened:
            logging.getLogger(__name__).warning("%s", sentence)
        if options.gpu is not None:
            take_slot(options.gpu, options.at_most)  # held until the process ends
            os.environ.update(gpu_environment(options.gpu, options.at_most))
        if work(options.kind, settings, burst=options.burst):
            start_again(sys.argv[1:] if arguments is None else arguments)
    except (redis.RedisError, QueueUnavailable) as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    except (DermSlimError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
