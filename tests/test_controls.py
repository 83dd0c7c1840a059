"""Every control that the page shows is used in a real browser, and does what a person expects of it."""

import io
import json
import re
import struct
import threading
import zipfile
import zlib
from dataclasses import asdict, fields, replace
from functools import partial
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from marigold_demo.catalog import CATALOG, OTHER_METHODS, SMALL
from marigold_demo.depth import CheckpointStatus, DepthMap
from marigold_demo.examples import load_examples
from marigold_demo.geometry.relief import build_report
from marigold_demo.geometry.rendering import GROUND
from marigold_demo.io import export
from marigold_demo.io.formats import formats_of
from marigold_demo.io.photo import load_photo
from marigold_demo.settings import RELIEF_PRESETS, DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.ui import layers, preview, widgets
from marigold_demo.ui.layers import DepthStyle
from marigold_demo.ui.messages import size_in_words
from marigold_demo.ui.object_tab import ObjectTab
from marigold_demo.ui.opening import BIBTEX
from marigold_demo.ui.preview import STYLES, aspect_of
from marigold_demo.ui.session_store import DepthResult
from tests.controls import NAMED, control, parts, turn
from tests.pages import Ball, CoarseWorkflow, ball, draw_photo, spread
from tests.test_accessibility import set_two_points, unfold
from tests.test_browser import COPY_A_PICTURE, pixels, shot, wait_for_picture
from tests.visits import BROWSER, OVER, wait_until

pytestmark = BROWSER


def turns(kind, group, **to):
    """Return which options of a group are set to which values, one after the other."""
    made = widgets.create(kind(), [field.name for field in fields(kind)], group=group)
    each = {name: values if isinstance(values, tuple) else (values,) for name, values in to.items()}
    return [(f"{group}-{name}", name, made[name], value) for name, values in each.items() for value in values]


# In this order: some options have an effect only after another one was changed.
MODELS = gr.Dropdown([(f"{known.title} · ready", known.name) for known in (*CATALOG, *OTHER_METHODS)])
DEPTH = [("depth-checkpoint", "checkpoint", MODELS, CATALOG[3].name)]
DEPTH += turns(DepthSettings, "depth", steps="7", ensemble="3", resolution="512", seed=5)
DEPTH += turns(DepthSettings, "depth", quality=("draft", "full"), outlines=("network", "photo", "auto"))
DEPTH += turns(
    DepthSettings, "depth", start=("noise", "zeros", "auto"), spacing=("leading", "trailing", "auto")
)
RELIEF = turns(ReliefSettings, "relief", resolution=128, nozzle_mm=1.5, width_mm=80, relief_mm=4, base_mm=5)
RELIEF += turns(
    ReliefSettings, "relief", near=0.4, far=0.8, detail=0.7, photo_detail=0.5, form_size=1, smooth_px=2
)
RELIEF += turns(ReliefSettings, "relief", frame_mm=6, frame=("none", "round", "bevel", "flat"), bevel_mm=2)
RELIEF += turns(ReliefSettings, "relief", level="0.5", slope_deg=40)
RELIEF += turns(ReliefSettings, "relief", frame_top_mm="3", source="luminance", contrast=40)
RELIEF += turns(ReliefSettings, "relief", source="depth", mode=("engrave", "stamp", "mold", "emboss"))
RELIEF += turns(ReliefSettings, "relief", hole=("keyhole", "through"))
RELIEF += turns(ReliefSettings, "relief", hole_mm=6, bend_radius_mm=60, hole="none")
RELIEF += turns(ReliefSettings, "relief", cutout="round", center_x="0.3", center_y="0.6")
RELIEF += turns(ReliefSettings, "relief", cutout="depth")
RELIEF += turns(ReliefSettings, "relief", cutout_depth=0.6, material="beech")
RELIEF += turns(ReliefSettings, "relief", tolerance_mm=0, max_faces=10_000)
HEIGHT_MAP = turns(ReliefSettings, "relief", map_frame=("with", "without"), map_high=("dark", "light"))
MESH = turns(
    MeshSettings,
    "mesh",
    max_faces=(10_000, 1_000_000),
    resolution=128,
    texture_px=256,
    fov_deg="70",
    far_near_ratio=3,
)
MESH += turns(
    MeshSettings,
    "mesh",
    edge_tol=0.1,
    edges=("stretch", "cut"),
    behind=("open", "fill"),
    shading=("lit", "unlit"),
)
MESH += turns(MeshSettings, "mesh", near_m="2", tolerance=0.005, projection="orthographic", ortho_depth=0.5)
MESH += turns(MeshSettings, "mesh", projection="perspective")
LOOK = [
    ("colors", "colormap", gr.Dropdown([(name.capitalize(), name) for name in layers.COLORMAPS]), "viridis"),
    ("From", "near", gr.Slider(0, 0.99, value=0), 0.1),
    ("To", "far", gr.Slider(0, 1, value=1), 0.9),
    ("contours", "contours", gr.Slider(0, 40, value=0), 5),
    ("Swap near and far colors", "invert", gr.Checkbox(), True),
]
EXAMPLES = {f"examples: Example: {example.title}": example.path.stem for example in load_examples()}
# Where along a slider a click changes what is shown; most do at a third.
SHARES = {"relief-far": 0.7, "relief-nozzle_mm": 0.6, "relief-resolution": 0.1}
SHARES |= {"mesh-texture_px": 0.03, "mesh-resolution": 0.1}
FILES = ("download-npy", "download-png16", "stl", "3mf", "picture", "heightmap", "glb", "obj")
BUTTONS = ("Upload file", "Remove Image", "Paste from clipboard")
REFINER = SMALL
CHIPS = [f"preset: {words}" for words in STYLES.values()]
DROP, CAMERA = "photo: Drop an image file here to upload", "photo: Capture from camera"
SHUTTER, CLOSE = "shutter", "Close the camera"
VIEWS = ("view-tilted", "view-reset", "view-front", "view-fullscreen")
CANVAS_ASPECT = """() => {
  const { width, height } = document.querySelector("#preview canvas").getBoundingClientRect();
  return width / height;
}"""
USED: set[str] = set()


