"""The sessions of Streamlit's own login, told apart by their signed cookie, so that they too can be ended for good.

Streamlit only asks the browser to forget the cookie: a copy of it would work for thirty days more.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.requests import HTTPConnection
from streamlit.web.server.server_util import AUTH_COOKIE_NAME, get_cookie_secret

SIGN_OUT = "/auth/logout"
ASK_THE_PROVIDER = ("/auth/login", SIGN_OUT, "/oauth2callback")
SECONDS = 31 * 24 * 3600  # Streamlit takes cookies of 30 days, and a day more


class OidcSession(NamedTuple):
    """number: tells this session from any other. issued: when it began, in seconds since 1970."""

    number: str
    issued: float


def of(connection: HTTPConnection) -> OidcSession | None:
    """Return the session of a request; None without a cookie that Streamlit has signed."""
    cookie = connection.cookies.get(AUTH_COOKIE_NAME)
    if not cookie:
        return None
    signer = URLSafeTimedSerializer(get_cookie_secret(), salt=AUTH_COOKIE_NAME)
    try:
        _, at = signer.loads(cookie, max_age=SECONDS, return_timestamp=True)
    except BadData:
        return None
    # What is signed is the same for each spelling of the signature.
    return OidcSession(hashlib.sha256(cookie.rpartition(".")[0].encode()).hexdigest(), at.timestamp())


def ends(session: OidcSession) -> float:
    """Return when a session would end by itself, in seconds since 1970."""
    return session.issued + SECONDS


def take_off(connection: HTTPConnection) -> None:
    """Remove the session's cookies from a request, so that whoever answers it sees nobody."""
    kept = [
        each
        for header in connection.headers.getlist("cookie")
        for each in header.split(";")
        if not each.strip().startswith(AUTH_COOKIE_NAME)
    ]
    headers = [(name, value) for name, value in connection.scope["headers"] if name != b"cookie"]
    connection.scope["headers"] = [*headers, (b"cookie", ";".join(kept).encode("latin-1"))]
