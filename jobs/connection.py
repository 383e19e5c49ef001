"""How every process reaches Redis, and the queues by name."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.connection import AbstractConnection
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from core.errors import QueueUnavailable
from core.settings import Settings
from jobs.redis_address import SCHEMES, Address, Refused, read_address

SVD, TRAIN, RECORD = "svd", "train", "record"
QUEUES = (SVD, TRAIN, RECORD)  # what a worker can serve
HIGH, NORMAL, LOW = "high", "normal", "low"
PRIORITIES = (HIGH, NORMAL, LOW)  # in the order that a worker empties their queues
PATIENT_TRIES = 60  # of a worker, at most 5 s apart: some minutes
WAYS = {"redis": " without TLS", "rediss": " by TLS", "unix": ""}  # the wrong one of the two is a common mistake
LOG = logging.getLogger(__name__)

# A redis.Redis: its type hints are unions with those of the asynchronous client, and fit neither use.
Connection = Any


@dataclass(frozen=True)
class Source:
    """The source of the server's address: a given text, or a file that is read again at each connection."""

    given: str | None = field(repr=False)
    file: Path

    def address(self) -> Address:
        """Return the current address; redis.ConnectionError if the embedded server is not running."""
        try:
            return read_address(self.given or self.file.read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            raise redis.ConnectionError(f"Expected the embedded server to run, got no {self.file}.") from None


class ServerConnection(AbstractConnection):
    """A connection that reads the address each time, and does not try again where another try cannot succeed.

    A process that lost the embedded server so finds its new address. The password is sent neither to an address that
    the file no longer names, nor to a server of another account.
    """

    host = ""  # empty for a socket; redis-py counts failures by it

    def __init__(self, source: Source, patient: bool = False, **options: Any) -> None:
        self.source = source
        self.patient = patient
        self.scheme, self.place = "unix", "its address"
        self.port: int | None = None
        self._told = False
        super().__init__(**options)

    def repr_pieces(self) -> list[tuple[str, Any]]:
        """Return what redis-py shows of a connection."""
        return [("place", self.place), ("db", self.db)]

    def _host_error(self) -> str:
        return self.place

    def _connect(self) -> socket.socket:
        """Open the socket; called again by redis-py for each try."""
        try:
            address = self.source.address()
            self.scheme, self.place, reached = address.scheme, address.place, address.reached
            self.host, self.port = reached.get("host", ""), reached.get("port")
            self.username, self.password = reached.get("username"), reached.get("password")
            self.db = reached.get("db", 0)
            found = self._opened(address)
            if self.source.given is None:
                _check_owner(found, self.source.file, self.place)
        except (redis.ConnectionError, OSError) as error:
            self._tell(error)
            raise
        return found

    def _opened(self, address: Address) -> socket.socket:
        options = {"socket_timeout": self.socket_timeout, "socket_connect_timeout": self.socket_connect_timeout}
        try:
            opened: socket.socket = SCHEMES[address.scheme](**address.reached, **options)._connect()
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError):  # the server went away meanwhile
            raise
        except (ssl.SSLError, ValueError) as error:
            raise Refused(f"Expected a valid certificate of {self.place}, got: {error}.") from error
        except PermissionError as error:
            raise Refused(f"Expected access to the server at {self.place}, got {error.strerror}.") from error
        except FileNotFoundError as error:
            if address.scheme == "unix":
                raise
            raise Refused("Expected REDIS_URL with files that exist, got a missing file.") from error
        return opened

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """Sign in. What the server refuses now, it will refuse again."""
        try:
            super().on_connect_check_health(check_health)
        except redis.AuthenticationError as error:
            given = "another" if self.password else "none"
            raise Refused(
                f"Expected the password of the Redis server at {self.place} in its URL, got {given}: {error}."
            ) from error
        except (redis.exceptions.AuthorizationError, redis.ResponseError) as error:
            raise Refused(f"Expected the Redis server at {self.place} to serve, got: {error}.") from error
        except redis.InvalidResponse:  # which may repeat what was sent
            raise Refused(f"Expected a Redis server at {self.place}, got another program.") from None
        except (redis.ConnectionError, redis.TimeoutError) as error:
            self._tell(error)
            raise
        if self._told:
            LOG.warning("the Redis server at %s answers again", self.place)
        self._told = False

    def _tell(self, error: Exception) -> None:
        """Log once that the server does not answer, if this process waits for it."""
        if not self.patient:
            return
        if not self._told:
            way = WAYS[self.scheme]
            LOG.warning("no Redis server answers at %s%s: %s; tried again for some minutes", self.place, way, error)
        self._told = True