def uses(*names, turned=()):
    """Note which controls a test uses; `start` holds the test to it."""
    every = {*names, *(part for name, _, widget, _ in turned for part in parts(name, widget))}
    USED.update(every)
    return lambda test: setattr(test, "uses", every) or test


@pytest.fixture
def start(visit, request):
    """Return a function that opens the page: a visit, and a hand that finds controls by name."""
    used = set()

    def begin(*, shared=False, **how):
        seen = request.getfixturevalue("built") if shared else visit(motion="reduce", **how)
        return seen, lambda name: used.add(name) or control(seen.page, name)

    yield begin
    assert used == request.function.uses


class Gate(threading.Event):
    """Stands before a function of the page; what is changed while it is closed reaches the page at once."""

    def before(self, work):
        return lambda *what, **how: self.wait(60) and work(*what, **how)


@pytest.fixture
def gate(monkeypatch):
    """Return a gate, open, before all previews: an object for each click would take most of the time."""
    made = Gate()
    made.set()
    monkeypatch.setattr(preview, "show", made.before(preview.show))
    yield made
    made.set()


def turn_all(hand, turned, settings, tell, see, *, at_once=6, gate=None):
    """Change options one after the other.

    Args:
        hand: Finds a control by its name.
        turned: Name, field, widget and new value of each.
        settings: What the page has at first.
        tell: Returns what settings give; differs after each change.
        see: Waits until the page shows that.
        at_once: Number of options that are changed before the page is looked at.
        gate: Closed until then.
    """
    gate = gate or Gate()
    last = tell(settings)
    see(last)

    def follows(field, value):
        nonlocal settings, last
        settings = widgets.read(type(settings), asdict(settings) | {field: value})
        before, last = last, tell(settings)
        assert last != before, f"{field} {value} does nothing"

    for number, (name, field, widget, value) in enumerate(turned, 1):
        share = SHARES.get(name, 0.35)
        gate.clear()
        turn(hand, name, widget, to=value, holds=partial(follows, field), share=share)
        if number in (len(turned), *range(at_once, len(turned), at_once)):
            gate.set()
            see(last)
    return settings


