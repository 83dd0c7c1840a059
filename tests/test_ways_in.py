"""One visit on which things come in by every way there is, and what the page makes of them."""

import base64
import io
import json
import logging
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image
from playwright.sync_api import Error, Locator, Page, Route, expect

from marigold_demo.recipe import Recipe
from marigold_demo.settings import ReliefSettings
from tests.pages import ball, draw_photo
from tests.visits import BROWSER, wait_until

pytestmark = BROWSER


DROP = """([files, selector, kinds]) => {
  const transfer = new DataTransfer();
  for (const [bytes, name] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
  for (const [kind, text] of Object.entries(kinds)) transfer.setData(kind, text);
  const target = document.querySelector(selector);
  const how = { dataTransfer: transfer, bubbles: true, cancelable: true };
  return ["dragenter", "dragover", "drop"].map((kind) => target.dispatchEvent(new DragEvent(kind, how)));
}"""


def drop(page: Page, *paths: Path, on: str = "footer", address: str = "") -> None:
    """Drop files, or an address, somewhere on the page; the browser must be told not to open them itself."""
    files = [[list(path.read_bytes()), path.name] for path in paths]
    kinds = {"text/uri-list": address, "text/plain": address} if address else {}
    assert page.evaluate(DROP, [files, on, kinds]) == [False] * 3


def shown(page: Page) -> np.ndarray:
    """Return the pixels of the photo in the box."""
    source = page.locator("#photo img").get_attribute("src")
    with Image.open(io.BytesIO(page.request.get(source).body())) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def says(page: Page, words: str) -> None:
    expect(page.locator("#status")).to_contain_text(words)


def test_everything_comes_in_by_every_way_and_goes_where_it_belongs(visit, folder, predict):
    seen = visit(permissions=["clipboard-read", "clipboard-write", "camera"])
    page = seen.page
    photo = draw_photo(folder, "first.png", size=(160, 120))
    drop(page, photo, on="#bar")  # beside the box
    seen.wait_for_object()
    assert shown(page).shape == (120, 160, 3)
    # A second one replaces it, dropped onto the first; without a kind, as browsers have it for a HIF.
    tall = write_heif(folder / "SECOND.HIF")
    drop(page, tall, draw_photo(folder, "third.png"), on="#photo")
    wait_until(page, lambda: shown(page).shape == (150, 100, 3))
    expect(page.locator("#photo-notes")).to_contain_text("this is the first")
    seen.wait_for_object()
    assert np.load(seen.download("#download-npy")).shape == (150, 100)
    refused_files_leave_what_is_there(page, folder)
    assert shown(page).shape == (150, 100, 3)
    assert np.load(seen.download("#download-npy")).shape == (150, 100)
    controls_do_what_they_say_and_once(page)
    # Depth of its shape, as an array and as a picture of 16 bits.
    np.save(folder / "mine.npy", 1 - ball(150, 100))
    drop(page, folder / "mine.npy")
    says(page, "This is your own depth")
    expect(page.locator("#stl")).to_be_enabled()
    np.testing.assert_array_equal(np.load(seen.download("#download-npy")), 1 - ball(150, 100))
    assert shown(page).shape == (150, 100, 3)
    late_uploads_replace_nothing(page, folder)
    recipe = Recipe(relief=ReliefSettings(width_mm=63))
    (folder / "recipe.json").write_text(recipe.to_json())
    drop(page, folder / "recipe.json")
    # What the status says of it is soon followed by the end of its run.
    expect(page.locator("#relief-report")).to_contain_text("63 ×")
    pictures_of_the_camera_are_as_the_lens_sees_them(page)


