"""Photos, depth files and recipes, decoded in a process of their own; page, API and command line use this.

Decoders of pictures are a large body of C that meets bytes of visitors. So a server process without torch
(`decode_server`) forks one child for each file, under limits of memory, time and system calls; the child sees
that one file and ends with it. Whatever it does, its own visitor reads a sentence and the others are served.
Outside Linux files are decoded here, by the same functions.

Messages on the control socket (SOCK_SEQPACKET) are JSON: {"do": "decode", "id", "kind", "options",
"memory_bytes", "cpu_s"} with two descriptors, the reply socket and the file; {"do": "slow", "id"};
{"do": "kill", "id", "spent_s", "limit_s"}, which spares a child that waited for a processor a while longer.
The child answers on the reply socket with {"value"}, {"refused"} or {"failed"} and a descriptor of anonymous
memory that holds the arrays one after the other. Nothing that comes back is unpickled, and all of it is
checked: a child may have been taken over by its file.
"""

import itertools
import json
import logging
import math
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from marigold_demo import recipe
from marigold_demo.depth import DepthMap
from marigold_demo.errors import DemoError, DepthFileError, PhotoError, SettingsError
from marigold_demo.io import depth_file, photo
from marigold_demo.io.depth_file import DepthFile, depth_form, may_be_depth
from marigold_demo.io.limits import opened
from marigold_demo.io.photo import Photo, safe_stem
from marigold_demo.recipe import Recipe, recipe_from_json

T = TypeVar("T")
_log = logging.getLogger(__name__)
if sys.platform == "linux":
    import fcntl

    _SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
SLOW_AFTER_S = 2.0  # then a child runs at a low priority
PATIENCE = 3  # times the limit are granted to a child that waits for a processor, on a busy machine
_ASK_EVERY_S = 0.5
_START_S = 60.0
_MAPPED_BYTES = 4 * 2**20  # a mapping keeps a descriptor open for as long as its array lives
_MESSAGE_BYTES, _MOST_TEXT, _MOST_PARTS = 2**16, 20_000, 100
# Variables that the server process inherits. Others may hold secrets.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
_READY = b"ready"
SERVER = "marigold_demo.io.decode_server"


@dataclass(frozen=True)
class Limits:
    """What decoding may take.

    Attributes:
        processes: Files that are decoded at the same time.
        seconds: Time for one file; waiting for a processor does not count, up to `PATIENCE` times of this.
            Twice as much CPU time, because decoders use threads.
        memory_bytes: Address space of the process that decodes one file.
        waiting: Files of one visitor that may wait. At most half of the processes decode for one visitor.
    """

    processes: int = 4
    seconds: float = 9.0  # answered within 10
    memory_bytes: int = 1_500_000_000
    waiting: int = 2


@dataclass(frozen=True)
class _Kind:
    """One kind of file: how it is refused, and what would work."""

    error: type[DemoError]
    remedy: str


_KINDS = {
    "photo": _Kind(PhotoError, "save it as JPEG or PNG and try again"),
    "depth": _Kind(DepthFileError, "save it again as a float32 .npy or a 16-bit gray PNG"),
    "recipe": _Kind(SettingsError, "use the JSON, 3MF, PNG or GLB file as it was downloaded"),
}


class _FailedError(Exception):
    """Decoding failed for a reason that the file's sender cannot know; it goes to the log."""


