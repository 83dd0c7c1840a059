import errno
import json
import math
import os
import shutil
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from marigold_demo.catalog import CATALOG
from marigold_demo.depth import CancelledError, Run
from marigold_demo.errors import CheckpointError
from marigold_demo.network import checkpoint_files, hub
from marigold_demo.network.checkpoint import open_pipeline
from marigold_demo.network.checkpoint_folder import read_pipeline
from tests import loopback_hub, toys
from tests.loopback_hub import point_at, serving
from tests.test_faults import no_room

NAME = "someone/marigold"
REPOSITORY = [
    "README.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("with_text", [False, True])
def test_each_weight_is_downloaded_once_and_no_pickle_ever(half, with_text):
    files = hub.wanted_files(REPOSITORY, half=half, with_text=with_text)
    weights = [file for file in files if file.endswith(".safetensors")]
    assert len(weights) == (3 if with_text else 2)
    assert all((".fp16." in file) == half for file in weights)
    assert not [file for file in files if file.endswith((".bin", ".md"))]
    assert ("tokenizer/merges.txt" in files) == with_text
    assert {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json"} <= set(files)


@pytest.mark.parametrize("half", [False, True])
def test_weights_that_exist_in_one_precision_only_are_taken_as_they_are(half):
    wholes = [file for file in REPOSITORY if ".fp16." not in file]
    halves = [file for file in REPOSITORY if not file.endswith("model.safetensors")]
    assert "unet/diffusion_pytorch_model.safetensors" in hub.wanted_files(wholes, half=half, with_text=False)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in hub.wanted_files(
        halves, half=half, with_text=False
    )


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("others", [("bf16",), ("bf16", "fp16"), ("non_ema",), ("fp32", "non_ema", "bf16")])
def test_one_copy_of_the_weights_is_downloaded_whatever_copies_there_are(others, half):
    stem = "unet/diffusion_pytorch_model"
    copies = [f"{stem}.safetensors", *(f"{stem}.{variant}.safetensors" for variant in others)]
    wanted = f"{stem}.fp16.safetensors" if half and "fp16" in others else f"{stem}.safetensors"
    assert hub.wanted_files(copies, half=half, with_text=False) == [wanted]
    without_the_plain_one = hub.wanted_files(copies[1:], half=half, with_text=False)
    assert len(without_the_plain_one) == 1
    assert "non_ema" not in without_the_plain_one[0] or others == ("non_ema",)


def test_weights_in_several_files_come_whole():
    shards = [f"unet/diffusion_pytorch_model-{n}-of-2.safetensors" for n in (1, 2)]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    assert set(hub.wanted_files([*shards, index], half=False, with_text=False)) == {*shards, index}


def progress_of(name, **choices):
    """Fetch a checkpoint; return its progress and its folder."""
    steps = []
    folder = hub.fetch_checkpoint(name, **choices, run=Run(steps.append))
    return steps, folder


@pytest.fixture
def served(toy_folder, tmp_path):
    with serving({NAME: toy_folder}, cache=tmp_path / "cache") as loopback:
        yield loopback


def test_download_brings_all_that_is_needed_and_tells_how_far_it_is(served, toy_folder):
    (toy_folder / "unet" / "diffusion_pytorch_model.bin").touch()
    served.wait_s = 0.01
    told, folder = progress_of(NAME, half=False)
    assert checkpoint_files.is_complete(folder)
    assert not list(folder.rglob("*.bin"))
    assert {step.stage for step in told} == {"download"}
    done = [step.done for step in told]
    assert done == sorted(done)
    megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    assert told[-1].done == told[-1].total == math.ceil(megabytes)
    assert read_pipeline(folder, name=NAME).empty_prompt.shape[-1] == toys.PROMPT_WIDTH


def test_what_is_here_is_not_asked_for_again(served, monkeypatch):
    folder = hub.fetch_checkpoint(NAME, half=False)
    served.refuse = (500, "")
    asked = len(served.fetched)
    assert progress_of(NAME, half=True) == ([], folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.fetch_checkpoint(NAME, half=False) == checkpoint_files.fetched(NAME) == folder
    assert len(served.fetched) == asked


def test_text_encoder_is_not_downloaded_where_the_prompt_comes_along(served, toy_folder):
    read_pipeline(toy_folder, name=NAME)  # leaves the prompt in the folder
    folder = hub.fetch_checkpoint(NAME, half=False)
    assert (folder / checkpoint_files.EMPTY_PROMPT).is_file()
    assert not (folder / "text_encoder").exists()
    assert checkpoint_files.is_complete(folder)


def test_cancelling_ends_a_download_and_the_next_one_brings_the_rest_only(served):
    served.wait_s = 0.03

    def cancel(progress):
        run.cancelled = progress.done > 0 and "config.json" in served.fetched

    run = Run(cancel)
    with pytest.raises(CancelledError):
        hub.fetch_checkpoint(NAME, half=False, run=run)
    for thread in threading.enumerate():
        if "_Download.run" in str(getattr(thread, "_target", "")):
            thread.join(20)
            assert not thread.is_alive()
    folder = checkpoint_files.cached(NAME)
    assert folder is None or not checkpoint_files.is_complete(folder)
    assert not list((served.cache).rglob("*.incomplete"))
    served.wait_s = 0
    here = {file.name for file in served.cache.rglob("snapshots/*/*") if file.is_file()}
    before = len(served.fetched)
    assert checkpoint_files.is_complete(hub.fetch_checkpoint(NAME, half=False))
    assert here
    assert not here & set(served.fetched[before:])


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        ((404, "RepoNotFound"), "has no checkpoint called someone/marigold; check the spelling"),
        (
            (401, "RepoNotFound"),
            "has no checkpoint called someone/marigold; .*if it is private log in .*hf auth",
        ),
        ((404, "RevisionNotFound"), "someone/marigold has no revision None|leave @"),
        (
            (401, "GatedRepo"),
            "terms to be accepted: .*huggingface.co/someone/marigold, then log in .*hf auth",
        ),
        ((403, "GatedRepo"), "asks for its terms to be accepted"),
        ((403, ""), "does not give someone/marigold to this login; ask for access .* `hf auth login`"),
        ((429, ""), "asks for fewer requests"),
        ((500, ""), "the hub answers with error 500"),
    ],
)
def test_what_the_hub_refuses_is_explained(refusal, expected, served):
    served.refuse = refusal
    with pytest.raises(CheckpointError, match=expected):
        hub.fetch_checkpoint(NAME, half=False)


def test_login_that_the_hub_does_not_know_is_explained(served, monkeypatch):
    monkeypatch.setattr(loopback_hub, "send", with_headers(**{"X-Error-Message": INVALID_LOGIN}))
    served.refuse = (401, "")
    with pytest.raises(
        CheckpointError, match=r"does not know the login of this machine; log in .*hf auth login"
    ):
        hub.fetch_checkpoint(NAME, half=False)


INVALID_LOGIN = "Invalid credentials in Authorization header"


def with_headers(**more):
    plain = loopback_hub.send

    def send(request, status, content, **headers):
        plain(request, status, content, **{**headers, **more})

    return send


@pytest.mark.parametrize("status", [401, 403])
def test_repository_whose_files_are_gated_tells_how_to_log_in(status, served):
    """The hub describes such a repository to everybody and refuses its files."""
    served.refuse_files = (status, "GatedRepo")
    with pytest.raises(
        CheckpointError, match=r"terms to be accepted: .* then log in .* `hf auth login`, or set HF"
    ):
        hub.fetch_checkpoint(NAME, half=False)


def test_revision_of_a_name_is_asked_for_and_found_again(served):
    folder = hub.fetch_checkpoint(f"{NAME}@fp16", half=False)
    assert any(path.endswith("/revision/fp16") for path in served.asked)
    assert hub.fetch_checkpoint(f"{NAME}@fp16", half=False) == folder
    assert checkpoint_files.cached(NAME) is None  # the main one was never asked for
    served.refuse = (404, "RevisionNotFound")
    with pytest.raises(
        CheckpointError, match="someone/marigold has no revision fp17 on the hub; leave @fp17 out"
    ):
        hub.fetch_checkpoint(f"{NAME}@fp17", half=False)
    served.refuse = (500, "")
    with pytest.raises(
        CheckpointError, match=r"only the revision fp16 is on this machine.*someone/marigold@fp16"
    ):
        hub.fetch_checkpoint(NAME, half=False)


def weights_of(folder: Path) -> Path:
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("damage", [lambda blob: blob.unlink(), lambda blob: os.truncate(blob, 1000)])
def test_cached_file_that_is_gone_or_cut_off_is_fetched_again(damage, served):
    folder = hub.fetch_checkpoint(NAME, half=False)
    whole = weights_of(folder).read_bytes()
    damage(weights_of(folder).resolve())
    assert not checkpoint_files.is_complete(folder)
    before = len(served.fetched)
    assert hub.fetch_checkpoint(NAME, half=False) == folder
    assert served.fetched[before:] == ["diffusion_pytorch_model.safetensors"]
    assert weights_of(folder).read_bytes() == whole
    damage(weights_of(folder).resolve())
    served.refuse = (503, "")
    said = "safetensors of someone/marigold is .*It comes from the hub, but the hub answers with error 503"
    with pytest.raises(CheckpointError, match=said):
        hub.fetch_checkpoint(NAME, half=False)


@pytest.mark.parametrize(
    "part",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "vae/config.json",
    ],
)
def test_part_that_a_cache_lacks_is_named_where_the_hub_is_out_of_reach(part, served, monkeypatch):
    folder = hub.fetch_checkpoint(NAME, half=False)
    (folder / part).unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match=f"{part} is missing. It comes from the hub, .*HF_HUB_OFFLINE is set"
    ):
        hub.fetch_checkpoint(NAME, half=False)