def unfolded(accordion):
    """Open what is folded."""
    if "open" not in accordion.get_attribute("class").split():
        accordion.click()


def choose_file(page, button, path):
    with page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files(path)


class Told(Ball):
    """A ball that is unsure, and notes the settings it is asked with."""

    def __call__(self, photo, settings, run):
        self.asked = settings
        return replace(super().__call__(photo, settings, run), uncertainty=spread(photo))


def in_glb(data):
    """Return what a GLB holds, without the settings that it was made with."""
    (length,) = struct.unpack("<I", data[12:16])
    return json.loads(data[20 : 20 + length]) | {"asset": None}, data[20 + length :]


def fetched(page, shown, attribute="src"):
    """Return the bytes that something on the page shows."""
    return page.request.get(shown.get_attribute(attribute)).body()


def minutes(settings):
    """Return a number of its own for each settings; the page shows it as the time that a run takes."""
    return zlib.crc32(repr(settings).encode()) % 10**6 + 2


@pytest.fixture(scope="module")
def photo(folder):
    path = draw_photo(folder, "lawn.png")
    rows, columns = np.mgrid[0:480, 0:640] / 12
    shading = 0.8 + 0.2 * np.sin(columns) * np.cos(rows)  # for the photo's detail
    rgb = np.asarray(Image.open(path)) * shading[..., None]
    Image.fromarray(rgb.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def drawn():
    return True


@pytest.fixture(scope="module")
def result(photo):
    return DepthResult(
        load_photo(photo), DepthMap(ball(480, 640), spread(load_photo(photo))), DepthSettings()
    )


@pytest.fixture(scope="module")
def predict():
    return Told()


@pytest.fixture(scope="module")
def status_of():
    return lambda settings: CheckpointStatus(last_s=60.0 * minutes(settings))


def test_every_control_that_the_page_shows_is_used_by_a_test(visit, folder, photo, predict):
    seen, found = visit(permissions=["camera"], motion="reduce"), []
    page = seen.page
    look = lambda: found.append(page.evaluate(NAMED))  # noqa: E731
    control(page, "choose")
    look()
    (folder / "empty.png").write_bytes(b"")
    seen.upload(folder / "empty.png")
    expect(page.locator("#status .alert")).to_be_visible()
    look()
    control(page, CAMERA).click()
    control(page, SHUTTER)
    look()
    control(page, CLOSE).click()
    predict.may_go_on.clear()
    seen.upload(photo)
    expect(page.locator("#status")).to_contain_text("Step 1 of 3")
    look()
    predict.may_go_on.set()
    seen.wait_for_object()
    unfold(page)
    page.locator("#about summary").click()
    set_two_points(page)
    control(page, "preset: Coin").check()
    for name in ("clear-points", "relief-max_faces", "reset-all"):
        control(page, name)
    look()
    control(page, "more-files").click()
    control(page, "everything")
    look()
    page.keyboard.press("Escape")
    control(page, "compare: Fullscreen").click()
    back = control(page, "compare: Exit fullscreen mode")
    look()
    back.click()
    seen.open("Mesh")
    expect(page.locator("#glb")).to_be_enabled()
    unfold(page)
    control(page, "mesh-near_m")
    look()
    control(page, "more-files").click()
    control(page, "obj")
    look()
    page.keyboard.press("Escape")
    seen.open("Depth")
    unfold(page)
    control(page, "Use a recipe")
    look()
    assert all(len(set(names)) == len(names) for names in found)
    assert set().union(*found) == USED


@uses("model", "Depth: Settings", turned=DEPTH)
def test_settings_of_depth_reach_the_price_and_then_the_network(start, photo, predict):
    seen, hand = start()
    hand("model").click()
    hand("Depth: Settings").click()

    def see(price):
        expect(seen.page.locator("#about-model")).to_contain_text(f"took {price} min last time")

    settings = turn_all(hand, DEPTH, DepthSettings(), minutes, see)
    seen.upload(photo)
    seen.wait_for_depth()
    assert predict.asked == settings


@uses("depth-tab-button", "left-side", "right-side", "more-files", "download-colored", turned=LOOK)
def test_colors_and_sides_reach_the_pictures(start, result, monkeypatch):
    seen, hand = start(shared=True)

    def shows(sides, look):
        for image, name in zip(seen.page.locator("#compare img").all(), sides, strict=True):
            rgb = layers.render(result, name, look)
            if name != layers.PHOTO:
                wait_until(seen.page, partial(same, image, rgb))
        expect(seen.page.locator("#legend [data-side]")).to_have_text(list(sides))

    def same(image, rgb):
        return np.array_equal(pixels(fetched(seen.page, image)), rgb)

    hand("depth-tab-button").click()
    drawn, depth = seen.page.locator("#compare img").nth(1), partial(layers.render, result, layers.DEPTH)
    look = turn_all(
        hand,
        LOOK,
        DepthStyle(),
        lambda look: depth(look).tolist(),
        lambda rgb: wait_until(seen.page, partial(same, drawn, rgb)),
    )
    shows((layers.PHOTO, layers.DEPTH), look)
    hand("more-files").click()
    hand("download-colored")
    colored = look.colored(result.depth.values)
    wait_until(
        seen.page, lambda: np.array_equal(pixels(seen.download("#download-colored").read_bytes()), colored)
    )
    render, may_go_on = layers.render, threading.Event()
    monkeypatch.setattr(layers, "render", lambda *what, **how: may_go_on.wait(20) and render(*what, **how))
    every = [layers.GRAY, layers.SHADED, layers.RELIEF, layers.UNCERTAINTY, layers.PHOTO, layers.DEPTH]
    for sides in zip(every[::2], every[1::2], strict=True):
        may_go_on.clear()  # the second side is chosen before the picture of the first one is there
        for name, side in zip(("left-side", "right-side"), sides, strict=True):
            turn(hand, name, gr.Dropdown([side]), to=side, holds=lambda _: None)
        may_go_on.set()
        shows(sides, look)


COMPARED = ("compare: Divider between the two pictures", "compare: Undo", "compare: Fullscreen")


@uses(*COMPARED, "Copy", "compare: Exit fullscreen mode", "compare: picture", "known-length", "clear-points")
def test_the_compared_pictures_are_parted_measured_enlarged_and_shown_on_the_whole_screen(start):
    seen, hand = start(shared=True)
    page, handle, undo, full = seen.page, *map(hand, COMPARED)
    handle.press("End")
    expect(handle).to_have_attribute("aria-valuenow", "100")
    whole, image, reading = (
        page.locator(place) for place in ("#compare", "#compare img >> nth=0", "#reading")
    )
    whole.scroll_into_view_if_needed()
    box, told = image.bounding_box(), f"Depth at 1: {ball(480, 640)[48, 64]:.3f}"
    for x, y, words in [(0.1, 0.1, f"{told} (0 near"), (0.6, 0.5, f"{told}, at 2")]:
        hand("compare: picture").click(position={"x": x * box["width"], "y": y * box["height"]})
        expect(reading).to_contain_text(words)
    expect(page.locator("#compare .dot")).to_have_text(["1", "2"])
    length = hand("known-length")
    length.fill("2")
    length.press("Enter")
    expect(reading).to_contain_text("With 2 m between them")
    hand("clear-points").click()
    expect(reading).to_contain_text("Click the picture to read its depth")
    expect(page.locator("#compare .dot")).to_have_count(0)
    expect(length).to_be_hidden()
    page.locator("#about summary").click()
    hand("Copy").click()
    expect(page.locator("#about button")).to_have_text(re.compile("Copied|Marked: press Ctrl"))
    assert page.evaluate("getSelection().toString()").strip() == BIBTEX
    whole.scroll_into_view_if_needed()
    box = image.bounding_box()

    def is_enlarged():
        if image.bounding_box()["width"] > 1.03 * box["width"]:
            return True
        now = whole.bounding_box()  # the rows above may still be moving: each turn of the wheel looks anew
        page.mouse.move(now["x"] + 50, now["y"] + 50)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -300)
        page.keyboard.up("Control")
        return False

    wait_until(page, is_enlarged)
    undo.click()
    wait_until(page, lambda: image.bounding_box()["width"] == pytest.approx(box["width"], abs=1))
    full.click()
    wait_until(page, lambda: whole.bounding_box()["width"] == 1280)
    wait_until(page, lambda: page.evaluate(OVER, ["#compare", [0, 0, 1280, 860]]) == [])
    assert image.bounding_box()["height"] == 860
    hand("compare: Exit fullscreen mode").click()
    wait_until(page, lambda: whole.bounding_box()["width"] < 1280)


