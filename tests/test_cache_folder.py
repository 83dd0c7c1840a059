import os
import stat
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from marigold_demo.io import cache_folder
from marigold_demo.io.cache_folder import (
    CacheFolder,
    DiskFullError,
    FolderError,
    is_own,
    own_folder,
    remove_own,
)


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
    for number in range(8):
        folder = cache.root / str(number)
        folder.mkdir(parents=True)
        written.append(write(folder, size=12_288))
        time.sleep(0.01)  # so that their times differ on the file system
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


def test_what_was_written_beside_counts_for_the_next_folder(tmp_path, clock):
    cache = make(tmp_path, clock, most_bytes=50_000)
    first = write(cache.new_folder(), size=61_440)
    clock.ahead_s = 2
    with pytest.raises(DiskFullError, match="disk is full"):
        cache.new_folder()
    clock.ahead_s = 100
    assert cache.new_folder().is_dir()
    assert not first.exists()


def test_many_small_files_count_too(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(cache_folder, "MOST_FILES", 10)
    cache = make(tmp_path, clock, most_bytes=10**6)
    for _ in range(10):
        with cache.receive(1) as upload:
            upload.begin("a")
            upload.write(b"1")
            upload.keep()
    with pytest.raises(DiskFullError), cache.receive(1) as upload:
        upload.begin("a")
        upload.write(b"1")
    assert len(list(cache.root.rglob("a"))) == 10


def test_a_refusal_does_not_count_all_files_again_each_time(tmp_path, clock, monkeypatch):
    counted = []
    find_files = cache_folder.find_files
    monkeypatch.setattr(cache_folder, "find_files", lambda *a, **b: counted.append(1) or find_files(*a, **b))
    cache = make(tmp_path, clock, most_bytes=50_000)
    for _ in range(50):
        with pytest.raises(DiskFullError):
            cache.receive(10**6)
    assert len(counted) <= 3


def test_a_sweep_deletes_links_and_never_what_they_lead_to(tmp_path, clock):
    cache = make(tmp_path, clock, most_bytes=0)
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = write(outside)
    folder = cache.new_folder()
    (folder / "to_folder").symlink_to(outside)
    (folder / "to_file").symlink_to(kept)
    (cache.root / "as_folder").symlink_to(outside)
    (folder / ".lock").write_bytes(b"of a visitor")
    clock.ahead_s = 7300
    cache.sweep()
    assert list(cache.root.rglob("*")) == []
    assert kept.exists()


def test_a_folder_that_became_a_link_is_not_swept_through(tmp_path, clock, monkeypatch):
    cache = make(tmp_path, clock)
    folder, outside = cache.new_folder(), tmp_path / "outside"
    write(folder)
    outside.mkdir()
    kept = write(outside)
    delete_file = cache_folder.delete_file

    def swap_and_delete(root, parts):
        folder.rename(tmp_path / "aside")
        folder.symlink_to(outside)
        delete_file(root, parts)

    monkeypatch.setattr(cache_folder, "delete_file", swap_and_delete)
    clock.ahead_s = 7300
    cache.sweep()
    assert kept.exists()


def test_names_cannot_be_guessed_and_nobody_else_may_look(tmp_path, clock):
    cache = make(tmp_path, clock)
    folders = {cache.new_folder() for _ in range(20)}
    assert len({folder.name for folder in folders}) == 20
    assert min(len(folder.name) for folder in folders) >= 22  # 16 random bytes
    assert {folder.stat().st_mode & 0o077 for folder in (cache.root, *folders)} == {0}


LIVES_AND_IS_KILLED = """
import os, sys
from pathlib import Path
from marigold_demo.io.cache_folder import own_folder
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
        assert {str(found) for found in tmp_path.iterdir() if found.is_dir()} == {theirs, str(mine)}
        assert left not in (theirs, "")
        assert os.listdir(theirs)
        living.communicate("", timeout=20)
    assert is_own(mine)
    assert not is_own(tmp_path)


def test_a_folder_is_private_and_its_lock_lies_beside_what_visitors_send(tmp_path):
    folder = own_folder(tmp_path / "new" / "root")
    for made in (folder, folder.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert len(folder.name) == 32 and own_folder(folder.parent) != folder
    assert list(folder.iterdir()) == []
    (folder / "token").mkdir()
    (folder / "token" / ".lock").write_bytes(b"of a visitor")
    remove_own(folder)
    assert not [found for found in folder.parent.iterdir() if folder.name in found.name]


def linked(root: Path) -> None:
    (root.parent / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(root.parent / "elsewhere")


def of_another(root: Path) -> None:
    root.mkdir(mode=0o700)


def writable(root: Path) -> None:
    root.mkdir()
    root.chmod(0o770)


def a_file(root: Path) -> None:
    root.write_bytes(b"")


def below_a_file(root: Path) -> None:
    root.parent.rmdir()
    root.parent.write_bytes(b"")


@pytest.mark.parametrize("case", [linked, of_another, writable, a_file, below_a_file])
def test_a_folder_that_others_could_use_or_nobody_can_is_refused_with_a_sentence(case, tmp_path, monkeypatch):
    root = tmp_path / "above" / "root"
    root.parent.mkdir()
    case(root)
    if case is of_another:
        monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)
    with pytest.raises(FolderError, match=r"uploads and results.+ Name another one with GRADIO_TEMP_DIR\.$"):
        own_folder(root)


def test_what_a_killed_server_left_is_removed_without_following_links(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    kept = write(outside)
    own_folder(root)
    (root / "a").mkdir()
    (root / "a" / "link").symlink_to(outside)
    (root / "a.lock").touch()
    (root / "b").symlink_to(outside)
    (root / "b.lock").touch()
    (outside / ".lock").touch()
    (root / "of an earlier version").mkdir()
    write(root / "of an earlier version", ".lock")
    write(root / "of an earlier version")
    own_folder(root)
    assert kept.exists()
    left = {found.name for found in root.iterdir()}
    assert not left & {"a", "a.lock", "b.lock", "of an earlier version"}
