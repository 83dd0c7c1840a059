"""Time the page as a visitor sees it, in a real browser. Prints one line for each figure.

    .venv/bin/python benchmarks/page.py [URL]

Without a URL, `app.py` is started and warmed up first. The phone photo has 12 megapixels; other figures are
medians of five.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
ROUNDS = 5


@contextmanager
def running_app() -> Iterator[str]:
    """Start the app and give its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": cache}
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(url, timeout=5).read()
                    break
                except OSError:
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait()


def phone_photo(folder: Path) -> Path:
    """Write a 12-megapixel JPEG with the noise of a small sensor."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:3024, 0:4032]
    waves = 127 + 60 * np.sin(x / 300) + 50 * np.cos(y / 200)
    rgb = np.stack([waves, waves[::-1], waves[:, ::-1]], axis=2) + rng.normal(0, 8, (3024, 4032, 1))
    path = folder / "phone.jpg"
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return path


def weigh(page: Page, url: str) -> tuple[float, float]:
    """Open the page; return megabytes over the wire and seconds to the first paint."""
    weights: list[float] = []
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: weights.append(event["encodedDataLength"]))
    page.goto(url)
    page.wait_for_selector("#photo input[type=file]", state="attached")
    page.wait_for_timeout(2000)  # a heartbeat keeps the network from ever being idle
    paint = page.evaluate('performance.getEntriesByName("first-contentful-paint")[0].startTime')
    return sum(weights) / 1e6, paint / 1e3


def timed(act: Callable[[], object], seen: Callable[[], object]) -> float:
    """Return the seconds from the end of a gesture until its result is seen."""
    act()
    began = time.perf_counter()
    seen()
    return time.perf_counter() - began


def drop(page: Page, path: Path) -> float:
    """Drop a photo; return the seconds until both sides of the slider are painted."""
    painted = f"""() => {{
      const sides = [...document.querySelectorAll("#compare img")];
      return sides.length == 2 && sides.every((i) =>
        i.src.includes("{path.stem}") && i.complete && i.naturalWidth);
    }}"""
    began = time.perf_counter()
    page.set_input_files("#photo input[type=file]", path)
    page.wait_for_function(painted, timeout=120_000)
    return time.perf_counter() - began


def recolor(page: Page, name: str) -> float:
    """Choose a colormap; return the seconds until the picture has it."""
    image = page.locator("#compare img").nth(1)
    before = image.get_attribute("src")
    page.locator("#colors input").click()
    right = "document.querySelectorAll('#compare img')[1]"
    new = f"(old) => {right}.src != old && {right}.complete"
    return timed(
        lambda: page.get_by_role("option", name=name, exact=True).click(),
        lambda: page.wait_for_function(new, arg=before),
    )


def resize(page: Page, by: int) -> float:
    """Move a relief slider; return the seconds from its release until two frames after the preview came.

    (A screenshot of the canvas would take longer than all the rest.)
    """
    slider = page.locator("#relief-relief_mm input[type=range]")
    slider.evaluate("(e, by) => { e.value = Number(e.value) + by; e.dispatchEvent(new Event('input')); }", by)
    old = page.locator("#preview a[download]").get_attribute("href")
    return page.evaluate(RELEASE_AND_WATCH, old) / 1e3


RELEASE_AND_WATCH = """(old) => new Promise((done, fail) => {
  performance.setResourceTimingBufferSize(10000);
  setTimeout(() => fail(new Error("no new preview within 30 s")), 30000);
  const link = () => document.querySelector("#preview a[download]")?.href;
  const began = performance.now();
  const slider = document.querySelector("#relief-relief_mm input[type=range]");
  slider.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
  const watch = () => {
    const fetched = link() !== old && performance.getEntriesByName(link()).some((entry) => entry.responseEnd);
    if (!fetched) return setTimeout(watch, 5);
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
  };
  watch();
})"""


def measure(page: Page, url: str, folder: Path) -> None:
    """Print all figures."""
    weight, paint = weigh(page, url)
    print(f"page weight at load                       {weight:6.2f} MB")
    print(f"first paint                               {paint:6.2f} s")
    path = phone_photo(folder)
    page.get_by_role("button", name="Example:").first.click()  # warms the server up
    page.wait_for_selector("#stl:not([disabled])", timeout=120_000)
    page.wait_for_timeout(3000)  # until the first 3D preview, drawn without a GPU, is through
    print(f"12-megapixel photo dropped -> slider      {drop(page, path):6.2f} s")
    page.wait_for_selector("#stl:not([disabled])", timeout=120_000)
    page.wait_for_timeout(3000)
    colors = [recolor(page, name) for name in ("viridis", "magma", "gray", "turbo", "Spectral")]
    print(f"color map chosen -> picture               {statistics.median(colors):6.2f} s")
    page.locator("#preview").scroll_into_view_if_needed()
    page.wait_for_timeout(3000)
    sizes = []
    for turn in range(ROUNDS):
        sizes.append(resize(page, 3 if turn % 2 == 0 else -3))
        page.wait_for_timeout(2000)
    print(f"relief slider released -> preview         {statistics.median(sizes):6.2f} s")


def main() -> None:
    """Run the browser against a page."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        if len(sys.argv) > 1:
            measure(page, sys.argv[1], Path(folder))
        else:
            with running_app() as url:
                measure(page, url, Path(folder))
        browser.close()


if __name__ == "__main__":
    main()
