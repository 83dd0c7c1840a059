"""What is delivered: the files of a Space, and a wheel that works on its own."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from pathlib import Path

import httpx
import pytest
import yaml

import marigold_demo
from marigold_demo.examples import load_examples
from tests.pages import draw_photo, free_port

ROOT = Path(__file__).parents[1]
LARGEST_BYTES = 10**7  # hosts such as Hugging Face want larger files in a storage of their own


def test_no_tracked_file_is_large():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no git checkout")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    assert len(files) > 100
    assert not {path for path in files if path.is_file() and path.stat().st_size > LARGEST_BYTES}


def test_version_citation_and_changelog_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == marigold_demo.__version__
    newest = re.search(r"^## (\d\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert newest.groups() == (marigold_demo.__version__, citation["date-released"])


def test_the_front_matter_names_files_and_checkpoints_that_exist():
    front = yaml.safe_load((ROOT / "README.md").read_text().split("---")[1])
    assert (ROOT / front["app_file"]).is_file()
    assert front["preload_from_hub"] == front["models"] == ["prs-eth/marigold-depth-v1-1"]


def test_a_space_gets_the_committed_files_and_a_picture_for_links(tmp_path):
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no git checkout")
    uploader = tmp_path / "hf"
    uploader.write_text(f'#!/bin/sh\necho "$2 $4 $5 $6" > {tmp_path}/asked\ncp -r "$3" {tmp_path}/space\n')
    uploader.chmod(0o755)
    environment = {**os.environ, "HF": str(uploader)}
    subprocess.run([ROOT / "scripts" / "upload_space", "someone/depth"], env=environment, check=True)
    assert (tmp_path / "asked").read_text() == "someone/depth . --repo-type space\n"
    space = tmp_path / "space"
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    own, _, picture = front["thumbnail"].partition("/resolve/main/")
    assert own == "https://huggingface.co/spaces/someone/depth"
    for name in (picture, front["app_file"], "requirements.txt", "marigold_demo/embedded/model_index.json"):
        assert (space / name).read_bytes() == (ROOT / name).read_bytes()
    assert not (space / ".git").exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return the Python of an environment that holds the wheel; libraries come from this one's."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "marigold_demo", source / "marigold_demo", ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(build, check=True)
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--quiet", "--no-deps", wheel], check=True)
    # Searched after the wheel; the editable install of the sources is not followed from there.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
def test_the_wheel_holds_page_examples_and_checkpoint_and_makes_depth(installed, tmp_path):
    draw_photo(tmp_path, "photo.jpg")
    words = """
import sys
import marigold_demo
from marigold_demo.examples import load_examples
print(marigold_demo.__file__)
print(len(load_examples()))
print(marigold_demo.load().estimate("photo.jpg").size)
"""
    done = subprocess.run([installed, "-c", words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    place, examples, size = done.stdout.splitlines()
    assert Path(place).is_relative_to(installed.parents[1])
    assert (int(examples), size) == (len(load_examples()), "(640, 480)")
    assert not (Path(place).parent / "scenes").exists()
    command = [installed.parent / "marigold-demo", "depth", "photo.jpg", "--out", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "out" / "photo_depth.npy").is_file()


@pytest.mark.slow
def test_the_page_starts_from_the_wheel_and_ends_while_the_checkpoint_is_loading(installed, tmp_path):
    port = free_port()
    command = [installed.parent / "marigold-demo", "app", "--port", str(port)]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path / "cache")}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        end_s = time.monotonic() + 240
        while True:
            assert process.poll() is None and time.monotonic() < end_s, (tmp_path / "log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as answer:
                    assert b"Marigold" in answer.read()
                assert "loading" in httpx.get(f"http://127.0.0.1:{port}/healthz").text
                break
            except OSError:
                time.sleep(0.2)
    finally:
        process.terminate()
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
