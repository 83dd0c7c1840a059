"""Attacks on what is shared: network and queue, memory for messages, disk, connections, sessions."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.attack_target import (
    ANSWER_S,
    API,
    HEAVY,
    MB,
    SilentError,
    Target,
    picture,
    wrong_with,
)
from benchmarks.attack_watch import Outcome, SkippedError, Watch, attack, judged
from benchmarks.rest_client import RefusedError

SHARE = 3  # of one visitor: one run and two that wait
UNHEARD_S = 45.0  # callers who do not listen are out after 30 s; then the bystander's own depth
MESSAGES_S = 60.0  # in which 600 refusals are sent, or as many as it takes
IDLE_S = 75.0  # within which connections that send nothing must be closed
ABORTED_S = 10.0  # within which an upload that broke off is gone
HEAL_S = 90.0  # within which a full disk must have room again


# -- 4. network and queue -------------------------------------------------------------------------------


@attack("queue-unheard", 4, "45 heavy runs that nobody listens to")
def queue_unheard(target: Target) -> Outcome:
    faults, taken, words = [], 0, ""
    with target.visit() as visit:
        photo = visit.upload("photo.png", picture(21, size=(1024, 768)))
    with Watch(target) as watch:
        for number in range(45):
            body = {"photo": photo, "seed": number, **HEAVY}
            answer = target.ask("POST", f"{API}/call/v2/depth", number=10 + number, json=body)
            taken += answer.is_success
        try:
            waited_s = target.depth(within_s=UNHEARD_S)
            words = f"{taken} of 45 taken, a depth of the bystander after {waited_s:.0f} s"
        except SilentError:
            faults.append(f"{taken} of 45 taken, no depth for the bystander for {UNHEARD_S:.0f} s")
    return judged([*faults, *watch.faults()], words, watch)


@attack("queue-share", 4, "one visitor with 10 heavy runs at once")
def queue_share(target: Target) -> Outcome:
    with Watch(target) as watch, target.visit(60) as visit:
        photo = visit.upload("photo.png", picture(22, size=(1024, 768)))
        with ThreadPoolExecutor(10) as threads:
            taken = sum(threads.map(lambda number: _is_taken(target, photo, number), range(10)))
    faults = [f"{taken} of 10 runs of one visitor taken"] if taken > SHARE else []
    return judged([*faults, *watch.faults(), *_freed(target)], f"{taken} of 10 taken", watch)


def _is_taken(target: Target, photo: dict[str, Any], number: int) -> bool:
    """Ask for a heavy run and listen for some seconds: whether it was not refused."""
    with target.visit(60, timeout_s=5) as visit:
        try:
            address = visit.start("depth", photo=photo, seed=1000 + number, **HEAVY)
            began = time.monotonic()
            with visit.watching(address) as events:
                for kind, _ in events:
                    if kind == "error" or time.monotonic() - began > 5:
                        return kind != "error"
        except RefusedError:
            return False
        except httpx.TimeoutException:
            pass
    return True


@attack("run-api", 4, "/run and /api pass by the queue and its limits")
def run_api(target: Target) -> Outcome:
    event = next(each for each in target.page.events if each["api_name"] == "depth")
    chosen = {f"api_depth_{name}": value for name, value in HEAVY.items()}
    data = [target.page.value(number, chosen) for number in event["inputs"]]
    with target.visit(61) as visit:
        data[0] = visit.upload("photo.png", picture(23, size=(1024, 768)))

    def is_taken(number: int) -> bool:
        path = f"{API}/{'api' if number % 2 else 'run'}/depth"
        try:
            return target.ask("POST", path, number=61, json={"data": data}, timeout=6).is_success
        except httpx.TimeoutException:
            return True
        except httpx.HTTPError:
            return False

    with Watch(target) as watch, ThreadPoolExecutor(8) as threads:
        taken = sum(threads.map(is_taken, range(8)))
    faults = [f"{taken} of 8 runs of one visitor taken"] if taken > SHARE else []
    return judged([*faults, *watch.faults(), *_freed(target)], f"{taken} of 8 taken", watch)


def _freed(target: Target) -> Iterator[str]:
    """Yield a fault unless the network is free again soon after its visitors have left."""
    try:
        target.depth(within_s=UNHEARD_S)
    except SilentError:
        yield f"no depth for the bystander for {UNHEARD_S:.0f} s after the others left"


@attack("private-events", 4, "events of the page called by /run, /api and /call")
def private_events(target: Target) -> Outcome:
    event, faults = target.photo_event, []
    with target.visit() as visit:
        photo = visit.upload("photo.png", picture(24))
    data = [photo if number == event["inputs"][0] else False for number in event["inputs"]]
    for path in ("run", "api"):
        for name, number in (("predict", event["id"]), (event["api_name"], None)):
            body = {"data": data, "fn_index": number, "session_hash": "attack"}
            answer = target.ask("POST", f"{API}/{path}/{name}", json=body)
            faults += [f"/{path}/{name} answers {answer.status_code}"] if answer.is_success else []
    for path in ("call", "call/v2"):
        answer = target.ask("POST", f"{API}/{path}/{event['api_name']}", json={"data": data})
        if answer.is_success:
            faults.append(f"/{path} takes a private event")
    return judged(faults, "all refused")


# -- 5. messages ----------------------------------------------------------------------------------------


@attack("messages", 5, "600 refusals of 0.9 MB that nobody reads")
def messages(target: Target) -> Outcome:
    value, faults = "x" * 900_000, []
    event = next(each for each in target.page.events if each["api_name"] == "depth")
    with target.visit() as visit:
        photo = visit.upload("photo.png", picture(25))
        try:
            visit.request("depth", photo=photo, colormap=value)
        except RefusedError as error:
            faults += (
                ["a refusal repeats the value"] if "xxxx" in str(error) or len(str(error)) > 1000 else []
            )
    data = [target.page.value(number, {}) for number in event["inputs"]]
    data[:2] = [photo, value]
    joined = {"data": data, "fn_index": event["id"], "trigger_id": event["targets"][0][0]}
    before = target.memory()
    with (
        Watch(target) as watch,
        httpx.Client(base_url=target.url, timeout=ANSWER_S, trust_env=False) as client,
    ):
        began = time.monotonic()
        for number in range(300):
            if time.monotonic() - began > MESSAGES_S:
                break
            client.post(f"{API}/call/depth", json={"data": data[:2]})
            client.post(f"{API}/queue/join", json=joined | {"session_hash": f"unread{number}"})
    time.sleep(2)
    left_mb = (target.memory() - before) / MB
    if left_mb > 200:
        faults.append(f"{left_mb:.0f} MB stay")
    return judged([*faults, *watch.faults(extra_mb=300)], f"{left_mb:.0f} MB stay", watch)


# -- 6. disk --------------------------------------------------------------------------------------------


@attack(
    "disk",
    6,
    "uploads beyond MARIGOLD_DISK_MB, named .lock, or aborted",
    configured={"MARIGOLD_DISK_MB": "256"},
)
def disk(target: Target) -> Outcome:
    bound, peak, over = 256 * MB, [0], threading.Event()
    folder = (target.log or Path()).parent

    def measure() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], _stored(folder))

    threading.Thread(target=measure, daemon=True).start()
    faults, before = [], _stored(folder)
    with Watch(target, photos=False) as watch:
        for number in range(3):
            _abort_upload(target, number)
        until = time.monotonic() + ABORTED_S
        while (aborted := _stored(folder) - before) > 5 * MB and time.monotonic() < until:
            time.sleep(0.2)
        refused = [fault for fault in (_upload_of_48_mb(target, number) for number in range(12)) if fault]
    over.set()
    faults += [fault for fault in refused if fault != "refused"]
    if peak[0] > 1.1 * bound:
        faults.append(f"{peak[0] / MB:.0f} MB on a disk of 256 MB")
    if aborted > 5 * MB:
        faults.append(f"{aborted / MB:.0f} MB of aborted uploads stay")
    healed_s = _healed(target) if not faults else 0.0
    if healed_s > HEAL_S:
        faults.append(f"still full after {HEAL_S:.0f} s")
    words = f"{peak[0] / MB:.0f} MB at most, {len(refused)} of 12 refused, room after {healed_s:.0f} s"
    return judged([*faults, *watch.faults(extra_mb=400)], words, watch)


def _upload_of_48_mb(target: Target, number: int) -> str:
    name = ".lock" if number % 2 else "photo.jpg"
    data = number.to_bytes(4, "big") + bytes(48 * MB)
    try:
        answer = target.ask("POST", f"{API}/upload", files={"files": (name, data)})
    except httpx.HTTPError as error:
        return type(error).__name__
    return wrong_with(answer) or ("refused" if answer.is_error else "")


def _abort_upload(target: Target, number: int) -> None:
    start = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%d.jpg"\r\n\r\n' % number
    with target.connect() as connection, contextlib.suppress(OSError):
        connection.sendall(
            target.head(f"{API}/upload", length=90 * MB, kind="multipart/form-data; boundary=x")
        )
        connection.sendall(start + bytes(40 * MB))


def _healed(target: Target) -> float:
    """Return after how long another visitor's photo is taken again."""
    began = time.monotonic()
    while time.monotonic() - began < HEAL_S:
        with contextlib.suppress(RefusedError, SilentError):
            if not target.read_photo(picture(26), number=2).words:
                break
        time.sleep(3)
    return time.monotonic() - began


