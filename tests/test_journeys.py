"""Whole ways through the page: every control, every way in, and every kind of visitor."""

import io
import socket
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from marigold_demo.io import isolated
from marigold_demo.io.photo import Photo
from marigold_demo.ui.depth_tab import DepthTab
from marigold_demo.ui.photo_tab import Outputs
from marigold_demo.ui.session_store import DepthResult
from tests.pages import ball, draw_photo
from tests.test_browser import on_object, shot, still, wait_for_picture
from tests.visits import BROWSER, OVER, kept, wait_until

pytestmark = BROWSER


def test_a_phone_photo_is_dropped_onto_the_box_and_stands_upright(built, folder):
    heic = folder / "phone.heic"
    upright = write_phone_photo(heic)
    seen = built
    seen.page.get_by_role("button", name="Remove Image").click()
    seen.note_sides()
    drop_file(seen.page, heic, "image/heic")
    seen.wait_for_depth()
    assert np.load(seen.download("#download-npy")).shape == (160, 120)
    left = seen.page.locator("#compare img").first.get_attribute("src")
    with Image.open(io.BytesIO(seen.page.request.get(left).body())) as shown:
        got = np.asarray(shown.convert("RGB"), dtype=float)
    assert got.shape == upright.shape
    assert abs(got - upright).mean() < 8  # two lossy formats between them
    expect(seen.page.locator("#photo img")).to_have_js_property(
        "naturalHeight", 160
    )  # Chromium shows no HEIC


def write_phone_photo(path: Path) -> np.ndarray:
    """Write a HEIC photo that lies on its side and says so in its EXIF; return it upright [160, 120, 3]."""
    import pillow_heif

    upright = Image.new("RGB", (120, 160), "#9cc3e6")
    ImageDraw.Draw(upright).ellipse((20, 10, 80, 70), fill="#c8502d")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn a quarter to the right to see it upright
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    heif = pillow_heif.from_pillow(lying)
    heif.save(path, quality=95, exif=exif.tobytes())
    return np.asarray(upright, dtype=float)


def drop_file(page: Page, path: Path, kind: str) -> None:
    """Drop a file onto the photo box, as a hand would from another window."""
    transfer = page.evaluate_handle(
        """([bytes, name, type]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
          return transfer;
        }""",
        [list(path.read_bytes()), path.name, kind],
    )
    zone = page.locator("#photo").get_by_role("button", name="Drop an image")
    for event in ("dragenter", "dragover", "drop"):
        zone.dispatch_event(event, {"dataTransfer": transfer})


def test_files_of_one_photo_never_take_the_place_of_those_of_the_next(built, folder, photo, monkeypatch):
    write, may_end, ended = DepthTab.write_exact, threading.Semaphore(0), threading.Semaphore(0)

    def held(tab: DepthTab, result: DepthResult) -> Outputs:
        written = write(tab, result)
        may_end.acquire(timeout=60)
        ended.release()
        return written

    monkeypatch.setattr(DepthTab, "write_exact", held)
    seen = built
    seen.upload(draw_photo(folder, "first.png", size=(90, 60)))
    seen.wait_for_depth()
    seen.upload(photo)
    seen.wait_for_depth()
    may_end.release()  # files are written one depth after the other: now those of the first are there
    assert ended.acquire(timeout=10)
    seen.page.wait_for_timeout(1500)  # for the page to show what it should not
    expect(seen.page.locator("#download-npy")).to_be_disabled()
    may_end.release()
    assert np.load(seen.download("#download-npy")).shape == (120, 160)


def test_a_good_photo_right_after_a_bad_file_wins(built, folder, photo, monkeypatch):
    seen, may_answer = built, threading.Event()
    bad = folder / "words.png"
    bad.write_text("not a picture")

    load_photo = isolated.load_photo

    def slow(path: str, **named) -> Photo:
        if path.endswith(bad.name):
            may_answer.wait(60)
        return load_photo(path, **named)

    monkeypatch.setattr(isolated, "load_photo", slow)
    with seen.page.expect_request(lambda asked: bad.name in (asked.post_data or "") and "join" in asked.url):
        seen.upload(bad)
    seen.upload(photo)  # while the server looks at it
    may_answer.set()
    seen.wait_for_object()
    expect(seen.page.locator("#photo img")).to_be_visible()


