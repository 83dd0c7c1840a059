"""What is delivered: files that a plain push takes, and a wheel that works on its own."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LARGEST_BYTES = 10**7  # Hugging Face refuses larger files in a plain push


def test_no_tracked_file_is_too_large_for_a_plain_push():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no git checkout")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    assert len(files) > 100
    assert not {path for path in files if path.is_file() and path.stat().st_size > LARGEST_BYTES}
