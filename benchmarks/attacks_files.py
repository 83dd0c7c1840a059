"""Attacks with files: other visitors' files, markup that is costly to recognize, decoder bombs."""

import contextlib
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import hostile_files
from benchmarks.attack_target import ANSWER_S, API, OUR_SIDE, Reply, SilentError, Target, picture
from benchmarks.attack_watch import Outcome, SkippedError, Watch, attack, judged
from benchmarks.rest_client import RefusedError, Visit

MARKED = {"meta": {"_type": "gradio.FileData"}}
NUMBERS = range(3, 120)  # descriptors that are tried
VICTIM = 5  # 127.0.0.5
SEND_FOR_S, SEND_MOST = (
    4.0,
    4,
)  # a file that ends at once is sent again, so that there is something to measure


# -- 1. other visitors' files ---------------------------------------------------------------------------


@contextlib.contextmanager
def held_open(target: Target) -> Iterator[tuple[bytes, str]]:
    """Let a victim fetch a photo of theirs so slowly that the server holds it open; gives bytes and path."""
    photo = picture(11, size=(2600, 1800), kind="BMP")  # 14 MB, more than the buffers between the two
    with target.visit(VICTIM) as victim:
        path = victim.upload("secret.bmp", photo)["path"]
    with target.connect(VICTIM, receive_bytes=4096) as connection:
        connection.sendall(target.get(f"{API}/file={path}"))
        if not connection.recv(100).startswith(b"HTTP/1.1 200"):
            raise SkippedError("the victim could not fetch a photo of theirs")
        yield photo, path


def descriptor_paths(target: Target) -> Iterator[str]:
    """Yield the names that Linux has for open files of the server."""
    roots = ["/proc/self/fd", "/dev/fd", "/proc/thread-self/fd", "/proc/self/task/self/fd"]
    if target.process is not None:
        with contextlib.suppress(psutil.Error):
            process = target.process.pid
            roots += [f"/proc/{process}/fd", f"/proc/{process}/root/proc/self/fd"]
            roots += [f"/proc/{process}/task/{each.id}/fd" for each in target.process.threads()[:3]]
    for root in roots:
        yield from (f"{root}/{number}" for number in NUMBERS)


@attack("fd-addresses", 1, "/proc/self/fd/N and its like by file=")
def fd_addresses(target: Target) -> Outcome:
    faults, tried = [], 0
    with held_open(target) as (secret, path):
        names = [*descriptor_paths(target), f"/proc/self/root{path}", f"/proc/self/cwd/..{path}"]
        names += [f"{Path(path).parent}/../{Path(path).parent.name}/{Path(path).name}", f"/./{path}"]
        names += [f"/proc/self/../self/fd/{number}" for number in NUMBERS[:20]]
        with httpx.Client(base_url=target.url, timeout=ANSWER_S, trust_env=False) as client:
            for name in names:
                for form in (
                    (f"file={name}", f"file/{name}")
                    if name.startswith("/proc/self/fd")
                    else (f"file={name}",)
                ):
                    tried += 1
                    # As it is written: httpx would resolve ".." before it sends the path.
                    raw = {"target": f"/gradio_api/{form}".encode()}
                    answer = client.get("/", headers={"range": "bytes=0-99"}, extensions=raw)
                    if answer.status_code < 300:
                        theirs = "the victim's photo" if answer.content[:100] == secret[:100] else "a file"
                        faults.append(f"{_kind(name)} gives {theirs}")
    return judged(faults, f"{tried} names refused while a photo was open")


@attack("fd-data", 1, "/proc/self/fd/N and its like as FileData of public and private events")
def fd_data(target: Target) -> Outcome:
    faults, tried = [], 0
    with held_open(target) as (_, path), target.visit() as visit:
        number = _descriptor(target, path)
        for name in descriptor_paths(target):
            if name.endswith(f"/{number}" if number else tuple(f"/{each}" for each in range(8, 24))):
                tried += 1
                faults += _opened(target, visit, {"path": name} | MARKED, _kind(name))
    return judged(faults, f"{tried} names refused by the page's event and by /depth")


@attack("links", 1, "links in the server's folder, made by another program of this machine")
def links(target: Target) -> Outcome:
    with target.visit(VICTIM) as victim:
        path = Path(victim.upload("secret.png", picture(12))["path"])
    if not path.is_file():
        raise SkippedError("the server's folder is not on this machine")
    made: list[Path] = []
    with tempfile.TemporaryDirectory() as outside:
        Path(outside, "outside.png").write_bytes(picture(13))
        aims = {
            "a link to another visitor's photo": path,
            "a link out of the folder": Path(outside, "outside.png"),
        }
        try:
            for words, aim in aims.items():
                made.append(path.parents[1] / f"{secrets.token_hex(8)}.png")
                made[-1].symlink_to(aim)
                aims[words] = made[-1]
            made.append(path.parents[1] / secrets.token_hex(8))
            made[-1].symlink_to(path.parent)
            aims["a linked folder"] = made[-1] / path.name
            faults = [fault for words, name in aims.items() for fault in _served(target, name, words)]
        finally:
            for each in made:
                each.unlink(missing_ok=True)
    return judged(faults, f"{len(aims)} links are not followed")


def _served(target: Target, name: Path, words: str) -> Iterator[str]:
    if target.ask("GET", f"/gradio_api/file={name}").status_code < 300:
        yield f"{words} is served"
    with target.visit() as visit:
        yield from _opened(target, visit, {"path": str(name)} | MARKED, words)