class Decoder:
    """Decodes files in processes of their own; safe to use from many threads."""

    def __init__(self, limits: Limits | None = None, *, server: str = SERVER) -> None:
        """Take the limits and the module that is run as the server process."""
        self.limits, self.server = limits or Limits(), server
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._slots = _Slots(self.limits)

    def start(self) -> None:
        """Start the server process without waiting until it is ready."""
        with self._lock:
            self._started()

    def close(self) -> None:
        """End the server process and all decoding."""
        with self._lock:
            self._end()

    def decode(
        self,
        kind: str,
        file: BinaryIO,
        build: Callable[[dict[str, Any]], T],
        *,
        visitor: str | None = None,
        **options: Any,
    ) -> T:
        """Return what `build` makes of the decoded fields, in which arrays are read-only.

        Args:
            kind: "photo", "depth" or "recipe".
            file: Open, with a descriptor.
            build: Makes the object; an error of types, values or names counts as the decoder's failure.
            visitor: Whose file it is; None where there is only one.
            options: Arguments of the decoder, JSON values.

        Raises:
            DemoError: Of the kind's class: the file cannot be used, or takes too much time or memory.
        """
        try:
            return build(self._decoded(kind, file, visitor, options))
        except (_FailedError, TypeError, ValueError, LookupError, AttributeError) as error:
            _log.error("decoding failed", extra={"facts": {"file": kind, "reason": str(error)}})
            raise _KINDS[kind].error(
                f"The file could not be read, which has been noted; {_KINDS[kind].remedy}."
            ) from error

    def _decoded(
        self, kind: str, file: BinaryIO, visitor: str | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        with self._slots.taken(visitor, _KINDS[kind].error):
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with mine:
                number = next(self._numbers)
                with theirs:
                    self._request(number, kind, options, [theirs.fileno(), file.fileno()])
                reply, memory = self._reply(mine, number)
        try:
            return self._checked(kind, reply, memory)
        finally:
            if memory is not None:
                os.close(memory)

    def _request(self, number: int, kind: str, options: dict[str, Any], descriptors: list[int]) -> None:
        message = {
            "do": "decode",
            "id": number,
            "kind": kind,
            "options": options,
            "memory_bytes": self.limits.memory_bytes,
            "cpu_s": math.ceil(2 * self.limits.seconds),
        }
        with self._lock:
            for attempt in (1, 2):
                control = self._ready()
                try:
                    socket.send_fds(control, [json.dumps(message).encode()], descriptors)
                    return
                except OSError as error:  # the server process is gone: once more with a new one
                    self._end()
                    if attempt == 2:
                        raise _FailedError("the decoding process cannot be reached") from error

    def _reply(self, mine: socket.socket, number: int) -> tuple[dict[str, Any], int | None]:
        """Wait for the answer; the child is slowed down after a while and killed at the end of its time."""
        began_s, limit_s = time.monotonic(), self.limits.seconds
        mine.settimeout(min(SLOW_AFTER_S, limit_s))
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(mine, _MESSAGE_BYTES, 1)
            except OSError as error:
                spent_s = time.monotonic() - began_s
                if spent_s >= limit_s:
                    if not isinstance(error, TimeoutError) or spent_s >= PATIENCE * limit_s + _ASK_EVERY_S:
                        return {"failed": "TimeoutError"}, None
                    self._tell(number, "kill", spent_s=spent_s, limit_s=limit_s)
                    mine.settimeout(_ASK_EVERY_S)
                elif isinstance(error, TimeoutError):
                    self._tell(number, "slow")
                    mine.settimeout(max(limit_s - spent_s, 0.001))
                else:
                    return {"failed": "ended"}, None
                continue
            if not message:
                is_late = time.monotonic() - began_s >= limit_s
                return {"failed": "TimeoutError" if is_late else "ended"}, None
            try:
                return json.loads(message), next(iter(descriptors), None)
            except ValueError:
                return {"failed": "unreadable answer"}, next(iter(descriptors), None)

    def _tell(self, number: int, what: str, **facts: float) -> None:
        with self._lock:
            try:
                if self._control is not None:
                    self._control.send(json.dumps({"do": what, "id": number, **facts}).encode())
            except OSError:
                self._end()  # its children end with it

    def _checked(self, kind: str, reply: Any, memory: int | None) -> dict[str, Any]:
        error, remedy = _KINDS[kind].error, _KINDS[kind].remedy
        if isinstance(reply, dict) and isinstance(reply.get("refused"), str):
            raise error(reply["refused"][:_MOST_TEXT])
        failed = reply.get("failed") if isinstance(reply, dict) else "no answer"
        if failed == "TimeoutError":
            raise error(
                f"The file takes more than {self.limits.seconds:g} s to read, which is too long; {remedy}."
            )
        if failed == "MemoryError":
            most = f"{self.limits.memory_bytes / 1e9:g} GB"
            raise error(f"The file needs more than {most} of memory to read, which is too much; {remedy}.")
        if failed == "ended":
            raise error(f"The file made its decoder fail, so it cannot be used; {remedy}.")
        if failed is not None or memory is None:
            raise _FailedError(str(failed)[:_MOST_TEXT])
        value = _Value(memory, most_bytes=self.limits.memory_bytes).built(reply.get("value"))
        if not isinstance(value, dict):
            raise _FailedError("unreadable answer")
        return value

    def _started(self) -> socket.socket:
        """Return the control socket of a server process that is there, ready or not."""
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._control is None:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._is_ready = False
            with theirs:
                environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
                environment |= {"PYTHONPATH": str(Path(__file__).parents[2])} | _ONE_THREAD
                self._process = subprocess.Popen(
                    [sys.executable, "-m", self.server, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in a terminal is for this process
                )
        return self._control

    def _ready(self) -> socket.socket:
        """Return the control socket of a server process that can decode now."""
        control = self._started()
        if not self._is_ready:
            control.settimeout(_START_S)
            try:
                said = control.recv(_MESSAGE_BYTES)
            except OSError as error:
                self._end()
                raise _FailedError("the decoding process did not start") from error
            if said != _READY:
                _log.warning("system calls of decoders are not filtered: %s", said.decode() or "no answer")
            self._is_ready = bool(said)
        return control

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


class _Value:
    """Rebuilds what a child sent, with nothing taken on trust."""

    def __init__(self, memory: int, *, most_bytes: int) -> None:
        self._memory, self._offset, self._left = memory, 0, most_bytes
        self._parts = 0
        # Without these, the child could shrink or change the memory while it is read here.
        if fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise _FailedError("memory is not sealed")

    def built(self, value: Any) -> Any:
        """Return the value with arrays in place of their descriptions.

        Raises:
            _FailedError: It is not what a decoder returns.
        """
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise _FailedError("too many parts")
        if isinstance(value, dict):
            return (
                self._array(value) if "array" in value else {str(k): self.built(v) for k, v in value.items()}
            )
        if isinstance(value, list):
            return tuple(self.built(part) for part in value)
        return value[:_MOST_TEXT] if isinstance(value, str) else value

    def _array(self, value: dict[str, Any]) -> NDArray[Any]:
        shape, name = value.get("shape"), value.get("dtype")
        if name not in ("uint8", "float32") or not isinstance(shape, list) or not 1 <= len(shape) <= 3:
            raise _FailedError("no array")
        if not all(isinstance(side, int) and side > 0 for side in shape):
            raise _FailedError("no shape")
        size_bytes = math.prod(shape) * np.dtype(name).itemsize
        self._left -= size_bytes
        if self._left < 0:
            raise _FailedError("too large")
        offset, self._offset = self._offset, self._offset + size_bytes
        if os.fstat(self._memory).st_size < self._offset:
            raise _FailedError("too short")
        return np.frombuffer(self._bytes(offset, size_bytes), dtype=name).reshape(shape)

    def _bytes(self, offset: int, size_bytes: int) -> bytes | mmap.mmap:
        """Return read-only bytes of the memory: mapped, or copied where a descriptor would be worth more."""
        if size_bytes < _MAPPED_BYTES or offset % mmap.ALLOCATIONGRANULARITY:
            return os.pread(self._memory, size_bytes, offset)
        flags = (
            mmap.MAP_SHARED | mmap.MAP_POPULATE
        )  # all of it is read: one call in place of 10,000 page faults
        return mmap.mmap(self._memory, size_bytes, flags, mmap.PROT_READ, offset=offset)


class _Slots:
    """Who may decode now: no visitor has more than half of the processes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        self._running: Counter[str | None] = Counter()
        self._waiting: Counter[str | None] = Counter()

    @contextmanager
    def taken(self, visitor: str | None, error: type[DemoError]) -> Iterator[None]:
        """Hold one process for the time of the block.

        Raises:
            DemoError: Of the kind `error`: the visitor has too many files waiting.
        """
        with self._changed:
            if not self._may_run(visitor):
                if visitor is not None and self._waiting[visitor] >= self._limits.waiting:
                    raise error("Several of your files are still being read; wait until they are done.")
                self._waiting[visitor] += 1
                self._changed.wait_for(lambda: self._may_run(visitor))
                self._waiting -= Counter([visitor])
            self._running[visitor] += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= Counter([visitor])
                self._changed.notify_all()

    def _may_run(self, visitor: str | None) -> bool:
        most = self._limits.processes if visitor is None else max(1, self._limits.processes // 2)
        return self._running.total() < self._limits.processes and self._running[visitor] < most


AVAILABLE = sys.platform == "linux"
_decoder = Decoder()


def use(limits: Limits, *, start: bool = False, server: str = SERVER) -> None:
    """Decode under these limits from now on, in children of a module that is run as the server process.

    `start` starts that process before the first file.
    """
    global _decoder
    if (limits, server) != (_decoder.limits, _decoder.server):
        _decoder.close()
        _decoder = Decoder(limits, server=server)
    if start and AVAILABLE:
        _decoder.start()


def load_photo(path: Path | str, *, visitor: str | None = None) -> Photo:
    """Read a photo as `photo.load_photo` does, in a process of its own.

    Raises:
        PhotoError: The file cannot be used, or takes too much time or memory.
    """
    if not AVAILABLE:
        return photo.load_photo(path)
    stem = safe_stem(Path(path).name)
    with opened(path, max_bytes=photo.MAX_BYTES, error=PhotoError) as file:
        return _decoder.decode(
            "photo", file, lambda found: Photo(**found | {"stem": stem}), visitor=visitor, name=""
        )


def read_depth_file(path: Path | str, *, visitor: str | None = None, **options: Any) -> DepthFile:
    """Read a depth file as `depth_file.read_depth_file` does, in a process of its own.

    Raises:
        DepthFileError: The file cannot be used, or takes too much time or memory.
    """
    if not AVAILABLE:
        return depth_file.read_depth_file(path, **options)
    with opened(path, max_bytes=depth_file.MAX_BYTES, error=DepthFileError) as file:
        return _decoder.decode(
            "depth",
            file,
            lambda found: DepthFile(**found | {"depth": DepthMap(**found["depth"])}),
            visitor=visitor,
            **options,
        )


def load_recipe(path: Path | str, *, visitor: str | None = None) -> Recipe:
    """Read a recipe as `recipe.load_recipe` does, in a process of its own.

    Raises:
        SettingsError: The file holds no recipe, or takes too much time or memory.
    """
    if not AVAILABLE:
        return recipe.load_recipe(path)
    with recipe.opened_recipe(path) as file:
        return _decoder.decode("recipe", file, lambda found: recipe_from_json(found["text"]), visitor=visitor)


_DEPTH_ENDINGS = ("_16bit", "_depth_inverted", "_depth")


@dataclass(frozen=True)
class DepthInput:
    """A depth file.

    Attributes:
        depth: What it holds.
        stem: Of the files that will be made of it.
        is_relief: It is a height map of ours.
        notes: Sentences on how it was read.
    """

    depth: DepthMap
    stem: str
    is_relief: bool
    notes: tuple[str, ...] = ()


def photo_from(file: Path, *, if_depth: str | None = None) -> Photo:
    """Read a photo; `if_depth` says what to do where the file may be depth.

    Raises:
        PhotoError: It cannot be used.
    """
    try:
        read = load_photo(file)
    except PhotoError as error:
        if if_depth and depth_form(file):
            raise PhotoError(f"The file is depth, not a photo; {if_depth}.") from error
        raise
    warnings = may_be_depth(file, read.rgb, remedy=if_depth) if if_depth else ()
    return replace(read, notes=read.notes + tuple(warnings)) if warnings else read


def photo_or_depth_from(file: Path, *, is_depth: bool, options: dict[str, Any]) -> Photo | DepthInput:
    """Read a file as what its content says it is.

    Args:
        file: The file.
        is_depth: It is depth, even where its content might be that of a photo.
        options: Of `read_depth_file`.

    Raises:
        DemoError: It cannot be used.
    """
    if not is_depth and depth_form(file) is None:
        return photo_from(file, if_depth="add --depth")
    read = read_depth_file(file, **options)
    return DepthInput(read.depth, depth_stem(safe_stem(file.name)), read.is_relief, tuple(read.notes))


def depth_stem(stem: str) -> str:
    """Return the stem of a depth file without what says that it is one."""
    for ending in _DEPTH_ENDINGS:
        stem = stem.removesuffix(ending)
    return stem
