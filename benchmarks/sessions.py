"""Dashboard sessions without a browser: each opens a page and polls it like a browser, with Streamlit's protocol.

Twenty browsers would load the machine more than the dashboard that is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

LONGEST_MESSAGE = 64 * 2**20  # bytes


@dataclass
class Session:
    """The results of one session. first: seconds until its page was shown. polls: seconds of each. errors: messages."""

    page: str
    first: float | None = None
    polls: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def visit(address: str, session: Session, ended: asyncio.Event) -> None:
    """Open the session's page at `address` (host:port) and poll it until `ended`."""
    loop = asyncio.get_running_loop()
    asked: dict[str, float] = {}  # fragment -> when its rerun was requested; "" is the whole page
    intervals: dict[str, float] = {}
    timers: set[asyncio.Task[None]] = set()

    async with websockets.connect(
        f"ws://{address}/_stcore/stream",
        origin=websockets.Origin(f"http://{address}"),
        subprotocols=[websockets.Subprotocol("streamlit")],
        max_size=LONGEST_MESSAGE,
    ) as socket:

        async def ask(fragment: str, after: float = 0.0) -> None:
            await asyncio.sleep(after)
            message = BackMsg()
            message.rerun_script.page_name = session.page
            message.rerun_script.fragment_id = fragment
            message.rerun_script.is_auto_rerun = bool(fragment)
            asked[fragment] = loop.time()
            with contextlib.suppress(websockets.ConnectionClosed):
                await socket.send(message.SerializeToString())

        async def receive() -> None:
            running = ""
            async for data in socket:
                message = ForwardMsg.FromString(data if isinstance(data, bytes) else data.encode())
                kind = message.WhichOneof("type")
                if kind == "new_session":
                    running = next(iter(message.metadata.run.fragment_ids), "")
                elif kind == "auto_rerun":
                    intervals[message.auto_rerun.fragment_id] = message.auto_rerun.interval
                elif kind == "page_not_found":
                    session.errors.append(f"{session.page}: no such page")
                elif kind == "delta" and message.delta.new_element.WhichOneof("type") == "exception":
                    session.errors.append(f"{session.page}: {message.delta.new_element.exception.message}")
                elif kind == "script_finished":
                    due = [running] if running else list(intervals)
                    if (began := asked.pop(running, None)) is not None:
                        if running:
                            session.polls.append(loop.time() - began)
                        else:
                            session.first = loop.time() - began
                    for fragment in due:
                        if fragment in intervals:
                            timers.add(asyncio.create_task(ask(fragment, intervals[fragment])))

        await ask("")
        receiving = asyncio.create_task(receive())
        await ended.wait()
        for task in (receiving, *timers):
            task.cancel()
        for task in (receiving, *timers):
            with contextlib.suppress(asyncio.CancelledError, websockets.ConnectionClosed):
                await task


async def visit_all(address: str, pages: Sequence[str], ended: threading.Event, seconds: float) -> list[Session]:
    """Open a session a page, all at once; let them poll until `ended`, but so many seconds at least."""
    sessions = [Session(page) for page in pages]
    stopped = asyncio.Event()
    visits = [asyncio.create_task(visit(address, session, stopped)) for session in sessions]
    began = time.monotonic()
    while not ended.is_set() or time.monotonic() - began < seconds:
        await asyncio.sleep(0.2)
    stopped.set()
    for session, outcome in zip(sessions, await asyncio.gather(*visits, return_exceptions=True), strict=True):
        if isinstance(outcome, BaseException):
            session.errors.append(f"{session.page}: {type(outcome).__name__}: {outcome}")
    return sessions


def poll(address: str, pages: Sequence[str], ended: threading.Event, seconds: float) -> list[Session]:
    """Run `visit_all` from a thread."""
    return asyncio.run(visit_all(address, pages, ended, seconds))