@uses("heightmap", "more-files", "relief-tab-button", "Relief: Fine tuning", turned=HEIGHT_MAP)
def test_settings_of_the_height_map_reach_its_file(start, result):
    seen, hand = start(shared=True)
    hand("relief-tab-button").click()
    unfolded(hand("Relief: Fine tuning"))
    settings = ReliefSettings()
    for name, field, widget, value in HEIGHT_MAP:
        turn(hand, name, widget, to=value, holds=lambda _: None)
        settings = replace(settings, **{field: value})
        relief = CoarseWorkflow.relief(result.depth, settings, photo=result.photo)
        expected = np.asarray(Image.open(io.BytesIO(export.heightmap_png(relief))))

        def is_made(expected=expected):
            data = seen.download('[id="heightmap"]').read_bytes()
            return np.array_equal(np.asarray(Image.open(io.BytesIO(data))), expected)

        hand("more-files").click()
        hand("heightmap")
        wait_until(seen.page, is_made)


@uses("preview: 3D preview", *VIEWS)
def test_the_preview_turns_and_its_buttons_bring_each_view_back(start):
    seen, hand = start(shared=True)
    seen.page.add_style_tag(content="#angles { opacity: 0 }")
    canvas = hand("preview: 3D preview")
    canvas.scroll_into_view_if_needed()
    wait_for_picture(seen.page, canvas)
    wait_until(seen.page, lambda: np.array_equal(shot(canvas), shot(canvas)))
    before = shot(canvas)
    for name in ("view-tilted", "view-reset"):
        canvas.drag_to(canvas, source_position={"x": 200, "y": 200}, target_position={"x": 300, "y": 240})
        wait_until(seen.page, lambda: abs(shot(canvas) - before).mean() > 2)
        wait_until(seen.page, lambda: np.array_equal(shot(canvas), shot(canvas)))  # it turns on for a while
        hand(name).click()
        wait_until(seen.page, lambda: abs(shot(canvas) - before).mean() < 0.5)
    hand("view-front").click()
    wait_until(seen.page, lambda: is_upright(shot(canvas)))
    hand("view-fullscreen").click()
    wait_until(seen.page, lambda: canvas.bounding_box()["width"] == 1280)
    hand("view-fullscreen").click()
    wait_until(seen.page, lambda: canvas.bounding_box()["width"] < 1280)


