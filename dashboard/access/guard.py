"""Middleware that checks every request to the dashboard's server: pages, the websocket, media, uploads, static files.

Without a login the server answers only this machine's loopback addresses. With a password it answers requests with a
signed cookie, and redirects others to the sign-in page. Users of an OpenID provider sign in on the pages
(`dashboard.access.users`), because Streamlit's login runs there. Requests from other sites are always refused.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose
from streamlit import config
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

from core.errors import DermSlimError, SpecError
from core.settings import variables
from dashboard.access import oidc_sessions
from dashboard.access.login import COOKIE, NAME, SESSION_SECONDS, Access, Attempts, Login, PasswordHash, is_loopback
from dashboard.access.origins import OTHER_PAGES, client_of, from_another_page, own_origin, own_path
from dashboard.access.users import configured

SIGN_IN, SIGN_OUT = "/signin", "/signout"
# Open to all, because they only show that the server is up. `/metrics` requires its own token.
OPEN = ("/healthz", "/_stcore/health", "/metrics")
LARGEST_FORM = 8192  # bytes
FORM_SECONDS = 10.0  # for a form to arrive
PROVIDER_SECONDS = 30.0  # for an OpenID provider to answer
LOOK_SECONDS = 1.0  # between two checks of whether an open page's session has ended

TEMPLATES = Jinja2Templates(Path(__file__).parent / "templates")
ATTEMPTS = Attempts()
LOG = logging.getLogger("dermslim.login")


class Refusal(NamedTuple):
    """The status and reason with which a connection is refused."""

    status: int
    reason: str


class Line:
    """A queue that checks one password at a time, because hashing many at once exhausts memory and cores.

    Clients with the fewest attempts go first, and of those the latest, so that a right password does not wait for many
    wrong ones.
    """

    def __init__(self) -> None:
        self._busy = False
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def turn(self, tries: int) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for a `with` block."""
        if self._busy:
            called = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (tries, -next(self._numbers), called))
            try:
                await called
            except asyncio.CancelledError:
                if called.done() and not called.cancelled():
                    self._call_next()
                raise
        self._busy = True
        try:
            yield
        finally:
            self._call_next()

    def _call_next(self) -> None:
        while self._waiting:
            *_, called = heapq.heappop(self._waiting)
            if not called.done():
                called.set_result(None)
                return
        self._busy = False


LINE = Line()


