"""What axe-core finds on the page, as it begins, while it works, and with everything unfolded."""

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page, expect

from tests.pages import draw_photo
from tests.visits import BROWSER

pytestmark = BROWSER


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_state(visit, folder, predict, theme, width):
    seen = visit(theme=theme, width=width, touch=width == 390, motion="reduce")
    page = seen.page
    found = {"empty": findings(page)}
    predict.may_go_on.clear()
    size = (width // 5, 150 if theme == "light" else 160)  # its own, or the depth is there at once
    seen.upload(draw_photo(folder, f"{theme}_{width}.png", size=size))
    expect(page.locator("#status")).to_contain_text("Step 1 of 3")
    found["running"] = findings(page)
    predict.may_go_on.set()
    seen.wait_for_object()
    unfold(page)
    if width == 390:
        page.get_by_role("button", name="Photo and depth").click()
    set_two_points(page)
    found["relief"] = findings(page)
    seen.open("Mesh")
    expect(page.locator("#glb")).to_be_enabled()
    unfold(page)
    found["mesh"] = findings(page)
    seen.open("Depth")
    unfold(page)
    page.locator("#more-files").click()
    found["depth and menu"] = findings(page)
    assert found == {state: [] for state in ("empty", "running", "relief", "mesh", "depth and menu")}


def test_axe_finds_nothing_serious_in_what_is_said_after_a_mistake(visit, folder):
    seen = visit(motion="reduce")
    bad = folder / "empty.png"
    bad.write_bytes(b"")
    seen.upload(bad)
    expect(seen.page.locator("#status .alert")).to_contain_text("empty")
    assert findings(seen.page) == []


def test_axe_does_find_what_is_wrong(visit):
    seen = visit()
    seen.page.evaluate("document.body.append(document.createElement('button'))")
    assert "button-name" in str(findings(seen.page))


def findings(page: Page) -> list[str]:
    """Return what axe-core calls critical or serious: the rule and the elements."""
    page.evaluate(f"window.axe || (() => {{ {AXE_SCRIPT} }})()")
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [
        f"{one['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for one in found
        if one["impact"] in ("critical", "serious")
        for node in one["nodes"]
    ]


def unfold(page: Page) -> None:
    """Open everything that is folded."""
    folded = page.locator("button.label-wrap:not(.open):visible")
    while folded.count():
        folded.first.click()


def set_two_points(page: Page) -> None:
    image = page.locator("#compare img").first
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    for share in (0.2, 0.8):
        page.mouse.click(box["x"] + share * box["width"], box["y"] + 0.3 * box["height"])
        expect(page.locator("#reading")).to_contain_text("at 2" if share > 0.5 else "at 1")
