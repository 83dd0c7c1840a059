"""`python app.py` as whoever runs it meets it: its log, its end, its weights, its image, its dependencies."""

import ast
import json
import os
import pickle
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from datetime import date, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image

from marigold_demo.errors import CheckpointError
from marigold_demo.serving.config import Configuration
from marigold_demo.serving.lifecycle import Service
from tests.pages import LENIENT, ROOT, Ball, draw_photo, free_port, served

pytestmark = LENIENT
NAME = "anna-in-rome"
SOON_S = 30  # on a busy machine; the run that is stopped would take minutes


def wait_for_port(address: str) -> None:
    host, port = address.split(":")
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on {address}")


class App:
    """A process of app.py with a log of its own."""

    def __init__(self, folder: Path, *, root: Path = ROOT, **variables: str) -> None:
        port, host = free_port(), variables.get("GRADIO_SERVER_NAME", "127.0.0.1")
        self.url, self.cache = f"http://{host}:{port}", folder / "cache"
        self._log, self.out = folder / "app.log", folder / "app.out"
        environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(self.cache)}
        with self._log.open("w") as log, self.out.open("w") as out:
            command = [
                "env",
                "--default-signal=HUP",
                sys.executable,
                "app.py",
            ]  # though the tests run under nohup
            self.process = subprocess.Popen(
                command, cwd=root, env=environment | variables, stdout=out, stderr=log
            )

    @property
    def log(self) -> str:
        """All that went to stderr so far."""
        return self._log.read_text()

    def wait_for(self, found: Callable[[], bool], *, patience_s: float = 240) -> None:
        """Wait until something is true."""
        end_s = time.monotonic() + patience_s
        while time.monotonic() < end_s:
            assert self.process.poll() is None, self.log
            try:
                if found():
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"it did not happen in time\n{self.log}")

    def answers(self, path: str, text: str) -> Callable[[], bool]:
        """Return whether a path answers with a text, to be asked again."""
        return lambda: text in httpx.get(self.url + path, timeout=10).text

    def end(self, number: int = signal.SIGTERM) -> float:
        """Send a signal and return how many seconds the process took to end."""
        began_s = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(120)
        return time.monotonic() - began_s


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., App]]:
    started = []

    def start(*, root: Path = ROOT, **variables: str) -> App:
        started.append(App(tmp_path, root=root, **variables))
        return started[-1]

    yield start
    for app in started:
        app.process.kill()
        app.process.wait(20)


