"""Measure in Chromium what the 3D preview shows: contrast, what settings change, and holes of the mesh.

Usage:
    python -m benchmarks.preview PHOTO...     needs the embedded checkpoint, Chromium and playwright

Of each photo: the standard deviation of gray over the relief's picture (from the front) and over the piece in
its first view; the mean change of the whole canvas in the first view for near 0 -> 0.3 and for detail 0 -> 1;
and the share of the mesh's first view that shows the ground through a hole.
"""

import argparse
import io
import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page

from marigold_demo.geometry.rendering import GROUND
from marigold_demo.io.photo import load_photo
from marigold_demo.network.checkpoint import load_pipeline
from marigold_demo.settings import DepthSettings, ReliefSettings
from marigold_demo.workflow import Predictor
from tests.pages import served
from tests.visits import Visit, chromium

GRAY = (0.299, 0.587, 0.114)
COLUMNS = ("picture", "first view", "near", "detail", "holes %")
PATIENCE_S = 60.0

Pixels = NDArray[np.float32]


def main() -> None:
    """Serve the page over the embedded checkpoint and print one row for each photo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="+")
    photos = parser.parse_args().photos
    pipeline, settings = load_pipeline("embedded"), DepthSettings()
    depths = {path.stem: pipeline(load_photo(path), settings) for path in photos}
    print_table(photos, lambda photo, *_: depths[photo.stem])


def print_table(photos: list[Path], predict: Predictor) -> None:
    """Serve the page over a predictor, show it every photo, and print a row for each and the mean."""
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, GRADIO_TEMP_DIR=folder),
        served(predict) as url,
        chromium() as browser,
    ):
        print(" " * 16, *(f"{name:>10}" for name in COLUMNS))
        for photo in photos:
            visit = Visit(browser, url, width=1440)
            visit.upload(photo)
            visit.wait_for_object()
            rows.append(measure(visit.page, photo))
            visit.context.close()
            print(f"{photo.stem:16}", *(f"{value:10.2f}" for value in rows[-1]), flush=True)
    print(f"{'mean':16}", *(f"{value:10.2f}" for value in np.mean(rows, axis=0)))


def measure(page: Page, photo: Path) -> tuple[float, ...]:
    """Return the values of `COLUMNS` for the object on the page."""
    page.add_style_tag(content="#angles { opacity: 0 }")
    canvas = page.locator("#preview canvas")
    first = settled(page, canvas, lambda seen: on_object(seen).mean() > 0.1)
    changes = []
    for name, values in (("near", ("0", "0.3", "0")), ("detail", ("0", "1"))):
        seen = [with_setting(page, canvas, name, value) for value in values]
        changes.append(float(np.abs(gray(seen[1]) - gray(seen[0])).mean()))
    with_setting(page, canvas, "detail", f"{ReliefSettings().detail:g}")
    page.locator("#view-front").click()
    picture = inside_frame(settled(page, canvas))
    page.locator("#mesh-tab-button").click()
    page.wait_for_selector("#glb:not([disabled])")
    page.wait_for_timeout(1000)
    mesh = settled(page, canvas)
    spread = float(gray(picture).std()), float(gray(first)[on_object(first)].std())
    return *spread, *changes, 100 * holes(mesh, photo)


def with_setting(page: Page, canvas: Locator, name: str, value: str) -> Pixels:
    """Set a setting of the relief and return what the canvas shows when its files are ready."""
    field = page.locator(f"#relief-{name} input[type=number]")
    if not field.is_visible():
        page.get_by_role("button", name="Fine tuning").first.click()
    field.fill(value)
    field.press("Enter")
    page.wait_for_timeout(1500)
    page.wait_for_selector("#stl:not([disabled])")
    return settled(page, canvas)


def settled(page: Page, canvas: Locator, shows=lambda _: True) -> Pixels:  # type: ignore[no-untyped-def]
    """Return the canvas float32 [H, W, 3] once it no longer changes and shows what it should."""
    canvas.scroll_into_view_if_needed()
    end, before = time.monotonic() + PATIENCE_S, shot(canvas)
    while time.monotonic() < end:
        page.wait_for_timeout(400)
        now = shot(canvas)
        if np.array_equal(now, before) and shows(now):
            break
        before = now
    return before


def shot(canvas: Locator) -> Pixels:
    """Return the canvas without its round corners."""
    with Image.open(io.BytesIO(canvas.screenshot())) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32)[12:-12, 3:-3]


def gray(rgb: Pixels) -> Pixels:
    """Return gray [H, W] of 255."""
    return rgb @ np.array(GRAY, dtype=np.float32)


def on_object(rgb: Pixels) -> NDArray[np.bool_]:
    """Mark the pixels [H, W] that are not the preview's ground."""
    return np.abs(rgb - np.array(GROUND, dtype=np.float32)).max(axis=-1) > 4


def cropped(rgb: Pixels) -> Pixels:
    """Return the rectangle that the object fills."""
    seen = on_object(rgb)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return rgb[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def inside_frame(rgb: Pixels) -> Pixels:
    """Return the picture of a relief that is seen from the front."""
    piece, defaults = cropped(rgb), ReliefSettings()
    frame = int(np.ceil(max(piece.shape) * (defaults.frame_mm + 1) / defaults.width_mm))
    return piece[frame:-frame, frame:-frame]


def holes(rgb: Pixels, photo: Path) -> float:
    """Return the share of a mesh's first view that is ground where the photo is not as dark."""
    seen = cropped(rgb)
    with Image.open(photo) as image:
        wanted = np.asarray(image.convert("RGB").resize(seen.shape[1::-1]), dtype=np.float32)
    return float((~on_object(seen) & (np.abs(wanted - seen).max(axis=2) > 40)).mean())


if __name__ == "__main__":
    main()
