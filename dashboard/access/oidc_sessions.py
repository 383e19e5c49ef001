"""The sessions of Streamlit's login, identified by their signed cookie, so that signing out ends them.

Streamlit only deletes the browser's cookie; a copy of it would be valid for thirty more days.
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
    """A session. number: its id. issued: its start in seconds since 1970."""

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
    # The signed part is the same for each spelling of the signature.
    return OidcSession(hashlib.sha256(cookie.rpartition(".")[0].encode()).hexdigest(), at.timestamp())


def ends(session: OidcSession) -> float:
    """Return when a session expires, in seconds since 1970."""
    return session.issued + SECONDS


def take_off(connection: HTTPConnection) -> None:
    """Remove the session's cookies from a request, so that it counts as signed out."""
    cookies = ";".join(connection.headers.getlist("cookie")).split(";")
    kept = [each for each in cookies if not each.strip().startswith(AUTH_COOKIE_NAME)]
    headers = [(name, value) for name, value in connection.scope["headers"] if name != b"cookie"]
    connection.scope["headers"] = [*headers, (b"cookie", ";".join(kept).encode("latin-1"))]