def _opened(target: Target, visit: Visit, file: dict[str, Any], words: str) -> Iterator[str]:
    """Yield a fault for each kind of event that opens a file that was not uploaded."""
    with contextlib.suppress(RefusedError, SilentError):
        if not target.open_photo(visit, file).words:
            yield f"{words} is read by the page's event"
    with contextlib.suppress(RefusedError, httpx.HTTPError):
        visit.request("depth", photo=file, steps=1, ensemble=1, resolution=64)
        yield f"{words} is read by /depth"


def _descriptor(target: Target, path: str) -> int | None:
    """Return under which number the server holds a file open, where that can be seen."""
    with contextlib.suppress(OSError, psutil.Error):
        for number in Path(f"/proc/{target.process.pid if target.process else 0}/fd").iterdir():
            if os.readlink(number) == path:
                return int(number.name)
    return None


def _kind(name: str) -> str:
    parts = ["N" if part.isdigit() else part for part in name.split("/")]
    return "/".join(parts)[:40]


# -- 2. markup ------------------------------------------------------------------------------------------


@attack("markup", 2, "<!----> x 60 as a photo stops the server")
def markup(target: Target) -> Outcome:
    return sent(target, partial(target.read_photo, hostile_files.comments(), name="holiday.jpg"))


@attack("markup-others", 2, "other markup that a pattern could be slow on")
def other_markup(target: Target) -> Outcome:
    faults, seen = [], []
    with Watch(target) as watch:
        for name, build in hostile_files.MARKUP.items():
            if name != "comments":
                try:
                    reply = target.read_photo(build(), name=f"{name}.png")
                except SilentError as error:
                    faults.append(f"{name}: {error}")
                    break
                seen.append(f"{name} {reply.seconds:.1f} s")
                faults += [f"{name} is taken for a photo"] if not reply.words else []
    return judged([*faults, *watch.faults()], ", ".join(seen), watch)


# -- 3. decoder bombs -----------------------------------------------------------------------------------


def sent(target: Target, send: Callable[[], Reply]) -> Outcome:
    """Send a file, several times where it ends at once, and judge how it ended and what it cost others."""
    faults, replies = [], list[Reply]()
    with Watch(target) as watch:
        until = time.monotonic() + SEND_FOR_S
        while len(replies) < SEND_MOST and (not replies or time.monotonic() < until):
            try:
                replies.append(send())
            except (SilentError, httpx.HTTPError) as error:
                faults.append(str(error) or type(error).__name__)
                break
    faults += ["a bug, not a sentence" for reply in replies if OUR_SIDE in reply.words]
    slowest = max(replies, key=lambda reply: reply.seconds, default=Reply("nothing came back", 0.0))
    words = f"{slowest.seconds:.1f} s: {_short(slowest.words) or 'a result'}"
    return judged([*faults, *watch.faults()], words, watch)


def _short(words: str) -> str:
    return words[:70] + ("…" if len(words) > 70 else "")


def _bomb(
    build: hostile_files.Builder, door: Callable[[Target], Callable[[bytes], Reply]], target: Target
) -> Outcome:
    data = build()
    return sent(target, lambda: door(target)(data))


def _list_bombs() -> None:
    doors: list[tuple[dict[str, hostile_files.Builder], Callable[[Target], Callable[[bytes], Reply]]]] = [
        (hostile_files.PHOTOS, lambda target: target.read_photo),
        (hostile_files.DEPTHS, lambda target: target.read_depth),
        (hostile_files.RECIPES, lambda target: target.read_recipe),
    ]
    for builders, door in doors:
        for name, build in builders.items():
            about = (getattr(build, "func", build).__doc__ or "").split("\n")[0]
            attack(name, 3, about)(partial(_bomb, build, door))


_list_bombs()


@attack("worker-crash", 3, "a crash while a file is decoded costs its own visitor one sentence", own=True)
def worker_crash(target: Target) -> Outcome:
    data, ended = hostile_files.zip_members(), list[Reply | str]()

    def send() -> None:
        try:
            ended.append(target.read_depth(data))
        except (SilentError, httpx.HTTPError) as error:
            ended.append(f"the visitor reads nothing: {error}")

    faults = []
    with Watch(target) as watch:
        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        worker = _busy_child(target)
        if worker is None:
            faults.append("the file is decoded in the server itself")
        else:
            worker.send_signal(signal.SIGSEGV)
        thread.join(ANSWER_S)
    last = ended[-1] if ended else "no answer"
    if isinstance(last, str):
        faults.append(last)
    words = last.words if isinstance(last, Reply) else ""
    faults += ["a bug, not a sentence"] if OUR_SIDE in words else []
    return judged([*faults, *watch.faults()], f"the visitor reads: {_short(words)}", watch)


def _busy_child(target: Target) -> psutil.Process | None:
    """Return the child of the server that computes, looked for during some seconds."""
    for _ in range(10):
        before = {child: _spent_s(child) for child in target.family()[1:]}
        time.sleep(0.4)
        busy = {child: _spent_s(child) - spent_s for child, spent_s in before.items()}
        if busy and max(busy.values()) > 0.2:
            return max(busy, key=lambda child: busy[child])
    return None


def _spent_s(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        return float(sum(process.cpu_times()[:2]))
    return 0.0
