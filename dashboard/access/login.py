"""Who may use the dashboard: a password or its hash, signed cookies that name the user, and few attempts.

`python -m dashboard.access.login` asks for a password and prints the hash that you can set as `DASHBOARD_PASSWORD`.
Nothing here imports Streamlit, since the launcher asks the same questions before it starts anything.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from itsdangerous import BadData, URLSafeTimedSerializer

from core.errors import SpecError
from core.files.private import private_folder
from core.settings import Variables, variables
from dashboard.access.signed_out import SignedOut

SHORTEST = 12  # characters of a password
LONGEST = 1024
COOKIE = "dermslim_session"
SESSION_SECONDS = 12 * 3600
ATTEMPTS = 5  # wrong passwords from one address within WINDOW
WINDOW = 300.0  # seconds
ATTEMPTS_OF_ALL, PACE = 30, 2.0  # wrong passwords from all addresses: so many at once, then one in PACE seconds
REMEMBERED = 10_000  # addresses whose attempts are counted
NAME = re.compile(r"[\w.@+' -]{1,64}")  # what a user may be called; nothing that a page or a log could misread

MEMORY, PASSES, LANES = 64 * 2**10, 3, 4  # RFC 9106's second recommendation: 64 MiB, in KiB, and some 0.2 s a try
MOST_MEMORY = 128 * 2**20  # bytes; a hash that needs more is refused
ARGON2 = re.compile(r"argon2id:v=19:m=(\d{1,6}),t=(\d{1,2}),p=(\d{1,2}):[A-Za-z0-9+/]{11,86}:[A-Za-z0-9+/]{43}")
SCRYPT = re.compile(r"scrypt:(\d{1,9}):(\d{1,2}):(\d{1,2}):([\w=-]{1,88}):([\w-]{43}=)")  # of earlier versions


class Login(StrEnum):
    """How users sign in: not at all (this machine only), with a password, or at an OpenID provider."""

    NONE = "none"
    PASSWORD = "password"  # noqa: S105 - a name, not a secret
    OIDC = "oidc"


@dataclass(frozen=True, repr=False)
class PasswordHash:
    """A password as Argon2id keeps it, or scrypt in earlier versions; its text never holds the password.

    text: the PHC string without the `$`, which Compose files and shells would replace.
    """

    text: str

    @classmethod
    def of(cls, password: str) -> PasswordHash:
        """Hash a password. SpecError for one with too few or too many characters."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise SpecError(f"DASHBOARD_PASSWORD: expected {SHORTEST} to {LONGEST} characters, got {len(password)}")
        salt = secrets.token_bytes(16)
        argon2 = Argon2id(salt=salt, length=32, iterations=PASSES, lanes=LANES, memory_cost=MEMORY)
        return cls(argon2.derive_phc_encoded(_encoded(password)).removeprefix("$").replace("$", ":"))

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Read what `str` gives. SpecError."""
        argon2, scrypt = ARGON2.fullmatch(text), SCRYPT.fullmatch(text)
        usable = False
        if argon2:
            memory, passes, lanes = map(int, argon2.groups())
            usable = 0 < 8 * lanes <= memory <= MOST_MEMORY // 2**10 and passes > 0
        elif scrypt:
            n, r, p = map(int, scrypt.groups()[:3])
            usable = n > 1 and n & (n - 1) == 0 and 0 < r * p <= 64 and 128 * n * r < MOST_MEMORY
        if not usable:
            raise SpecError(
                "DASHBOARD_PASSWORD: expected a password, or a hash as `python -m dashboard.access.login` prints "
                "it, got something that begins like a hash and is none"
            )
        return cls(text)

    def __str__(self) -> str:
        """Return what `parse` reads."""
        return self.text

    def fits(self, password: str) -> bool:
        """Return whether this is the password, in a time that does not tell how much of it was right."""
        if len(password) > LONGEST:
            return False
        if scrypt := SCRYPT.fullmatch(self.text):
            n, r, p = map(int, scrypt.groups()[:3])
            salt, digest = map(base64.urlsafe_b64decode, scrypt.groups()[3:])
            found = hashlib.scrypt(_encoded(password), salt=salt, n=n, r=r, p=p, maxmem=MOST_MEMORY, dklen=32)
            return hmac.compare_digest(found, digest)
        try:
            Argon2id.verify_phc_encoded(_encoded(password), f"${self.text.replace(':', '$')}")
        except InvalidKey:
            return False
        return True


def _encoded(password: str) -> bytes:
    return password.encode(errors="surrogatepass")


@dataclass(frozen=True)
class Session:
    """Someone who is signed in.

    name: what they call themselves. number: tells this session from any other. issued: when, in seconds since 1970.
    """

    name: str
    number: str
    issued: float


@dataclass(frozen=True, repr=False)
class Access:
    """The login that the dashboard requires.

    password: with Login.PASSWORD. key: what cookies are signed with; another password makes old cookies worthless.
    users: with Login.OIDC, the e-mail addresses and @domains that are let in; empty for everyone the provider knows.
    signed_out: the sessions that were ended before their time.
    """

    login: Login
    password: PasswordHash | None = None
    key: str = ""
    users: tuple[str, ...] = ()
    signed_out: SignedOut | None = None

    def refusal(self, address: str | None) -> str | None:
        """Return why nothing may be served at this address (None: at every address), or None where it may."""
        if self.login is not Login.NONE or (address is not None and is_loopback(address)):
            return None
        return (
            f"Expected a login before listening on {address or 'every address'}, which other machines can reach; none "
            "is set. Set DASHBOARD_PASSWORD or DASHBOARD_PASSWORD_FILE, or [auth] in .streamlit/secrets.toml for an "
            "OpenID provider, or listen on 127.0.0.1 (docs/security.md)."
        )

    def admits(self, email: str, *, verified: bool) -> bool:
        """Return whether an OpenID provider's user may use the dashboard."""
        if not email or not verified:
            return False
        wanted = email.casefold()
        return not self.users or any(
            wanted.endswith(user) if user.startswith("@") else wanted == user for user in self.users
        )

    def cookie(self, name: str) -> str:
        """Return the signed value of a new session's cookie."""
        return self._signer().dumps({"name": name, "number": secrets.token_hex(8)})

    def session(self, cookie: str | None) -> Session | None:
        """Return whose cookie this is; None for one that is absent, forged, too old or signed out."""
        if self.login is not Login.PASSWORD or not cookie:
            return None
        try:
            content, at = self._signer().loads(cookie, max_age=SESSION_SECONDS, return_timestamp=True)
            session = Session(issued=at.timestamp(), **content)
        except (BadData, TypeError):
            return None
        return None if self.has_ended(session.number, session.issued) else session

    def has_ended(self, number: str, issued: float) -> bool:
        """Return whether a session was signed out; issued: when it began, in seconds since 1970."""
        return self.signed_out is not None and self.signed_out.holds(number, issued)

    def sign_out(self, number: str, until: float) -> None:
        """Refuse a session's cookie from now on; until: when it would end by itself. OSError, StoreBusy: see add."""
        if self.signed_out is not None:
            self.signed_out.add(number, until)

    def _signer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self.key, salt="dermslim.session")


