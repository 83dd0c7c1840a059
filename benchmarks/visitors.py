"""Send many visitors at once to a server of its own and hold every result against the right one.

    .venv/bin/python -m benchmarks.visitors [--quick] [--visitors 50] [--minutes 3] [--requests 1000]

Starts `python app.py` on loopback, with its own port and cache folder. Each visitor has an address of their
own (127.0.1.k, as Linux allows) and a photo of their own,
whose depth, relief and mesh are computed here beforehand, and sends in turn: depth by the API, a private run
of the page, relief, mesh, a run that the visitor leaves, a run that is canceled, files that are no photo
or no depth. Then a stream of small requests looks for leaks. Ends with 1 on a wrong result, on any error but
"queue is full", on memory that grew by more than a tenth, and on a cache folder beyond its budget.

What the server may keep of visitors is bounded, by default so widely that these few would fill it for hours,
and memory would grow all that time as it should. So the bounds are set low here, and filled before memory is
taken down for the first time: what grows after that is a leak.
"""

import argparse
import collections
import hashlib
import io
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.rest_client import FullError, RefusedError, Visit
from benchmarks.server import app_running, resident_mb
from marigold_demo.io.formats import formats_of
from marigold_demo.io.photo import load_photo
from marigold_demo.network.checkpoint import load_pipeline
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.ui import queue
from marigold_demo.workflow import Workflow

GROWTH, BUDGET_MB = 1.10, 1024
BOUNDS = {"MARIGOLD_VISITORS_MB": "64", "MARIGOLD_FINISHED_MB": "16"}
CLOSE = (
    1e-5  # two runs of one network on one machine are equal; the limit allows for another number of threads
)
RELIEF = {"resolution": 128, "width_mm": 80}
MESH = {"resolution": 128}
# How often each request is sent.
WEIGHTS = {"depth": 5, "page": 3, "relief": 4, "mesh": 2, "leaves": 2, "no photo": 1, "no depth": 1}


@dataclass(frozen=True)
class Person:
    """One visitor: a photo, and what should come of it."""

    photo: bytes
    depth_file: bytes
    depth: np.ndarray  # [H, W]
    relief: str  # digest of the STL
    mesh: str  # digest of the GLB
    address: str  # on loopback; the server distinguishes visitors by it


