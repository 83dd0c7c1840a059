"""The print report is correct for the bytes, and warns where printing would fail."""

import json
from dataclasses import replace

import numpy as np
import pytest

from marigold_demo.depth import DepthMap
from marigold_demo.geometry.relief import DENSITY, build_relief, build_report
from marigold_demo.io import export
from marigold_demo.io.formats import formats_of
from marigold_demo.settings import Material, ReliefSettings
from tests.depths import depth_map, hills

SMALL = ReliefSettings(resolution=128)


def report_on(kind="hills", **choices):
    relief = build_relief(depth_map(kind), replace(SMALL, **choices))
    return build_report(relief, "piece.stl", export.stl(relief))


def test_a_plain_plate_weighs_what_it_should():
    relief = build_relief(depth_map("constant"), replace(SMALL, frame="none", width_mm=80.0))
    report = build_report(relief, "plate.stl", export.stl(relief))
    assert report.size_mm == pytest.approx((80, 60, 4.1), abs=1e-3)
    assert report.volume_cm3 == pytest.approx(8 * 6 * 0.41, rel=1e-4)
    assert report.weight_g == pytest.approx(8 * 6 * 0.41 * 1.24, rel=1e-4)
    assert report.thinnest_mm == pytest.approx(4.1, abs=1e-4)
    assert report.steepest_deg == 0
    assert any("flat" in warning for warning in report.warnings)


def test_a_tilted_plane_has_the_slope_it_should():
    ramp = np.linspace(0, 1, 417, dtype=np.float32)[None].repeat(417, 0)
    chosen = ReliefSettings(
        resolution=416, frame="none", detail=0, smooth_px=0, relief_mm=100.0, width_mm=100.0
    )
    relief = build_relief(DepthMap(ramp), chosen)
    assert build_report(relief, "ramp.stl", export.stl(relief)).steepest_deg == pytest.approx(45, abs=0.1)


def test_the_edge_of_a_disc_is_no_slope():
    square = report_on(kind="constant", frame="none")
    disc = report_on(kind="constant", cutout="round", frame="flat")
    assert square.steepest_deg == disc.steepest_deg == 0
    assert report_on(cutout="round", frame="flat").steepest_deg <= report_on().steepest_deg + 5


@pytest.mark.parametrize("name", ["stl", "3mf"])
def test_it_says_the_same_of_every_format(name):
    relief = build_relief(depth_map("noise"), SMALL)
    name, data = formats_of("relief")[name].write(relief, "photo")
    report = build_report(relief, name, data)
    assert report.check.solid
    assert report.faces == len(relief.solid.faces) and report.file_bytes == len(data)
    assert report.volume_cm3 * 1000 == pytest.approx(relief.mesh.volume, rel=1e-4)
    assert report.tolerance_mm == 0.02


def test_damage_to_the_bytes_is_told():
    relief = build_relief(depth_map("hills"), SMALL)
    data = bytearray(export.stl(relief))
    data[84 + 12 : 84 + 16] = np.float32(7.0).tobytes()  # one coordinate of one face
    report = build_report(relief, "piece.stl", bytes(data))
    assert not report.check.solid
    assert "not watertight" in report.warnings[0]
    assert "NOT" in report.to_text()


def test_the_default_piece_gives_no_warning():
    relief = build_relief(DepthMap(hills(60, 80)), ReliefSettings())
    assert build_report(relief, "piece.stl", export.stl(relief)).warnings == ()


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"width_mm": 20.0, "resolution": 1024}, "finer than a 0.4 mm nozzle"),
        ({"base_mm": 0.5}, "two walls"),
        ({"relief_mm": 0.3}, "few layers"),
        (
            {
                "kind": "stairs",
                "material": "beech",
                "detail": 0.0,
                "smooth_px": 0.0,
                "width_mm": 40.0,
                "relief_mm": 50.0,
            },
            "gentler",
        ),
        ({"width_mm": 400.0}, "many printers end"),
    ],
)
def test_what_a_printer_stumbles_over_is_told(choices, words):
    assert any(words in warning for warning in report_on(**choices).warnings)


def test_the_advised_resolution_ends_the_warning_about_pitch():
    (warning,) = report_on(width_mm=20.0, resolution=1024).warnings
    advised = int(warning.split("resolution of ")[1].split()[0])
    assert report_on(width_mm=20.0, resolution=advised).warnings == ()
    assert report_on(width_mm=20.0, resolution=advised + 32).warnings != ()


def test_every_material_has_a_density():
    assert set(DENSITY) == set(Material.__args__)


def test_it_can_be_read_by_people_and_by_machines():
    report = report_on()
    text = report.to_text()
    for words in ("77.5 × 100 × 6.6 mm", "cm³", "g in PLA", "µm", "watertight"):
        assert words in text
    assert json.loads(json.dumps(report.to_dict()))["soundness"]["closed"] is True