def access(environ: Mapping[str, str] | None = None, *, oidc: bool = False) -> Access:
    """Read `DASHBOARD_PASSWORD`, `DASHBOARD_PASSWORD_FILE` and `DASHBOARD_USERS`; empty values count as unset.

    oidc: whether Streamlit's secrets have [auth]. SpecError for contradictory settings.
    """
    given = variables(environ)
    text = _password_text(given)
    if text and oidc:
        raise SpecError("Expected a password or [auth] in Streamlit's secrets, got both.")
    signed_out = _signed_out(given.data_dir.resolve() / "dashboard-signed-out")
    if oidc:
        return Access(Login.OIDC, users=tuple(map(str.casefold, given.dashboard_users)), signed_out=signed_out)
    if not text:
        return Access(Login.NONE)
    with HASHING:
        return _password_access(text, signed_out)


def _password_text(given: Variables) -> str | None:
    text, file = given.dashboard_password, given.dashboard_password_file
    if text and file:
        raise SpecError("Expected DASHBOARD_PASSWORD or DASHBOARD_PASSWORD_FILE, got both.")
    if file:
        try:
            text = file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise SpecError(f"DASHBOARD_PASSWORD_FILE: expected to read {file}; {reason}") from error
        if not text:
            raise SpecError(f"DASHBOARD_PASSWORD_FILE: expected a password in {file}; it is empty")
    return text


