"""What axe-core finds on the page, as it begins, while it works, and with everything unfolded."""

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page, expect

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
    look("running")
    predict.may_go_on.set()
    seen.wait_for_object()
    unfold(page)
    if width == 390:
        page.get_by_role("button", name="Photo and depth").click()
    set_two_points(page)
    look("relief")
    seen.open("Mesh")
    expect(page.locator("#glb")).to_be_enabled()
    unfold(page)
    look("mesh", within="#settings")  # all else is as it was
    seen.open("Depth")
    unfold(page)
    page.locator("#more-files").click()
    look("depth and menu")
    assert len(found) == 10 and not any(found.values()), found
    page.evaluate(SPOIL)
    assert "button-name" in str(findings(page))
    assert "color-contrast" in str(findings(page, "color-contrast"))


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
