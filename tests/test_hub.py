import math
import shutil
import socket
import threading
import time

import pytest

from marigold_demo.catalog import CATALOG
from marigold_demo.errors import CheckpointError
from marigold_demo.network import hub
from marigold_demo.network.checkpoint_folder import read_pipeline
from tests import toys
from tests.loopback_hub import point_at, serving

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


def test_weights_in_several_files_come_whole():
    shards = [f"unet/diffusion_pytorch_model-{n}-of-2.safetensors" for n in (1, 2)]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    assert set(hub.wanted_files([*shards, index], half=False, with_text=False)) == {*shards, index}


def progress_of(steps):
    """Run a generator to its end; return what it yielded and what it returned."""
    told = []
    while True:
        try:
            told.append(next(steps))
        except StopIteration as end:
            return told, end.value


@pytest.fixture
def served(toy_folder, tmp_path):
    with serving({NAME: toy_folder}, cache=tmp_path / "cache") as loopback:
        yield loopback


def test_download_brings_all_that_is_needed_and_tells_how_far_it_is(served, toy_folder):
    (toy_folder / "unet" / "diffusion_pytorch_model.bin").touch()
    served.wait_s = 0.01
    told, folder = progress_of(hub.stream_checkpoint(NAME, half=False))
    assert hub.is_complete(folder)
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
    assert progress_of(hub.stream_checkpoint(NAME, half=True)) == ([], folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.fetch_checkpoint(NAME, half=False) == hub.fetched(NAME) == folder
    assert len(served.fetched) == asked


def test_text_encoder_is_not_downloaded_where_the_prompt_comes_along(served, toy_folder):
    read_pipeline(toy_folder, name=NAME)  # leaves the prompt in the folder
    folder = hub.fetch_checkpoint(NAME, half=False)
    assert (folder / hub.EMPTY_PROMPT).is_file()
    assert not (folder / "text_encoder").exists()
    assert hub.is_complete(folder)


def test_closing_ends_a_download_and_the_next_one_brings_the_rest_only(served):
    served.wait_s = 0.03
    steps = hub.stream_checkpoint(NAME, half=False)
    while next(steps).done == 0 or "config.json" not in served.fetched:
        pass
    steps.close()
    for thread in threading.enumerate():
        if "_Download.run" in str(getattr(thread, "_target", "")):
            thread.join(20)
            assert not thread.is_alive()
    folder = hub.cached(NAME)
    assert folder is None or not hub.is_complete(folder)
    assert not list((served.cache).rglob("*.incomplete"))
    served.wait_s = 0
    here = {file.name for file in served.cache.rglob("snapshots/*/*") if file.is_file()}
    before = len(served.fetched)
    assert hub.is_complete(hub.fetch_checkpoint(NAME, half=False))
    assert here
    assert not here & set(served.fetched[before:])


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        ((404, "RepoNotFound"), "has no checkpoint called someone/marigold"),
        ((401, "RepoNotFound"), "has no checkpoint called someone/marigold"),
        ((403, "GatedRepo"), "asks for its terms to be accepted"),
        ((500, ""), "the hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_explained(refusal, expected, served):
    served.refuse = refusal
    with pytest.raises(CheckpointError, match=expected):
        hub.fetch_checkpoint(NAME, half=False)


def test_hub_that_nobody_answers_for_is_explained(tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: every connection is refused
        point_at(f"http://127.0.0.1:{closed.getsockname()[1]}", cache=tmp_path, patch=monkeypatch)
        with pytest.raises(CheckpointError, match="the hub cannot be reached; connect to the internet"):
            hub.fetch_checkpoint(NAME, half=False)
        assert not hub.answers(NAME, within_s=2)


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
    assert hub.is_complete(hub.fetch_checkpoint(NAME, half=False))


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
    assert hub.is_complete(toy_folder)
    (toy_folder / part).unlink()
    assert not hub.is_complete(toy_folder)


def test_weights_in_several_files_are_complete_when_all_are_there(toy_folder):
    whole = toy_folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole.rename(whole.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    assert not hub.is_complete(toy_folder)
    whole.with_name("diffusion_pytorch_model-00002-of-00002.safetensors").touch()
    assert hub.is_complete(toy_folder)


@pytest.mark.parametrize("known", CATALOG, ids=lambda known: known.name)
def test_catalog_names_checkpoints_that_can_be_asked_for(known):
    assert hub.is_hub_name(known.name) == (known.download_mb > 0)
    assert known.title
    assert known.about.endswith(".")


@pytest.mark.parametrize("name", ["", "a", "a/b/c", "../a", "/a/b", "a b/c", "a/b\n", "a\\b"])
def test_other_names_are_no_hub_names(name):
    assert not hub.is_hub_name(name)
