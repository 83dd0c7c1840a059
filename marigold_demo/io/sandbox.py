"""Limits on the process that decodes one foreign file: memory, CPU time, and which system calls it may use.

The system-call filter needs Linux and libseccomp, which is in every Debian and Ubuntu; without it, the
resource limits alone hold. The filter lists what is allowed, so that code injected through a decoder cannot
open files, reach the network, start programs, or touch other processes: every other call fails with EPERM.
"""

import ctypes
import errno
import resource
import signal

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


def filter_system_calls() -> bool:
    """Allow only what decoding needs, for this process and its threads; False where that is not possible."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return False
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_load.argtypes = library.seccomp_release.argtypes = [ctypes.c_void_p]
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
    # Decoders start threads, but no processes. Flags of clone3 cannot be inspected; libc falls back to clone.
    add("clone", _ALLOW, _Comparison(0, _MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    add("clone3", _ERRNO | errno.ENOSYS)
    failed = library.seccomp_load(rules)  # sets no_new_privs first
    library.seccomp_release(rules)
    return not failed
