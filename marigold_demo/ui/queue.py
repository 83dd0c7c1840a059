"""Gradio's queue and sessions with limits: on events nobody reads, on unread messages, and for each visitor.

Gradio runs an event as soon as it is posted, whether or not anybody reads its messages, and keeps these
until somebody does. Here an event ends when nobody has read for `listen_s`; messages are limited for each
session and in all; and one visitor never takes the places of all others.

A session is what Gradio calls `session_hash`: an open page, or one call of a program. Gradio copies the
description of the whole page for each, 0.4 MB. Here it keeps at most `MAX_SESSIONS`; one whose page is open
is never forgotten for another: the page holds a stream open for as long as it is there.
"""

import asyncio
import functools
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.context import LocalContext
from gradio.exceptions import Error
from gradio.queueing import Event, EventQueue, Queue
from gradio.server_messages import EventMessage, ProcessCompletedMessage
from gradio.state_holder import SessionState, StateHolder
from gradio.utils import error_payload, run_coro_in_background
from starlette.exceptions import HTTPException

from marigold_demo.serving.http import VISITOR_HEADER, visitor_of
from marigold_demo.serving.monitor import log_event
from marigold_demo.ui.messages import TITLE, Handler

_log = logging.getLogger(__name__)

LISTEN_S = 30.0
UNREAD_S = 600.0  # how long the messages of ended events wait for a reader
SESSION_BYTES, SESSION_MESSAGES = 2**20, 2000  # unread, of one session
ALL_BYTES, ALL_SESSIONS = 2**25, 2000  # unread, of all sessions
MAX_SESSIONS = 300
NEVER_OPENED = 1 / 4  # of them may belong to programs that never listened, before those go first
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")  # what pages and clients call their sessions
_FULL = "There are as many visitors as this server takes; try again in a few minutes."
_ENDED = {
    "not listening": (
        "Nobody listened, so this request was ended. Open its stream of events right after sending it, and "
        "keep it open."
    ),
    "not reading": (
        "The messages of this request were not read, so it was ended. Read its stream of events while it "
        "runs."
    ),
}