def controls_do_what_they_say_and_once(page: Page) -> None:
    """See the measured points before the picture, after a drag too; count events of lists and zips."""
    shares, (left, top, width, height) = ((0.4, 0.2), (0.8, 0.7)), page.evaluate(PICTURE)
    places = [(left + x * width, top + y * height) for x, y in shares]
    for place in places:
        page.mouse.click(*place)
        page.wait_for_timeout(300)
    expect(page.locator("#reading")).to_contain_text("at 2")
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(places[0][0] + 40, places[0][1] + 40, steps=4)
    page.mouse.up()
    expect(page.locator("#compare .dot")).to_have_count(2)
    # The field for their distance has made the picture smaller: they are at the same places of it.
    left, top, width, height = page.evaluate(PICTURE)
    with Image.open(io.BytesIO(page.screenshot())) as image:
        for x, y in shares:  # beside the number in the dot
            place = round(left + x * width) - 7, round(top + y * height)
            red, green, blue = image.convert("RGB").getpixel(place)
            assert red > 230 and 150 < green < 200 and blue < 80
    sent: list[str] = []
    page.on(
        "request", lambda asked: sent.append(asked.post_data or "") if "queue/join" in asked.url else None
    )
    page.get_by_role("tab", name="Depth", exact=True).click()
    colors = page.locator("#colors input")
    colors.click()
    page.keyboard.press("Tab")
    expect(page.get_by_role("option")).to_have_count(0)
    colors.click()
    page.get_by_role("option", name="Gray", exact=True).click()
    expect(page.get_by_role("option")).to_have_count(0)
    page.wait_for_timeout(1000)
    assert sum('"Photo"' in one for one in sent) == 1  # of both sides and the colors
    page.get_by_role("tab", name="Relief", exact=True).click()
    downloads: list[object] = []
    page.on("download", lambda one: downloads.append(one))
    page.locator("#everything").evaluate("button => { button.click(); button.click(); }")
    expect(page.locator("#everything")).to_have_text("Packing everything …")
    expect(page.locator("#everything")).to_be_disabled()
    wait_until(page, lambda: downloads)
    expect(page.locator("#everything")).to_be_enabled()
    page.wait_for_timeout(1000)
    assert len(downloads) == 1


# Where the picture is inside its box.
PICTURE = """() => {
  const image = document.querySelector("#compare img"), box = image.getBoundingClientRect();
  const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  return [box.left + (box.width - width) / 2, box.top + (box.height - height) / 2, width, height];
}"""


def pictures_of_the_camera_are_as_the_lens_sees_them(page: Page) -> None:
    button = page.locator('#photo [aria-label="Capture from camera"]')
    page.evaluate(REFUSE_CAMERA, "NotAllowedError")
    button.click()
    says(page, "was not allowed")
    page.evaluate(REFUSE_CAMERA, "NotFoundError")
    button.click()
    says(page, "There is no camera here")
    page.evaluate(PAINT_CAMERA)
    before = page.locator("#photo img").get_attribute("src")
    button.click()
    page.get_by_role("button", name="Take the photo").click()
    expect(page.locator("#photo img")).not_to_have_attribute("src", before)
    expect(page.locator("#camera")).to_have_count(0)
    assert page.evaluate("window.asked.video.facingMode") == {"ideal": "environment"}
    assert page.evaluate("window.given.getTracks().map((track) => track.readyState)") == ["ended"]
    taken = shown(page)
    drawn = np.asarray(page.evaluate("window.drawn"), dtype=float).reshape(120, 160, 4)[..., :3]
    assert taken.shape == drawn.shape
    assert abs(taken - drawn).mean() < 4 < 40 < abs(taken - drawn[:, ::-1]).mean()


REFUSE_CAMERA = """(name) => {
  navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", name));
}"""
# A camera before which nothing moves: red, but for a blue corner on its left.
PAINT_CAMERA = """() => {
  const canvas = document.createElement("canvas"), brush = canvas.getContext("2d");
  [canvas.width, canvas.height] = [160, 120];
  const paint = () => {
    brush.fillStyle = "#d03020";
    brush.fillRect(0, 0, 160, 120);
    brush.fillStyle = "#2040c0";
    brush.fillRect(0, 0, 64, 80);
  };
  paint();
  setInterval(paint, 100); // a canvas gives a frame when it is painted
  window.drawn = [...brush.getImageData(0, 0, 160, 120).data];
  navigator.mediaDevices.getUserMedia = async (asked) => {
    window.asked = asked;
    return (window.given = canvas.captureStream());
  };
}"""


def refused_files_leave_what_is_there(page: Page, folder: Path) -> None:
    (folder / "words.txt").write_text("not a picture")
    drop(page, folder / "words.txt", on="#photo")
    says(page, "not a picture")
    drop(page, address="https://example.org/cat.jpg", on="#photo")
    says(page, "Only the address")
    page.evaluate("navigator.clipboard.writeText('only words')")
    page.locator("body").press("Control+v")
    says(page, "holds text")


def late_uploads_replace_nothing(page: Page, folder: Path) -> None:
    """Leave the example on the page that is chosen while a photo is being uploaded."""
    held: list[Route] = []
    page.route("**/gradio_api/upload", lambda route: held.append(route))
    late = draw_photo(folder, "late.png", size=(90, 90))
    drop(page, late)
    expect(page.locator("#upload")).to_contain_text("Uploading late.png")
    page.get_by_role("button", name="Cancel upload").click()
    says(page, "The upload was canceled")
    expect(page.locator("#upload")).to_have_count(0)
    assert shown(page).shape == (150, 100, 3)
    choose_file(page, page.locator('#photo [aria-label="Upload file"]'), late)
    wait_until(page, lambda: len(held) == 2)
    page.locator("#examples button").first.dispatch_event("click")
    for route in held:
        with suppress(Error):  # a request that was canceled
            route.continue_()
    page.unroute("**/gradio_api/upload")
    wait_until(page, lambda: 90 not in shown(page).shape and 150 not in shown(page).shape)
    says(page, "Done")
    assert 90 not in shown(page).shape