def spoil_bin(folder: Path) -> None:
    weights_of(folder).rename(weights_of(folder).with_suffix(".bin"))


def spoil_lotus(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "class_embed_type": "projection"}))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (spoil_bin, "unet of someone/marigold has its weights in diffusion_pytorch_model.bin, a pickle"),
        (lambda folder: (folder / "model_index.json").unlink(), "the repository has no model_index.json"),
        (lambda folder: weights_of(folder).unlink(), "unet/diffusion_pytorch_model.safetensors is missing"),
        (spoil_lotus, "its UNet asks for another input .class_embed_type is projection"),
    ],
)
def test_repository_that_cannot_be_run_is_refused_before_its_weights_are_downloaded(
    spoil, expected, served, toy_folder
):
    spoil(toy_folder)
    with pytest.raises(CheckpointError, match=expected):
        open_pipeline(NAME)
    assert not [file for file in served.fetched if file.endswith((".safetensors", ".bin"))]


def test_files_with_the_signs_of_patterns_in_their_names_come_as_they_are_called(served, toy_folder):
    odd = [f"unet/{'*a' * 40}b.json", "unet/[x].json", "scheduler/?.json"]
    for file in odd:
        (toy_folder / file).write_text("{}")
    folder = hub.fetch_checkpoint(NAME, half=False)
    assert all((folder / file).is_file() for file in odd)


