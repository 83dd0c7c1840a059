"""Visits to a page in a real browser: what a visitor does, and all that the page must not do noted down."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.pages import LENIENT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]
FLAGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
KNOWN_CONSOLE = (
    "WebGPU",  # Babylon tries it before WebGL and says so
    "New model is being loaded before previous model finished",  # and that a setting was changed again
    "New environment is being loaded before previous environment finished",
)
PATIENCE_MS = 60_000
# Without a GPU, what WebGL draws takes a fifth of a visit's time. While this is set, it draws nothing.
UNDRAWN = """window.undrawn = %s;
for (const { prototype } of [WebGLRenderingContext, WebGL2RenderingContext])
  for (const name of ["drawElements", "drawArrays"]) {
    const draw = prototype[name];
    prototype[name] = function (...what) { if (!window.undrawn) draw.apply(this, what); };
  }"""
# What lies over a rectangle of the screen and is not inside the named elements, at a hundred points.
OVER = """([inside, [left, top, width, height]]) => {
  const others = new Set();
  for (let i = 0; i < 100; i++) {
    const [x, y] = [left + (0.05 + 0.1 * (i % 10)) * width, top + (0.05 + 0.1 * Math.floor(i / 10)) * height];
    const found = document.elementFromPoint(x, y);
    if (!found?.closest(inside)) others.add(found?.outerHTML.slice(0, 120) ?? `nothing at ${x}, ${y}`);
  }
  return [...others];
}"""
# Put on every module that opens a browser.
BROWSER = [
    pytest.mark.slow,
    LENIENT,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser and give it the patience that a busy machine needs."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One visitor's page, with everything it must not do noted down."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        *,
        width: int = 1280,
        theme: str = "light",
        touch: bool = False,
        permissions: Sequence[str] = (),
        motion: str = "no-preference",
        before: str = "",
        at: str = "",
        routes: Mapping[str, Callable[[Route], object]] = MappingProxyType({}),
        drawn: bool = False,
    ):
        self.context = browser.new_context(
            viewport={"width": width, "height": 860},
            has_touch=touch,
            is_mobile=touch,
            accept_downloads=True,
            permissions=list(permissions),
            reduced_motion=motion,
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.add_init_script(UNDRAWN % str(not drawn).lower())
        if before:  # a script that runs before those of the page
            self.page.add_init_script(before)
        for pattern, handler in routes.items():
            self.page.route(pattern, handler)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.page.on("console", self._console)
        self._own = (url, "data:", "blob:")
        # Not "request": of the 250 requests of a visit each is told once, answered or failed.
        self.page.on("response", self._response)
        self.page.on("requestfailed", lambda request: self._request(request.url))
        self.page.goto(f"{url}/{at or f'?__theme={theme}'}")
        self.page.wait_for_selector("#photo input[type=file]", state="attached")
        self.page.wait_for_function("document.querySelectorAll('#compare img[src]').length === 2")
        self.note_sides()

    def _console(self, message) -> None:
        if message.type == "error" and not any(known in message.text for known in KNOWN_CONSOLE):
            self.faults.append(f"console: {message.text}")

    def _response(self, response) -> None:
        self._request(response.url)
        if response.status >= 400:
            self.faults.append(f"{response.status} for {response.url}")

    def _request(self, asked: str) -> None:
        if not asked.startswith(self._own):
            self.faults.append(f"request to {asked}")

    def _sides(self) -> list[str]:
        return self.page.eval_on_selector_all("#compare img", "(all) => all.map((one) => one.src)")

    def note_sides(self) -> None:
        """Note the pictures on the slider: `wait_for_depth` waits for others."""
        self._before = self._sides()

    def upload(self, path: Path) -> None:
        self.note_sides()
        self.page.set_input_files("#photo input[type=file]", path)

    def wait_for_depth(self) -> None:
        """Wait for the pictures of a new depth, and the end of its run."""
        wait_until(self.page, lambda: self._sides() not in ([], self._before))
        expect(self.page.locator("#compare img")).to_have_count(2)
        expect(self.page.locator("#status")).to_contain_text("Done")

    def wait_for_object(self) -> None:
        self.wait_for_depth()
        expect(self.page.locator("#stl")).to_be_enabled()

    def open(self, tab: str) -> None:
        """Open a tab of the settings: Relief, Mesh or Depth."""
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def download(self, selector: str) -> Path:
        button = self.page.locator(selector)
        expect(button).to_be_enabled()
        if not button.is_visible():  # it is in the menu
            self.page.locator("#more-files").click()
        with self.page.expect_download() as started:
            button.click()
        return kept(started.value)


def kept(download) -> Path:
    """Return the path of a download, under the name that the visitor sees."""
    path = Path(download.path())
    return path.rename(path.with_name(download.suggested_filename))


def choose(page: Page, selector: str, option: str) -> None:
    page.locator(f"{selector} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def type_number(page: Page, selector: str, number: str) -> None:
    """Type a number; again where the field was so new that the page still set it to its default."""
    field = page.locator(selector)
    for _ in range(20):
        field.fill(number)
        field.press("Tab")
        page.wait_for_timeout(1000)
        if field.input_value() == number:
            return
    raise AssertionError(f"{selector} does not keep {number}")


def wait_until(page: Page, holds: Callable[[], object], *, patience_s: float = PATIENCE_MS / 1000) -> None:
    for _ in range(int(patience_s / 0.25)):
        if holds():
            return
        page.wait_for_timeout(250)
    raise AssertionError("it did not happen in time")