def _stored(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += Path(parent, name).lstat().st_blocks * 512
    return size


# -- 7. connections -------------------------------------------------------------------------------------


@attack("length-and-chunked", 7, "Content-Length together with Transfer-Encoding: chunked")
def length_and_chunked(target: Target) -> Outcome:
    faults, seen = [], []
    extras = {
        "chunked": b"Transfer-Encoding: chunked\r\n",
        "Chunked, spaces": b"Transfer-Encoding:  Chunked \r\n",
        "two lengths": b"Content-Length: 7\r\n",
        "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    }
    for path in ("/upload", "/call/depth"):
        for words, extra in extras.items():
            head = target.head(API + path, length=12)[:-2] + extra + b"\r\n"
            with target.connect() as connection, contextlib.suppress(OSError):
                connection.sendall(head + b"2\r\n{}\r\n0\r\n\r\n")
                status = connection.recv(100).split(b" ")[1:2]
                seen.append(status[0].decode() if status else "closed")
                if status and status[0] != b"400":
                    faults.append(f"{words} at {path}: {seen[-1]}")
    return judged(faults, f"answers: {', '.join(dict.fromkeys(seen))}")


@attack("half-forms", 7, "8 half-sent forms with fields of 94 MB")
def half_forms(target: Target) -> Outcome:
    start = b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\n'
    block, taken = b"f" * 1_000_000, 0
    with Watch(target) as watch, contextlib.ExitStack() as open_ones:
        for number in range(8):
            connection = open_ones.enter_context(target.connect(70 + number))
            with contextlib.suppress(OSError):
                head = target.head(f"{API}/upload", length=99_000_000, kind="multipart/form-data; boundary=x")
                connection.sendall(head + start)
                for _ in range(94):
                    connection.sendall(block)
                    taken += 1
        time.sleep(2)
    return judged(watch.faults(extra_mb=250), f"{taken} MB taken", watch)


@attack("idle", 7, "300 connections that send nothing, half a head, or half a body")
def idle(target: Target) -> Outcome:
    starts = (
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-",
        target.head(f"{API}/call/depth", length=1000) + b'{"da',
    )
    began, closed_s = time.monotonic(), 0.0
    with Watch(target) as watch, contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(target.connect(80 + number // 10)) for number in range(300)]
        for number, connection in enumerate(open_ones):
            with contextlib.suppress(OSError):
                connection.sendall(starts[number % 3])
        while open_ones and time.monotonic() - began < IDLE_S:
            time.sleep(1)
            open_ones = [connection for connection in open_ones if not _is_closed(connection)]
            closed_s = time.monotonic() - began
    faults = [f"{len(open_ones)} of 300 still open after {IDLE_S:.0f} s"] if open_ones else []
    return judged([*faults, *watch.faults()], f"all closed after {closed_s:.0f} s", watch)


def _is_closed(connection: socket.socket) -> bool:
    try:
        connection.setblocking(False)
        return connection.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@attack("descriptors", 7, "running out of descriptors", own=True, configured={})
def descriptors(target: Target) -> Outcome:
    if target.process is None or target.log is None or not hasattr(psutil, "RLIMIT_NOFILE"):
        raise SkippedError("limits of another process cannot be set here")
    most = target.process.num_fds() + 40
    target.process.rlimit(psutil.RLIMIT_NOFILE, (most, most))
    logged, faults = target.log.stat().st_size, []
    with contextlib.ExitStack() as stack:
        for number in range(200):
            with contextlib.suppress(OSError):
                stack.enter_context(target.connect(120 + number // 10))
        held_s = _well_after(target, IDLE_S)
    free_s = _well_after(target, 20)
    if held_s > IDLE_S:
        faults.append(f"no service for {IDLE_S:.0f} s while 200 connections are held")
    if free_s > 20:
        faults.append("no service when they are gone")
    logged = target.log.stat().st_size - logged
    if logged > 100_000:
        faults.append(f"{logged / 1e6:.1f} MB of log")
    return judged(
        faults, f"service after {held_s:.0f} s and, when they are gone, {free_s:.0f} s; {logged} B of log"
    )


def _well_after(target: Target, limit_s: float) -> float:
    """Return after how long /healthz answers; more than the limit where it does not."""
    began = time.monotonic()
    while not target.is_well and time.monotonic() - began <= limit_s:
        time.sleep(0.5)
    return time.monotonic() - began


@attack("sessions", 7, "400 new sessions push out a page that is in use")
def sessions(target: Target) -> Outcome:
    event, page, faults = target.photo_event, target.page, []
    with Watch(target, photos=False) as watch, target.visit(6) as visit:
        photo = visit.upload("photo.png", picture(27))
        heartbeat = target.connect(6)  # as the script of an open page does
        heartbeat.sendall(target.get(f"{API}/heartbeat/{visit.session}"))
        visit.click(page, event, photo=photo)
        for number in range(400):
            with target.visit(7 + number % 3) as stranger, contextlib.suppress(RefusedError):
                stranger.click(page, event, photo=None)
        try:
            small = {"depth_steps": 1, "depth_ensemble": 1, "depth_resolution": 64}
            visit.click(page, page.event(takes="depth-checkpoint", gives="compare"), **small)
        except RefusedError as error:
            faults.append(f"the page in use reads: {error}")
        heartbeat.close()
    return judged([*faults, *watch.faults(extra_mb=400)], "the page in use works on", watch)
