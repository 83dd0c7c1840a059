"""Every control of a page under a name of its own, and a function that changes each in every way it has."""

import gradio as gr
from playwright.sync_api import Locator, Page, expect

# A name is the control's id or the words that a person reads of it; parts of one option share its id.
# Marks each control that can be seen with its name, and returns all names.
NAMED = """() => {
  const several = ["photo", "examples", "compare", "preview"];
  const controls = "button, input, textarea, select, a:not(:has(*)), canvas, [role=slider], .slider-wrap";
  const first = (text) => (text ?? "").trim().split(/\\n| · |;|▼| \\(\\d/)[0].trim();
  const said = (e) => first(e.ariaLabel || e.labels?.[0]?.innerText || e.innerText);
  const name = (e) => {
    if (e.closest("#camera, #upload")) return e.id || said(e);
    const block = e.closest(".block:not(label)");
    if (e.matches(".slider-wrap")) return "compare: picture";
    if (several.includes(block?.id)) return `${block.id}: ${said(e)}`;
    const tab = e.matches("#kinds .label-wrap") ? document.querySelector("#kinds .selected").innerText : "";
    if (e.matches("button:not(.reset-button)")) return e.id || (tab && `${tab}: `) + said(e);
    const part = e.matches("button") ? " reset" : { range: " range", radio: `: ${said(e)}` }[e.type] ?? "";
    return (block.id || first(block.querySelector("label, [data-testid=block-info]").innerText)) + part;
  };
  const found = [...document.querySelectorAll(controls)].filter((e) =>
    !e.closest("[aria-hidden=true], #about a") && e.checkVisibility({ visibilityProperty: true })
    && e.getBoundingClientRect().width);
  document.querySelectorAll("[data-control]").forEach((e) => e.removeAttribute("data-control"));
  return found.map((e) => (e.dataset.control = name(e)));
}"""


def control(page: Page, name: str) -> Locator:
    """Wait until a control can be seen, and return it."""
    page.wait_for_function(f"(name) => ({NAMED})().includes(name)", arg=name)
    return page.locator(f'[data-control="{name}"]')


def parts(name: str, widget: gr.components.Component) -> set[str]:
    """Return the names of the controls that make up one option."""
    if isinstance(widget, gr.Radio):
        return {f"{name}: {words}" for words, _ in widget.choices}
    return {name, f"{name} range", f"{name} reset"} if isinstance(widget, gr.Slider) else {name}


def turn(hand, name: str, widget: gr.components.Component, *, to, holds, share: float = 0.35) -> None:
    """Change an option in each way it has, `to` a value at last; `holds` looks then whether the page took it.

    Args:
        hand: Finds a control by its name.
        name: Of the option.
        widget: What the option is.
        to: The value at last.
        holds: Waits for what the page shows when the option has the value it is given.
        share: Where a slider is clicked first, from 0 to 1.
    """
    if isinstance(widget, gr.Radio | gr.Checkbox):
        hand(f"{name}: {to.capitalize()}" if isinstance(widget, gr.Radio) else name).check()
        return holds(to)
    field = hand(name)
    if isinstance(widget, gr.Dropdown):
        field.click()
        (words,) = (words for words, value in widget.choices if value == to)
        field.page.get_by_role("option", name=words, exact=True).click()
        expect(field.page.get_by_role("option")).to_have_count(0)
        return holds(to)
    if isinstance(widget, gr.Slider):
        expect(field).to_have_value(f"{widget.value:g}")
        slider = hand(f"{name} range")
        box = slider.bounding_box()
        slider.click(position={"x": share * box["width"], "y": box["height"] / 2})
        expect(field).not_to_have_value(f"{widget.value:g}")
        hand(f"{name} reset").click()
        expect(field).to_have_value(f"{widget.value:g}")
    field.fill(str(to))
    field.press("Enter")
    return holds(to)
