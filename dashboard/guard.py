"""What stands before everything the dashboard's server answers: pages, the websocket, media, uploads, static files.

Without a login it serves this machine's own loopback addresses only. With a password it lets through whoever carries a
signed cookie, and shows the rest a page to sign in. An OpenID provider's users are asked by the pages themselves
(`dashboard.access`), because Streamlit's login runs there.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path
from urllib.parse import quote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose
from streamlit import config

from core.errors import SpecError
from dashboard.access import configured
from dashboard.login import (
    COOKIE,
    NAME,
    SESSION_SECONDS,
    Access,
    Attempts,
    Login,
    PasswordHash,
    is_loopback,
    sign_out,
)

SIGN_IN, SIGN_OUT = "/signin", "/signout"
# Open to all: they tell that the server lives, and nothing else. `/metrics` asks for its own token.
OPEN = ("/healthz", "/_stcore/health", "/metrics")
LARGEST_FORM = 8192  # bytes

TEMPLATES = Jinja2Templates(Path(__file__).parent / "templates")
ATTEMPTS = Attempts()
ONE_AT_A_TIME = asyncio.Semaphore(1)  # hashing many passwords at once would take the machine's memory and cores
LOG = logging.getLogger("dermslim.login")


class Guard:
    """ASGI middleware that lets nothing through which the login does not allow."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse or pass on one connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        refused = await self._refused(connection, scope)
        if refused is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await WebSocketClose(code=1008, reason="sign in first")(scope, receive, send)
        else:
            await refused(scope, receive, _with_headers(send))

    async def _refused(self, connection: HTTPConnection, scope: Scope) -> Response | None:
        path = scope["path"]
        if path in OPEN:
            return None
        # hashing the password, once, would hold up the other connections
        try:
            access = await asyncio.to_thread(configured)
        except SpecError as error:
            return page(connection, 403, refusal=str(error))
        refusal = access.refusal(listening_address()) or access.refusal((scope.get("server") or (None,))[0])
        if refusal:
            return page(connection, 403, refusal=refusal)
        if access.login is not Login.PASSWORD or path == SIGN_IN:
            return None
        if access.session(connection.cookies.get(COOKIE)) is not None:
            return None
        if scope.get("method") == "GET" and "text/html" in connection.headers.get("accept", ""):
            asked = path + (f"?{connection.url.query}" if connection.url.query else "")
            return RedirectResponse(f"{SIGN_IN}?next={quote(asked, safe='')}", 303)
        return PlainTextResponse("sign in first\n", 401)


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
    """Return the address that Streamlit was told to listen on; None for all of them."""
    return config.get_option("server.address") or None


async def healthz(request: Request) -> Response:
    """Tell that the server lives."""
    return PlainTextResponse("ok\n")


async def sign_in(request: Request) -> Response:
    """Show the form; take the name and the password, and give a cookie for them."""
    access = await asyncio.to_thread(configured)
    target = own_path(request.query_params.get("next", "/"))
    if access.password is None:
        return RedirectResponse("/", 303)
    if request.method != "POST":
        return page(request, 200, target=target)
    if not same_origin(request):
        return page(request, 403, target=target, problem="The form came from another site. Send it from here.")
    if not 0 < int(request.headers.get("content-length", "0")) <= LARGEST_FORM:
        return PlainTextResponse(f"expected a form of at most {LARGEST_FORM} bytes\n", 413)
    async with request.form(max_files=0, max_fields=5) as form:
        name, password = str(form.get("name", "")).strip(), str(form.get("password", ""))
    if not NAME.fullmatch(name):
        problem = "Give a name of 1 to 64 letters, digits, spaces or . @ + ' - _"
        return page(request, 422, target=target, name=name[:64], problem=problem)
    return await _checked(request, access, access.password, target, name, password)


async def _checked(
    request: Request, access: Access, known: PasswordHash, target: str, name: str, password: str
) -> Response:
    address = request.client.host if request.client else "unknown"
    wait = ATTEMPTS.wait(address)
    if wait:
        minutes = f"{max(1, round(wait / 60))} min" if wait > 90 else f"{wait:.0f} s"
        problem = f"Too many wrong passwords from your address. Try again in {minutes}."
        answer = page(request, 429, target=target, name=name, problem=problem)
        answer.headers["Retry-After"] = str(int(wait) + 1)
        return answer
    async with ONE_AT_A_TIME:
        right = await asyncio.to_thread(known.fits, password)
    if not right:
        LOG.warning("a wrong password from %s", address)
        return page(request, 401, target=target, name=name, problem="That is not the password.")
    ATTEMPTS.forget(address)
    LOG.warning("%s signed in from %s", name, address)
    answer = RedirectResponse(target, 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(
        COOKIE, access.cookie(name), max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=secure
    )
    return answer


async def leave(request: Request) -> Response:
    """End the session and show the form again."""
    access = await asyncio.to_thread(configured)
    session = access.session(request.cookies.get(COOKIE))
    if session is not None and request.headers.get("sec-fetch-site") != "cross-site":
        sign_out(session)
    answer = RedirectResponse(SIGN_IN, 303)
    answer.delete_cookie(COOKIE)
    return answer


ROUTES = (
    Route("/healthz", healthz),
    Route(SIGN_IN, sign_in, methods=["GET", "POST"]),
    Route(SIGN_OUT, leave),
)


def page(
    request: HTTPConnection,
    status: int,
    *,
    target: str = "/",
    name: str = "",
    problem: str = "",
    refusal: str = "",
) -> Response:
    """Return the page to sign in on, or, with `refusal`, the reason why nobody can."""
    nonce = secrets.token_urlsafe(16)
    values = {
        "action": f"{SIGN_IN}?next={quote(target, safe='')}",
        "name": name,
        "problem": problem,
        "refusal": refusal,
        "plain": not refusal and request.url.scheme == "http" and not is_loopback(request.url.hostname or ""),
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


def own_path(text: str) -> str:
    """Return a path of this server to go on to; `/` where the text would lead elsewhere."""
    parts = urlsplit(text)
    inside = text.startswith("/") and not parts.scheme and not parts.netloc and "\\" not in text and text.isprintable()
    return text if inside and not parts.path.startswith((SIGN_IN, SIGN_OUT)) else "/"


def same_origin(request: Request) -> bool:
    """Whether a form comes from this server's own page; browsers say so, and other programs cannot be tricked."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
