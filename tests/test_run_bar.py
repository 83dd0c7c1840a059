"""The bar that shows a run, in a real browser: whose turn it is, what went wrong, and a finer depth."""

import numpy as np
import pytest
from playwright.sync_api import expect

from marigold_demo.catalog import EMBEDDED, SMALL
from marigold_demo.depth import CheckpointStatus, DepthMap, Progress
from marigold_demo.errors import CheckpointError
from tests.pages import Ball, ball, draw_photo
from tests.visits import BROWSER, OVER, choose, type_number, wait_until

pytestmark = BROWSER
OFFLINE = "It is not on this machine and the hub cannot be reached; connect to the internet."


class Models(Ball):
    """A ball for the draft; a finer model that is downloaded first, or out of reach."""

    online = reachable = True
    asked = 0  # how often for a finer depth

    def __call__(self, photo, settings, run):
        if settings.checkpoint == EMBEDDED:
            return super().__call__(photo, settings, run)
        self.asked += 1
        if not self.online:
            raise CheckpointError(OFFLINE)
        run.report(Progress("download", 650, 2600))
        self.may_go_on.wait(20)
        return DepthMap(1 - ball(*photo.rgb.shape[:2]))


@pytest.fixture(scope="module")
def status_of(predict):
    def status(settings):
        here = settings.checkpoint == EMBEDDED
        last_s = 2.0 * (settings.ensemble or 1)
        return CheckpointStatus(0 if here else 2_600_000_000, last_s, reachable=here or predict.reachable)

    return status


@pytest.fixture(scope="module")
def predict():
    return Models()


@pytest.fixture(autouse=True)
def at_work(predict):
    predict.online = predict.reachable = True
    predict.may_go_on.set()


def test_the_model_tells_what_it_costs_before_anything_runs(visit, predict):
    seen = visit()
    seen.open("Depth")
    advice, runs = seen.page.locator("#about-model"), predict.runs
    expect(advice).to_contain_text("Ready on this machine · took 2.0 s last time")
    choose(seen.page, "#depth-checkpoint", "Marigold v1-1 (best) · 2.6 GB to download")
    expect(advice).to_contain_text("Downloads 2.6 GB once")
    seen.page.locator("#depth-settings > button").click()
    type_number(seen.page, "#depth-ensemble input", "5")
    expect(advice).to_contain_text("took 10 s last time")
    assert predict.runs == runs
    expect(seen.page.locator("#refine")).to_be_visible()
    predict.reachable = False
    offline = visit()
    offline.open("Depth")
    offline.page.locator("#depth-checkpoint input").click()
    expect(offline.page.get_by_role("option", name="Marigold v1-1 (best) · out of reach now")).to_be_visible()
    expect(offline.page.locator("#refine")).to_have_count(0)  # no click that must fail


def test_removing_an_example_empties_the_page_and_runs_nothing(built, predict):
    runs, seen = predict.runs, built
    seen.page.locator("#examples button").first.click()
    seen.wait_for_depth()
    seen.page.get_by_role("button", name="Remove Image").click()
    expect(seen.page.locator("#depth-stage")).to_be_hidden()
    seen.open("Depth")
    expect(seen.page.locator("#run")).to_be_disabled()
    expect(seen.page.locator("#photo img")).to_have_count(0)
    seen.page.wait_for_timeout(1500)
    assert predict.runs == runs


def test_a_photo_chosen_while_another_is_worked_on_takes_its_place(built, folder, predict):
    predict.may_go_on.clear()
    seen, calls = built, predict.calls
    seen.upload(draw_photo(folder, "first.png", size=(210, 140)))
    expect(seen.page.locator("#status")).to_contain_text("Step 1 of 3")
    seen.upload(draw_photo(folder, "second.png", size=(160, 120)))
    expect(seen.page.locator("#file-name")).to_have_text("second")
    seen.page.wait_for_timeout(1000)
    predict.may_go_on.set()
    seen.wait_for_object()
    assert np.load(seen.download("#download-npy")).shape == (120, 160)
    assert predict.calls == calls + 1 + 3  # the step that was under way, then the second photo's


def test_a_second_click_starts_no_second_run(built, predict):
    runs = predict.runs
    built.open("Depth")
    built.page.locator("#depth-settings > button").click()
    type_number(built.page, "#depth-steps input", "7")
    built.page.locator("#run").evaluate("button => { button.click(); button.click(); button.click(); }")
    wait_until(built.page, lambda: predict.runs > runs)
    built.wait_for_depth()
    built.page.wait_for_timeout(1500)
    assert predict.runs == runs + 1


def test_when_refining_fails_the_draft_is_still_there_and_the_bar_says_why(built, predict):
    predict.online = False
    built.page.locator("#refine").click()
    expect(built.page.locator("#status .alert")).to_have_text(OFFLINE)
    expect(built.page.get_by_test_id("toast-body")).to_contain_text("cannot be reached")
    np.testing.assert_array_equal(np.load(built.download("#download-npy")), ball(120, 160))
    expect(built.page.locator("#refine")).to_be_visible()
    built.open("Depth")
    expect(built.page.get_by_role("button", name="Estimate depth")).to_be_enabled()
    here = built.page.locator("#refine-hint button")
    expect(here).to_be_hidden()  # the bar has one
    built.page.set_viewport_size({"width": 390, "height": 844})
    expect(built.page.locator("#refine")).to_be_hidden()
    expect(here).to_have_text(built.page.locator("#refine").text_content() or "")
    asked = predict.asked
    here.click()
    wait_until(built.page, lambda: predict.asked > asked)
    expect(built.page.locator("#status .alert")).to_have_text(OFFLINE)
    built.page.set_viewport_size({"width": 1280, "height": 860})