def is_upright(rgb):
    """Return whether the object on the ground of the preview is as far from the left as from the right."""
    seen = np.flatnonzero((np.abs(rgb - GROUND).max(axis=2) > 12).any(axis=0))
    return abs(seen[0] - (rgb.shape[1] - 1 - seen[-1])) <= 2


@uses(*FILES, "everything", "mesh-tab-button", "more-files", "link")
def test_every_file_is_as_large_as_its_button_says(start):
    seen, hand = start(shared=True)
    names = set()
    for name in FILES:
        if name == "glb":
            hand("mesh-tab-button").click()
        if name not in ("stl", "glb"):
            hand("more-files").click()
        button = hand(name)
        file = seen.download(f'[id="{name}"]')
        names.add(re.sub(r"_100x.*mm", "", file.name))
        expect(button).to_contain_text(size_in_words(file.stat().st_size))
    depth = {"lawn_depth.npy", "lawn_depth_16bit.png"}
    relief, mesh = (
        {"lawn_relief.stl", "lawn_relief.3mf", "lawn_relief.png", "lawn_heightmap_90x67.5mm_span5mm.png"},
        {"lawn_mesh.glb", "lawn_mesh.zip"},
    )
    assert names == depth | relief | mesh
    hand("more-files").click()
    button, file = hand("everything"), seen.download("#everything")
    expect(button).to_contain_text(size_in_words(file.stat().st_size))
    with zipfile.ZipFile(file) as archive:
        assert {re.sub(r"_100x.*mm", "", one) for one in archive.namelist()} > depth | relief
    hand("link").click()
    expect(seen.page.locator("#status")).to_contain_text("The link")