@dataclass
class Tally:
    """What happened, by kind of request; several threads write into it."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    full: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def faults(self) -> Iterator[str]:
        """Yield what went wrong, no more than twenty of it."""
        yield f"queue full {self.full} times, {len(self.wrong)} wrong results, {len(self.errors)} errors"
        yield from [*self.wrong, *self.errors][:20]

    def rows(self) -> Iterator[str]:
        """Yield a line for each kind of request: how many, median and 95th percentile."""
        for name, times in sorted(self.seconds.items()):
            p95 = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
            yield f"{name:<18} {len(times):5d}   p50 {statistics.median(times):6.2f} s   p95 {p95:6.2f} s"


def make_people(count: int, *, size: tuple[int, int], settings: DepthSettings, folder: Path) -> list[Person]:
    """Draw photos that differ and compute here what the server should answer."""
    pipeline = load_pipeline(settings.checkpoint)
    people = []
    for number in range(count):
        path = folder / f"visitor{number}.png"
        draw(number, size).save(path)
        photo = load_photo(path)
        depth = pipeline(photo, settings)
        relief = Workflow.relief(depth, ReliefSettings(**RELIEF))
        surface = Workflow.surface(depth, photo, MeshSettings(**MESH))
        people.append(
            Person(
                photo=path.read_bytes(),
                depth_file=formats_of("depth")["npy"].write(depth, photo.stem)[1],
                depth=depth.values,
                relief=digest(formats_of("relief")["stl"].write(relief, photo.stem)[1]),
                mesh=digest(formats_of("mesh")["glb"].write(surface, photo.stem)[1]),
                address=f"127.0.{1 + number // 200}.{1 + number % 200}",
            )
        )
    return people


def draw(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a picture of some discs; the number alone decides."""
    rng = np.random.default_rng(number)
    width, height = size[0] + 2 * (number % 7), size[1]
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.empty((height, width, 3), dtype=np.uint8)
    rgb[:] = rng.integers(0, 256, 3)
    for _ in range(6):
        inside = np.hypot(x - rng.uniform(0, width), y - rng.uniform(0, height)) < rng.uniform(10, height / 2)
        rgb[inside] = rng.integers(0, 256, 3)
    return Image.fromarray(rgb)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Visitors:
    """Visitors who come at the same time, each with requests of their own."""

    def __init__(
        self, url: str, people: list[Person], *, resolution: int | None, without: tuple[str, ...] = ()
    ) -> None:
        self.tally = Tally()
        self._url, self._people, self._resolution = url, people, resolution
        with Visit(url) as visit:
            self._page = visit.open_page()
        self._requests: dict[str, Callable[[Visit, Person, random.Random], str]] = {
            "depth": self._depth,
            "page": self._through_the_page,
            "relief": self._relief,
            "mesh": self._mesh,
            "leaves": self._leaves,
            "no photo": self._no_photo,
            "no depth": self._no_depth,
        }
        self._weights = [0 if name in without else weight for name, weight in WEIGHTS.items()]

    def stay(self, minutes: float) -> int:
        """Let all of them send requests until the time is over; return the number answered."""
        before, until = self.requests, time.monotonic() + 60 * minutes
        with ThreadPoolExecutor(len(self._people)) as threads:
            for number, person in enumerate(self._people):
                threads.submit(self._stay, person, random.Random(number), until)
        return self.requests - before

    def open_pages(self, count: int) -> None:
        """Bring a photo to so many pages and do no more there."""
        takes_photo = self._page.event(takes="photo", gives="photo-notes")
        for number in range(count):
            person = self._people[number % len(self._people)]
            with Visit(self._url, address=person.address) as visit:
                photo = visit.upload("photo.png", person.photo)
                visit.click(self._page, takes_photo, photo=photo)

    def ask(self, count: int, *, threads: int = 4) -> None:
        """Let a few of them send a number of requests, one after the other."""
        todo = iter(range(count))

        def work(first: int) -> None:
            chance = random.Random(first)
            for number in todo:
                self._request(self._people[number % len(self._people)], chance)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))

    @property
    def requests(self) -> int:
        """Requests answered so far."""
        return sum(len(times) for times in self.tally.seconds.values())

    def _stay(self, person: Person, chance: random.Random, until: float) -> None:
        time.sleep(chance.uniform(0, 5))  # not all in one moment
        while time.monotonic() < until:
            self._request(person, chance)
            time.sleep(chance.uniform(0, 2))

    def _request(self, person: Person, chance: random.Random) -> None:
        name = chance.choices(list(self._requests), weights=self._weights)[0]
        began = time.monotonic()
        try:
            with Visit(self._url, address=person.address) as visit:
                problem = self._requests[name](visit, person, chance)
        except FullError:
            with self.tally.lock:
                self.tally.full += 1
            time.sleep(chance.uniform(1, 4))
            return
        except (RefusedError, httpx.HTTPError, LookupError, ValueError) as error:
            with self.tally.lock:
                self.tally.errors.append(f"{name}: {error!r}")
            return
        with self.tally.lock:
            self.tally.seconds[name].append(time.monotonic() - began)
            if problem:
                self.tally.wrong.append(f"{name}: {problem}")

    def _settings(self, chance: random.Random) -> dict[str, int]:
        """Return a seed that was never used, which changes nothing but that the network has to run."""
        resolution = {} if self._resolution is None else {"resolution": self._resolution}
        return resolution | {"seed": chance.randrange(2**31)}

    def _depth(self, visit: Visit, person: Person, chance: random.Random) -> str:
        photo = visit.upload("photo.png", person.photo)
        npy, *_ = visit.request("depth", photo=photo, **self._settings(chance))
        return differs(visit.fetch(npy), person)

    def _through_the_page(self, visit: Visit, person: Person, chance: random.Random) -> str:
        page, photo = self._page, visit.upload("photo.png", person.photo)
        visit.click(page, page.event(takes="photo", gives="photo-notes"), photo=photo)
        chosen = {f"depth_{name}": value for name, value in self._settings(chance).items()}
        visit.click(page, page.event(takes="depth-checkpoint", gives="compare"), **chosen)
        npy, *_ = visit.click(page, page.event(takes="", gives="download-npy"))
        return differs(visit.fetch(npy["value"]), person)

    def _relief(self, visit: Visit, person: Person, chance: random.Random) -> str:
        depth = visit.upload("photo_depth.npy", person.depth_file)
        (stl,) = visit.request("relief", depth=depth, **RELIEF)
        return "" if digest(visit.fetch(stl)) == person.relief else "another relief"

    def _mesh(self, visit: Visit, person: Person, chance: random.Random) -> str:
        depth = visit.upload("photo_depth.npy", person.depth_file)
        photo = visit.upload("photo.png", person.photo)
        (glb,) = visit.request("mesh", depth=depth, photo=photo, **MESH)
        return "" if digest(visit.fetch(glb)) == person.mesh else "another mesh"

    def _leaves(self, visit: Visit, person: Person, chance: random.Random) -> str:
        photo = visit.upload("photo.png", person.photo)
        with visit.watching(visit.start("depth", photo=photo, **self._settings(chance))):
            time.sleep(chance.uniform(0, 2))
        return ""

    def _no_photo(self, visit: Visit, person: Person, chance: random.Random) -> str:
        photo = visit.upload("photo.jpg", person.photo[: chance.randrange(40, 400)])
        return refused(lambda: visit.request("depth", photo=photo))

    def _no_depth(self, visit: Visit, person: Person, chance: random.Random) -> str:
        cut = visit.upload("depth.npy", person.depth_file[: chance.randrange(200, 2000)])
        return refused(lambda: visit.request("relief", depth=cut))


