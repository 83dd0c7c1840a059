"""app.py on ZeroGPU as far as a CPU can show: a fake of its device service, real forks and pickles."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from tests.pages import LENIENT, ball, draw_photo
from tests.visits import BROWSER, type_number

pytestmark = [pytest.mark.slow, LENIENT]
ROOT = Path(__file__).parents[1]
GRANT = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "none", "allowToken": "token"}


class DeviceService(ThreadingHTTPServer):
    """Grants every request for a GPU and records it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def durations_s(self) -> list[float]:
        return [float(query["durationSeconds"][0]) for path, query in self.asked if path == "/schedule"]


class Handler(BaseHTTPRequestHandler):
    server: DeviceService

    def do_POST(self) -> None:
        url = urlparse(self.path)
        self.server.asked.append((url.path, parse_qs(url.query)))
        body = json.dumps(GRANT if url.path == "/schedule" else {}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def service():
    server = DeviceService()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    return tmp_path_factory.mktemp("zerogpu") / "notes.jsonl"


@pytest.fixture(scope="module")
def url(service, notes):
    environment = os.environ | {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{service.server_port}",
        "GRADIO_TEMP_DIR": str(notes.parent / "cache"),
        "ZEROGPU_OFFLOAD_DIR": str(notes.parent / "tensors"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(ROOT / "tests" / "zerogpu_app.py"), str(notes)]
    child = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        address = wait_for(lambda: next((n["url"] for n in read(notes) if "url" in n), None), child=child)
        yield address.rstrip("/")
    finally:
        child.terminate()
        child.wait(20)


@pytest.fixture(scope="module")
def client(url, notes):
    return Client(url, verbose=False, download_files=str(notes.parent / "downloads"))


def read(notes: Path) -> list[dict]:
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def wait_for(found, *, child=None, patience_s: float = 240):
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if value := found():
            return value
        assert child is None or child.poll() is None, "the app ended"
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@pytest.fixture(scope="module")
def photo(notes):
    return draw_photo(notes.parent, "zero.png", size=(200, 160))


def test_depth_comes_whole_out_of_a_forked_worker(client, photo, notes, service):
    npy, *_ = client.predict(handle_file(photo), steps=2, api_name="/depth")
    np.testing.assert_array_equal(np.load(npy), ball(160, 200))
    steps = [note for note in read(notes) if "step" in note]
    main = next(note["pid"] for note in read(notes) if note.get("main"))
    assert steps and all(note["pid"] != main for note in steps)


def test_the_checkpoint_is_loaded_before_any_worker_is_forked(client, notes):
    loaded, *_ = [note for note in read(notes) if "loaded" in note]
    main = next(note["pid"] for note in read(notes) if note.get("main"))
    assert loaded["pid"] == main


def test_the_start_is_reported(client, service):
    assert any(path == "/startup-report" for path, _ in service.asked)


def test_the_gpu_is_asked_for_as_long_as_the_settings_need(client, photo, service):
    before = len(service.durations_s())
    client.predict(handle_file(photo), steps=1, seed=1, api_name="/depth")
    client.predict(handle_file(photo), steps=2, ensemble=3, seed=1, api_name="/depth")
    short, long = service.durations_s()[before:]
    assert 0 < short < long < 60


def test_the_same_request_costs_no_quota_the_second_time(client, photo, service):
    client.predict(handle_file(photo), steps=2, seed=2, api_name="/depth")
    asked = len(service.asked)
    client.predict(handle_file(photo), steps=2, seed=2, api_name="/depth")
    assert len(service.asked) == asked


def test_an_error_of_the_visitor_keeps_its_sentence_across_processes(client, photo):
    with pytest.raises(AppError, match="There is no checkpoint 'missing'; name another"):
        client.predict(handle_file(photo), checkpoint="missing", api_name="/depth")


class TestInTheBrowser:
    pytestmark = BROWSER

    def test_steps_arrive_from_the_worker_and_cancel_stops_it_for_the_next(
        self, visit, client, notes, service
    ):
        seen = visit()
        before = len(read(notes))
        begin_long_run(seen, draw_photo(notes.parent, "long.png", size=(220, 160)))
        status = seen.page.locator("#status")
        expect(status).to_contain_text(re.compile(r"Step \d of 30"))
        expect(status).to_contain_text(re.compile(r"Step [12]\d of 30"))
        seen.page.get_by_role("button", name="Cancel").click()
        expect(seen.page.get_by_role("button", name="Estimate depth")).to_be_enabled()
        taken = count_steps(read(notes)[before:])
        npy, *_ = client.predict(
            handle_file(draw_photo(notes.parent, "next.png", size=(230, 160))), steps=2, api_name="/depth"
        )
        np.testing.assert_array_equal(np.load(npy), ball(160, 230))
        since = read(notes)[before:]
        assert count_steps(since) - 2 <= taken + 1  # the one that was under way
        assert most_at_once(since) == 1


def begin_long_run(seen, photo: Path) -> None:
    seen.open("Depth")
    seen.page.locator("#depth-settings > button").click()
    type_number(seen.page, "#depth-steps input", "30")
    seen.upload(photo)


def count_steps(notes: list[dict]) -> int:
    return sum("step" in note for note in notes)


def most_at_once(notes: list[dict]) -> int:
    running = most = 0
    for note in notes:
        running += ("began" in note) - ("ended" in note)
        most = max(most, running)
    return most
