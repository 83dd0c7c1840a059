"""Time the page as a visitor sees it, in a real browser. Prints one line for each figure.

    .venv/bin/python benchmarks/page.py [URL]

Without a URL, `app.py` is started and warmed up first. The phone photo has 12 megapixels; other figures are
medians of five. `--opening` stops after the figures of the page as it begins and of a dragged slider. The
CPU time of the page's main thread is printed too, because times on the clock mean little on a busy machine.
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
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

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


SIZES = {"desktop": (1440, 900), "phone": (390, 844)}
# Notes layout shifts that no hand caused, and when both sides of the first example were painted.
WATCH = """
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
  const look = () => {
    const sides = [...document.querySelectorAll("#compare img")];
    const seen = sides.length === 2 && sides.every((one) => one.complete && one.naturalWidth);
    if (!seen) return setTimeout(look, 20);
    requestAnimationFrame(() => requestAnimationFrame(() => { window.finished = performance.now(); }));
  };
  look();
"""
IN_VIEW = """() => ["#compare", "#preview canvas", "#stl"].every((one) => {
  const box = document.querySelector(one)?.getBoundingClientRect();
  return box && box.width && box.top >= 0 && box.bottom <= innerHeight && box.right <= innerWidth;
})"""


def open_page(page: Page, url: str) -> dict[str, float]:
    """Open the page and an example; return seconds to the first one, layout shift, and if all is in view."""
    page.add_init_script(WATCH)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(url)
    page.wait_for_function("window.finished", timeout=120_000)
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    page.wait_for_selector("#stl:not([disabled])", timeout=120_000)
    page.wait_for_timeout(3000)
    figures = {"finished": page.evaluate("window.finished") / 1e3, "in view": page.evaluate(IN_VIEW)}
    figures["cpu"] = metrics["TaskDuration"]
    page.get_by_role("button", name="Example:").nth(1).click()
    page.wait_for_function("document.querySelector('#status').textContent.includes('Done')", timeout=120_000)
    page.wait_for_selector("#stl:not([disabled])", timeout=120_000)
    page.wait_for_timeout(2000)
    return figures | {"shift": page.evaluate("window.shifted")}


def drag(page: Page) -> float:
    """Drag a slider of the relief; return the median of seconds until the picture of a new value is there."""
    box = page.locator("#relief-relief_mm input[type=range]").bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.2 * box["width"], y)
    page.mouse.down()
    behind = []
    for turn in range(12):
        old = page.evaluate("document.querySelector('#drag-preview img')?.src")
        page.mouse.move(box["x"] + (0.3 + 0.04 * turn) * box["width"], y)
        behind.append(page.evaluate(FOLLOWED, old) / 1e3)
    page.mouse.up()
    return statistics.median(behind[2:])


FOLLOWED = """(old) => new Promise((done, fail) => {
  const began = performance.now();
  setTimeout(() => fail(new Error("no picture within 20 s")), 20000);
  const look = () => {
    const shown = document.querySelector("#drag-preview img");
    if (!shown || shown.src === old || !shown.complete) return setTimeout(look, 5);
    requestAnimationFrame(() => done(performance.now() - began));
  };
  look();
})"""


def measure_opening(browser: Browser, url: str) -> None:
    """Print the figures of the page as it begins, on a desktop and on a phone, and of a dragged slider."""
    for name, (width, height) in SIZES.items():
        phone = name == "phone"
        context = browser.new_context(
            viewport={"width": width, "height": height}, has_touch=phone, is_mobile=phone
        )
        page = context.new_page()
        figures = open_page(page, url)
        print(f"{name}: finished example painted            {figures['finished']:6.2f} s")
        print(f"{name}: CPU of the main thread until then     {figures['cpu']:6.2f} s")
        print(f"{name}: layout shift, start and one example {figures['shift']:6.3f}")
        if not phone:
            print(f"{name}: slider, 3D and download in one view    {'yes' if figures['in view'] else 'no'}")
            print(f"{name}: slider dragged -> picture          {drag(page):6.2f} s")
        context.close()


def weigh(page: Page, url: str) -> tuple[float, float]:
    """Open the page; return megabytes over the wire and seconds to the first paint."""
    weights: list[float] = []
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: weights.append(event["encodedDataLength"]))
    page.goto(url)
    page.wait_for_selector("#photo input[type=file]", state="attached")
    page.wait_for_timeout(6000)  # a heartbeat keeps the network from ever being idle
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
    page.get_by_role("tab", name="Depth").click()
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
    page.wait_for_timeout(3000)
    page.wait_for_selector("#stl:not([disabled])", timeout=120_000)
    page.wait_for_timeout(3000)  # until the first 3D preview, drawn without a GPU, is through
    print(f"12-megapixel photo dropped -> slider      {drop(page, path):6.2f} s")
    page.wait_for_selector("#stl:not([disabled])", timeout=120_000)
    page.wait_for_timeout(3000)
    colors = [recolor(page, name) for name in ("Viridis", "Magma", "Gray", "Turbo", "Spectral")]
    print(f"color map chosen -> picture               {statistics.median(colors):6.2f} s")
    page.get_by_role("tab", name="Relief").click()
    page.wait_for_timeout(3000)
    sizes = []
    for turn in range(ROUNDS):
        sizes.append(resize(page, 3 if turn % 2 == 0 else -3))
        page.wait_for_timeout(2000)
    print(f"relief slider released -> preview         {statistics.median(sizes):6.2f} s")


def main() -> None:
    """Run the browser against a page."""
    arguments = [one for one in sys.argv[1:] if one != "--opening"]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with nullcontext(arguments[0]) if arguments else running_app() as url:
            measure_opening(browser, url)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            if "--opening" in sys.argv:
                weight, _ = weigh(page, url)
                print(f"page weight at load                       {weight:6.2f} MB")
            else:
                measure(page, url, Path(folder))
        browser.close()


if __name__ == "__main__":
    main()
