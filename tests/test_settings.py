"""Settings refuse what cannot be, name the field, and say what would work."""

from dataclasses import fields, replace

import pytest

from marigold_demo.errors import SettingsError
from marigold_demo.settings import RELIEF_PRESETS, DepthSettings, MeshSettings, ReliefSettings, options_of

CLASSES = (DepthSettings, ReliefSettings, MeshSettings)


def with_limits():
    for settings in CLASSES:
        for name, option in options_of(settings).items():
            if option.limits:
                yield pytest.param(settings, name, id=f"{settings.__name__}.{name}")


@pytest.mark.parametrize("settings", CLASSES)
def test_every_field_has_an_option_and_every_default_is_allowed(settings):
    assert set(options_of(settings)) == {f.name for f in fields(settings)}
    assert all(option.help and not option.help.endswith(".") for option in options_of(settings).values())
    settings()


@pytest.mark.parametrize(("settings", "name"), list(with_limits()))
def test_what_is_out_of_limits_is_refused_by_name(settings, name):
    low, high = options_of(settings)[name].limits
    for value in (low - 1, high + 1, float("nan"), float("inf"), "12", True):
        with pytest.raises(SettingsError, match=name):
            replace(settings(), **{name: value})


@pytest.mark.parametrize("settings", CLASSES)
def test_what_is_not_a_choice_is_refused_with_the_choices(settings):
    for name, option in options_of(settings).items():
        if option.choices:
            with pytest.raises(SettingsError, match=f"{name}.*{option.choices[-1]}"):
                replace(settings(), **{name: "sideways"})
            for choice in option.choices:
                replace(settings(), **{name: choice}, **({"base_mm": 6.0} if choice == "keyhole" else {}))


def test_earlier_spellings_of_choices_are_taken():
    earlier = ReliefSettings(mode="mould", material="aluminium")
    assert earlier == ReliefSettings(mode="mold", material="aluminum")


@pytest.mark.parametrize("settings", CLASSES)
def test_unset_is_allowed_where_it_means_something_only(settings):
    for name, option in options_of(settings).items():
        if option.optional:
            replace(settings(), **{name: None})
        elif option.limits:
            with pytest.raises(SettingsError, match=name):
                replace(settings(), **{name: None})


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"near": 0.5, "far": 0.5}, "near .* far"),
        ({"near": 0.9, "far": 0.1}, "near .* far"),
        ({"hole": "keyhole", "base_mm": 2.0}, "base_mm"),
        ({"bend_radius_mm": 1.0}, "bend_radius_mm"),
        ({"resolution": 300.5}, "whole number"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(choices, words):
    with pytest.raises(SettingsError, match=words):
        ReliefSettings(**choices)


def test_the_presets_are_those_that_were_promised():
    assert list(RELIEF_PRESETS) == ["portrait", "landscape", "coin", "CNC", "lithophane", "plain"]
    assert len(set(RELIEF_PRESETS.values())) == 6


def test_settings_are_equal_by_value_and_can_be_keys():
    assert {ReliefSettings(): 1}[ReliefSettings()] == 1
    assert ReliefSettings() != ReliefSettings(base_mm=2.0)