def test_the_keyboard_alone_leads_without_motion_from_the_empty_page_to_a_printable_file(visit):
    seen = visit(motion="reduce")
    page = seen.page
    reach(page, "Example: Raccoon")
    page.keyboard.press("Enter")
    seen.wait_for_object()
    assert page.evaluate(MOVING) == []
    reach(page, "Divider between the two pictures")
    before = page.evaluate("document.activeElement.getAttribute('aria-valuenow')")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "(old) => document.activeElement.getAttribute('aria-valuenow') !== old", arg=before
    )
    reach(page, "range slider for Width (mm)")
    page.keyboard.press("End")
    expect(page.locator("#relief-report")).to_contain_text("400 ×")
    expect(page.locator("#stl")).to_be_enabled()
    reach(page, "Download STL")
    expect(page.locator("#stl")).to_be_enabled()
    with page.expect_download() as started:
        page.keyboard.press("Enter")
    file = kept(started.value)
    assert file.name.startswith("raccoon_relief_400x")
    solid = trimesh.load(file)
    assert solid.is_volume
    assert solid.extents.max() == pytest.approx(400, abs=1e-3)


MOVING = """() => document.getAnimations().filter((a) => a.effect.getComputedTiming().duration > 1)
  .map((a) => a.effect.target.outerHTML.slice(0, 100))"""
# A stop is marked when something looks different with the focus than without it.
FOCUSED = """async () => {
  const e = document.activeElement, box = e.getBoundingClientRect();
  if (e === document.body) return { atEnd: true, name: "" };
  const around = [e];
  while (!around.at(-1).matches(".block, body")) around.push(around.at(-1).parentElement);
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const looks = () => around.map((one) => {
    const style = getComputedStyle(one);
    return [style.outline, style.boxShadow, style.borderColor, style.backgroundColor].join();
  }).join();
  await frame();
  const focused = looks();
  e.blur();
  await frame();
  const calm = looks();
  e.focus({ preventScroll: true });
  return {
    name: (e.getAttribute("aria-label") || e.labels?.[0]?.innerText || e.innerText).split("\\n")[0].trim(),
    html: e.outerHTML.slice(0, 160),
    marked: focused !== calm,
    inSight: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
  };
}"""


def reach(page: Page, name: str) -> None:
    """Press Tab until the named control has the focus; every stop on the way shows it."""
    for _ in range(200):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUSED)
        if stop.get("atEnd"):
            continue
        assert stop["marked"] and stop["inSight"], stop
        if stop["name"].startswith(name):
            return
    raise AssertionError(f"the keyboard never gets to {name}")


