"""The route `/metrics` for Prometheus: it requires METRICS_TOKEN; without one it answers this machine only."""

from __future__ import annotations

import asyncio
import hmac

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from core.errors import SpecError
from core.settings import Settings, variables
from dashboard.access.login import Login, is_loopback
from dashboard.access.origins import own_origin
from dashboard.access.users import configured
from jobs.upkeep import prometheus as metrics

PATH = "/metrics"


async def show_metrics(request: Request) -> Response:
    """Answer a scrape."""
    refusal = await asyncio.to_thread(refused, request)
    if refusal:
        return PlainTextResponse(f"{refusal}\n", 401, {"WWW-Authenticate": "Bearer"})
    text = await asyncio.to_thread(metrics.metrics_text, Settings.from_environment())
    return Response(text, media_type=metrics.CONTENT_TYPE)


def refused(request: Request) -> str | None:
    """Return why a scrape is refused; None where it is answered.

    METRICS_TOKEN must be sent as `Authorization: Bearer`. Without a token, a dashboard without login answers this
    machine only, and one with a login nobody, because behind a proxy every client seems to be this machine.
    """
    token = variables().metrics_token
    if token:
        given = request.headers.get("authorization", "")
        right = hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
        return None if right else "Expected Authorization: Bearer with METRICS_TOKEN."
    own, client = own_origin(request), request.client
    local = client is not None and is_loopback(client.host) and own is not None and is_loopback(own.host)
    try:
        open_to_all_here = configured().login is Login.NONE
    except SpecError as error:
        return str(error)
    if open_to_all_here and local:
        return None
    return "Expected METRICS_TOKEN to be set for the dashboard, and sent as Authorization: Bearer."


ROUTES = (Route(PATH, show_metrics),)
