import os
import subprocess
import sys
import time
from collections import namedtuple

import pytest

from marigold_demo.files import cache_folder
from marigold_demo.files.cache_folder import CacheFolder, DiskFullError, is_own, own_folder


class Clock:
    """Runs ahead of the file system's by as much as a test says."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
def clock():
    return Clock()


def make(tmp_path, clock, **limits) -> CacheFolder:
    return CacheFolder(tmp_path / "cache", clock=clock, **{"keep_s": 7200, "least_free_bytes": 0} | limits)


def write(folder, name="file.bin", *, size=10_000):
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def test_what_is_too_old_goes_with_its_folder_and_the_rest_stays(tmp_path, clock):
    cache = make(tmp_path, clock)
    page = write(cache.new_folder())
    cache.keep_what_is_there()
    old = write(cache.new_folder())
    clock.ahead_s = 7000
    cache.sweep()
    assert old.exists()
    clock.ahead_s = 7300
    cache.sweep()
    assert not old.parent.exists()
    assert page.exists()


def test_an_old_date_of_the_content_does_not_make_a_file_old(tmp_path, clock):
    cache = make(tmp_path, clock)
    fresh = write(cache.new_folder())
    os.utime(fresh, (0, 0))
    cache.sweep()
    assert fresh.exists()


def test_the_oldest_go_first_beyond_the_budget(tmp_path, clock):
    cache = make(tmp_path, clock, most_bytes=50_000)
    written = []
    for _ in range(8):
        written.append(write(cache.new_folder(), size=12_288))
        time.sleep(0.01)  # so that the file system tells their order
    clock.ahead_s = 100
    cache.sweep()
    assert [path.exists() for path in written] == [False] * 4 + [True] * 4


def test_what_was_just_written_stays_even_beyond_the_budget(tmp_path, clock):
    cache = make(tmp_path, clock, most_bytes=0)
    path = write(cache.new_folder())
    cache.sweep()
    assert path.exists()


def test_a_full_disk_costs_the_oldest_files_and_then_new_work(tmp_path, clock, monkeypatch):
    free = []
    usage = namedtuple("usage", "total used free")
    cache = make(tmp_path, clock, least_free_bytes=10**6)
    first, second = (write(cache.new_folder()) for _ in range(2))
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda _: usage(10**9, 10**9, free[0]))
    clock.ahead_s = 100
    free[:] = [0]
    with pytest.raises(DiskFullError, match=r"disk is full.+try again"):
        cache.new_folder()
    assert not first.exists()
    assert not second.exists()
    free[:] = [2 * 10**6]
    assert cache.new_folder().is_dir()


def test_names_cannot_be_guessed_and_nobody_else_may_look(tmp_path, clock):
    cache = make(tmp_path, clock)
    folders = {cache.new_folder() for _ in range(20)}
    assert len({folder.name for folder in folders}) == 20
    assert min(len(folder.name) for folder in folders) >= 22  # 16 random bytes
    assert {folder.stat().st_mode & 0o077 for folder in (cache.root, *folders)} == {0}


LIVES_AND_IS_KILLED = """
import os, sys
from pathlib import Path
from marigold_demo.files.cache_folder import own_folder
folder = own_folder(Path(sys.argv[1]))
(folder / "photo.png").write_bytes(b"of a visitor")
print(folder, flush=True)
if sys.argv[2] == "dies":
    os.kill(os.getpid(), 9)
sys.stdin.read()
"""


def test_the_next_server_removes_what_a_killed_one_left_and_spares_one_that_lives(tmp_path):
    def start(how):
        return subprocess.Popen(
            [sys.executable, "-c", LIVES_AND_IS_KILLED, str(tmp_path), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    with start("lives") as living, start("dies") as dying:
        theirs, left = (process.stdout.readline().strip() for process in (living, dying))
        assert dying.wait(20) == -9
        mine = own_folder(tmp_path)
        assert {str(folder) for folder in tmp_path.iterdir()} == {theirs, str(mine)}
        assert left not in (theirs, "")
        assert os.listdir(theirs)
        living.communicate("", timeout=20)
    assert is_own(mine)
    assert not is_own(tmp_path)
