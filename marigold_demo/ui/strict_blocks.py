"""Checks what a client sends against the page, before any handler sees it.

Gradio checks types, choices and uploads itself, but says what it finds to the log only, or quotes what was
sent, and it takes a body that names no event for an error of the server. Whoever sends what no field of the
page can hold, or what no address takes, gets a sentence here, like everyone else, and nothing of it is kept.
"""

import json
import logging
import re
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from gradio.exceptions import InvalidPathError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marigold_demo.io.cache_folder import FileRoot, paths_in, served_folder
from marigold_demo.serving.http import NO_STORE, refusal, replay, route
from marigold_demo.ui.messages import message
from marigold_demo.ui.queue import LISTEN_S, NAME, BoundedQueue, Sessions

API = "/gradio_api/"
DEEPEST = 32  # levels of lists and objects in a body; the page itself sends six
MOST_VALUES = 10_000  # in a body, whose 1 MB could become 50 MB of empty lists; the page itself sends 100
_CALL = re.compile(rf"{API}(?:(queue/join|cancel|reset)|(call/v2|call|run|api)/([^/]+))")
_EVENT = re.compile(rf"{API}call/(?:v2/)?[^/]+/([^/]+)")
_STREAM = re.compile(rf"{API}(?:queue/data|call/.+)")
Problem = tuple[int, str]  # status and sentence of a refusal

_log = logging.getLogger(__name__)
_NOT_UPLOADED = "This file was not uploaded here; upload it first."
_NO_ENDPOINT = "There is no endpoint of that name; /gradio_api/info lists those there are."
_IN_THE_QUEUE = "Endpoints work through the queue: POST to /gradio_api/call/NAME, then read its events there."
_NO_SESSION = "There is no such session here; the server may have been restarted. Reload the page."
_NO_EVENT = "There is no such event here; it may be over, or the server has been restarted."
_DOES_NOT_FIT = "A value does not fit its field; send what the page or the endpoint's description offers."


class StrictBlocks(gr.Blocks):  # type: ignore[misc]  # gradio is not typed
    """Blocks whose refusals of a client's values are sentences.

    Attributes:
        tabs: Components and handlers of the page.
    """

    tabs: Any
    _queue: Any

    def bounded_queue(
        self, *, max_size: int, concurrency: int, listen_s: float = LISTEN_S, share_out: bool = False
    ) -> None:
        """Process events in a queue with bounds, and in no other way.

        Args:
            max_size: How many events may wait.
            concurrency: How many events run at the same time, of those that do not say it themselves.
            listen_s: After how many seconds without a reader an event ends.
            share_out: Whether one visitor may take no more than half of the places that are free.
        """
        self.queue(max_size=max_size, default_concurrency_limit=concurrency, api_open=False)
        self._queue = BoundedQueue(self._queue, listen_s=listen_s, share_out=share_out)

    @property
    def event_queue(self) -> BoundedQueue:
        """The queue; its length is the number of events that wait."""
        queue: BoundedQueue = self._queue
        return queue

    async def process_api(self, *about: Any, **named: Any) -> Any:
        """Run an event.

        Raises:
            gr.Error: With a sentence.
        """
        try:
            return await super().process_api(*about, **named)
        except Exception as error:
            raise self._queue.noted(message(error), named.get("event_id")) from None

    async def preprocess_data(
        self, block_fn: Any, inputs: Sequence[Any], state: Any, *about: Any, **named: Any
    ) -> Any:
        """Turn what a client sent into what handlers take.

        Raises:
            gr.Error: A value does not fit, or a file was not uploaded.
        """
        root = FileRoot(served_folder())
        if not all(root.has(path) for path in set(paths_in(inputs))):
            raise gr.Error(_NOT_UPLOADED, print_exception=False)
        if state is not None:
            state.config_values = _NOTHING
        try:
            return await super().preprocess_data(block_fn, inputs, state, *about, **named)
        except Exception as error:
            _log.info("refused a value: %s", type(error).__name__)
            words = _NOT_UPLOADED if isinstance(error, InvalidPathError) else _DOES_NOT_FIT
            _empty(error)
            raise gr.Error(words, print_exception=False) from None


