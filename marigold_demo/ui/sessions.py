"""The visitor whose event runs now, and a limit on the sessions that Gradio keeps.

Gradio copies the description of the whole page for every session, 0.4 MB of it, and takes each call of an
endpoint by a program for a session of its own. Here it keeps at most `MAX_SESSIONS` of them. A session whose
page is open is never forgotten for another one: Gradio's page holds a stream open for as long as it is there.
"""

import re
from collections import Counter
from urllib.parse import parse_qs

from gradio.context import LocalContext
from gradio.exceptions import Error
from gradio.state_holder import SessionState, StateHolder
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from marigold_demo.serving.requests import route
from marigold_demo.ui.queue import visitor_of_request

MAX_SESSIONS = 300
NEVER_OPENED = 1 / 4  # of them may belong to programs that never listened, before those go first
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")  # what pages and clients call their sessions

_FULL = "There are as many visitors as this server takes; try again in a few minutes."


class FullError(HTTPException, Error):  # type: ignore[misc]  # gradio is not typed
    """All sessions belong to pages that are open: a status before an event, Gradio's own error in one."""

    def __init__(self) -> None:
        HTTPException.__init__(self, 503, _FULL, headers={"retry-after": "60"})
        Error.__init__(self, _FULL, print_exception=False)


class Sessions(StateHolder):  # type: ignore[misc]
    """Gradio's sessions, of which those whose pages are open stay."""

    def __init__(self) -> None:
        super().__init__()
        self._streams: Counter[str] = Counter()  # open ones by session
        self._visited: set[str] = set()  # sessions whose pages were open before

    def __getitem__(self, session: str) -> SessionState:
        """Return a session, made when it is not there.

        Raises:
            FullError: It is not there, and nothing can be forgotten for it.
        """
        with self.lock:
            if session not in self.session_data:
                while len(self.session_data) >= self.capacity:
                    self._forget_one()
                self.session_data[session] = SessionState(self.blocks)
        return super().__getitem__(session)

    def opened(self, session: str) -> None:
        """Note that a stream to the page of a session is open."""
        with self.lock:
            self._streams[session] += 1
            if (state := self.session_data.get(session)) is not None:
                state.is_closed = False  # it was out of reach for a while

    def closed(self, session: str) -> None:
        """Note that such a stream has ended."""
        with self.lock:
            self._streams[session] -= 1
            if self._streams[session] <= 0:
                del self._streams[session]
                if session in self.session_data:
                    self._visited.add(session)

    def forget(self, session: str) -> None:
        """Let go of a session."""
        with self.lock:
            self._drop(session)

    def _forget_one(self) -> None:
        """Forget the session that was silent longest; of those never opened, where they are many."""
        away = [session for session in self.session_data if session not in self._streams]
        if not away:
            raise FullError
        never = [session for session in away if session not in self._visited]
        self._drop(never[0] if len(never) > self.capacity * NEVER_OPENED else away[0])

    def _drop(self, session: str) -> None:
        self.session_data.pop(session, None)
        self.time_last_used.pop(session, None)
        self._visited.discard(session)


class Streams:
    """ASGI middleware that notes in the sessions which pages are open."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        holder = getattr(scope.get("app"), "state_holder", None)
        session = _session(scope) if scope["type"] == "http" else ""
        if not session or not isinstance(holder, Sessions):
            await self._app(scope, receive, send)
            return
        holder.opened(session)
        try:
            await self._app(scope, receive, send)
        finally:
            holder.closed(session)


def _session(scope: Scope) -> str:
    """Return the session whose page reads a stream with this request, or nothing."""
    path = route(scope)
    if scope["method"] != "GET":
        return ""
    if path.startswith("/gradio_api/heartbeat/"):
        return path.removeprefix("/gradio_api/heartbeat/")
    if path == "/gradio_api/queue/data":
        named = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])
        return str(named[-1])
    return ""


def keep_sessions(app: object) -> None:
    """Let an app that Gradio has made keep its sessions as above, before anybody comes."""
    sessions = Sessions()
    sessions.set_blocks(app.get_blocks())  # type: ignore[attr-defined]
    app.state_holder = sessions  # type: ignore[attr-defined]


def visitor() -> str | None:
    """Return the key of the visitor whose event runs now; None outside of events."""
    request = LocalContext.request.get(None)
    return None if request is None else visitor_of_request(request)


def forget_session() -> None:
    """Forget the session of the event that runs now; for endpoints, which keep nothing between two calls."""
    blocks, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
    if blocks is None or request is None or not request.session_hash:
        return
    if isinstance(blocks.state_holder, Sessions):
        blocks.state_holder.forget(request.session_hash)
