"""Journeys through the page in a real browser."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from playwright.sync_api import Page, expect

from marigold_demo.depth import DepthMap
from marigold_demo.examples import load_examples
from marigold_demo.geometry.rendering import GROUND
from marigold_demo.io.photo import Photo, load_photo
from marigold_demo.network.checkpoint import load_pipeline
from marigold_demo.settings import DepthSettings
from marigold_demo.ui import layers
from marigold_demo.ui.layers import DepthStyle
from marigold_demo.ui.photo_tab import GAVE_WAY
from marigold_demo.ui.session_store import DepthResult, OtherDepth
from tests import other_methods
from tests.pages import app_running, ball, draw_photo
from tests.test_phone_depth import RAMP, gdepth
from tests.visits import BROWSER, Visit, choose, type_number, wait_until

pytestmark = BROWSER

AT_CENTER = """(selector) => {
  const { x, y, width, height } = document.querySelector(selector).getBoundingClientRect();
  return document.elementFromPoint(x + width / 2, y + height / 2).tagName;
}"""


def test_the_whole_journey_on_the_embedded_checkpoint(browser, folder):
    photo = next(example.path for example in load_examples() if example.path.stem == "astronaut")
    with app_running(folder) as url:
        seen = Visit(browser, url, drawn=True)
        seen.page.wait_for_selector("#drag-preview img", state="attached")
        assert (
            shot(seen.page.locator("#object-pane")).std() > 30
        )  # the example's relief, before WebGL has drawn it
        seen.page.wait_for_selector("body[data-drawn]", timeout=60_000)
        assert seen.page.evaluate(AT_CENTER, "#object-pane") == "CANVAS"
        seen.page.evaluate("window.undrawn = true")
        seen.upload(photo)
        seen.wait_for_depth()  # torch is still being imported
        depth = np.load(seen.download("#download-npy"))
        with Image.open(photo) as image:
            assert depth.shape[::-1] == image.size
        assert 0 <= depth.min() < depth.max() <= 1
        assert trimesh.load(seen.download("#stl")).is_volume
        compare_with_a_toy(seen, load_photo(photo), DepthMap(depth), folder)
        seen.context.close()
        assert seen.faults == []


def compare_with_a_toy(seen: Visit, photo: Photo, first: DepthMap, folder: Path) -> None:
    """Run a second network beside the embedded one; look at both pictures and at their difference."""
    toy = other_methods.save("depth_anything", folder / "toy")
    page, links = (
        seen.page,
        [seen.page.locator(name).get_attribute("href") for name in ("#stl", "#preview a")],
    )
    seen.open("Depth")
    for name, words in (("owner/nowhere", "choose the embedded checkpoint"), (str(toy), "")):
        field = page.locator("#compare-method input")
        field.fill(name)
        field.press("Enter")
        page.locator("#compare-run").click()
        if words:
            expect(page.locator("#status .alert")).to_contain_text(words)
            expect(page.locator("#compare-run")).to_be_enabled()
    expect(page.locator("#legend [data-side]")).to_have_text(["Depth of Draft", "Depth of toy"])
    expect(page.locator("#status")).to_contain_text("Done")
    made = DepthResult(photo, first, None).beside(
        OtherDepth("", load_pipeline(str(toy))(photo, DepthSettings()))
    )

    def differs(side: int, layer: str) -> float:
        shown = picture(page, page.locator("#compare img").nth(side))
        return float(np.abs(shown - layers.render(made, layer, DepthStyle())).mean())

    wait_until(page, lambda: differs(0, layers.DEPTH) < 1)
    assert differs(1, layers.OTHER) < 1 and differs(1, layers.DEPTH) > 20
    choose(page, "#right-side", "Difference to toy")
    expect(page.locator("#legend [data-side]").nth(1)).to_have_text("Difference to toy")
    wait_until(page, lambda: differs(1, layers.DIFFERENCE) < 1)
    bar = shot(page.locator("#legend .legend i").nth(1))
    middle = bar.shape[0] // 2, bar.shape[1] // 2
    assert bar[middle].min() > 220 and bar[middle[0], 6].min() < 180  # white in the middle, violet at an end
    np.testing.assert_array_equal(np.load(seen.download("#download-npy")), first.values)
    assert links == [page.locator(name).get_attribute("href") for name in ("#stl", "#preview a")]
    page.reload()
    expect(page.locator("#legend [data-side]")).to_have_text(["Depth of Draft", "Difference to toy"])
    seen.upload(draw_photo(folder, "another.png", size=(120, 90)))
    seen.wait_for_depth()
    expect(page.locator("#legend [data-side]")).to_have_text(["Colored depth", "Colored depth"])


def test_a_photo_becomes_depth_files_and_a_printable_relief(built):
    assert np.load(built.download("#download-npy")).shape == (120, 160)
    with Image.open(built.download("#download-png16")) as image:
        assert (image.mode, image.size) == ("I;16", (160, 120))
    colored = built.download("#download-colored")
    assert colored.name == "holiday_depth_colored.png"
    stl = built.download("#stl")
    solid = trimesh.load(stl)
    assert solid.is_volume
    assert solid.extents[0] == pytest.approx(100, abs=1e-3)
    assert re.fullmatch(r"holiday_relief_100x[\d.]+mm_z[\d.]+mm\.stl", stl.name)


def test_the_slider_moves_by_mouse_and_by_keys(built):
    handle = built.page.get_by_role("slider", name="Divider between the two pictures")
    handle.scroll_into_view_if_needed()
    before = handle.bounding_box()
    x, y = before["x"] + before["width"] / 2, before["y"] + before["height"] / 2
    built.page.mouse.move(x, y)
    built.page.mouse.down()
    built.page.mouse.move(x - 120, y, steps=4)
    built.page.mouse.up()
    assert handle.bounding_box()["x"] == pytest.approx(before["x"] - 120, abs=3)
    dragged = int(handle.get_attribute("aria-valuenow"))
    assert 0 < dragged < 50
    handle.focus()
    built.page.keyboard.press("ArrowRight")
    expect(handle).to_have_attribute("aria-valuenow", str(dragged + 2))
    built.page.keyboard.press("End")
    expect(handle).to_have_attribute("aria-valuenow", "100")
    built.page.keyboard.press("Home")
    expect(handle).to_have_attribute("aria-valuenow", "0")


def test_the_dark_page_is_dark_and_shows_a_lit_relief_whose_camera_stays_and_then_the_photo_without_a_hole(
    visit, photo
):
    seen = visit(theme="dark", drawn=True)
    seen.upload(photo)
    seen.wait_for_object()
    page, canvas = seen.page, seen.page.locator("#preview canvas")
    assert shot(page.locator("#settings")).mean() < 80
    page.add_style_tag(content="#angles { opacity: 0 }")
    canvas.scroll_into_view_if_needed()
    assert wait_for_picture(page, canvas)[:20, :20].mean() < 80
    first = still(page, canvas)
    assert vivid(first) < 0.01  # plaster
    inside = first[on_object(first)]
    assert inside.std() > 35 and vivid(first) == 0  # plaster in raking light
    edges = np.concatenate([first[1, 20:-20], first[-2, 20:-20], first[20:-20, 1], first[20:-20, -2]])
    assert np.abs(edges - GROUND).max() <= 2  # dark ground, and nothing is cut
    page.locator("#view-front").click()
    wait_until(page, lambda: abs(shot(canvas) - first).mean() > 4)
    front = still(page, canvas)
    detail = page.locator("#relief-detail input[type=number]")
    detail.fill("0")
    detail.press("Enter")
    wait_until(page, lambda: abs(shot(canvas) - front).mean() > 3)  # a setting is seen
    after = still(page, canvas)
    assert (on_object(after) == on_object(front)).mean() > 0.99  # from where it was
    # The wheel belongs to the page until the preview was clicked.
    assert page.evaluate(WHEEL) is False
    assert abs(still(page, canvas) - after).mean() < 0.5
    canvas.click()
    assert page.evaluate(WHEEL) is True
    wait_until(page, lambda: abs(shot(canvas) - after).mean() > 2)
    page.locator("#mesh-tab-button").click()
    expect(page.locator("#glb")).to_be_enabled()
    canvas.scroll_into_view_if_needed()
    wait_until(page, lambda: vivid(shot(canvas)) > 0.01)
    seen_photo = still(page, canvas)
    seen_photo = seen_photo[20:-20, 2:-2]  # within the round corners
    rows, columns = np.nonzero(on_object(seen_photo))
    picture = seen_photo[rows.min() + 2 : rows.max() - 1, columns.min() + 2 : columns.max() - 1]
    assert picture.shape[1] / picture.shape[0] == pytest.approx(640 / 480, abs=0.03)
    assert max(picture.shape[1] / seen_photo.shape[1], picture.shape[0] / seen_photo.shape[0]) > 0.95
    assert on_object(picture).all()


def test_relief_settings_rebuild_the_object_without_the_network(built, predict):
    runs = predict.runs
    width = built.page.locator("#relief-width_mm input[type=range]")
    width.focus()
    for _ in range(20):
        built.page.keyboard.press("ArrowRight")
    expect(built.page.locator("#relief-report")).to_contain_text("120 ×")
    expect(built.page.locator("#stl")).to_be_enabled()
    assert trimesh.load(built.download("#stl")).extents[0] == pytest.approx(120, abs=1e-3)
    assert predict.runs == runs


def test_colors_change_at_once_and_without_the_network(built, predict):
    runs, right = predict.runs, built.page.locator("#compare img").nth(1)
    source = right.get_attribute("src")
    built.open("Depth")
    choose(built.page, "#colors", "Gray")
    expect(right).not_to_have_attribute("src", source)
    wait_until(built.page, lambda: colorfulness(picture(built.page, right)) < 1)
    assert predict.runs == runs


def test_impossible_settings_get_a_sentence_and_the_page_goes_on(built):
    built.open("Relief")
    built.page.get_by_role("button", name="Fine tuning").click()
    near = built.page.locator("#relief-near input[type=range]")
    near.focus()
    built.page.keyboard.press("End")
    told = built.page.locator("#relief-far .refused")
    expect(told).to_have_text(
        "Front limit is 1 and back limit is 1; back limit must be at least 0.01 more than front limit."
    )
    assert told.bounding_box()["y"] > built.page.locator("#relief-far input[type=range]").bounding_box()["y"]
    expect(built.page.locator("#stl")).to_be_disabled()
    built.page.keyboard.press("Home")
    expect(built.page.locator("#stl")).to_be_enabled()


def test_two_clicks_tell_which_point_is_nearer(built):
    image = built.page.locator("#compare img").first
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    values, told = ball(120, 160), built.page.locator("#reading")
    built.page.mouse.click(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"])
    expect(told).to_contain_text(f"Depth at 1: {values[12, 16]:.3f}")
    built.page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
    expect(told).to_contain_text("2 is nearer")


def test_the_mesh_has_the_photo_on_it(built):
    built.open("Mesh")
    expect(built.page.locator("#glb")).to_be_enabled()
    (surface,) = trimesh.load(built.download("#glb")).geometry.values()
    assert surface.visual.material.baseColorTexture.size == (160, 120)
    built.open("Relief")


def test_everything_comes_in_one_zip(built, folder):
    built.page.get_by_role("radio", name="Coin").check()
    expect(built.page.locator("#relief-report")).to_contain_text("40 ×")
    built.page.get_by_role("button", name="More files").click()
    with built.page.expect_download() as started:
        built.page.get_by_role("button", name="Everything in one zip").click()
    with zipfile.ZipFile(started.value.path()) as archive:
        names = archive.namelist()
        (folder / "recipe.json").write_bytes(archive.read("holiday_recipe.json"))
        assert archive.testzip() is None
    assert {Path(name).suffix for name in names} == {".npy", ".png", ".stl", ".3mf", ".glb", ".txt", ".json"}


def test_a_bad_file_gets_a_sentence_and_the_next_photos_work_with_the_depth_in_them_and_with_a_recipe(
    visit, photo, folder, predict
):
    seen = visit()
    status = seen.page.locator("#status")
    (folder / "empty.png").write_bytes(b"")
    seen.upload(folder / "empty.png")
    expect(status.locator(".alert")).to_contain_text("empty")
    expect(seen.page.locator("#photo img")).to_have_count(0)
    expect(seen.page.locator("#compare img")).to_have_count(2)  # what the page began with stays
    seen.open("Depth")
    portrait = folder / "portrait.jpg"
    portrait.write_bytes(gdepth("RangeLinear"))
    offer = seen.page.locator("#phone-depth")
    expect(offer).to_be_hidden()
    seen.upload(portrait)
    expect(offer).to_have_text("Depth from the phone")
    seen.wait_for_object()
    runs = predict.runs
    offer.click()
    expect(status).to_contain_text("depth that the phone put into the photo")
    expect(seen.page.locator("#legend [data-side]")).to_have_text(["Photo", "Depth from the phone"])
    expect(seen.page.locator("#stl")).to_be_enabled()
    np.testing.assert_allclose(np.load(seen.download("#download-npy")), RAMP / 255, atol=1e-6)
    assert predict.runs == runs
    seen.page.locator("#depth-settings > button").click()
    seen.page.set_input_files("input[type=file][accept*='.3mf']", folder / "recipe.json")  # of the zip
    expect(status).to_contain_text("The settings are those of the recipe")
    seen.upload(photo)
    expect(seen.page.locator("#relief-report")).to_contain_text("40 ×")


def test_a_depth_file_of_ones_own_takes_the_place_of_a_run(built, folder, predict):
    runs = predict.runs
    np.save(folder / "mine.npy", 1 - ball(240, 320))
    built.page.keyboard.press("Escape")
    built.open("Depth")
    built.page.locator("#depth-settings > button").click()
    built.page.set_input_files("input[type=file][accept*='.npy']", folder / "mine.npy")
    expect(built.page.locator("#status")).to_contain_text("This is your own depth")
    expect(built.page.locator("#stl")).to_be_enabled()
    np.testing.assert_array_equal(np.load(built.download("#download-npy")), 1 - ball(240, 320))
    assert predict.runs == runs
    predict.may_go_on.clear()
    built.upload(draw_photo(folder, "later.png", size=(320, 240)))
    expect(built.page.locator("#status")).to_contain_text("Step 1 of 3")
    built.page.get_by_role("button", name="Cancel").click()
    expect(built.page.locator("#status")).to_have_text("Stopped. What is shown is still made from “holiday”.")
    predict.may_go_on.set()


def test_an_example_brings_its_own_style_undo_brings_ones_own_back_and_a_marked_style_can_be_chosen_again(
    built,
):
    page, note, width = built.page, built.page.locator("#style-note"), "#relief-width_mm input[type=number]"
    built.open("Relief")
    page.get_by_role("radio", name="Coin").check()
    page.locator("#reset-all").click()
    expect(page.locator(width)).to_have_value("100")
    type_number(page, width, "66")
    expect(note).to_have_text("Picture, changed")
    page.get_by_role("button", name="Example: A young cat").click()
    expect(note).to_have_text("As for this example")
    expect(page.locator("#photo-notes p")).to_have_text(GAVE_WAY)
    assert page.evaluate(AT_CENTER, "#photo-notes p") == "P"
    expect(page.locator("#preset input:checked")).to_have_count(0)
    expect(page.locator(width)).to_have_value("100")
    page.locator("#undo").click()
    expect(page.locator(width)).to_have_value("66")
    expect(note).to_have_text("Picture, changed")
    expect(page.locator("#relief-report")).to_contain_text("66 ×")
    page.locator("#preset label").first.click()  # it is marked already
    expect(page.locator("#relief-report")).to_contain_text("100 ×")
    expect(note).to_have_text("")
    chips = page.locator("#preset").bounding_box()
    gap = page.locator("#relief-width_mm").bounding_box()["y"] - chips["y"] - chips["height"]
    assert 0 < gap < 20
    assert "Two dogs at a window by Aitzol Berasategi (CC BY 4.0)" in page.locator(".colophon").inner_text()


def test_a_new_photo_replaces_one_that_is_under_way(built, folder, predict):
    predict.may_go_on.clear()
    seen = built
    seen.upload(draw_photo(folder, "first.png", size=(320, 200)))
    expect(seen.page.locator("#status")).to_contain_text("Step 1 of 3")
    seen.page.get_by_role("button", name="Remove Image").click()
    seen.upload(draw_photo(folder, "second.png", size=(200, 320)))
    predict.may_go_on.set()
    seen.wait_for_depth()
    values = np.load(seen.download("#download-npy"))
    np.testing.assert_array_equal(values, ball(320, 200))
    assert predict.peak == 1


def test_a_picture_can_be_pasted_by_keys_and_by_the_button(built):
    seen = built
    seen.context.grant_permissions(["clipboard-read", "clipboard-write"])
    seen.note_sides()
    seen.page.evaluate(COPY_A_PICTURE)
    seen.page.locator("body").press("Control+v")
    seen.wait_for_depth()
    source = seen.page.locator("#photo img").get_attribute("src")
    seen.page.get_by_role("button", name="Paste from clipboard").click()
    expect(seen.page.locator("#photo img")).not_to_have_attribute("src", source)
    seen.wait_for_depth()


COPY_A_PICTURE = """async () => {
  const canvas = new OffscreenCanvas(160, 120), brush = canvas.getContext("2d");
  brush.fillStyle = "teal";
  brush.fillRect(0, 0, 160, 120);
  const png = await canvas.convertToBlob({ type: "image/png" });
  await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
}"""


WHEEL = """() => {
  const canvas = document.querySelector("#preview canvas");
  const event = new WheelEvent("wheel", { deltaY: 200, bubbles: true, cancelable: true });
  canvas.dispatchEvent(event);
  return event.defaultPrevented;
}"""


def on_object(rgb: np.ndarray) -> np.ndarray:
    """Mark the pixels of the preview that are not its ground."""
    return np.abs(rgb - GROUND).max(axis=-1) > 4


def still(page: Page, canvas) -> np.ndarray:
    """Wait until the picture no longer changes, and return it."""
    wait_until(page, lambda: np.array_equal(shot(canvas), shot(canvas)))
    return shot(canvas)


def shot(locator) -> np.ndarray:
    return pixels(locator.screenshot())


def picture(page: Page, image) -> np.ndarray:
    return pixels(page.request.get(image.get_attribute("src")).body())


def pixels(data: bytes) -> np.ndarray:
    import io

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32)


def vivid(rgb: np.ndarray) -> float:
    """Return the share of pixels that are clearly colored."""
    return float(((rgb.max(axis=2) - rgb.min(axis=2)) > 60).mean())


def colorfulness(rgb: np.ndarray) -> float:
    return float((rgb.max(axis=2) - rgb.min(axis=2)).mean())


def wait_for_picture(page: Page, canvas) -> np.ndarray:
    wait_until(page, lambda: shot(canvas).std() > 4)
    return shot(canvas)