def connect(settings: Settings, *, patient: bool = False) -> Connection:
    """Return a client of the server of `settings`; nothing is sent yet. QueueUnavailable if there is none.

    patient: try for some minutes if the server does not answer (workers), instead of failing at once (pages).
    """
    try:
        return client(source_of(settings), patient=patient)
    except redis.ConnectionError:
        raise QueueUnavailable(
            f"Expected REDIS_URL, or the embedded server of `make up` at {settings.redis_url_file}, got neither."
        ) from None


def source_of(settings: Settings) -> Source:
    """Return where the address of the settings' server comes from."""
    return Source(settings.given_redis_url, settings.redis_url_file)


def client(
    source: Source, *, patient: bool = False, tries: int = 1, connect_timeout: float = 2.0, timeout: float = 5.0
) -> Connection:
    """Return a client of the server at a source's address; Refused if the address is invalid.

    timeout: seconds that an answer may take, unless patient. tries: further tries after a failure, unless patient.
    """
    options = {
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": None if patient else timeout,
        "health_check_interval": 30,
        **source.address().options,
    }
    return redis.Redis.from_pool(
        redis.ConnectionPool(
            connection_class=ServerConnection,
            source=source,
            patient=patient,
            retry=Retry(ExponentialWithJitterBackoff(cap=5, base=0.1), PATIENT_TRIES if patient else tries),
            retry_on_error=[redis.ConnectionError, redis.TimeoutError],
            maint_notifications_config=MaintNotificationsConfig(enabled=False),  # of Redis's cloud
            **options,
        )
    )


def queue(name: str, connection: Connection) -> Queue:
    """Return an RQ queue that carries JSON and nothing else."""
    return Queue(name, connection=connection, serializer=JSONSerializer)


def queue_name(kind: str, priority: str) -> str:
    """Return the name of the queue of a kind of worker and a priority."""
    return kind if priority == NORMAL else f"{kind}-{priority}"


SERVED = {
    SVD: tuple(queue_name(SVD, priority) for priority in PRIORITIES),
    TRAIN: tuple(queue_name(TRAIN, priority) for priority in PRIORITIES),
    RECORD: (RECORD,),
}  # the queues that a worker of a kind empties, in order
JOB_QUEUES = (*SERVED[SVD], *SERVED[TRAIN])  # those of runs' jobs


# -- whose server it is ------------------------------------------------------------------------------------------------


def _check_owner(opened: socket.socket, file: Path, place: str) -> None:
    """Check that the embedded server runs as this account or the address file's before it gets the password (Linux).

    ConnectionError otherwise: the server does not run, and another account's program listens at its address.
    """
    if not sys.platform.startswith("linux"):
        return
    owners = {file.stat().st_uid, os.geteuid()}
    if opened.family == socket.AF_UNIX:
        size = struct.calcsize("3i")
        found = {struct.unpack("3i", opened.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]}
    else:
        found = set(_listeners(*opened.getpeername()[:2]))
    if others := found - owners:
        opened.close()
        raise ConnectionRefusedError(f"Expected {place} to be of the account of {file}, got {min(others)}.")


def _listeners(host: str, port: int) -> Iterator[int]:
    """Yield the accounts that listen at an IPv4 address of this host, by the kernel's proc_net_tcp."""
    listening = "0A"
    address = f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}"
    places = {address, "0" * 8, "0" * 32}  # the address itself, or any
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, _, _, _, uid, *_ = line.split()
            place, _, number = local.partition(":")
            if state == listening and place in places and int(number, 16) == port:
                yield int(uid)