def choose_file(page: Page, button: Locator, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files(path)


def test_a_reload_costs_nothing_at_any_stage_and_a_link_opens_a_copy(visit, browser, folder, predict, url):
    handler = logging.StreamHandler(spoken := io.StringIO())
    logging.getLogger().addHandler(handler)
    seen = visit(permissions=["clipboard-read", "clipboard-write"])
    page = seen.page
    predict.may_go_on.clear()
    drop(page, draw_photo(folder, "kept.png", size=(170, 130)))
    says(page, "Step 1 of 3")
    page.reload()
    expect(page.locator("#photo img")).to_be_visible()
    says(page, "Step 1 of 3")
    predict.may_go_on.set()
    seen.wait_for_object()
    width = page.locator("#relief-width_mm input[type=number]")
    width.fill("77")
    width.press("Enter")
    expect(page.locator("#relief-report")).to_contain_text("77 ×")
    before = shown(page)
    page.goto("about:blank")
    page.go_back()
    says(page, "Welcome back")
    expect(page.locator("#relief-report")).to_contain_text("77 ×")
    expect(width).to_have_value("77")
    np.testing.assert_array_equal(shown(page), before)
    np.testing.assert_array_equal(np.load(seen.download("#download-npy")), ball(130, 170))
    key = a_link_opens_a_copy_that_changes_nothing(seen, browser, url)
    unknown_keys_get_a_sentence(visit)
    logging.getLogger().removeHandler(handler)
    assert key not in spoken.getvalue()
    lost = ("AbortError", "errored out")  # what Gradio says when a page with a run is left
    seen.faults[:] = [fault for fault in seen.faults if not any(words in fault for words in lost)]
    page.close()
    another = seen.context.new_page()  # the tab is closed
    another.goto(url)
    says(another, "Welcome back")
    another.get_by_role("button", name="Start over").click()
    expect(another.locator("#file-name")).not_to_contain_text("kept")
    another.reload()
    expect(another.locator("#stl")).to_be_enabled()
    expect(another.locator("#file-name")).not_to_contain_text("kept")
    expect(another.locator("#status")).not_to_contain_text("Welcome back")
    width = another.locator("#relief-width_mm input[type=number]")
    width.fill("55")  # of the example that the page begins with
    width.press("Enter")
    expect(another.locator("#relief-report")).to_contain_text("55 ×")
    another.reload()
    says(another, "Welcome back")
    expect(width).to_have_value("55")
    expect(another.locator("#relief-report")).to_contain_text("55 ×")


def a_link_opens_a_copy_that_changes_nothing(seen, browser, url) -> str:
    """Return the key of the link."""
    seen.page.locator("#link").click()
    says(seen.page, "The link is copied")
    link = seen.page.evaluate("navigator.clipboard.readText()")
    key = link.removeprefix(f"{url}/?result=")
    assert len(base64.urlsafe_b64decode(key + "==")) == 16  # 128 bits
    own = seen.page.evaluate("sessionStorage.getItem('marigold-demo')")
    assert json.loads(own)["key"] != key
    context = browser.new_context()
    other, requests = context.new_page(), []
    other.on("request", lambda one: requests.append(one))
    other.goto(link)
    says(other, "Opened from a link")
    expect(other.locator("#relief-report")).to_contain_text("77 ×")
    assert key not in other.url
    first, *others = requests
    assert key in first.url
    assert not any(key in one.url + one.headers.get("referer", "") for one in others)
    assert other.evaluate("localStorage.getItem('marigold-demo')") is None  # what the visitor had kept stays
    width = other.locator("#relief-width_mm input[type=number]")
    width.fill("55")
    width.press("Enter")
    expect(other.locator("#relief-report")).to_contain_text("55 ×")
    context.close()
    expect(seen.page.locator("#relief-report")).to_contain_text("77 ×")
    return key


def unknown_keys_get_a_sentence(visit) -> None:
    for wrong in ("", "<img src=x onerror=alert(1)>"):  # others in test_session_store
        seen = visit(at=f"?result={quote(wrong)}")
        says(seen.page, "This link leads nowhere")
        expect(seen.page.locator("#file-name")).not_to_contain_text("kept")


def write_heif(path: Path) -> Path:
    import pillow_heif

    pillow_heif.from_pillow(Image.new("RGB", (100, 150), "#c8502d")).save(path, quality=90)
    return path
