"""Variables of the environment become one configuration, or an error message."""

import os
import re
import subprocess
import sys
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marigold_demo.catalog import CATALOG, OTHER_METHODS
from marigold_demo.cli import main as cli
from marigold_demo.errors import SettingsError
from marigold_demo.serving.config import Configuration, read_configuration, shown, variables
from tests.pages import ROOT

CATALOG_NAMES = {known.name for known in (*CATALOG, *OTHER_METHODS) if not known.terms}
NUMBERS = {name: about for name, about in variables().items() if about.limits}


def test_an_empty_environment_gives_the_defaults():
    assert read_configuration({}) == Configuration()
    assert read_configuration({"MARIGOLD_UPLOAD_MB": " ", "PATH": "/bin"}) == Configuration()


def test_every_variable_can_be_set_by_the_name_that_is_printed():
    values = {
        "FORWARDED_ALLOW_IPS": "10.0.0.0/24",
        "GRADIO_ROOT_PATH": "/depth",
        "MARIGOLD_CHECKPOINTS": "catalog",
        "MARIGOLD_LOG_FORMAT": "json",
        "MARIGOLD_LOG_LEVEL": "error",
        "MARIGOLD_METRICS_TOKEN": "0123456789abcdef",
    }
    other = {"on": "off", "off": "on"}
    for line in shown(Configuration()):
        about = next(about for about in variables().values() if about.name == line.name)
        value = values.get(
            line.name, str(about.limits[0]) if about.limits else other.get(line.default, "somewhere")
        )
        configured = read_configuration({line.name: value})
        assert (configured != Configuration()) is (value != line.default), line.name


@given(st.sampled_from(sorted(NUMBERS)), st.integers(-(10**9), 10**9))
def test_a_number_out_of_its_limits_is_refused_by_name_with_what_would_work(name, value):
    low, high = NUMBERS[name].limits
    environment = {NUMBERS[name].name: str(value)}
    if low <= value <= high:
        assert getattr(read_configuration(environment), name) == value
    else:
        with pytest.raises(SettingsError, match=f"{NUMBERS[name].name} is {value}; .* from {low} to {high}"):
            read_configuration(environment)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MARIGOLD_UPLOAD_MB", "100mb", "whole number from 1 to 1000 MB"),
        ("MARIGOLD_METRICS", "perhaps", "on or off"),
        ("MARIGOLD_LOG_FORMAT", "xml", "one of text, json"),
        ("MARIGOLD_METRICS_TOKEN", "short", "at least 16"),
        ("GRADIO_ROOT_PATH", "depth", "begin with /"),
        ("FORWARDED_ALLOW_IPS", "nginx", "an address such as"),
        ("GRADIO_SERVER_PORT", "http", "whole number from 1 to 65535"),
        ("MARIGOLD_UPLOADS_MB", "10", "There is no variable MARIGOLD_UPLOADS_MB"),
    ],
)
def test_a_value_that_cannot_be_used_gets_a_sentence(name, value, words):
    with pytest.raises(SettingsError, match=re.escape(words)):
        read_configuration({name: value})


@pytest.mark.parametrize("command", [["app.py"], ["-m", "marigold_demo", "app"]])
def test_the_app_tells_a_bad_value_in_one_line_and_ends_with_status_2(command):
    for name, value in (("MARIGOLD_QUEUE", "many"), ("GRADIO_SERVER_PORT", "http")):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | {name: value},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert done.stderr.startswith(f"{name} is '{value}'; it must be a whole number")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "environment",
    [
        {"GRADIO_SERVER_NAME": "0.0.0.0"},
        {"GRADIO_SERVER_NAME": "::"},
        {"GRADIO_SERVER_NAME": "depth.example.org"},
        {"GRADIO_ROOT_PATH": "/depth"},
        {"FORWARDED_ALLOW_IPS": "127.0.0.1"},
        {"GRADIO_SHARE": "True"},
    ],
)
def test_visitors_from_elsewhere_may_name_the_catalog_only(environment):
    configuration = read_configuration(environment)
    assert configuration.permitted_checkpoints == CATALOG_NAMES
    assert read_configuration(environment | {"MARIGOLD_CHECKPOINTS": "any"}).permitted_checkpoints is None


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_the_user_of_this_machine_may_name_any_checkpoint(name):
    assert read_configuration({"GRADIO_SERVER_NAME": name}).permitted_checkpoints is None


def test_listed_checkpoints_are_all_there_are_and_the_first_one_is_always_among_them():
    configuration = read_configuration(
        {"MARIGOLD_CHECKPOINTS": "embedded, https://huggingface.co/me/mine", "MARIGOLD_CHECKPOINT": "/w/"}
    )
    assert configuration.permitted_checkpoints == {"embedded", "me/mine", "/w"}


def test_what_is_printed_has_every_variable_and_no_secret():
    configuration = Configuration(metrics_token="0123456789abcdef", queue=7)
    lines = {line.name: line for line in shown(configuration)}
    assert len(lines) == len(fields(Configuration))
    assert (lines["MARIGOLD_QUEUE"].value, lines["MARIGOLD_QUEUE"].default) == ("7", "24")
    assert lines["MARIGOLD_METRICS_TOKEN"].value == "(set)"
    assert all(line.help for line in lines.values())


def test_the_page_on_running_in_public_lists_exactly_these_variables():
    text = (ROOT / "docs" / "running_in_public.md").read_text()
    named = set(re.findall(r"\b(?:MARIGOLD|GRADIO)_[A-Z_]+[A-Z]|\bFORWARDED_ALLOW_IPS", text))
    assert named == {line.name for line in shown(Configuration())}


def test_the_command_prints_value_default_and_meaning(monkeypatch, capsys):
    monkeypatch.setenv("MARIGOLD_QUEUE", "7")
    assert cli.main(["config"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + len(fields(Configuration))
    (queue,) = [row.split(maxsplit=4) for row in rows if "MARIGOLD_QUEUE" in row]
    assert queue[:4] == ["*", "MARIGOLD_QUEUE", "7", "24"]
    assert queue[4].startswith("Visitors who may wait")


def test_the_command_tells_a_bad_value(monkeypatch, capsys):
    monkeypatch.setenv("MARIGOLD_QUEUE", "0")
    assert cli.main(["config"]) == 2
    assert "MARIGOLD_QUEUE is 0; it must be a whole number from 1" in capsys.readouterr().err