class Guard:
    """ASGI middleware that passes on only requests that the login allows."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse or pass on one connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        websocket = scope["type"] == "websocket"
        refused = await refusal(HTTPConnection(scope))
        if refused is not None and websocket:
            await WebSocketClose(code=1008, reason=refused.reason[:120])(scope, receive, send)
        elif refused is not None:
            await answer(HTTPConnection(scope), refused)(scope, receive, _with_headers(send))
        elif websocket:
            page = OpenPage(HTTPConnection(scope), receive, send)
            await self.app(scope, page.receive, page.send)
        else:
            await self._pass_on(scope, receive, _with_headers(send))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = PROVIDER_SECONDS if scope["path"] in oidc_sessions.ASK_THE_PROVIDER else None
        try:
            async with asyncio.timeout(limit):
                await self.app(scope, receive, send)
        except ClientDisconnect:
            LOG.info("a client disconnected before its request had arrived")
        except TimeoutError:
            if limit is None:
                raise
            LOG.error("the OpenID provider has not answered within %.0f s", limit)
            await PlainTextResponse("the OpenID provider does not answer; try again\n", 504)(scope, receive, send)


async def refusal(connection: HTTPConnection) -> Refusal | None:
    """Return why a connection is refused; None where it is answered."""
    path = connection.scope["path"]
    if path in OPEN:
        return None
    if "host" in connection.headers and own_origin(connection) is None:
        return Refusal(400, "Expected one Host header that names a host, got none or several.")
    try:
        access = await asyncio.to_thread(configured)
    except SpecError as error:
        return Refusal(403, str(error))
    listening = (connection.scope.get("server") or (None,))[0]
    if reason := access.refusal(listening_address()) or access.refusal(listening):
        return Refusal(403, reason)
    if access.login is Login.NONE and not _asks_this_machine(connection):
        return Refusal(403, "Expected a name of this machine as the host, such as localhost, got another.")
    if reason := from_another_page(connection, variables().dashboard_url):
        return Refusal(403, reason)
    if access.login is Login.OIDC:
        return await _oidc_refusal(connection, access)
    if path == SIGN_IN or await asyncio.to_thread(may_stay, connection):
        return None
    return Refusal(401, "Sign in first.")


async def _oidc_refusal(connection: HTTPConnection, access: Access) -> Refusal | None:
    """Pass on requests without a session too, because the pages ask for a login; remove sessions that have ended."""
    session = oidc_sessions.of(connection)
    if session is None:
        return None
    if access.has_ended(*session):
        oidc_sessions.take_off(connection)
    elif connection.scope["path"] == oidc_sessions.SIGN_OUT:
        if connection.headers.get("sec-fetch-site") in OTHER_PAGES:
            return Refusal(403, "Expected a request of the dashboard's own pages, got one of another site.")
        return await _ended(access, session[0], oidc_sessions.ends(session))
    return None


async def _ended(access: Access, number: str, until: float) -> Refusal | None:
    try:
        await asyncio.to_thread(access.sign_out, number, until)
    except (OSError, DermSlimError) as error:
        LOG.error("a session was signed out only until the dashboard restarts: %s", error)
        return Refusal(503, "Your sign-out could not be stored. Free space on the disk of DATA_DIR.")
    return None


def may_stay(connection: HTTPConnection) -> bool:
    """Return whether the session of a connection is still valid; always true without a login."""
    try:
        access = configured()
    except SpecError:
        return False
    if access.login is Login.OIDC:
        session = oidc_sessions.of(connection)
        return session is None or not access.has_ended(*session)
    return access.login is Login.NONE or access.session(connection.cookies.get(COOKIE)) is not None


def _asks_this_machine(connection: HTTPConnection) -> bool:
    """Return whether the host is one of `server.allowedHosts`, or without these a loopback name.

    Else a page elsewhere could reach the dashboard through a host name that it points here (DNS rebinding).
    """
    own = own_origin(connection)
    if own is None:
        return False
    if config.get_option("server.allowedHosts"):
        return is_host_allowed(connection.headers.get("host"))
    return is_loopback(own.host)


def answer(connection: HTTPConnection, refused: Refusal) -> Response:
    """Return the response to a refused request: a redirect to the form, a page with the reason, or the reason."""
    readable = connection.scope["method"] == "GET" and "text/html" in connection.headers.get("accept", "")
    if readable and refused.status == 401:
        query = connection.scope["query_string"].decode("latin-1")
        asked = connection.scope["path"] + (f"?{query}" if query else "")
        return RedirectResponse(f"{SIGN_IN}?next={quote(asked, safe='', errors='replace')}", 303)
    if readable and refused.status == 403:
        return page(connection, 403, refusal=refused.reason)
    return PlainTextResponse(f"{refused.reason}\n", refused.status)


class OpenPage:
    """A page's websocket, which is closed once its session has ended, for example by a new password."""

    def __init__(self, connection: HTTPConnection, receive: Receive, send: Send) -> None:
        self._connection, self._receive, self._send = connection, receive, send
        self._open = False
        self._closed = False

    async def receive(self) -> Message:
        """Return the next message, or a disconnect once the session has ended."""
        if not self._open:
            self._open = True
            return await self._receive()
        coming = asyncio.ensure_future(self._receive())
        try:
            while True:
                await asyncio.wait({coming}, timeout=LOOK_SECONDS)
                if not await asyncio.to_thread(may_stay, self._connection):
                    return await self._close()
                if coming.done():
                    return coming.result()
        finally:
            coming.cancel()

    async def send(self, message: Message) -> None:
        """Send a message. Raises OSError once the page is closed."""
        if self._closed:
            raise OSError("the session has ended")
        await self._send(message)

    async def _close(self) -> Message:
        self._closed = True
        await self._send({"type": "websocket.close", "code": 1008, "reason": "sign in first"})
        return {"type": "websocket.disconnect", "code": 1008, "reason": "sign in first"}


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["X-Frame-Options"] = "DENY"
            headers["Referrer-Policy"] = "same-origin"
        await send(message)

    return wrapped


def listening_address() -> str | None:
    """Return the address that Streamlit listens on; None for all."""
    return config.get_option("server.address") or None