@uses("undo", "reset-all", *CHIPS, "relief-tab-button", "Relief: Fine tuning", turned=RELIEF)
def test_settings_of_the_relief_reach_its_report(start, result, monkeypatch, gate):
    seen, hand = start(shared=True)
    seen.page.evaluate("window.undrawn = true")
    light = export.preview_glb(CoarseWorkflow.relief(result.depth, ReliefSettings(resolution=128)))
    monkeypatch.setattr(export, "preview_glb", lambda relief, **how: light)  # drawn once; the report counts

    def report(settings):
        relief = CoarseWorkflow.relief(result.depth, settings, photo=result.photo)
        told = build_report(relief, *formats_of("relief")["stl"].write(relief, "lawn"))
        return "".join([*map("".join, told.lines()), *told.warnings])

    see = expect(seen.page.locator("#relief-report .report")).to_have_text
    hand("relief-tab-button").click()
    unfolded(hand("Relief: Fine tuning"))
    last = turn_all(hand, RELIEF, ReliefSettings(), report, see, gate=gate)
    chosen = [*reversed(STYLES.items())]  # the first of the page is marked already, if changed
    for name, words in chosen:
        assert last != RELIEF_PRESETS.get(name, ReliefSettings())
        hand(f"preset: {words}").check()
        see(report(RELIEF_PRESETS.get(name, ReliefSettings())))
    gate.clear()
    for _, words in [*chosen[-2::-1], chosen[-1]]:
        hand("undo").click()
        expect(hand(f"preset: {words}")).to_be_checked()
    gate.set()
    see(report(last))
    hand("reset-all").click()
    see(report(ReliefSettings()))


@uses("relief-tab-button", "mesh-tab-button", "Mesh: Fine tuning", turned=MESH)
def test_settings_of_the_mesh_reach_its_preview(start, result, monkeypatch, gate):
    seen, hand = start(shared=True)
    seen.page.evaluate("window.undrawn = true")
    build, changed = ObjectTab.build_files, {field: to for _, field, _, to in MESH}
    last = widgets.read(MeshSettings, asdict(MeshSettings()) | changed)
    monkeypatch.setattr(  # each setting is looked at in the preview, and all of them in the file
        ObjectTab, "build_files", lambda tab, key, now: build(tab, key, now) if now == last else gr.skip()
    )
    shown = seen.page.locator("#preview a")

    def mesh(settings):
        aspect = aspect_of(SimpleNamespace(aspect=seen.page.evaluate(CANVAS_ASPECT)))
        surface = CoarseWorkflow.surface(result.depth, result.photo, settings.preview())
        return in_glb(
            export.eye_glb(surface, aspect=aspect)
        ), settings.near_m  # of which the screen shows nothing

    def see(told):
        wait_until(seen.page, lambda: in_glb(fetched(seen.page, shown, "href")) == told[0])

    hand("mesh-tab-button").click()
    unfolded(hand("Mesh: Fine tuning"))
    settings = turn_all(hand, MESH, MeshSettings(), mesh, see, at_once=3, gate=gate)
    assert settings == last
    file = in_glb(export.glb(CoarseWorkflow.surface(result.depth, result.photo, settings)))
    wait_until(seen.page, lambda: in_glb(seen.download("#glb").read_bytes()) == file)
    monkeypatch.undo()
    hand("relief-tab-button").click()
    wait_until(seen.page, lambda: "relief" in shown.get_attribute("href"))