class Mailbox(asyncio.Queue[EventMessage]):
    """Messages of one session until they are read; one that overflows is emptied and takes no more.

    Attributes:
        size_bytes: Unread messages as JSON.
        overflowed: Messages are missing, so the events of the session have to end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._queue: deque[tuple[EventMessage, int]] = deque()
        self.size_bytes, self.overflowed = 0, False
        self._readers, self._read_s = 0, time.monotonic()

    async def get(self) -> EventMessage:
        """Wait for the next message, and note that somebody reads."""
        self._readers += 1
        try:
            return await super().get()
        finally:
            self._readers -= 1
            self._read_s = time.monotonic()

    @property
    def read_s(self) -> float:
        """When somebody was reading last, as `time.monotonic` says; now, where somebody is."""
        return time.monotonic() if self._readers else self._read_s

    def _put(self, message: EventMessage) -> None:
        # What somebody waits for is taken at once and need not be measured.
        size = 0 if self._readers and self.empty() else len(message.model_dump_json(fallback=str))
        if self.size_bytes + size > SESSION_BYTES or self.qsize() >= SESSION_MESSAGES:
            self._queue.clear()
            self.size_bytes, self.overflowed = 0, True
        if not self.overflowed:
            self._queue.append((message, size))
            self.size_bytes += size

    def _get(self) -> EventMessage:
        message, size = self._queue.popleft()
        self.size_bytes -= size
        return message


class Mailboxes(dict[str, Mailbox]):
    """Mailboxes by session, with what Gradio expects of its own dictionary of queues."""

    def __setitem__(self, session: str, _: Any) -> None:
        """Give a session an empty mailbox, whatever Gradio wants to put there."""
        super().__setitem__(session, Mailbox())

    def __delitem__(self, session: str) -> None:
        """Take a mailbox away; Gradio deletes what may be gone."""
        self.pop(session, None)

    def get(self, session: str, default: Any = None) -> Any:
        """Return a mailbox to the task that puts heartbeats there; without one, end that task.

        Gradio calls this nowhere else. Where a connection breaks while a message is being sent, nothing else
        would ever end the task.
        """
        if session not in self:
            raise asyncio.CancelledError
        return self[session]

    def size_bytes(self) -> int:
        """Return how much all unread messages take."""
        return sum(box.size_bytes for box in self.values())

    def by_last_reading(self) -> list[str]:
        """Return all sessions, the one that was not read for longest first."""
        return sorted(self, key=lambda session: self[session].read_s)


class _EventIds(dict[str, set[str]]):
    """Ids of events by session; none where Gradio asks for a session that is gone."""

    def __missing__(self, session: str) -> set[str]:
        return set()


class BoundedQueue(Queue):  # type: ignore[misc]  # gradio is not typed
    """Gradio's queue with limits."""

    def __init__(self, plain: Queue, *, listen_s: float = LISTEN_S, share_out: bool = False) -> None:
        """Take the place of a queue that was not used yet.

        Args:
            plain: Has the settings.
            listen_s: After how many seconds without a reader an event ends.
            share_out: Whether one visitor may take no more than half of the places that are free.
        """
        super().__init__(
            live_updates=plain.live_updates,
            concurrency_count=plain.max_thread_count,
            update_intervals=plain.update_intervals,
            max_size=plain.max_size,
            blocks=plain.blocks,
            default_concurrency_limit=plain.default_concurrency_limit,
        )
        self.listen_s, self._share_out = listen_s, share_out
        self.has_logged_proxy = False
        self._errors: dict[str, Exception] = {}  # that ended an event which is not over yet, by its id
        self.pending_messages_per_session = Mailboxes()
        self.pending_event_ids_session = _EventIds()

    def start(self) -> None:
        """Begin to process events, and to sweep sessions."""
        super().start()
        run_coro_in_background(self._keep_swept)

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Take an event in.

        Raises:
            HTTPException: It is none that can be called this way, or the visitor has too much in the queue.
        """
        called = self.blocks.fns.get(body.fn_index)
        if called is None or (body.simple_format and called.api_visibility == "private"):
            raise HTTPException(404, "There is no such endpoint; /gradio_api/info lists those there are.")
        if self._share_out and self.max_size is not None and len(self) < self.max_size:
            self._look_for_proxy(request)
            visitor = visitor_of_request(request)
            own = sum(visitor_of_request(event.request) == visitor for event in self._queued())
            if own and own >= self.max_size - len(self):
                raise HTTPException(
                    429, "Many of your requests are waiting already; try again when some are done."
                )
        return await super().push(body, request, username)

    def noted(self, error: Exception, event_id: str | None) -> Exception:
        """Return the error that ends an event, and note it until the event has ended."""
        if event_id is not None and event_id in self.event_ids_to_events:
            self._errors[event_id] = error
        return error

    async def process_events(self, events: list[Event], *about: Any, **named: Any) -> None:
        """Run events, then let go of what was sent with them.

        The frames of `super().process_events` hold the error, whose traceback holds the frames, with the
        request and its values in them; Python seldom looks for such circles.
        """
        try:
            await super().process_events(events, *about, **named)
        finally:
            for event in events:
                if (error := self._errors.pop(event._id, None)) is not None:
                    error.__traceback__ = error.__cause__ = error.__context__ = None

    def _look_for_proxy(self, request: Any) -> None:
        """Log it once where visitors come through a proxy that is not believed, so that they are all one."""
        forwarded = request.headers.get("x-forwarded-for", "")
        if (
            forwarded
            and not self.has_logged_proxy
            and request.client
            and request.client.host not in forwarded
        ):
            self.has_logged_proxy = True
            log_event(
                _log,
                "all visitors of a proxy share what one may have; name it in FORWARDED_ALLOW_IPS",
                level=logging.WARNING,
            )

    def get_events(self) -> Any:
        """Return what is processed next: of the visitor of whom the least is being processed."""
        if self._share_out:
            for line in self.event_queue_per_concurrency_id.values():
                self._take_turns(line)
        return super().get_events()

    def sweep(self) -> None:
        """End events that nobody listens to, and forget messages that nobody reads."""
        boxes: Mailboxes = self.pending_messages_per_session
        self._make_room(boxes)
        lost = {session for session, box in boxes.items() if box.overflowed}
        for session in lost:
            boxes[session].overflowed = False  # so that it takes the last messages
        for event in [*self._queued(), *self._active()]:
            session = event.session_hash
            if session not in boxes or session in lost:
                self._end(event, "not reading")
            elif time.monotonic() - max(boxes[session].read_s, event.enqueue_time) > self.listen_s:
                self._end(event, "not listening")
        self._forget(boxes, busy={event.session_hash for event in (*self._queued(), *self._active())})

    async def _keep_swept(self) -> None:
        while not self.stopped:
            await asyncio.sleep(min(1.0, self.listen_s / 4))
            try:
                self.sweep()
            except Exception:  # the bounds must not end with one bug
                _log.exception("the queue could not be swept and will be again")

    @staticmethod
    def _make_room(boxes: Mailboxes) -> None:
        """Take away the mailboxes that were not read for longest, until the rest is within bounds."""
        if boxes.size_bytes() > ALL_BYTES or len(boxes) > ALL_SESSIONS:
            for session in boxes.by_last_reading():
                if boxes.size_bytes() <= ALL_BYTES and len(boxes) <= ALL_SESSIONS:
                    return
                del boxes[session]

    def _forget(self, boxes: Mailboxes, *, busy: set[str]) -> None:
        """Forget the sessions without events whose messages were read, or were not read for long."""
        for session, box in list(boxes.items()):
            ttl_s = self.listen_s if box.empty() else UNREAD_S
            if session not in busy and time.monotonic() - box.read_s > ttl_s:
                del boxes[session]
        for session in self.pending_event_ids_session.keys() - boxes.keys():
            del self.pending_event_ids_session[session]
        if self.server_app is not None:  # Gradio forgets these only where a canceled event goes on
            self.server_app.iterators_to_reset.intersection_update(self.event_ids_to_events)

    def _take_turns(self, line: EventQueue) -> None:
        """Put first in a line what is of the visitor of whom the least is being processed there."""
        is_full = line.concurrency_limit is not None and line.current_concurrency >= line.concurrency_limit
        if len(line.queue) > 1 and not is_full:
            here = (event for event in self._active() if event.concurrency_id == line.concurrency_id)
            active = Counter(visitor_of_request(event.request) for event in here)
            first = min(line.queue, key=lambda event: active[visitor_of_request(event.request)])
            line.queue.remove(first)
            line.queue.insert(0, first)

    def _queued(self) -> Iterator[Event]:
        for line in self.event_queue_per_concurrency_id.values():
            yield from line.queue

    def _active(self) -> Iterator[Event]:
        for job in self.active_jobs:
            yield from (event for event in job or () if event.alive)

    def _end(self, event: Event, why: str) -> None:
        """End an event: at once where it waits, else when it yields, and leave a sentence for its reader."""
        if event.session_hash in self.pending_messages_per_session:
            error = gr.Error(_ENDED[why], title=TITLE, print_exception=False)
            self.send_message(
                event, ProcessCompletedMessage(output=error_payload(error, False), success=False)
            )
        event.alive = False
        line = self.event_queue_per_concurrency_id[event.concurrency_id].queue
        if event in line:
            line.remove(event)
            self.event_ids_to_events.pop(event._id, None)
        log_event(_log, "request ended", end=why.replace(" ", "_"), endpoint=event.fn.api_name)


def visitor_of_request(request: Any) -> str:
    """Return the key of the visitor who made a request to Gradio."""
    address = request.client.host if request.client else ""
    return visitor_of(address, request.headers.get(VISITOR_HEADER, ""))


# Sessions ------------------------------------------------------------------------------------------------


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


def keep_sessions(app: object) -> None:
    """Let an app that Gradio has made keep its sessions as above, before anybody comes."""
    sessions = Sessions()
    sessions.set_blocks(app.get_blocks())  # type: ignore[attr-defined]
    app.state_holder = sessions  # type: ignore[attr-defined]


def visitor() -> str | None:
    """Return the key of the visitor whose event runs now; None outside of events."""
    request = LocalContext.request.get(None)
    return None if request is None else visitor_of_request(request)


def unless_replaced(state: gr.State, handler: Handler) -> Handler:
    """Wrap an event handler: its outputs are left out if the session's value of a state changed meanwhile.

    What was made of one depth must never be shown beside the next one, which came while it was made.
    """

    @functools.wraps(handler)
    def call(*values: Any) -> Any:
        before = _session_value(state)
        outputs = handler(*values)
        return outputs if _session_value(state) == before else gr.skip()

    return call  # type: ignore[return-value]


def is_current(state: gr.State, value: object) -> bool:
    """Return whether a state holds a value in the session of this event; True outside of events."""
    return bool(_session_value(state, default=value) == value)


def _session_value(state: gr.State, default: object = None) -> Any:
    """Return what a state holds in the session of the event that runs now; the default outside of events."""
    blocks, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
    if blocks is None or request is None or not request.session_hash:
        return default
    return blocks.state_holder[request.session_hash][state._id]


def forget_session() -> None:
    """Forget the session of the event that runs now; for endpoints, which keep nothing between two calls."""
    blocks, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
    if blocks is None or request is None or not request.session_hash:
        return
    if isinstance(blocks.state_holder, Sessions):
        blocks.state_holder.forget(request.session_hash)
