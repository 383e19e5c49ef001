"""The address of the queue's server: read strictly, so that whatever is wrong with it is one sentence without a secret.

redis-py takes any option of its classes from an address, and fails on the others wherever a connection is first made.
"""

from __future__ import annotations

import math
import os
import re
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import redis
from redis.connection import UnixDomainSocketConnection, parse_url

from core.errors import QueueUnavailable

SCHEMES = {"redis": redis.Connection, "rediss": redis.SSLConnection, "unix": UnixDomainSocketConnection}
LONGEST_PATH = 103 if sys.platform == "darwin" else 107  # bytes of a Unix socket's path
EXAMPLE = "redis://:password@host:6379/0"
SIGNS = "characters such as @ : / ? # of a password are written as %40 %3A %2F %3F %23"
DAY = 86400.0


class Refused(redis.RedisError, QueueUnavailable):
    """Asking again changes nothing: the address cannot be used, or the server does not let us in."""


def _whole(low: int, high: int) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(r"[0-9]{1,9}", text) is not None and low <= int(text) <= high


def _seconds(text: str) -> bool:
    try:
        return 0 < float(text) <= DAY and math.isfinite(float(text))
    except ValueError:
        return False


def _one_of(*words: str) -> Callable[[str], bool]:
    return lambda text: text.lower() in words


def _flags(text: str) -> bool:
    return all(hasattr(ssl.VerifyFlags, flag.strip()) for flag in text.strip("[]").split(","))


def _anything(text: str) -> bool:
    return "\0" not in text


# By option of an address: whether a value can be used.
OPTIONS: Mapping[str, Callable[[str], bool]] = {
    "db": _whole(0, 10**9),
    "username": _anything,
    "password": _anything,
    "client_name": lambda text: re.fullmatch(r"[!-~]+", text) is not None,
    "protocol": _one_of("2", "3"),
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "socket_keepalive": _one_of("true", "false", "yes", "no", "1", "0"),
    "health_check_interval": _whole(0, 86400),
    "max_connections": _whole(10, 10**6),  # a worker needs several
}
TLS_OPTIONS: Mapping[str, Callable[[str], bool]] = {
    "ssl_ca_certs": _anything,
    "ssl_ca_path": _anything,
    "ssl_certfile": _anything,
    "ssl_keyfile": _anything,
    "ssl_password": _anything,
    "ssl_cert_reqs": _one_of("none", "optional", "required"),
    "ssl_check_hostname": _one_of("true", "false", "yes", "no", "1", "0"),
    "ssl_ciphers": _anything,
    "ssl_ca_data": _anything,
    "ssl_min_version": _one_of(*(str(int(version)) for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3))),
    "ssl_include_verify_flags": _flags,
    "ssl_exclude_verify_flags": _flags,
}
SECRET_OPTIONS = ("password", "ssl_password")
OF_THE_PLACE = {"host", "port", "path", "db", "username", "password", *TLS_OPTIONS}


@dataclass(frozen=True)
class Address:
    """Where a server is, and how it is reached.

    place: host and port, or path, for sentences. reached: what redis-py's connection of this scheme needs, with the
    password. options: what holds for the client whatever the place, such as socket_timeout.
    """

    scheme: str
    place: str
    reached: Mapping[str, Any] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)


def read_address(url: str) -> Address:
    """Return what an address says; Refused with a sentence that names what is wrong and tells no part of a password."""
    parts = _parts(url)
    place = _socket_path(parts) if parts.scheme == "unix" else _host_and_port(parts)
    _check_options(parts)
    found: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    found.pop("connection_class", None)
    reached = {name: value for name, value in found.items() if name in OF_THE_PLACE}
    options = {name: value for name, value in found.items() if name not in OF_THE_PLACE}
    return Address(parts.scheme, place, reached, options)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:  # the reason may repeat the address
        raise _unreadable(f"one that cannot be read: {SIGNS}") from None
    if parts.scheme not in SCHEMES or not url.startswith(f"{parts.scheme}://"):
        raise _unreadable(f"one that begins with none of {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    if "#" in url or "@" in parts.query or ("@" in parts.path and parts.scheme != "unix"):
        raise _unreadable(f"one with a sign where none is allowed: {SIGNS}")
    return parts


def _unreadable(reason: str) -> Refused:
    return Refused(f"Expected REDIS_URL to be a URL such as {EXAMPLE}, got {reason}.")


def _socket_path(parts: SplitResult) -> str:
    path = unquote(parts.path)
    if parts.netloc and not parts.netloc.endswith("@"):
        raise _unreadable(f"one that is neither unix:///path nor unix://user:password@/path: {SIGNS}")
    if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > LONGEST_PATH:
        raise _unreadable(f"one without the full path of a socket of at most {LONGEST_PATH} bytes")
    return path


def _host_and_port(parts: SplitResult) -> str:
    try:
        port = 6379 if parts.port is None else parts.port
    except ValueError:  # the reason may repeat a part of the password
        port = 0
    if not port:
        raise _unreadable(f"one whose port is not a number from 1 to 65535: {SIGNS}")
    host = unquote(parts.hostname or "localhost")
    try:
        host.encode("idna")
    except UnicodeError:
        host = ""
    if not re.fullmatch(r"[^\s\x00-\x1f\x7f/@]+", host):
        raise _unreadable(f"one whose host is not a host name: {SIGNS}")
    if not re.fullmatch(r"/?([0-9]{1,9})?", parts.path):
        raise _unreadable(f"one with something other than a database's number after the host: {SIGNS}")
    return f"{host}:{port}"


def _check_options(parts: SplitResult) -> None:
    known = {**OPTIONS, **(TLS_OPTIONS if parts.scheme == "rediss" else {})}
    for name, values in parse_qs(parts.query, keep_blank_values=True).items():
        if name in TLS_OPTIONS and name not in known:
            raise Refused(f"Expected REDIS_URL to begin with rediss:// for the option {name}, got {parts.scheme}://.")
        if name not in known:
            shown = name if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,40}", name) else "another"
            raise Refused(f"Expected options of REDIS_URL among {', '.join(known)}, got {shown}.")
        if len(values) > 1:
            raise Refused(f"Expected the option {name} of REDIS_URL once, got it {len(values)} times.")
        if not values[0] or not known[name](values[0]):
            shown = "another" if name in SECRET_OPTIONS else repr(values[0])
            raise Refused(f"Expected a valid value of the option {name} of REDIS_URL, got {shown}.")