def test_a_draft_stays_until_the_finer_depth_is_there_and_beside_it_then(built, predict):
    np.testing.assert_array_equal(np.load(built.download("#download-npy")), ball(120, 160))
    built.open("Depth")
    built.page.get_by_label("Left side").click()
    expect(built.page.get_by_role("option", name="Relief")).to_have_count(1)
    expect(built.page.get_by_role("option", name="Uncertainty")).to_have_count(0)  # of one prediction
    built.page.keyboard.press("Escape")
    predict.may_go_on.clear()
    built.page.locator("#refine").click()
    expect(built.page.locator("#status")).to_contain_text("Downloading the model: 650 of 2,600 MB")
    expect(built.page.locator("#status progress")).to_have_js_property("value", 0.25)
    expect(built.page.locator("#compare img")).to_have_count(2)
    np.testing.assert_array_equal(np.load(built.download("#download-npy")), ball(120, 160))
    predict.may_go_on.set()
    expect(built.page.locator("#status")).to_contain_text("Done")
    expect(built.page.locator("#model")).to_have_text(f"{SMALL.short_title} · 2.0 s")
    expect(built.page.locator("#refine")).to_have_text("Refine · 2.6 GB")  # the finest one follows
    built.open("Depth")
    expect(built.page.locator("#refine-hint")).to_contain_text("Marigold v1-1 refines this depth")
    built.page.get_by_label("Left side").click()
    expect(built.page.get_by_role("option", name="Depth of Draft", exact=True)).to_be_visible()


def test_who_waits_moves_up_when_another_leaves_and_cancel_stops_a_run_within_a_step(
    visit, built, folder, predict
):
    predict.may_go_on.clear()
    visits = [built, visit(), visit()]
    told = [
        "Step 1 of 3",
        "Another photo is being worked on. Yours is next.",
        "2 photos are before yours.",
    ]
    for number, (seen, words) in enumerate(zip(visits, told, strict=True)):
        seen.upload(draw_photo(folder, f"wait{number}.png", size=(220 + number, 150)))
        expect(seen.page.locator("#status")).to_contain_text(words)
    visits[1].page.get_by_role("button", name="Cancel").click()
    expect(visits[1].page.locator("#status")).to_contain_text("Stopped")
    expect(visits[2].page.locator("#status")).to_contain_text("Yours is next")
    calls = predict.calls
    visits[0].page.get_by_role("button", name="Cancel").click()
    expect(visits[0].page.locator("#status")).to_contain_text("Stopped")
    predict.may_go_on.set()
    visits[2].wait_for_depth()
    assert predict.calls == calls + 1 + 3  # the step that was under way, then the last visitor's
    assert predict.peak == 1
    visits[0].open("Depth")
    visits[0].page.get_by_role("button", name="Estimate depth").click()
    visits[0].wait_for_depth()


def test_the_bar_of_a_run_stays_in_sight_on_a_phone(visit, folder, predict):
    predict.may_go_on.clear()
    seen = visit(width=390, touch=True)
    seen.upload(draw_photo(folder, "sight.png", size=(240, 150)))
    for place in ("#photo", "#settings", ".colophon"):
        seen.page.locator(place).evaluate("element => element.scrollIntoView()")
        expect(seen.page.get_by_role("button", name="Cancel")).to_be_in_viewport()
    predict.may_go_on.set()
    seen.wait_for_depth()
    seen.page.set_viewport_size({"width": 768, "height": 1024})  # here the pictures scroll away
    seen.open("Depth")
    seen.page.locator("#depth-settings > button").click()
    type_number(seen.page, "#depth-steps input", "7")
    seen.page.evaluate("scrollBy(0, document.querySelector('#bench').getBoundingClientRect().top + 420)")
    seen.page.locator("#run").evaluate("button => button.click()")
    pane = seen.page.locator("#object-pane")
    wait_until(seen.page, lambda: pane.bounding_box()["y"] > 48)  # the result comes into view, under the bar
    wait_until(
        seen.page,
        lambda: seen.page.evaluate(OVER, ["#object-pane, #views", [*pane.bounding_box().values()]]) == [],
    )


def test_a_photo_removed_while_the_3d_viewer_is_still_loading_leaves_a_page_that_works(visit, folder):
    held = []
    seen = visit(routes={"**/assets/lib-*.js": lambda route: held.append(route)})
    seen.upload(draw_photo(folder, "gone.png", size=(250, 150)))
    expect(seen.page.locator("#preview canvas")).to_be_attached()
    wait_until(seen.page, lambda: held)
    seen.page.get_by_role("button", name="Remove Image").click()
    expect(seen.page.locator("#preview canvas")).to_have_count(0)
    with seen.page.expect_event("requestfinished", lambda one: "/assets/lib-" in one.url):
        held[0].continue_()
    seen.page.wait_for_timeout(3000)  # for the viewer to find its canvas gone
    # Gradio's viewer goes on without its canvas, and its engine is gone then.
    seen.faults = [fault for fault in seen.faults if "trackUbosInFrame" not in fault]
    seen.upload(draw_photo(folder, "next.png", size=(150, 250)))
    seen.wait_for_object()
    expect(seen.page.locator("#preview canvas")).to_be_visible()
