"""The target and the origin of a request, read from headers that a client can forge.

No function raises an error: an unreadable header gives None. Nothing here imports Streamlit.
"""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from starlette.requests import HTTPConnection

from dashboard.access.login import ip_address, network_of

PORTS = {"http": 80, "https": 443}
OTHER_PAGES = ("cross-site", "same-site")  # `same-site` is another port or another name of the same domain

UNNAMED_PROXY = "an address from an untrusted header"


class Origin(NamedTuple):
    """What tells one origin from another; host in lower case, without the brackets of IPv6."""

    scheme: str
    host: str
    port: int


def origin_of(text: str | None) -> Origin | None:
    """Return the origin that `scheme://host[:port]` names; None for anything else, such as `null` or a whole URL."""
    if not text or not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        return None
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in PORTS or not host or text != f"{text.partition(':')[0]}://{parts.netloc}" or "@" in text:
        return None
    return Origin(parts.scheme, host.removesuffix("."), PORTS[parts.scheme] if port is None else port)


def own_origin(connection: HTTPConnection) -> Origin | None:
    """Return where the request was sent to, by its one Host header; None where that cannot be read."""
    hosts = connection.headers.getlist("host")
    scheme = {"ws": "http", "wss": "https"}.get(connection.scope["scheme"], connection.scope["scheme"])
    return origin_of(f"{scheme}://{hosts[0]}") if len(hosts) == 1 else None


def from_another_page(connection: HTTPConnection, address: str | None) -> str | None:
    """Return why a request counts as another site's, which must not act with this user's cookie; None for our own.

    A page on another port of the same host is another site too. Links that lead here from elsewhere are followed.
    Programs other than browsers send no Origin and cannot be tricked; a websocket is opened by pages alone, so it has
    to tell. address: where users reach the dashboard (DASHBOARD_URL).
    """
    websocket = connection.scope["type"] == "websocket"
    origins = connection.headers.getlist("origin")
    own = {own_origin(connection), address_origin(address)} - {None}
    if websocket and not origins:
        return "Expected an Origin header with the websocket, got none."
    if len(origins) > 1 or any(origin_of(origin) not in own for origin in origins):
        return (
            "Expected a request of the dashboard's own pages, got one of another origin. Behind a proxy with TLS, "
            "set DASHBOARD_URL or make the proxy send X-Forwarded-Proto (docs/security.md)."
        )
    if connection.headers.get("sec-fetch-site") in OTHER_PAGES and (websocket or not _follows_a_link(connection)):
        return "Expected a request of the dashboard's own pages, got one of another site."
    return None


def address_origin(address: str | None) -> Origin | None:
    """Return the origin of a whole address such as DASHBOARD_URL."""
    try:
        parts = urlsplit(address or "")
    except ValueError:
        return None
    return origin_of(f"{parts.scheme}://{parts.netloc}")


def _follows_a_link(connection: HTTPConnection) -> bool:
    headers = connection.headers
    return (
        connection.scope["method"] in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest", "document") == "document"
    )


def own_path(text: str, *, not_below: tuple[str, ...] = ()) -> str:
    """Return a path of this server; `/` where the text leads to another site or below `not_below`.

    The percent-decoded path is checked too, because a proxy or browser may decode it.
    """
    path = text.partition("#")[0].partition("?")[0]
    for each in (path, unquote(path)):
        parts = each.split("/")
        inside = each.startswith("/") and not each.startswith("//") and "" not in parts[1:-1]
        plain = each.isprintable() and "\\" not in each and not {".", ".."} & set(parts)
        if not inside or not plain or each.startswith(not_below):
            return "/"
    return text if text.isprintable() and "\\" not in text else "/"


def client_of(connection: HTTPConnection) -> tuple[str, str]:
    """Return the key by which a client's attempts are counted, and its address for the log.

    uvicorn trusts X-Forwarded-For from the proxies in FORWARDED_ALLOW_IPS, and by default from any program of this
    machine; by default, and with `*`, all clients with the header count as one.
    """
    client = connection.scope.get("client")
    found = ip_address(client[0]) if client else None
    address = None if found is None else str(found)
    # uvicorn reads the environment and no `.env`.
    vouched_for = os.environ.get("FORWARDED_ALLOW_IPS", "*").strip() != "*"
    if "x-forwarded-for" in connection.headers and not vouched_for:
        return UNNAMED_PROXY, f"{address}, as X-Forwarded-For says" if address else UNNAMED_PROXY
    if address is None:
        return "unknown", "an unknown address"
    return network_of(address), address
