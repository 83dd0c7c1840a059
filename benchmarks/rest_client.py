"""A visitor without a browser: Gradio's REST routes over httpx."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any

import httpx

PATIENCE_S = 600.0  # longer than any queue of a bounded test


class RefusedError(Exception):
    """The server answered with an error message instead of a result."""


class FullError(RefusedError):
    """The queue is full; one may come again later."""


class Visit:
    """One visitor's connection: uploads, calls of the public endpoints, events of the page."""

    def __init__(
        self, url: str, *, session: str = "", address: str | None = None, timeout_s: float = PATIENCE_S
    ) -> None:
        """Come to a server.

        Args:
            url: Its address.
            session: Of a page that is open already; empty: a new one.
            address: Where to come from, such as 127.0.1.7; the server distinguishes visitors by it.
            timeout_s: Of each read.
        """
        self.session = session or secrets.token_hex(8)
        self._url = url.rstrip("/")
        transport = httpx.HTTPTransport(local_address=address)
        self._http = httpx.Client(
            base_url=f"{self._url}/gradio_api", timeout=timeout_s, transport=transport, trust_env=False
        )

    def __enter__(self) -> "Visit":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """Send a file and return it as endpoints take it."""
        answer = self._http.post("/upload", files={"files": (name, data)})
        if answer.is_error:
            raise RefusedError(answer.text)
        return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}

    def fetch(self, file: dict[str, Any]) -> bytes:
        """Return the bytes of a file that came as a result."""
        answer = self._http.get(f"/file={file['path']}")
        answer.raise_for_status()
        return answer.content

    def request(self, name: str, **arguments: Any) -> list[Any]:
        """Ask one of the public endpoints and wait for what it returns.

        Raises:
            FullError: The queue is.
            RefusedError: With the server's message.
        """
        with self.watching(self.start(name, **arguments)) as events:
            for kind, content in events:
                if kind == "complete":
                    return list(content)
                if kind == "error":
                    raise RefusedError(content["error"] if isinstance(content, dict) else str(content))
        raise RefusedError("the stream ended without a result")

    def start(self, name: str, **arguments: Any) -> str:
        """Ask one of the public endpoints and return where its events come: name/number."""
        answer = self._accepted(self._http.post(f"/call/v2/{name}", json=arguments))
        return f"{name}/{answer['event_id']}"

    @contextmanager
    def watching(self, address: str) -> Iterator[Iterator[tuple[str, Any]]]:
        """Follow the events of a started request as (kind, content); leaving the block disconnects."""
        with self._http.stream("GET", f"/call/{address}") as stream:
            yield _events(stream)

    def click(self, page: "Page", event: dict[str, Any], **values: Any) -> list[Any]:
        """Trigger an event of the page as its script would, and wait for what it returns.

        Args:
            page: What `open_page` returned.
            event: One of its events.
            values: By `elem_id` with "_" for "-": what the visitor has put into a widget.
        """
        return self.trigger(event, [page.value(number, values) for number in event["inputs"]])

    def trigger(self, event: dict[str, Any], data: list[Any]) -> list[Any]:
        """Trigger an event of the page with a value for each of its inputs, and wait for what it returns."""
        body = {
            "data": data,
            "fn_index": event["id"],
            "session_hash": self.session,
            "trigger_id": event["targets"][0][0],
        }
        number = self._accepted(self._http.post("/queue/join", json=body))["event_id"]
        with self._http.stream("GET", "/queue/data", params={"session_hash": self.session}) as stream:
            for _, message in _events(stream):
                if message["msg"] == "process_completed" and message["event_id"] == number:
                    if not message["success"]:
                        raise RefusedError(message["output"]["error"])
                    return list(message["output"]["data"])
        raise RefusedError("the stream ended without a result")

    def open_page(self) -> "Page":
        """Load the page's description."""
        return Page(self._http.get(f"{self._url}/config").raise_for_status().json())

    @staticmethod
    def _accepted(answer: httpx.Response) -> dict[str, Any]:
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and "ueue is full" in answer.text:
            raise FullError(answer.text)
        if answer.is_error:
            raise RefusedError(answer.text)
        return dict(answer.json())


class Page:
    """The widgets and events of a page, found by the ids that its style sheet uses too."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._widgets = {widget["id"]: widget["props"] for widget in config["components"]}
        self.events: list[dict[str, Any]] = config["dependencies"]

    def event(self, *, takes: str, gives: str) -> dict[str, Any]:
        """Return the first event of the queue with these widgets among its inputs and outputs.

        With an empty `takes` it has no widget among its inputs, only states of the session.
        """
        for event in self.events:
            ids = [
                {self._widgets[number].get("elem_id") for number in event[end]}
                for end in ("inputs", "outputs")
            ]
            if event["queue"] and (takes in ids[0] if takes else ids[0] <= {None}) and gives in ids[1]:
                return event
        raise LookupError(f"no event from {takes} to {gives}")

    def upload_event(self, kind: str) -> tuple[dict[str, Any], int]:
        """Return the event that takes uploads of a kind such as ".npz", and the widget that holds them."""
        for event in self.events:
            for number in event["inputs"]:
                if event["queue"] and kind in (self._widgets[number].get("file_types") or ()):
                    return event, number
        raise LookupError(f"no event takes {kind}")

    def given(self, event: dict[str, Any], outputs: list[Any], name: str) -> Any:
        """Return what an event gave to a widget."""
        ids = [self._widgets[number].get("elem_id") for number in event["outputs"]]
        return outputs[ids.index(name)]

    def value(self, number: int, values: dict[str, Any]) -> Any:
        """Return what the visitor has put into a widget, or what it shows at first."""
        name = str(self._widgets[number].get("elem_id")).replace("-", "_")
        return values.get(name, self._widgets[number].get("value"))


def _events(stream: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Read a stream of server-sent events."""
    kind = ""
    for line in stream.iter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


def file_name(file: dict[str, Any]) -> str:
    """Return the plain name of a file that came as a result."""
    return PurePosixPath(file["path"]).name