def test_what_is_changed_while_files_are_written_is_in_the_files_at_last(built, monkeypatch):
    seen, may_build, begun, build = built, threading.Semaphore(0), [], ObjectTab.build_files

    def gated(tab, key, settings):
        begun.append(settings.width_mm)
        assert may_build.acquire(timeout=60)
        return build(tab, key, settings)

    seen.open("Relief")
    expect(seen.page.locator("#stl")).to_be_enabled()
    monkeypatch.setattr(ObjectTab, "build_files", gated)
    width, shown = seen.page.locator("#relief-width_mm input[type=number]"), seen.page.locator("#preview a")
    for typed in ("60", "70"):
        before = shown.get_attribute("href")
        width.fill(typed)
        width.press("Enter")
        expect(shown).not_to_have_attribute("href", before)
    may_build.release()
    wait_until(seen.page, lambda: begun == [60, 70])  # the files of the first request have arrived
    expect(seen.page.locator("#stl")).to_be_disabled()
    may_build.release()
    expect(seen.page.locator("#stl")).to_be_enabled()
    expect(seen.page.locator("#relief-report")).to_contain_text("70 ×")


NEAR = [f"depth-near: {end}" for end in ("Auto", "White", "Black")]


@uses(
    "depth-tab-button",
    "Depth: Settings",
    "Use a recipe",
    "Use my own depth file",
    *NEAR,
    "depth-inverse",
    "depth-frame",
)
def test_a_recipe_and_a_depth_file_are_taken(start, result, folder):
    seen, hand = start(shared=True)
    hand("depth-tab-button").click()
    unfolded(hand("Depth: Settings"))
    recipe = replace(result.recipe(ReliefSettings(width_mm=60)), mesh=MeshSettings(near_m=3))
    (folder / "recipe.json").write_text(recipe.to_json())
    choose_file(seen.page, hand("Use a recipe"), folder / "recipe.json")
    expect(seen.page.locator("#relief-width_mm input[type=number]")).to_have_value("60")
    expect(seen.page.locator("#relief-report")).to_contain_text("60 ×")
    told = seen.page.locator("#status")
    np.save(folder / "mine.npy", [1 - result.depth.values, 1000 * result.depth.values + 1])
    choose_file(seen.page, hand("Use my own depth file"), folder / "mine.npy")
    expect(told).to_contain_text("This is your own depth. The file holds 2 frames; the first")
    expect(seen.page.locator("#legend [data-side]")).to_have_text(["Photo", "Your own depth"])
    hand("depth-frame").fill("1")
    hand("depth-frame").press("Enter")
    expect(told).to_contain_text("frame 1 was taken")
    hand(NEAR[1]).check()
    expect(told).to_contain_text("runs from 901 (near)")
    hand(NEAR[2]).check()
    expect(told).to_contain_text("runs from 254.8 (near)")
    hand(NEAR[0]).check()
    expect(told).to_contain_text("taken as near")
    hand("depth-inverse").check()
    expect(told).to_contain_text("runs from 901 (near)")


@uses("choose", DROP, CAMERA, SHUTTER, CLOSE, *(f"photo: {words}" for words in BUTTONS))
def test_photos_come_in_by_every_door(start, photo, folder):
    seen, hand = start(permissions=["camera", "clipboard-read", "clipboard-write"])
    page, kept = seen.page, seen.page.get_by_alt_text("The chosen photo")
    choose_file(page, hand("choose"), photo)
    expect(kept).to_have_attribute("src", re.compile("lawn.jpg"))
    hand(CAMERA).click()
    hand(CLOSE).click()
    hand(CAMERA).click()
    hand(SHUTTER).click()
    expect(kept).to_have_attribute("src", re.compile("camera.jpg"))
    seen.wait_for_depth()
    hand("photo: Remove Image").click()
    expect(page.locator("#depth-stage")).to_be_hidden()
    expect(kept).to_have_count(0)
    choose_file(page, hand(DROP), photo)
    expect(kept).to_have_attribute("src", re.compile("lawn.jpg"))
    seen.wait_for_depth()
    page.evaluate(COPY_A_PICTURE)
    hand("photo: Paste from clipboard").click()
    expect(page.locator("#compare img").first).to_have_js_property("naturalWidth", 160)
    seen.wait_for_depth()
    choose_file(page, hand("photo: Upload file"), photo)
    expect(page.locator("#compare img").first).to_have_js_property("naturalWidth", 640)
    seen.wait_for_depth()