HASHING = threading.Lock()  # the first requests arrive together, and one of them hashes the password


@cache  # hashing takes a while, and pages ask again and again
def _password_access(text: str, signed_out: SignedOut) -> Access:
    password = PasswordHash.parse(text) if text.startswith(("argon2id:", "scrypt:")) else PasswordHash.of(text)
    key_file = signed_out.file.with_name("dashboard-key")
    key = hmac.new(_key(key_file).encode(), text.encode(), "sha256").hexdigest()
    return Access(Login.PASSWORD, password, key, signed_out=signed_out)


@cache  # what it has read of the file is kept with it
def _signed_out(file: Path) -> SignedOut:
    return SignedOut(file)


def _key(file: Path) -> str:
    """Return this data folder's secret, made at the first call; readable by its owner only."""
    private_folder(file.parent)
    draft = file.with_name(f"{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
    try:
        os.link(draft, file)  # unlike a move it fails where another process was first
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return file.read_text().strip()


class Attempts:
    """Wrong passwords, so that nobody can try them out: ATTEMPTS of an address within WINDOW seconds, then a wait.

    All addresses together have a limit too, because one person may have many. Its wait is short, and it does not apply
    to addresses that sent the right password before. The package limits does less: it has no bucket that refills,
    so the wait after ATTEMPTS_OF_ALL would be a whole minute instead of PACE; it takes no attempt back; and it uses the
    wall clock: set back by an hour, it locks an address out for 65 minutes; set ahead, it forgets every attempt.
    """

    def __init__(self) -> None:
        self._times: OrderedDict[str, list[float]] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._paid_until = 0.0  # an attempt costs PACE seconds; at most ATTEMPTS_OF_ALL of them are paid ahead

    def wait(self, address: str, now: float | None = None) -> float:
        """Count an attempt and return 0; or the seconds until the address may try again, nothing being counted."""
        now = time.monotonic() if now is None else now
        key = network_of(address)
        times = [each for each in self._times.pop(key, []) if now - each < WINDOW]
        wait = WINDOW - (now - times[0]) if len(times) >= ATTEMPTS else self._pay(key, now)
        if times or not wait:
            self._times[key] = times if wait else [*times, now]
        _shorten(self._times)
        return wait

    def tries(self, address: str) -> int:
        """Return how many wrong passwords are counted; 0 for an address that sent the right one before."""
        key = network_of(address)
        return 0 if key in self._known else len(self._times.get(key, ()))

    def forget(self, address: str) -> None:
        """Count from the start again: the password was right."""
        key = network_of(address)
        self._times.pop(key, None)
        if key not in self._known:
            self._paid_until -= PACE
        self._known[key] = None
        self._known.move_to_end(key)
        _shorten(self._known)

    def _pay(self, key: str, now: float) -> float:
        if key in self._known:
            return 0.0
        paid_until = max(self._paid_until, now) + PACE
        if (ahead := paid_until - now - ATTEMPTS_OF_ALL * PACE) > 0:
            return ahead
        self._paid_until = paid_until
        return 0.0


def _shorten(known: OrderedDict[str, Any]) -> None:
    while len(known) > REMEMBERED:
        known.popitem(last=False)


def ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a text names, an IPv4 address also where a socket wrote it as IPv6; else None."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def network_of(address: str) -> str:
    """Return the key of a client: its IPv4 address, or its /64 network where it has an IPv6 address."""
    found = ip_address(address)
    if found is None:
        return address
    return str(found) if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main() -> int:
    """Ask for a password twice and print its hash."""
    try:
        password = getpass.getpass("Password: ")
        if not hmac.compare_digest(password.encode(), getpass.getpass("Again: ").encode()):
            raise SpecError("Expected the same password twice, got two.")
        print(PasswordHash.of(password))
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