async def healthz(request: Request) -> Response:
    """Answer that the server is up."""
    return PlainTextResponse("ok\n")


async def sign_in(request: Request) -> Response:
    """Show the sign-in form, or check name and password and set a cookie."""
    access = await asyncio.to_thread(configured)
    target = own_path(request.query_params.get("next", "/"), not_below=(SIGN_IN, SIGN_OUT))
    if access.password is None:
        return RedirectResponse("/", 303)
    if request.method != "POST":
        return page(request, 200, target=target)
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) < 10 and 0 < int(length) <= LARGEST_FORM):
        return PlainTextResponse(f"expected a form of at most {LARGEST_FORM} bytes\n", 413)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return PlainTextResponse("expected a form as application/x-www-form-urlencoded\n", 415)
    try:
        async with asyncio.timeout(FORM_SECONDS), request.form(max_files=0, max_fields=5) as form:
            name, password = str(form.get("name", "")).strip(), str(form.get("password", ""))
    except TimeoutError:
        return PlainTextResponse(f"expected the form within {FORM_SECONDS:.0f} s\n", 408)
    if not NAME.fullmatch(name):
        problem = "Give a name of 1 to 64 letters, digits, spaces or . @ + ' - _"
        return page(request, 422, target=target, name=name[:64], problem=problem)
    return await _checked(request, access, access.password, target, name, password)


async def _checked(
    request: Request, access: Access, known: PasswordHash, target: str, name: str, password: str
) -> Response:
    client, address = client_of(request)
    wait = ATTEMPTS.wait(client)
    if wait:
        minutes = f"{max(1, round(wait / 60))} min" if wait > 90 else f"{max(1, wait):.0f} s"
        problem = f"Too many wrong passwords from your address, or from many. Try again in {minutes}."
        refused = page(request, 429, target=target, name=name, problem=problem)
        refused.headers["Retry-After"] = str(int(wait) + 1)
        return refused
    async with LINE.turn(ATTEMPTS.tries(client)):
        right = await asyncio.to_thread(known.fits, password)
    if not right:
        LOG.warning("a wrong password from %s", address)
        return page(request, 401, target=target, name=name, problem="That is not the password.")
    ATTEMPTS.forget(client)
    LOG.warning("%s signed in from %s", name, address)
    inside = RedirectResponse(target, 303)
    secure = request.scope["scheme"] == "https"
    inside.set_cookie(
        COOKIE, access.cookie(name), max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=secure
    )
    return inside


async def leave(request: Request) -> Response:
    """End the session and show the form again."""
    access = await asyncio.to_thread(configured)
    session = access.session(request.cookies.get(COOKIE))
    refused = None
    if session is not None and request.headers.get("sec-fetch-site") not in OTHER_PAGES:
        refused = await _ended(access, session.number, session.issued + SESSION_SECONDS)
        LOG.warning("%s signed out", session.name)
    outside = RedirectResponse(SIGN_IN, 303) if refused is None else answer(request, refused)
    outside.delete_cookie(COOKIE)
    return outside


ROUTES = (Route("/healthz", healthz), Route(SIGN_IN, sign_in, methods=["GET", "POST"]), Route(SIGN_OUT, leave))


def page(
    request: HTTPConnection, status: int, *, target: str = "/", name: str = "", problem: str = "", refusal: str = ""
) -> Response:
    """Return the page to sign in on, or, with `refusal`, the reason why nobody can."""
    nonce = secrets.token_urlsafe(16)
    own = own_origin(request)
    values = {
        "action": f"{SIGN_IN}?next={quote(target, safe='')}",
        "name": name,
        "problem": problem,
        "refusal": refusal,
        "plain": not refusal and own is not None and own.scheme == "http" and not is_loopback(own.host),
        "nonce": nonce,
        "themes": [(mode, _colours(mode)) for mode in ("light", "dark")],
        "font": config.get_option("theme.font"),
    }
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        ),
    }
    return TEMPLATES.TemplateResponse(Request(request.scope), "signin.html", values, status, headers)


def _colours(mode: str) -> dict[str, str]:
    names = ("primaryColor", "backgroundColor", "secondaryBackgroundColor", "textColor", "borderColor", "redColor")
    return {name: config.get_option(f"theme.{mode}.{name}") for name in (*names, "grayColor", "linkColor")}
