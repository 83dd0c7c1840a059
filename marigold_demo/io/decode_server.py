"""The process that decodes foreign files: it forks a child with limits for each one and reads none itself.

Run as `python -m marigold_demo.io.decode_server FD` by `io/isolated.py`, which also describes the
messages. The server has one thread and imports everything that decoding needs, so that a child starts within
milliseconds, needs no further file, and sees nothing of other visitors' files.

The system-call filter needs Linux and libseccomp, which is in every Debian and Ubuntu; without it, the
resource limits alone hold. The filter lists what is allowed, so that code injected through a decoder cannot
open files, reach the network, start programs, or touch other processes: every other call fails with EPERM.
"""

import codecs
import ctypes
import errno
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any, BinaryIO

import numpy as np
import PIL.ImageCms  # noqa: F401  # loaded before the file system is closed
import pillow_heif
from PIL import Image

from marigold_demo.errors import DemoError
from marigold_demo.io.depth_file import decode_depth
from marigold_demo.io.isolated import PATIENCE
from marigold_demo.io.photo import decode_photo
from marigold_demo.recipe import decode_recipe

READY, READY_UNFILTERED = b"ready", b"ready, without a filter of system calls"
MESSAGE_BYTES = 2**16
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_REAP_EVERY_S = 1.0
_SHARED_BYTES = 4 * 2**20
_SLOW_NICE = 8
_ENCODINGS = ("ascii", "cp437", "cp1252", "latin-1", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
DECODERS: dict[str, Callable[..., Any]] = {
    "photo": decode_photo,
    "depth": decode_depth,
    "recipe": lambda file: {"text": decode_recipe(file).to_json()},
}
_ALLOWED = (
    "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "lseek",
    "close", "fstat", "newfstatat", "fcntl", "dup", "sendmsg", "shutdown",
    "poll", "ppoll", "mmap", "munmap", "mremap", "mprotect", "madvise", "brk", "futex", "sched_yield",
    "sched_getaffinity", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "getpid", "gettid",
    "getrandom", "clock_gettime", "clock_nanosleep", "nanosleep", "gettimeofday", "getrusage", "sysinfo",
    "uname", "set_robust_list", "rseq", "set_tid_address", "restart_syscall", "exit", "exit_group",
)  # fmt: skip
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(0): seccomp.h
_MASKED_EQ = 7  # SCMP_CMP_MASKED_EQ
_CLONE_THREAD = 0x00010000
_PDEATHSIG = 1  # linux/prctl.h


def main(control: socket.socket) -> None:
    """Serve requests from the control socket until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _load_codecs()
    calls = CallFilter()
    gc.freeze()  # children share these objects' pages
    with suppress(BrokenPipeError):  # who started this has ended meanwhile
        control.send(READY if _can_filter(calls) else READY_UNFILTERED)
    children: dict[int, int] = {}  # process ID by request ID
    while True:
        ready, _, _ = select.select([control], [], [], _REAP_EVERY_S)
        _reap(children)
        if not ready:
            continue
        try:
            message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
        except ConnectionError:  # the other process ended before it read that this one is ready
            break
        if not message:
            break
        request = json.loads(message)
        if request["do"] == "decode":
            _start(request, descriptors, children, calls)
        elif request["id"] in children:
            _control(children[request["id"]], request)
    for child in children.values():
        os.kill(child, signal.SIGKILL)


def _load_codecs() -> None:
    """Register all picture formats, and load what Python and NumPy load at first use."""
    pillow_heif.register_heif_opener()
    Image.init()
    for name in _ENCODINGS:
        codecs.lookup(name)
    np.median(np.zeros(3), overwrite_input=True)


def _can_filter(calls: "CallFilter") -> bool:
    """Try the filter of system calls in a process that ends at once."""
    child = os.fork()
    if child == 0:
        os._exit(0 if calls.apply() else 1)
    return os.waitpid(child, 0)[1] == 0


def _reap(children: dict[int, int]) -> None:
    """Forget children that have ended. Until then their process IDs are not given to others."""
    for request_id, child in list(children.items()):
        if os.waitpid(child, os.WNOHANG)[0]:
            del children[request_id]


def _control(child: int, request: dict[str, Any]) -> None:
    """Slow a child down, or end it unless it had less than its time because others used the processors."""
    if request["do"] == "slow":
        os.setpriority(os.PRIO_PROCESS, child, _SLOW_NICE)
    elif request["spent_s"] >= PATIENCE * request["limit_s"]:
        os.kill(child, signal.SIGKILL)
    elif request["spent_s"] - _waited_s(child) >= request["limit_s"]:
        os.kill(child, signal.SIGKILL)


def _waited_s(child: int) -> float:
    """Return for how long a process was ready to run without a processor; 0 where that is not known."""
    try:
        with open(f"/proc/{child}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _start(
    request: dict[str, Any], descriptors: list[int], children: dict[int, int], calls: "CallFilter"
) -> None:
    server = os.getpid()
    try:
        child = os.fork()
    except OSError:
        child = -1  # the requester sees its socket closed
    if child == 0:
        status = 1
        try:
            _decode(request, server, calls, *descriptors)
            status = 0
        finally:
            os._exit(status)
    for descriptor in descriptors:
        os.close(descriptor)
    if child > 0:
        children[request["id"]] = child


def _decode(request: dict[str, Any], server: int, calls: "CallFilter", reply: int, source: int) -> None:
    """Decode one file and send the result: the whole life of a child."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries print warnings there
    os.dup2(2, 1)
    reply, source = os.dup2(reply, 101), os.dup2(source, 100)
    os.closerange(3, 100)
    os.closerange(102, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with socket.socket(fileno=reply) as answer, open(source, "rb") as file:
        pixels = os.memfd_create("pixels", os.MFD_ALLOW_SEALING)
        limit_resources(memory_bytes=request["memory_bytes"], cpu_s=request["cpu_s"])
        if os.getppid() != server:  # it ended before this process could ask to end with it
            return
        calls.apply()
        result, arrays = _outcome(request, file)
        try:
            end = 0
            for array in arrays:
                end = _write(pixels, np.ascontiguousarray(array), end)
        except OSError:
            result = {"failed": "MemoryError"}
        fcntl.fcntl(pixels, fcntl.F_ADD_SEALS, _SEALS)
        socket.send_fds(answer, [json.dumps(result).encode()], [pixels])


def _outcome(request: dict[str, Any], file: BinaryIO) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
    """Return what becomes of a file as JSON values, and the arrays they refer to."""
    arrays: list[np.ndarray[Any, Any]] = []
    try:
        decoded = DECODERS[request["kind"]](file, **request["options"])
        return {"value": _flat(decoded, arrays)}, arrays
    except DemoError as error:
        return {"refused": str(error)[:1000]}, []
    except MemoryError:
        return {"failed": "MemoryError"}, []
    except Exception as error:
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = f"{os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno}" if at else "?"
        return {"failed": f"{type(error).__name__} at {place}"}, []


def _flat(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    """Return a dataclass as JSON values; arrays are appended to the list, and their shapes stand for them."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1, "shape": value.shape, "dtype": value.dtype.name}
    if is_dataclass(value):
        return {f.name: _flat(getattr(value, f.name), arrays) for f in fields(value) if f.init}
    if isinstance(value, dict):
        return {name: _flat(part, arrays) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_flat(part, arrays) for part in value]
    return value


def _write(file: int, array: np.ndarray[Any, Any], start: int) -> int:
    """Write an array at an offset and return where it ends; new pages take time, so two threads write."""
    data = memoryview(array.data).cast("B")
    half = len(data) // 2 if len(data) >= _SHARED_BYTES else len(data)
    failed: list[OSError] = []

    def write(first: int, last: int) -> None:
        try:
            while first < last:
                first += os.pwrite(file, data[first:last], start + first)
        except OSError as error:
            failed.append(error)

    second = threading.Thread(target=write, args=(half, len(data)))
    if half < len(data):
        second.start()
    write(0, half)
    if half < len(data):
        second.join()
    if failed:
        raise failed[0]
    return start + len(data)


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp: argument `arg` compared by `op` with `mask` and `value`."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def limit_resources(*, memory_bytes: int, cpu_s: int) -> None:
    """Limit this process for the rest of its life; it ends with its parent.

    Args:
        memory_bytes: Address space and size of any file it writes; beyond it, allocations fail.
        cpu_s: CPU time, after which the kernel ends the process.
    """
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class CallFilter:
    """The system calls that decoding needs. The rules are made once, and applied in every child."""

    def __init__(self) -> None:
        self._library = self._rules = None
        with suppress(OSError):
            self._library = ctypes.CDLL("libseccomp.so.2")
            self._rules = self._made()

    def apply(self) -> bool:
        """Allow nothing else to this process and its threads; False where that is not possible."""
        # Loading sets no_new_privs first.
        return self._library is not None and self._library.seccomp_load(self._rules) == 0

    def _made(self) -> Any:
        assert self._library is not None
        library = self._library
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_load.argtypes = [ctypes.c_void_p]
        library.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
        ]  # fmt: skip
        rules = library.seccomp_init(ctypes.c_uint32(_ERRNO | errno.EPERM))

        def add(name: str, action: int, *where: _Comparison) -> None:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number >= 0:  # this architecture has it
                pointer = ctypes.byref((_Comparison * 1)(*where)) if where else None
                library.seccomp_rule_add_array(rules, action, number, len(where), pointer)

        for name in _ALLOWED:
            add(name, _ALLOW)
        # Decoders start threads, but no processes. Flags of clone3 cannot be seen; libc falls back to clone.
        add("clone", _ALLOW, _Comparison(0, _MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
        add("clone3", _ERRNO | errno.ENOSYS)
        return rules


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
