"""What axe-core finds on the page, as it begins, while it works, and with everything unfolded."""

import io

import numpy as np
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.pages import draw_photo
from tests.visits import BROWSER

pytestmark = BROWSER


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_in_any_state_and_no_faint_words_in_the_dark(visit, folder, predict, width):
    seen = visit(width=width, touch=width == 390, motion="reduce")
    page, found = seen.page, {}

    def look(state: str, *, within: str = "html") -> None:
        found[state] = findings(page, within=within)
        page.evaluate("document.body.classList.add('dark')")
        found[f"{state}, dark"] = findings(page, "color-contrast", "link-in-text-block", within=within)
        page.evaluate("document.body.classList.remove('dark')")

    (folder / "empty.png").write_bytes(b"")
    seen.upload(folder / "empty.png")
    expect(page.locator("#status .alert")).to_contain_text("empty")
    look("empty, after a mistake")
    predict.may_go_on.clear()
    seen.upload(draw_photo(folder, f"{width}.png", size=(200 + width // 40, 150)))
    expect(page.locator("#status")).to_contain_text("Step 1 of 3")
    page.locator("#about summary").click()
    assert is_lit(page, "denoise") and not is_lit(page, "decode")
    look("running")
    predict.may_go_on.set()
    seen.wait_for_object()
    unfold(page)
    if width == 390:
        page.get_by_role("button", name="Photo and depth").click()
    set_two_points(page)
    look("relief")
    if width == 1280:
        assert_a_focus_is_seen(page)
        look_at_high_contrast(page, found)
    assert not is_lit(page, "denoise")
    table = page.locator("#about .wide").bounding_box()
    assert table["x"] >= 0 and table["x"] + table["width"] <= width
    seen.open("Mesh")
    expect(page.locator("#glb")).to_be_enabled()
    unfold(page)
    look("mesh", within="#settings")  # all else is as it was
    seen.open("Depth")
    unfold(page)
    page.locator("#more-files").click()
    look("depth and menu")
    if width == 1280:
        page.keyboard.press("Escape")
        box = "#depth-settings input[type=checkbox]"
        assert_a_focus_is_seen(page, "#colors input", box, "#depth-steps input")
        look_at_high_contrast(page, found, boxes=True)
    assert len(found) >= 10 and not any(found.values()), found
    page.evaluate(SPOIL)
    assert "button-name" in str(findings(page))
    assert "color-contrast" in str(findings(page, "color-contrast"))


def is_lit(page: Page, box: str) -> bool:
    """Return whether a box of the drawing of a run has the color of the theme."""
    rect = page.locator(f'#about [data-box="{box}"] rect')
    rect.scroll_into_view_if_needed()
    red, _, blue = np.median(shot(rect), axis=(0, 1))
    return bool(red - blue > 100)


def look_at_high_contrast(page: Page, found: dict[str, list[str]], *, boxes: bool = False) -> None:
    """Look at the page in the system's colors: what only backgrounds show elsewhere must be drawn."""
    page.emulate_media(forced_colors="active")
    found[f"high contrast, {boxes}"] = findings(page, "color-contrast", within="#settings")
    if boxes:
        ticked, empty = (
            shot(page.locator(f"#settings input[type=checkbox]{one}").first)
            for one in (":checked", ":not(:checked)")
        )
        assert np.abs(ticked - empty).max(axis=2).mean() > 40
    else:
        track = shot(page.locator("#relief-width_mm input[type=range]"), around=4)
        parts = [track[:, int(share * track.shape[1])] for share in (0.15, 0.85)]
        assert min(contrasts(part).max() for part in parts) > 3  # each is seen on its ground
        assert np.abs(parts[0] - parts[1]).max() > 40  # and they differ
        bar = shot(page.locator("#legend .legend i").first)
        assert np.abs(bar[:, 4] - bar[:, -5]).max() > 60  # near and far
        chips = [shot(page.locator("#preset label").nth(number), around=4) for number in (0, 1)]
        edges = [contrasts(chip[:, chip.shape[1] // 2][:8]).max() for chip in chips]
        assert edges[0] > 3
        tabs = [shot(page.locator(f"#{name}-tab-button"), around=4) for name in ("relief", "mesh")]
        assert abs(tabs[0].shape[1] - tabs[1].shape[1]) < 30 and tabs[0].std() > tabs[1].std() + 5
    page.emulate_media(forced_colors="none")


def assert_a_focus_is_seen(page: Page, *others: str) -> None:
    """Compare pixels with and without the focus, light and dark: enough of them differ by 3:1."""
    names = ["#model", "#stl", "#more-files", "#relief-tab-button", "#examples button >> nth=1", *others]
    if not others:
        names += [
            "#preset input >> nth=1",
            "#relief-width_mm input >> nth=0",
            "#relief-width_mm input >> nth=1",
        ]
        names += ["#relief-width_mm .reset-button", "#compare [data-testid=slider]"]
    for theme in ("light", "dark"):
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", theme == "dark")
        for name in names:
            control = page.locator(name).first
            if not control.is_visible():
                continue
            control.scroll_into_view_if_needed()
            page.keyboard.press("Shift")  # the keyboard is in use
            seen = control.locator("xpath=..") if name.startswith("#preset") else control
            control.focus()
            page.wait_for_timeout(50)
            focused = shot(seen, around=7)
            control.blur()
            page.wait_for_timeout(50)
            strong = (contrasts(focused, shot(seen, around=7)) >= 3).sum()
            assert strong >= 60, f"{name}, {theme}: {strong} pixels"
    page.evaluate("document.body.classList.remove('dark')")


def shot(element: Locator, *, around: int = 0) -> np.ndarray:
    """Return the pixels [H, W, 3] of an element and of what is around it."""
    box = element.bounding_box()
    clip = {"x": max(box["x"] - around, 0), "y": max(box["y"] - around, 0)}
    clip |= {side: box[side] + 2 * around for side in ("width", "height")}
    with Image.open(io.BytesIO(element.page.screenshot(clip=clip))) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def contrasts(rgb: np.ndarray, other: np.ndarray | None = None) -> np.ndarray:
    """Return the contrast of each pixel with another picture, or with its own first pixel, as WCAG has it."""
    light, against = _luminance(rgb), _luminance(rgb.reshape(-1, 3)[0] if other is None else other)
    return (np.maximum(light, against) + 0.05) / (np.minimum(light, against) + 0.05)


def _luminance(rgb: np.ndarray) -> np.ndarray:
    linear = np.where(rgb <= 10.3, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


# A button without a name, and words that are hardly seen.
SPOIL = """() => {
  const words = Object.assign(document.createElement("p"), { innerText: "faint" });
  words.style.cssText = "color: #777; background: #888";
  document.querySelector("main").prepend(document.createElement("button"), words);
}"""


def findings(page: Page, *rules: str, within: str = "html") -> list[str]:
    """Return what axe-core calls critical or serious, by these rules or all: the rule and the elements."""
    page.evaluate(f"window.axe || (() => {{ {AXE_SCRIPT} }})()")
    how = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    return [
        f"{one['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for one in page.evaluate("([within, how]) => axe.run(within, how)", [within, how])["violations"]
        if one["impact"] in ("critical", "serious")
        for node in one["nodes"]
    ]


def unfold(page: Page) -> None:
    """Open everything that is folded."""
    folded = page.locator("button.label-wrap:not(.open):visible")
    while folded.count():
        folded.first.click()


def set_two_points(page: Page) -> None:
    pictures = page.locator("#compare .slider-wrap")
    for share in (0.2, 0.8):
        box = pictures.bounding_box()  # a click waits until it stands still and nothing lies over it
        pictures.click(position={"x": share * box["width"], "y": 0.3 * box["height"]})
        expect(page.locator("#reading")).to_contain_text("at 2" if share > 0.5 else "at 1")