def _empty(error: BaseException | None) -> None:
    """Forget the words, frames and causes of an error, which hold what was sent.

    One of the frames waited for a worker thread and holds a future that holds the error: a circle.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        cause, error.args = error.__cause__ or error.__context__, ()
        vars(error).clear()
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = cause


class _Nothing(dict[int, dict[str, Any]]):
    """Keeps nothing of a session, where Gradio keeps 0.4 MB of descriptions and the last value of each field.

    It wants them for links to the state of a page, which are off.
    """

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: int) -> dict[str, Any]:
        return {}

    def __setitem__(self, key: int, value: Any) -> None:
        pass


_NOTHING = _Nothing()


class CallFilter:
    """ASGI middleware that checks the body of a call against what the page has, and which streams exist.

    What passes has the right form; whether values fit their fields is checked by the event.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a sentence."""
        blocks = getattr(scope.get("app"), "blocks", None)
        path = route(scope).rstrip("/") if scope["type"] == "http" and blocks is not None else ""
        if path and scope["method"] == "POST" and (call := _CALL.fullmatch(path)):
            body = await Request(scope, receive).body()  # RequestFilter bounds it
            if problem := _call_problem(blocks, call, body):
                await refusal(*problem)(scope, receive, send)
            elif call[1] in ("cancel", "reset") and json.loads(body).get("event_id", "") is None:
                # So Gradio's page ends an event whose number it does not know yet, and goes on without it.
                await JSONResponse({"success": True}, headers=NO_STORE)(scope, receive, send)
            else:
                await self._app(scope, replay(body, receive), send)
        elif (
            path and scope["method"] in ("GET", "HEAD") and (problem := _stream_problem(blocks, path, scope))
        ):
            await refusal(*problem)(scope, receive, send)
        elif _STREAM.fullmatch(path):
            await self._stream(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a stream on; when its session goes away meanwhile, it ends as others do."""
        began = False

        async def noted(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except (KeyError, HTTPException, RuntimeError) as error:
            gone = isinstance(error, KeyError) or isinstance(error.__cause__ or error, HTTPException)
            if not began or not gone:
                raise
            _log.debug("a session went away while its stream was open")
            with suppress(RuntimeError):  # it had ended
                await send({"type": "http.response.body", "body": b"", "more_body": False})


def _call_problem(blocks: Any, call: re.Match[str], body: bytes) -> Problem | None:
    """Return how the body of a call is refused, None where it has the right form."""
    try:
        values = json.loads(body)
        _check_json(values)
    except RecursionError:
        return 400, f"The body of this request is nested too deeply; at most {DEEPEST} levels are taken."
    except OverflowError:
        return 400, f"There are too many values in this request; at most {MOST_VALUES:,} are taken."
    except UnicodeError:
        return 400, "The text of this request is not valid Unicode."
    except ValueError:
        return 400, "The body of this request cannot be read as JSON."
    if not isinstance(values, dict):
        return 422, 'The body of this request must be a JSON object, such as {"data": []}.'
    _, kind, name = call.groups()
    if kind == "call/v2":
        return _names_problem(blocks, name, values)
    session, index = values.get("session_hash"), values.get("fn_index")
    if session is not None and not (isinstance(session, str) and NAME.fullmatch(session)):
        return 422, "session_hash must be a text of at most 100 letters and digits."
    if index is not None and (not isinstance(index, int) or isinstance(index, bool)):
        return 422, "fn_index must be a whole number."
    if kind in ("run", "api") and index is not None:
        name = None  # the number counts
    if name is not None and name not in _endpoints(blocks):
        return 404, _NO_ENDPOINT
    if (
        call[1] not in ("cancel", "reset")
        and kind != "call"
        and index is not None
        and index not in blocks.fns
    ):
        return 404, "The page has no event of that number; reload the page."
    if kind in ("run", "api") and (index is None or blocks.fns[index].queue):
        return 404, _IN_THE_QUEUE
    return None


def _check_json(value: Any) -> None:
    """Look at every value of a body.

    Raises:
        RecursionError: It is nested too deeply.
        OverflowError: There are too many.
        UnicodeError: A text has half a character, which cannot be written anywhere.
    """
    todo, count = [(value, 1)], 0
    while todo:
        value, depth = todo.pop()
        count += 1
        if count + len(todo) > MOST_VALUES:
            raise OverflowError
        if isinstance(value, dict):
            todo += [(inner, depth + 1) for inner in (*value, *value.values())]
        elif isinstance(value, list):
            todo += [(inner, depth + 1) for inner in value]
        elif isinstance(value, str):
            value.encode()
        if depth > DEEPEST + 1:
            raise RecursionError


def _endpoints(blocks: Any) -> set[str]:
    return {fn.api_name for fn in blocks.fns.values() if fn.api_visibility != "private"}


def _names_problem(blocks: Any, name: str, values: Mapping[str, Any]) -> Problem | None:
    """Hold parameters by name against an endpoint."""
    if name not in _endpoints(blocks):
        return 404, _NO_ENDPOINT
    taken = blocks.get_api_info()["named_endpoints"][f"/{name}"]["parameters"]
    names = {parameter["parameter_name"] for parameter in taken}
    if set(values) - names - {"oauth_token"}:
        return (
            422,
            f"There is a parameter that this endpoint does not have; it has {', '.join(sorted(names))}.",
        )
    wanted = [p["parameter_name"] for p in taken if not p["parameter_has_default"]]
    missing = [parameter for parameter in wanted if parameter not in values]
    return (422, f"Send {missing[0]} too; this endpoint cannot work without it.") if missing else None


def _stream_problem(blocks: Any, path: str, scope: Scope) -> Problem | None:
    """Return how a request for news of something that is not there is refused."""
    queue = blocks._queue
    if path.startswith(f"{API}heartbeat/") and not NAME.fullmatch(path.removeprefix(f"{API}heartbeat/")):
        return 404, _NO_SESSION
    if path == f"{API}queue/data":
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash")
        if not asked:
            return 422, "Name the session with ?session_hash=."
        return None if asked[-1] in queue.pending_messages_per_session else (404, _NO_SESSION)
    if event := _EVENT.fullmatch(path):
        known = event[1] in queue.event_ids_to_events or event[1] in queue.pending_messages_per_session
        if not known and not any(event[1] in ids for ids in queue.pending_event_ids_session.values()):
            return 404, _NO_EVENT
    return None


class OpenStreams:
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