def test_download_that_has_no_room_on_the_disk_is_not_begun(served, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(
        CheckpointError, match=r"takes \d+ MB, and the disk .* has 0 MB left; make room, or set HF_HOME"
    ):
        hub.fetch_checkpoint(NAME, half=False)
    assert not served.fetched


def test_disk_that_becomes_full_is_one_sentence_and_the_next_try_works(served):
    with (
        no_room(after_bytes=30_000),
        pytest.raises(CheckpointError, match="disk became full while someone/marigold"),
    ):
        hub.fetch_checkpoint(NAME, half=False)
    assert checkpoint_files.is_complete(hub.fetch_checkpoint(NAME, half=False))


def test_cache_that_cannot_be_written_to_is_one_sentence(toy_folder, tmp_path):
    (tmp_path / "taken").write_text("not a folder")
    with serving({NAME: toy_folder}, cache=tmp_path / "taken" / "cache"):
        with pytest.raises(
            CheckpointError, match="folder of the hub's cache cannot be written to; set HF_HOME"
        ):
            hub.fetch_checkpoint(NAME, half=False)


def test_read_only_cache_that_holds_a_checkpoint_is_read(served, monkeypatch):
    folder = hub.fetch_checkpoint(NAME, half=False)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("marigold_demo.network.weights.save_file", refuse)
    monkeypatch.setattr(hub, "snapshot_download", refuse)
    assert read_pipeline(folder, name=NAME).empty_prompt.shape[-1] == toys.PROMPT_WIDTH
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="folder of the hub's cache cannot be written to"):
        hub.fetch_checkpoint(NAME, half=False)