@uses("depth-tab-button", "Depth: Settings", "Start at once", "run", *EXAMPLES)
def test_examples_wait_in_the_box_where_nothing_is_to_start_at_once(start):
    seen, hand = start()
    hand("depth-tab-button").click()
    hand("Depth: Settings").click()
    hand("Start at once").uncheck()
    tiles = {stem: hand(name) for name, stem in EXAMPLES.items()}
    some = [*tiles][:: len(tiles) // 3]  # first to last; `test_ui` takes each of them
    for stem in some:
        tiles[stem].click()
        expect(seen.page.locator("#photo img")).to_have_attribute("src", re.compile(f"/{stem}.jpg"))
        expect(seen.page.locator("#depth-stage")).to_be_hidden()
    hand("run").click()
    seen.wait_for_depth()


@uses("cancel", "depth-tab-button", "run", "refine", "compare-method", "compare-run")
def test_a_run_is_stopped_begun_again_refined_and_compared(start, folder, predict):
    predict.may_go_on.clear()
    seen, hand = start()
    seen.upload(draw_photo(folder, "slow.png", size=(160, 120)))
    expect(seen.page.locator("#status")).to_contain_text("Step 1 of 3")
    hand("cancel").click()
    expect(seen.page.locator("#status")).to_contain_text("Stopped")
    hand("depth-tab-button").click()
    predict.may_go_on.set()
    hand("run").click()
    seen.wait_for_depth()
    hand("refine").click()
    expect(seen.page.locator("#legend [data-side]")).to_have_text(
        ["Photo", f"Depth of {REFINER.short_title}"]
    )
    expect(seen.page.locator("#refine")).to_have_text("Refine with Marigold v1-1")
    assert predict.asked.checkpoint == REFINER.name
    predict.may_go_on.clear()
    method = OTHER_METHODS[1]
    turn(hand, "compare-method", MODELS, to=method.name, holds=lambda _: None)
    expect(seen.page.locator("#compare-row")).to_contain_text("no commercial use")
    hand("compare-run").click()
    expect(seen.page.locator("#status")).to_contain_text("Step 1 of 3")
    expect(seen.page.locator("#run")).to_be_disabled()
    hand("cancel").click()
    expect(seen.page.locator("#status")).to_contain_text("Stopped")
    predict.may_go_on.set()
    hand("compare-run").click()
    titles = [f"Depth of {known.short_title}" for known in (REFINER, method)]
    expect(seen.page.locator("#legend [data-side]")).to_have_text(titles)
    expect(seen.page.locator("#run")).to_be_enabled()
    assert predict.asked == DepthSettings(checkpoint=method.name)
    predict.may_go_on.clear()
    turn(hand, "compare-method", MODELS, to=OTHER_METHODS[2].name, holds=lambda _: None)
    hand("compare-run").click()
    expect(seen.page.locator("#status")).to_contain_text("Step 1 of 3")
    seen.upload(draw_photo(folder, "overtakes.png", size=(120, 160)))  # a comparison that is overtaken
    expect(seen.page.locator("#file-name")).to_have_text("overtakes")
    predict.may_go_on.set()
    seen.wait_for_depth()
    expect(seen.page.locator("#legend [data-side]")).to_have_text(["Colored depth", "Colored depth"])
    assert predict.asked == DepthSettings()


@uses("Use via API")
def test_the_interface_for_programs_is_described(browser, url):
    """Gradio's own panel asks for parts that are switched off here, so this visit notes no faults."""
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    control(page, "Use via API").click()
    expect(page.get_by_text("/depth", exact=False).first).to_be_visible()
    assert [one for one in asked if not one.startswith((url, "data:", "blob:"))] == []
    page.close()