def differs(npy: bytes, person: Person) -> str:
    """Return how depth differs from what it should be; empty where it does not."""
    depth = np.load(io.BytesIO(npy))
    if depth.shape != person.depth.shape:
        return f"another size, {depth.shape} for {person.depth.shape}"
    most = float(np.abs(depth - person.depth).max())
    return "" if most <= CLOSE else f"off by {most:.3g}"


def refused(request: Callable[[], object]) -> str:
    """Return what is wrong unless a request gets an error message of ours."""
    try:
        request()
    except FullError:
        raise
    except RefusedError as error:
        return "" if "our side" not in str(error) else f"no plain sentence: {error}"
    return "a damaged file was taken"


def folder_mb(folder: Path) -> float:
    """Return what the files below a folder take."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--requests", type=int, default=1000, help="of the leak check; 0: none")
    parser.add_argument("--quick", action="store_true", help="12 visitors, 40 s, 100 requests")
    said = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server ends with us
    if said.quick:
        said.visitors, said.minutes, said.requests = 12, 40 / 60, 100
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        people = make_people(said.visitors, size=(160, 120), settings=DepthSettings(), folder=folder)
        small = make_people(8, size=(64, 48), settings=DepthSettings(resolution=64), folder=folder)
        with app_running(folder, configured=BOUNDS) as (url, process):
            crowd = Visitors(url, people, resolution=None)
            # Programs only: for each page Gradio keeps 0.4 MB, for at most 300 of them.
            few = Visitors(url, small, resolution=64, without=("page",))
            return measure(crowd, few, said=said, process=process, cache=folder / "cache")


def measure(crowd: Visitors, few: Visitors, *, said: argparse.Namespace, process: int, cache: Path) -> int:
    """Run and print all figures; return 1 where one of them is not what it should be."""
    few.ask(len(WEIGHTS) * 2)  # the first one waits for the checkpoint
    crowd.open_pages(queue.MAX_SESSIONS)
    crowd.stay(said.minutes / 3)
    warm, began = resident_mb(process), time.monotonic()
    crowd.tally = Tally()
    count = crowd.stay(said.minutes)
    spent_s = time.monotonic() - began
    after = resident_mb(process)
    print(f"{said.visitors} visitors, {spent_s:.0f} s: {count} requests, {60 * count / spent_s:.0f} a minute")
    print("\n".join(crowd.tally.rows()))
    print("\n".join(crowd.tally.faults()))
    grown = [report("memory after warm-up and after the run", warm, after)]
    few.ask(said.requests // 5)
    before = resident_mb(process)
    few.ask(said.requests)
    if said.requests:
        grown.append(
            report(f"memory before and after {said.requests} requests", before, resident_mb(process))
        )
    print("\n".join(few.tally.faults()))
    used_mb = folder_mb(cache)
    print(f"files in the cache folder: {used_mb:.0f} MB (budget {BUDGET_MB} MB)")
    bad = any(tally.wrong or tally.errors for tally in (crowd.tally, few.tally))
    return int(bad or max(grown) > GROWTH or used_mb > BUDGET_MB)


def report(what: str, before: float, after: float) -> float:
    """Print two figures of memory and return their ratio."""
    print(f"{what}: {before:.0f} MB, {after:.0f} MB ({after / before - 1:+.1%})")
    return after / before


if __name__ == "__main__":
    sys.exit(main())
