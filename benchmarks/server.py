"""`python app.py` on loopback for as long as a measurement takes. Knows nothing of what is measured."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE_S = 600  # a busy machine takes its time


@contextmanager
def app_running(
    folder: Path, *, port: str = "", configured: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int]]:
    """Start the app with its cache and log in a folder; gives its address and process number."""
    port = port or free_port()
    said = {"GRADIO_SERVER_PORT": port, "GRADIO_TEMP_DIR": str(folder / "cache"), **(configured or {})}
    with (folder / "app.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=os.environ | said, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            if not _answers(url, process):
                raise SystemExit(f"The app did not start:\n{(folder / 'app.log').read_text()}")
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(30)


def free_port() -> str:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _answers(url: str, process: "subprocess.Popen[bytes]") -> bool:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


def resident_mb(process: int) -> float:
    """Return the memory a process holds; Linux only."""
    fields = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in fields if line.startswith("VmRSS")) / 1024