def test_hub_that_nobody_answers_for_is_explained(tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: every connection is refused
        point_at(f"http://127.0.0.1:{closed.getsockname()[1]}", cache=tmp_path, patch=monkeypatch)
        with pytest.raises(CheckpointError, match="the hub cannot be reached; connect to the internet"):
            hub.fetch_checkpoint(NAME, half=False)
        assert not hub.answers(NAME, within_s=2)
        assert not hub.is_reachable(NAME)
        monkeypatch.setattr(hub, "answers", lambda name, within_s: True)
        assert not hub.is_reachable(NAME)  # asked a moment ago
        monkeypatch.setattr(hub, "ASK_AGAIN_S", 0)
        assert hub.is_reachable(NAME)


def test_hub_that_takes_its_time_is_not_waited_for(served, monkeypatch):
    assert hub.answers(NAME, within_s=10)
    monkeypatch.setattr(hub, "ANSWER_S", 0.3)
    served.wait_s = 2
    start = time.monotonic()
    assert not hub.answers(NAME, within_s=0.3)
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        hub.fetch_checkpoint(NAME, half=False)
    assert time.monotonic() - start < 2


def test_file_that_arrives_cut_off_is_not_kept_and_comes_whole_the_next_time(served):
    served.cut = ".safetensors"
    with pytest.raises(CheckpointError, match=r"broke off after \d+ of \d+ MB; .* finished files are kept"):
        hub.fetch_checkpoint(NAME, half=False)
    assert not list(served.cache.rglob("*.safetensors"))
    served.cut = ""
    assert checkpoint_files.is_complete(hub.fetch_checkpoint(NAME, half=False))


def test_checkpoint_in_the_cache_of_the_hub_works_offline(toy_folder, tmp_path, monkeypatch):
    """The real client, the layout of its real cache, no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--someone--marigold"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(toy_folder, repository / "snapshots" / commit)
    assert hub.fetch_checkpoint(NAME, half=False) == repository / "snapshots" / commit


@pytest.mark.parametrize(
    "part",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_checkpoint_that_lacks_a_part_is_not_complete(part, toy_folder):
    assert checkpoint_files.is_complete(toy_folder)
    (toy_folder / part).unlink()
    assert not checkpoint_files.is_complete(toy_folder)


def test_weights_in_several_files_are_complete_when_all_are_there(toy_folder):
    unet = toy_folder / "unet"
    toys.make_unet().save_pretrained(unet, max_shard_size="400KB")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    assert checkpoint_files.is_complete(toy_folder)
    first, *_ = sorted(unet.glob("*-of-*"))
    whole = first.read_bytes()
    for bytes_there in (whole[:-1], b"", whole + b"0"):
        first.write_bytes(bytes_there)
        assert not checkpoint_files.is_complete(toy_folder)
    first.unlink()
    assert not checkpoint_files.is_complete(toy_folder)


@pytest.mark.parametrize("known", CATALOG, ids=lambda known: known.name)
def test_catalog_names_checkpoints_that_can_be_asked_for(known):
    assert checkpoint_files.is_hub_name(known.name) == (known.download_mb > 0)
    assert known.title
    assert known.about.endswith(".")


@pytest.mark.parametrize("name", ["", "a", "a/b/c", "../a", "/a/b", "a b/c", "a/b\n", "a\\b"])
def test_other_names_are_no_hub_names(name):
    assert not checkpoint_files.is_hub_name(name)
