"""A fake of the Hugging Face hub on loopback with the routes that its client uses; whole, slow, failing."""

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE = 2**14


class LoopbackHub:
    """Repositories by name, each a local folder.

    Attributes:
        cache: Where the client puts what it downloads.
        refuse: Status and X-Error-Code of every answer, where it is to be an error.
        refuse_files: The same of answers to requests for files, as gated repositories have it.
        wait_s: Passes before each answer, and between pieces of a file.
        cut: Files of this ending are only half there.
        fetched: Files whose content was asked for.
        asked: Paths of all requests.
    """

    def __init__(self, repositories: dict[str, Path], *, cache: Path) -> None:
        self.repositories, self.cache = repositories, cache
        self.refuse: tuple[int, str] | None = None
        self.refuse_files: tuple[int, str] | None = None
        self.wait_s, self.cut = 0.0, ""
        self.fetched: list[str] = []
        self.asked: list[str] = []

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        time.sleep(self.wait_s)
        path = unquote(urlsplit(request.path).path)
        self.asked.append(path)
        name = next((name for name in self.repositories if f"/{name}" in path), None)
        refuse = self.refuse or (None if path.startswith("/api/") else self.refuse_files)
        if refuse or name is None:
            status, code = refuse or (404, "RepoNotFound")
            send(request, status, b"{}", **{"X-Error-Code": code, "X-Error-Message": code})
        elif path.startswith("/api/models/"):
            self._describe(request, name, tree="/tree/" in path)
        else:
            self._send_file(
                request, self.repositories[name] / path.partition("/resolve/")[2].split("/", 1)[1]
            )

    def _describe(self, request: BaseHTTPRequestHandler, name: str, *, tree: bool) -> None:
        folder = self.repositories[name]
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        if tree:
            content: object = [
                {"type": "file", "path": file, "size": path.stat().st_size, "oid": etag(path)}
                for file, path in files.items()
            ]
        else:
            with_sizes = "blobs" in parse_qs(urlsplit(request.path).query)
            sizes = {
                file: {"size": path.stat().st_size} if with_sizes else {} for file, path in files.items()
            }
            siblings = [{"rfilename": file, **size} for file, size in sizes.items()]
            content = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
        send(request, 200, json.dumps(content).encode(), **{"Content-Type": "application/json"})

    def _send_file(self, request: BaseHTTPRequestHandler, path: Path) -> None:
        content = path.read_bytes()
        if request.command == "GET" and self.cut and path.name.endswith(self.cut):
            content = content[: len(content) // 2]
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("ETag", f'"{etag(path)}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.end_headers()
        if request.command == "HEAD":
            return
        self.fetched.append(path.name)
        for start in range(0, len(content), PIECE):
            request.wfile.write(content[start : start + PIECE])
            time.sleep(self.wait_s)


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


def send(request: BaseHTTPRequestHandler, status: int, content: bytes, **headers: str) -> None:
    request.send_response(status)
    for key, value in {**headers, "Content-Length": str(len(content))}.items():
        request.send_header(key, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)


@contextmanager
def serving(repositories: dict[str, Path], *, cache: Path):
    """Serve repositories, and let the hub's real client ask nobody else."""
    hub = LoopbackHub(repositories, cache=cache)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            try:
                hub.answer(self)
            except (BrokenPipeError, ConnectionResetError):  # the client hung up
                pass

        do_HEAD = do_GET  # noqa: N815  # the name that the server calls

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        point_at(f"http://127.0.0.1:{server.server_port}", cache=cache, patch=patch)
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def point_at(address: str, *, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """Let the hub's client, which read its environment at import, ask an address."""
    constants = "huggingface_hub.constants"
    patch.setattr(f"{constants}.ENDPOINT", address)
    patch.setattr(
        f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    patch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
    patch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    patch.setattr(f"{constants}.DOWNLOAD_CHUNK_SIZE", PIECE)
    patch.setattr(f"{constants}.HF_HUB_DOWNLOAD_TIMEOUT", 2)
    patch.setattr(f"{constants}.HF_HUB_ETAG_TIMEOUT", 2)