@pytest.mark.slow
def test_the_log_tells_no_names_and_sigterm_in_the_middle_of_a_run_ends_it_soon_and_quietly(start, tmp_path):
    app = start(MARIGOLD_LOG_FORMAT="json", MARIGOLD_METRICS="on")
    app.wait_for(app.answers("/healthz", "ready"))
    client = Client(app.url, verbose=False, download_files=str(tmp_path))
    photo = draw_photo(tmp_path, f"{NAME}.jpg", size=(320, 240))
    npy, *_ = client.predict(handle_file(photo), steps=1, resolution=64, api_name="/depth")
    assert np.load(npy).shape == (240, 320)
    (tmp_path / f"{NAME}.png").write_bytes(b"%PDF-1.7")
    with pytest.raises(AppError, match="PDF"):
        client.predict(handle_file(tmp_path / f"{NAME}.png"), api_name="/depth")
    stolen = {"path": f"/etc/{NAME}", "meta": {"_type": "gradio.FileData"}}
    posted = httpx.post(f"{app.url}/gradio_api/call/v2/depth", json={"photo": stolen}, timeout=60)
    assert posted.status_code == 400 and NAME not in posted.text
    httpx.get(f"{app.url}/gradio_api/file=/{NAME}")

    lines = [json.loads(line) for line in app.log.splitlines()]
    (run,) = [line for line in lines if line["event"] == "run"]
    assert (run["end"], run["checkpoint"], run["photo_px"]) == ("done", "embedded", 320 * 240)
    assert 0 < run["seconds"] < 60
    assert [line["kind"] for line in lines if line["event"] == "user error"] == ["PhotoError"]
    assert not [line for line in lines if line["level"] == "error"]
    assert NAME not in app.log and "127.0.0.1" not in app.log

    metrics = httpx.get(f"{app.url}/metrics").text
    assert 'marigold_runs_total{checkpoint="embedded",end="done"} 1.0' in metrics
    assert 'marigold_errors_total{kind="PhotoError"} 1.0' in metrics
    (kept,) = [
        line for line in metrics.splitlines() if line.startswith('marigold_kept_bytes{what="finished"}')
    ]
    depth_and_uncertainty = 2 * 240 * 320 * 4  # the checkpoint's own four augmented views
    assert float(kept.split()[-1]) == depth_and_uncertainty
    assert NAME not in metrics

    job = client.submit(handle_file(photo), steps=50, ensemble=20, resolution=512, api_name="/depth")
    app.wait_for(app.answers("/metrics", "marigold_running 1.0"))
    assert not job.done()
    assert app.end() < SOON_S
    assert app.process.returncode == 0
    assert "Traceback" not in app.log
    assert not [line for line in app.log.splitlines() if json.loads(line)["level"] == "error"]
    # KeyError: the client does not know the message with which a server that ends closes its streams.
    with pytest.raises((AppError, CancelledError, httpx.HTTPError, KeyError)):
        job.result(20)
    assert not [path for path in app.cache.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_an_ipv6_address_is_served_and_a_terminal_that_goes_while_the_checkpoint_is_loading_ends_it(start):
    app = start(GRADIO_SERVER_NAME="[::1]", MARIGOLD_LOG_LEVEL="debug")
    app.wait_for(lambda: app.url in app.out.read_text())
    assert app.answers("/healthz", "loading")()
    assert httpx.get(f"{app.url}/config").json()["root"] == app.url
    assert app.end(signal.SIGHUP) < SOON_S
    assert (app.process.returncode, "Traceback" in app.log) == (0, False)
    assert not [path for path in app.cache.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_port_in_use_or_a_folder_that_cannot_be_written_is_one_sentence_and_status_2(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        wrong = {
            "GRADIO_SERVER_PORT": (str(port), f"Port {port} is in use"),
            "GRADIO_TEMP_DIR": (str(tmp_path / "file"), "cannot be used"),
        }
        usual = {"GRADIO_SERVER_PORT": str(free_port()), "GRADIO_TEMP_DIR": str(tmp_path / "cache")}
        processes = {
            name: subprocess.Popen(
                [sys.executable, "app.py"],
                cwd=ROOT,
                env=os.environ | usual | {name: value},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name, (value, _) in wrong.items()
        }
        for name, process in processes.items():
            out, told = process.communicate(timeout=120)
            assert (process.returncode, out) == (2, "")
            assert wrong[name][1] in told and name in told and told.count("\n") == 1


@pytest.mark.parametrize(("ignored", "status"), [(False, 7), (True, 0)])
def test_a_hangup_ends_the_process_unless_nohup_has_it_ignored(ignored, status):
    words = f"""
import os, signal
from marigold_demo.serving import lifecycle
signal.signal(signal.SIGHUP, signal.SIG_IGN if {ignored} else signal.SIG_DFL)
lifecycle.end_on_signals()
try:
    os.kill(os.getpid(), signal.SIGHUP)
except lifecycle.Ended:
    lifecycle.leave(7)
"""
    assert subprocess.run([sys.executable, "-c", words], cwd=ROOT).returncode == status


def test_the_process_ends_where_nobody_reads_its_output_any_more():
    words = """
import sys
from marigold_demo.serving import lifecycle
sys.stdin.read()
sys.stdout.write("on the way to nobody")
lifecycle.leave()
"""
    command, environment = [sys.executable, "-c", words], os.environ | {"PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.wait(20) == 0


def test_damaged_embedded_weights_are_found_at_the_start_and_named_everywhere(start, tmp_path):
    root = tmp_path / "installed"
    shutil.copytree(ROOT / "marigold_demo", root / "marigold_demo", copy_function=os.symlink)
    shutil.copy(ROOT / "app.py", root)
    weights = min((root / "marigold_demo" / "embedded" / "unet").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    said = f"checkpoint is damaged: unet/{weights.name} is not as it was installed."
    app = start(root=root)
    app.wait_for(app.answers("/healthz", "without its checkpoint"))
    assert httpx.get(f"{app.url}/healthz").status_code == 503
    client, photo = Client(app.url, verbose=False), draw_photo(tmp_path, f"{NAME}.jpg")
    with pytest.raises(AppError, match=said):
        client.predict(handle_file(photo), api_name="/depth")
    assert said in app.log and "Traceback" not in app.log


def test_the_dockerfile_is_sound():
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
def test_what_the_image_copies_is_enough_for_a_page_with_examples(tmp_path):
    instructions = (ROOT / "Dockerfile").read_text().split("FROM ")[2].splitlines()
    copied = [line.split()[1:-1] for line in instructions if line.startswith("COPY") and "--from" not in line]
    kept = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    for name in [name for names in copied for name in names]:
        assert name in kept
        source, target = ROOT / name, tmp_path / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    words = (
        "import pathlib, app, marigold_demo as m; print(m.__file__);"
        "app.app.make_page(pathlib.Path('cache')).config"
    )
    environment = os.environ | {"GRADIO_SERVER_NAME": "0.0.0.0", "MARIGOLD_CHECKPOINT": "embedded"}
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert (tmp_path / "marigold_demo" / "embedded" / "model_index.json").is_file()


@pytest.fixture(scope="module")
def audit():
    return runpy.run_path(str(ROOT / "scripts" / "audit"))


def test_nothing_installed_has_a_known_weakness_that_could_be_fixed(audit):
    """Fails on the day a Gradio that allows the Pillow without CVE-2026-112403 is installed."""
    command = [sys.executable, str(ROOT / "scripts" / "audit"), "--offline"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "days old" in done.stdout
    is_open = (
        r"OPEN  pillow \S+ \(fixed in 13.0.0\): CVE-2026-112403 .* because gradio \S+ requires pillow<13"
    )
    assert (re.search(is_open, done.stdout) is not None) == (audit["installed"]()["pillow"] < "13")
    assert "FIX" not in done.stdout


@pytest.fixture
def held_against(audit, tmp_path, capsys):
    """Return a function that holds what is installed against a list: its status and what it says."""

    def hold(*, of_day: date, **entries: tuple[str, str]) -> tuple[int, str]:
        lines = [
            f'{name} = [{{ version = "{version}", why = "{why}" }}]'
            for name, (version, why) in entries.items()
        ]
        path = tmp_path / "list.toml"
        path.write_text("\n".join([f"date = {of_day}", "[floors]", *lines]))
        return audit["main"](["--offline", "--list", str(path)]), capsys.readouterr().out

    return hold


def test_audit_fails_on_what_could_be_fixed_only(held_against):
    status, told = held_against(of_day=date.today(), numpy=("900", "CVE-1"), unheard=("2", "CVE-2"))
    assert status == 0  # SciPy refuses that numpy
    assert re.search(r"OPEN  numpy .*CVE-1; cannot be fixed here, because .*scipy \S+ requires", told)
    assert "CVE-2" not in told
    status, told = held_against(of_day=date.today(), psutil=("7.999", "CVE-3"))
    assert status == 1
    assert re.search(r"FIX   psutil \S+ \(fixed in 7.999\): CVE-3; nothing refuses 7.999", told)


@pytest.mark.parametrize(("days", "trusted"), [(3, True), (90, False)])
def test_audit_says_how_old_its_list_is_and_does_not_trust_an_old_one(days, trusted, held_against):
    status, told = held_against(of_day=date.today() - timedelta(days), unheard=("2", "CVE-2"))
    assert status == 0
    assert f"{days} days old" in told
    assert ("Nothing that they list is installed" in told) == trusted
    assert ("too old to say what is safe" in told) == (not trusted)


def test_audit_finds_the_package_that_refuses_a_fix_and_the_day_it_allows_it(audit):
    finding = audit["Finding"]("pillow", "12.3.0", ("13.0.0",), "CVE")
    pinned = [("gradio 6.31.0", Requirement("pillow<13,>=8")), ("matplotlib 3.11", Requirement("Pillow>=9"))]
    assert "gradio 6.31.0 requires pillow<13" in audit["why_open"](finding, pinned, online=False)
    allowed = [("gradio 6.32.0", Requirement("pillow<14,>=8")), *pinned[1:]]
    assert audit["why_open"](finding, allowed, online=False) == ""
    unpublished = audit["Finding"]("pillow", "12.3.0", (), "CVE")
    assert "no version without it is published" in audit["why_open"](unpublished, allowed, online=False)


def test_what_is_required_never_lies_below_a_floor_of_the_audit_that_can_be_had(audit):
    floors = tomllib.loads((ROOT / "scripts" / "floors.toml").read_text())["floors"]
    required = audit["requirements"]()
    for asked in audit["project_requirements"]():
        least = min(Version(part.version) for part in asked.specifier if part.operator in (">=", "=="))
        for floor in floors.get(canonicalize_name(asked.name), []):
            refused = audit["holders"](canonicalize_name(asked.name), floor["version"], required)
            assert refused or least >= Version(floor["version"]), str(asked)


def test_weights_are_read_from_safetensors_only_and_never_run_code(toy_folder, monkeypatch):
    import diffusers
    import transformers

    from marigold_demo.network.checkpoint import open_pipeline

    seen = []
    for kind in (diffusers.ModelMixin, transformers.PreTrainedModel):
        whole = kind.from_pretrained.__func__

        def watched(cls, *places, _whole=whole, **named):
            seen.append(named)
            return _whole(cls, *places, **named)

        monkeypatch.setattr(kind, "from_pretrained", classmethod(watched))
    open_pipeline(str(toy_folder))
    assert len(seen) == 3  # UNet, VAE, text encoder
    assert all(named["use_safetensors"] is True and named["local_files_only"] is True for named in seen)
    assert not [named for named in seen if named.get("trust_remote_code")]


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_checkpoint_with_pickled_weights_is_refused_and_they_are_not_opened(toy_folder, tmp_path, part):
    from marigold_demo.network.checkpoint import open_pipeline

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "went_off",))

    for file in (toy_folder / part).glob("*.safetensors"):
        file.unlink()
    name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    (toy_folder / part / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=rf"{part} of .* {name}, a pickle, .* is needed. .*convert it"):
        open_pipeline(str(toy_folder))
    assert not (tmp_path / "went_off").exists()


def test_no_code_that_serves_opens_pickles_or_trusts_code_of_strangers():
    folders = ("network", "io", "geometry", "ui", "serving")
    sources = [path for folder in folders for path in (ROOT / "marigold_demo" / folder).rglob("*.py")]
    for path in [*sources, *(ROOT / "marigold_demo").glob("*.py"), ROOT / "app.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("pickle.load", "pickle.loads", "eval"), path
                # PyTorch's own reader of tensors, which makes no other objects.
                is_safe = any(
                    one.arg == "weights_only" and ast.unparse(one.value) == "True" for one in node.keywords
                )
                assert called != "torch.load" or is_safe, path


@pytest.fixture
def nginx(tmp_path) -> Iterator[Callable[[str], str]]:
    """Run nginx with the block of the documentation in front of a server; gives its address."""
    program, started = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"), []
    if program is None:
        pytest.skip("there is no nginx")

    def before(url: str) -> str:
        page = (ROOT / "docs" / "running_in_public.md").read_text()
        block = page.split("```nginx\n")[1].split("```")[0]
        front = f"127.0.0.1:{free_port()}"
        assert "listen 80;" in block and "http://127.0.0.1:7860" in block
        block = block.replace("listen 80;", f"listen {front};").replace("http://127.0.0.1:7860", url)
        block = block.replace("/var/log/nginx", str(tmp_path))
        folders = [f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi")]
        folders += [f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("uwsgi", "scgi")]
        workers = "user root;" if os.geteuid() == 0 else ""  # else they could not write below tmp_path
        around = f"{workers} daemon off; pid {tmp_path}/pid; error_log stderr; events {{}} http {{"
        (tmp_path / "nginx.conf").write_text("\n".join((around, *folders, block, "}")))
        command = [program, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        wait_for_port(front)
        return f"http://{front}"

    yield before
    for process in started:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_uploads_and_progress_pass_through_the_documented_nginx(nginx, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    ball = Ball()
    block = (ROOT / "docs" / "running_in_public.md").read_text()
    assert "MARIGOLD_HOSTS=depth.example.org" in block and "server_name depth.example.org;" in block
    configuration = Configuration(
        metrics=True, requests_per_minute=60, trusted_proxies="127.0.0.1", hosts="depth.example.org"
    )
    with served(ball, Service(configuration)) as url:
        front = nginx(url)
        noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "noise.png", compress_level=0)
        assert (tmp_path / "noise.png").stat().st_size > 12 * 10**6
        client = Client(front, verbose=False, download_files=str(tmp_path))
        ball.may_go_on.clear()
        job = client.submit(handle_file(tmp_path / "noise.png"), api_name="/depth")
        end_s = time.monotonic() + 60
        under_way = {"PROCESSING", "PROGRESS", "ITERATING"}
        while not (ball.running and job.status().code.name in under_way):  # reported while the run waits
            assert time.monotonic() < end_s and not job.done()
            time.sleep(0.1)
        ball.may_go_on.set()
        npy, *_ = job.result(120)
        assert np.load(npy).shape == (2000, 2000)
        assert npy.endswith("noise_depth.npy")
        assert httpx.get(f"{front}/metrics").status_code == 404
        named = httpx.get(f"{front}/config", headers={"host": "depth.example.org"})
        assert named.json()["root"] == "http://depth.example.org"
        assert httpx.get(f"{front}/config", headers={"host": "evil.example"}).status_code == 421
        too_large = {"files": ("big.jpg", bytes(102 * 10**6))}
        assert httpx.post(f"{front}/gradio_api/upload", files=too_large, timeout=60).status_code == 413
        link = f"{front}/?result=key-of-a-result"
        assert httpx.get(link, headers={"referer": link}).status_code == 200
        lines = (tmp_path / "depth.log").read_text() + (tmp_path / "error.log").read_text()
        assert "GET / 200" in lines
        assert not any(word in lines for word in ("key-of-a-result", "127.0.0.1", "noise"))