def test_a_phone_shows_all_in_its_width_and_a_thumb_scrolls_over_the_pictures_and_drags_the_divider(
    visit, folder
):
    seen = visit(width=390, touch=True, before=WATCH_SHIFTS, drawn=True)
    seen.page.wait_for_function("document.body.dataset.drawn")
    assert seen.page.evaluate("window.shifted") < 0.05
    seen.upload(draw_photo(folder, "a_long_weekend_at_the_lake_with_everybody_we_know.jpg", size=(160, 120)))
    seen.wait_for_object()
    page = seen.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(CUT_OFF) == []
    touch = page.context.new_cdp_session(page)
    one_finger_scrolls_over_the_object_and_two_bring_it_nearer(page, touch)
    page.get_by_role("button", name="Photo and depth").click()
    compare = page.locator("#compare")
    compare.scroll_into_view_if_needed()
    box = compare.bounding_box()
    top = page.evaluate("scrollY")
    swipe(touch, (box["x"] + 40, box["y"] + box["height"] - 20), (box["x"] + 40, box["y"] - 180))
    wait_until(page, lambda: page.evaluate("scrollY") > top + 60)
    compare.scroll_into_view_if_needed()
    handle = page.get_by_role("slider", name="Divider between the two pictures")
    wait_until_at_rest(page)
    at = handle.bounding_box()
    middle = (at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    top = page.evaluate("scrollY")
    swipe(touch, middle, (middle[0] - 90, middle[1]))
    wait_until(page, lambda: int(handle.get_attribute("aria-valuenow")) < 40)
    assert page.evaluate("scrollY") == top
    thumb_over_a_slider_scrolls_and_changes_nothing(page, touch)
    pane = page.locator("#compare-pane").bounding_box()
    assert page.evaluate(OVER, ["#compare-pane, #views", list(pane.values())]) == []  # no label of a setting
    page.locator("#strip").evaluate("strip => strip.scrollIntoView({ block: 'center' })")
    wait_until_at_rest(page)
    box, tile = (page.locator(one).bounding_box() for one in ("#photo", "#examples button >> nth=0"))
    assert (box["y"], box["height"]) == (tile["y"], tile["height"])
    assert page.evaluate(OVER, ["#examples button", list(tile.values())]) == []  # nothing of it is cut off


def one_finger_scrolls_over_the_object_and_two_bring_it_nearer(page: Page, touch) -> None:
    page.add_style_tag(content="#angles, #views, #facts { opacity: 0 }")
    canvas = page.locator("#preview canvas")
    wait_for_picture(page, canvas)
    before, box, top = still(page, canvas), canvas.bounding_box(), page.evaluate("scrollY")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    swipe(touch, (x, y + 60), (x, y - 80))
    wait_until(page, lambda: page.evaluate("scrollY") > top + 40)
    wait_until_at_rest(page)
    assert abs(still(page, canvas) - before).mean() < 0.5  # the object has not turned
    y = canvas.bounding_box()["y"] + box["height"] / 2
    kinds = ["touchStart", *["touchMove"] * 8, "touchEnd"]
    for kind, apart in zip(kinds, np.linspace(30, 130, 10), strict=True):
        points = (
            []
            if kind == "touchEnd"
            else [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
        )
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    wait_until(page, lambda: on_object(shot(canvas)).mean() > on_object(before).mean() + 0.1)
    assert page.evaluate("visualViewport.scale") == 1  # not the page
    page.locator("#view-reset").click()


def thumb_over_a_slider_scrolls_and_changes_nothing(page: Page, touch) -> None:
    slider = page.locator("#relief-width_mm input[type=range]")
    slider.evaluate("slider => slider.scrollIntoView({ block: 'center' })")
    page.wait_for_timeout(700)
    box, top, value = slider.bounding_box(), page.evaluate("scrollY"), slider.input_value()
    x, y = box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2
    swipe(touch, (x, y), (x, y - 200))
    wait_until(page, lambda: page.evaluate("scrollY") > top + 60)
    page.wait_for_timeout(500)
    assert slider.input_value() == value
    expect(page.locator("#relief-width_mm input[type=number]")).to_have_value(value)
    slider.evaluate("slider => slider.scrollIntoView({ block: 'center' })")
    page.wait_for_timeout(700)
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    swipe(touch, (x - 60, y), (x, y))  # along it the thumb sets it, and the file follows
    wait_until(page, lambda: slider.input_value() != value)
    expect(page.locator("#relief-report")).to_contain_text(f"{slider.input_value()} ×")


def wait_until_at_rest(page: Page) -> None:
    """Wait until the page has stopped gliding after a swipe: a touch before that only stops it."""
    seen: list[float] = []

    def stands() -> bool:
        seen.append(page.evaluate("scrollY"))
        return len(seen) > 2 and len(set(seen[-3:])) == 1

    wait_until(page, stands)


CUT_OFF = """() => [...document.querySelectorAll("main *")]
  .filter((e) => e.checkVisibility() && !e.closest("#examples") && !e.closest("svg"))
  .filter((e) => e.getBoundingClientRect().width && e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.outerHTML.slice(0, 200))"""


def swipe(touch, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Lay one finger down, draw it to another place, and lift it."""
    (x0, y0), (x1, y1) = start, end
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x0, "y": y0}]})
    for share in np.linspace(0.1, 1, 10):
        at = {"x": x0 + share * (x1 - x0), "y": y0 + share * (y1 - y0)}
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [at]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_lost_connection_costs_nothing(visit, folder, url):
    with Line(int(url.rpartition(":")[2])) as line:
        seen = visit(through=f"http://127.0.0.1:{line.port}")
        page, width = seen.page, seen.page.locator("#relief-width_mm input[type=number]")
        seen.upload(draw_photo(folder, "line.png", size=(180, 130)))
        seen.wait_for_object()
        line.cut()
        width.fill("66")
        width.press("Enter")
        expect(page.locator("#status .alert")).to_contain_text("The connection is lost")
        expect(page.locator("#compare img")).to_have_count(2)
        line.mend()
        expect(page.locator("#status")).to_contain_text("Welcome back")
        expect(page.locator("#file-name")).to_have_text("line")
        expect(width).to_have_value("66")
        expect(page.locator("#relief-report")).to_contain_text("66 ×")
        np.testing.assert_array_equal(np.load(seen.download("#download-npy")), ball(130, 180))
        assert trimesh.load(seen.download("#stl")).extents.max() == pytest.approx(66, abs=1e-3)
        seen.faults[:] = [fault for fault in seen.faults if "ERR_" not in fault]  # what the cut line caused


class Line:
    """A line to a server that can be cut and mended."""

    def __init__(self, server_port: int) -> None:
        self._server_port, self._is_cut = server_port, threading.Event()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> "Line":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()  # what is open stays until the visit ends

    def cut(self) -> None:
        self._is_cut.set()
        while self._sockets:
            with suppress(OSError):
                self._sockets.pop().shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._is_cut.clear()

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                browser, _ = self._listener.accept()
                if self._is_cut.is_set():
                    browser.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets += [browser, server]
                for ends in ((browser, server), (server, browser)):
                    threading.Thread(target=self._copy, args=ends, daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        source.close()  # the other direction closes the other one


def test_nothing_jumps_until_the_object_is_finished_and_a_very_wide_screen_is_used_with_measure(visit, photo):
    seen = visit(before=WATCH_SHIFTS)
    seen.page.wait_for_function("document.body.dataset.drawn")
    loaded = seen.page.evaluate(
        "performance.getEntriesByType('resource').map((one) => [one.name, one.transferSize])"
    )
    names = [name.rpartition("/")[2] for name, _ in loaded]
    assert len(names) > 100 and not [name for name in names if name.startswith("webgpu")]
    assert sum(size for _, size in loaded) < 1_640_000
    tiles = seen.page.locator("#examples button")
    spoken = tiles.evaluate_all("(all) => all.map((one) => [one.ariaLabel, one.querySelector('img').alt])")
    assert len({name for name, _ in spoken}) == len(spoken) > 10 and {alt for _, alt in spoken} == {""}
    seen.upload(photo)
    seen.wait_for_object()
    assert seen.page.evaluate("window.shifted") < 0.05  # half of what web vitals call good
    seen.page.set_viewport_size({"width": 2560, "height": 860})
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 2560
    panes = [seen.page.locator(one).bounding_box() for one in ("#compare-pane", "#settings")]
    left, right = panes[0]["x"], panes[1]["x"] + panes[1]["width"]
    assert 2000 <= right - left <= 2200
    assert (left + right) / 2 == pytest.approx(1280, abs=20)


# Sums what the browser calls layout shifts, without those that a hand caused, from before the first paint.
WATCH_SHIFTS = """
  performance.setResourceTimingBufferSize(1000);
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
"""
